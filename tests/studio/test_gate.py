"""Who gets in: by host, by token; WebSockets too."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from limner.studio.gate import COOKIE, LOCAL, Gate

TOKEN = "a-secret"


def client(token: str = "", hosts: tuple[str, ...] = (), base: str = "http://127.0.0.1") -> TestClient:
    async def page(_request: object) -> PlainTextResponse:
        return PlainTextResponse("in")

    async def socket(connection: WebSocket) -> None:
        await connection.accept()
        await connection.send_text("in")
        await connection.close()

    routes = [Route("/run", page), WebSocketRoute("/stream", socket)]
    gate = Middleware(Gate, token=token, hosts=hosts)  # pyright: ignore[reportArgumentType]
    return TestClient(Starlette(routes=routes, middleware=[gate]), base_url=base)


@pytest.mark.parametrize("base", ["http://127.0.0.1:8501", "http://localhost", "http://[::1]:8501"])
def test_this_machine_gets_in(base: str) -> None:
    assert client(hosts=LOCAL, base=base).get("/run").text == "in"


def test_a_foreign_name_of_this_machine_does_not() -> None:
    answer = client(hosts=LOCAL, base="http://evil.example").get("/run")
    assert answer.status_code == 421 and "127.0.0.1" in answer.text
    with (
        pytest.raises(WebSocketDisconnect),
        client(hosts=LOCAL, base="http://evil.example").websocket_connect("/stream"),
    ):
        pass


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?token=a-secret2"])
def test_nobody_gets_in_without_the_token(query: str) -> None:
    answer = client(TOKEN).get(f"/run{query}", follow_redirects=False)
    assert answer.status_code == 401 and TOKEN not in answer.text and "set-cookie" not in answer.headers


def test_the_token_becomes_a_cookie_and_leaves_the_address() -> None:
    visitor = client(TOKEN)
    answer = visitor.get(f"/run?token={TOKEN}&run=cat", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/run?run=cat"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert visitor.get("/run").text == "in"


def test_a_websocket_wants_the_cookie() -> None:
    visitor = client(TOKEN)
    with pytest.raises(WebSocketDisconnect), visitor.websocket_connect("/stream"):
        pass
    visitor.cookies.set(COOKIE, TOKEN)
    with visitor.websocket_connect("/stream") as connection:
        assert connection.receive_text() == "in"
