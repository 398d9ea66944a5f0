"""The scripted endpoint itself: whoever is connected when it stops is told."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from tests.models.endpoint import ScriptedEndpoint


def test_every_connection_is_broken_when_it_stops_however_late_it_came() -> None:
    with ScriptedEndpoint() as server:
        connections: list[socket.socket] = []

        def connect() -> None:
            """As many as can be had until nobody listens."""
            while len(connections) < 400:
                try:
                    connections.append(socket.create_connection(("127.0.0.1", server.port), timeout=10))
                except ConnectionError:
                    return

        connecting = [threading.Thread(target=connect) for _ in range(4)]
        for thread in connecting:
            thread.start()
        time.sleep(0.01)
    for thread in connecting:
        thread.join(30)
        assert not thread.is_alive()
    assert connections
    for connection in connections:
        with connection, suppress(ConnectionResetError):
            assert connection.recv(1) == b""
