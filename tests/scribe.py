"""A server on this machine that speaks Anthropic's messages and OpenAI's chat completions, by a script."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore2

httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)
"""Every client makes one, which takes longer than a whole test; plain HTTP has no use for it."""

KEY = "sk-test-THIS-KEY-MUST-NOT-LEAK-0123456789"


@dataclass
class Say:
    """An answer in the protocol that was asked in."""

    text: str = ""
    end: str = ""
    """Stop or finish reason; empty: the normal one."""
    refusal: str = ""
    model: str = "scribe-1"
    read: int = 100
    written: int = 20
    pause: float = 0.0


@dataclass
class Status:
    """An error, with its body in the protocol's form."""

    code: int
    message: str = "no reason"
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "error"


@dataclass
class Raw:
    """Bytes as they are; a length larger than the body promises more than comes."""

    body: bytes
    kind: str = "application/json"
    length: int | None = None


@dataclass
class Request:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float

    @property
    def text(self) -> str:
        """Everything said in it, without the pictures."""
        found = [str(self.body.get("system", ""))]
        for message in self.body.get("messages", []):
            content = message["content"]
            parts = [content] if isinstance(content, str) else [p.get("text", "") for p in content]
            found += parts
        return "\n".join(found)

    @property
    def images(self) -> list[str]:
        """Base64 of each picture in it."""
        parts = [p for m in self.body["messages"] if isinstance(m["content"], list) for p in m["content"]]
        urls = [p["image_url"]["url"].partition("base64,")[2] for p in parts if p["type"] == "image_url"]
        return urls + [p["source"]["data"] for p in parts if p["type"] == "image"]


Script = Callable[[Request, int], Say | Status | Raw]


def answers(*steps: Say | Status | Raw) -> Script:
    """The steps in their order, the last one for ever."""
    return lambda _, number: steps[min(number, len(steps) - 1)]


def captions(*texts: str) -> Say:
    return Say(json.dumps({"captions": list(texts)}))


class Scribe:
    def __init__(self, script: Script, models: list[str]) -> None:
        self.script = script
        self.models = models
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.url = ""

    def take(self, asked: Request) -> Say | Status | Raw:
        with self.lock:
            self.requests.append(asked)
            number = len(self.requests) - 1
        return self.script(asked, number)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        names = self.server.scribe.models
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in names]
        self.send(200, json.dumps({"object": "list", "data": listed}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Request(self.path, headers, body, time.monotonic())
        step = self.server.scribe.take(asked)
        try:
            self.play(step, asked)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def play(self, step: Say | Status | Raw, asked: Request) -> None:
        anthropic = asked.path.endswith("/messages")
        if isinstance(step, Raw):
            self.send(200, step.body, step.kind, length=step.length)
        elif isinstance(step, Status):
            body = {"type": step.kind, "code": step.kind, "message": step.message}
            whole = {"type": "error", "error": body} if anthropic else {"error": body}
            self.send(step.code, json.dumps(whole).encode(), headers=step.headers)
        elif asked.body.get("stream"):
            time.sleep(step.pause)
            events = message_events(step) if anthropic else chunk_events(step)
            self.send(200, "".join(events).encode(), "text/event-stream")
        else:
            time.sleep(step.pause)
            self.send(200, json.dumps(message(step) if anthropic else completion(step)).encode())

    def send(
        self,
        code: int,
        body: bytes,
        kind: str = "application/json",
        *,
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        streaming = kind == "text/event-stream"
        self.send_response(code)
        self.send_header("content-type", kind)
        if streaming:
            self.send_header("connection", "close")
        else:
            self.send_header("content-length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.close_connection or streaming or length is not None


class Server(ThreadingHTTPServer):
    daemon_threads = True
    scribe: Scribe

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up in the middle; that is what some tests are about."""


@contextmanager
def serving(script: Script, models: tuple[str, ...] = ("scribe-1",)) -> Iterator[Scribe]:
    server = Server(("127.0.0.1", 0), Handler)
    server.scribe = scribe = Scribe(script, list(models))
    scribe.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield scribe
    finally:
        server.shutdown()
        server.server_close()


def message(step: Say) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": step.model,
        "content": [{"type": "text", "text": step.text}] if step.text else [],
        "stop_reason": step.end or "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": step.read, "output_tokens": step.written},
    }


def message_events(step: Say) -> Iterator[str]:
    whole = message(step)
    start = {
        **whole,
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": step.read, "output_tokens": 1},
    }
    half = len(step.text) // 2
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    if step.text:
        block = {"type": "text", "text": ""}
        events.append({"type": "content_block_start", "index": 0, "content_block": block})
        for part in (step.text[:half], step.text[half:]):
            delta = {"type": "text_delta", "text": part}
            events.append({"type": "content_block_delta", "index": 0, "delta": delta})
        events.append({"type": "content_block_stop", "index": 0})
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": step.written}})
    events.append({"type": "message_stop"})
    for event in events:
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


def completion(step: Say) -> dict[str, Any]:
    content = {"role": "assistant", "content": step.text or None, "refusal": step.refusal or None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": step.model,
        "choices": [{"index": 0, "message": content, "finish_reason": step.end or "stop", "logprobs": None}],
        "usage": spent(step),
    }


def spent(step: Say) -> dict[str, int]:
    total = step.read + step.written
    return {"prompt_tokens": step.read, "completion_tokens": step.written, "total_tokens": total}


def chunk_events(step: Say) -> Iterator[str]:
    half = len(step.text) // 2
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": step.model}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": part} for part in (step.text[:half], step.text[half:]) if part]
    deltas += [{"refusal": step.refusal}] if step.refusal else []
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield f"data: {json.dumps({**frame, 'choices': [choice]})}\n\n"
    choice = {"index": 0, "delta": {}, "finish_reason": step.end or "stop"}
    yield f"data: {json.dumps({**frame, 'choices': [choice]})}\n\n"
    yield f"data: {json.dumps({**frame, 'choices': [], 'usage': spent(step)})}\n\n"
    yield "data: [DONE]\n\n"
