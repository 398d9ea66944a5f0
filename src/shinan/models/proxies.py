"""The way to an address: direct, or through the environment's proxy (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import LocationParseError, ProxySchemeUnknown

from shinan.core.errors import ModelError


@dataclass(frozen=True, slots=True)
class Way:
    """Connections to one address, kept open.

    Attributes:
        opener: urllib3's pool of them, or its manager of a proxy.
        base: what stands before the path of a function: a proxy is told the whole address.
    """

    opener: urllib3.HTTPConnectionPool | urllib3.ProxyManager
    base: str

    def open(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Send; the answer is still to be read. Raises what urllib3 raises."""
        return self.opener.urlopen(
            method,
            self.base + path,
            body=body,
            headers=headers,
            preload_content=False,
            decode_content=False,
            redirect=False,
        )


def way_to(url: str, **settings: Any) -> Way:
    """The way to the base address `url`; `settings` are those of urllib3's pools. Addresses of this machine are never
    asked for through a proxy.

    Raises ModelError for a proxy of another kind than http and https.
    """
    parts = urlsplit(url)
    proxy = None if _direct(parts.hostname or "") else getproxies().get(parts.scheme)
    if proxy is None:
        return Way(urllib3.connection_from_url(url, **settings), parts.path)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        login = urlsplit(proxy)
        headers = None
        if login.username is not None:
            headers = urllib3.make_headers(proxy_basic_auth=f"{login.username}:{login.password or ''}")
        return Way(urllib3.ProxyManager(proxy, proxy_headers=headers, **settings), url)
    except (ProxySchemeUnknown, LocationParseError, ValueError):  # which may hold a password: it is not repeated
        what = f"the environment names a proxy for {parts.scheme} addresses that is no http:// or https:// address"
        raise ModelError(
            what, where=url, fix=f"correct {parts.scheme.upper()}_PROXY, or add the host to NO_PROXY"
        ) from None


def _direct(host: str) -> bool:
    try:
        here = ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return here or bool(proxy_bypass(host))
