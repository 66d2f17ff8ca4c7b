"""Who may talk to the studio: the hosts that it answers to, and the token where others can reach it.

One ASGI middleware before all of Streamlit's routes, its WebSocket among them. The token comes once in the
address, ``?token=``, and is a cookie from then on; it is compared in constant time.
"""

import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "limner_token"
YEAR = 365 * 24 * 3600
LOCAL = ("127.0.0.1", "localhost", "::1")
"""Names of this machine. Any other that resolves to it is a page elsewhere that tries to get in."""
NO_TOKEN = "This studio wants its token. Open the address that the terminal printed when it started.\n"
WRONG_HOST = (
    "This studio answers on 127.0.0.1 and localhost alone. Start it with --host to reach it by a name.\n"
)


class Gate:
    """Let a request through, or answer it.

    Args:
        app: The application behind the gate.
        token: What a visitor must know; empty where none is wanted.
        hosts: Names that the ``Host`` header may have; empty for any.
    """

    def __init__(self, app: App, *, token: str = "", hosts: tuple[str, ...] = LOCAL) -> None:
        """See the class."""
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or open one WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if self._hosts and _host_name(headers.get("host", "")) not in self._hosts:
            await _refuse(scope, receive, send, 421, WRONG_HOST)
        elif not self._token or self._knows(_cookie(headers)):
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and self._knows(query.pop("token", [""])[0]):
            await self._admit(scope, query, send)
        else:
            await _refuse(scope, receive, send, 401, NO_TOKEN)

    def _knows(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())

    async def _admit(self, scope: Scope, query: Mapping[str, list[str]], send: Send) -> None:
        """Put the token into a cookie, and take it out of the address."""
        rest = urlencode(query, doseq=True)
        location = scope["path"] + (f"?{rest}" if rest else "")
        cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={YEAR}"
        headers = [(b"location", location.encode("latin-1", "ignore")), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def _host_name(host: str) -> str:
    """The name in a ``Host`` header, without its port: ``[::1]:8501`` is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await receive()  # the request to connect, which is answered before it is accepted
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
