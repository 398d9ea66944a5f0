"""The chat page: one file, no network but this server, no script but its own."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response


async def page_response(_: Request) -> Response:
    """`GET /`."""
    page, headers = _page()
    return HTMLResponse(page, headers=headers)


@cache
def _page() -> tuple[str, dict[str, str]]:
    """The page, and headers by which a browser runs and loads nothing but what is in it."""
    page = files("shinan.serve").joinpath("page.html").read_text("utf-8")
    allowed = {
        "default-src": "'none'",
        "script-src": _hashes(page, "script"),
        "style-src": _hashes(page, "style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    policy = "; ".join(f"{what} {source}" for what, source in allowed.items())
    return page, {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _hashes(page: str, tag: str) -> str:
    """What stands inside each `tag`, by its hash."""
    inside = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inside)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
