"""An OpenAI-compatible server that fails as told: one fault of its script for each request, then good replies.

with FaultyServer(["500", "hang"]) as server:
    Endpoint(settings(server.url))(task)   # the third attempt succeeds
    server.requests                        # what came in: bodies and headers
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """A request: its JSON body, its headers, and its path."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str


def echo(body: dict[str, Any]) -> str:
    """The content of a good reply: the last line of what the user's message says, as {"text": ...}."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    return json.dumps({"text": text.strip().splitlines()[-1].removeprefix("- ")})


class FaultyServer:
    """Serves on a free port of this machine within a `with` block.

    `script`: the fault of the first request, of the second, and so on; `ok` is none. `reply`: body -> content.
    `most_at_once`: how many replies were being made at the same time.
    """

    def __init__(self, script: Iterable[str] = (), reply: Callable[[dict[str, Any]], str] = echo) -> None:
        self.requests: list[Received] = []
        self.most_at_once = 0
        self._reply = reply
        self._script: Iterator[str] = iter(script)
        self._lock = threading.Lock()
        self._under_way = 0
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"faulty": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FaultyServer:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next_fault(self, received: Received) -> str:
        """Note a request; the fault that it is to meet."""
        with self._lock:
            self.requests.append(received)
            return next(self._script, "ok")

    def reply(self, body: dict[str, Any]) -> str:
        """The content of a good reply."""
        with self._lock:
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            return self._reply(body)
        finally:
            with self._lock:
                self._under_way -= 1


class _Handler(BaseHTTPRequestHandler):
    faulty: FaultyServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        fault = self.faulty.next_fault(Received(body, dict(self.headers), self.path))
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has given up, as it should
            FAULTS[fault](self, body)

    def send(self, status: int, text: str, **headers: str) -> None:
        """A whole response."""
        data = text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def completion(content: str | None, finish_reason: str = "stop", **message: Any) -> str:
    """The body of a response with this content."""
    return json.dumps(
        {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish_reason,
                    "message": {"role": "assistant", "content": content} | message,
                }
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
    )


Act = Callable[[_Handler, dict[str, Any]], None]


def _ok(handler: _Handler, body: dict[str, Any]) -> None:
    handler.send(200, completion(handler.faulty.reply(body)))


def _content(content: str | None, finish_reason: str = "stop", **message: Any) -> Act:
    return lambda handler, body: handler.send(200, completion(content, finish_reason, **message))


def _status(status: int, **headers: str) -> Act:
    return lambda handler, body: handler.send(status, json.dumps({"error": {"message": "no luck"}}), **headers)


def _hang(handler: _Handler, body: dict[str, Any]) -> None:
    handler.faulty.closing.wait()


def _drip(handler: _Handler, body: dict[str, Any]) -> None:
    """A good response, a byte at a time: no gap is long, yet all of it would take minutes."""
    data = completion(handler.faulty.reply(body)).encode()
    handler.send_response(200)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    _dripped(handler, data)


def _drip_headers(handler: _Handler, body: dict[str, Any]) -> None:
    _dripped(handler, b"HTTP/1.1 200 OK\r\n" + b"x-filler: yes\r\n" * 200)


def _dripped(handler: _Handler, data: bytes) -> None:
    for i in range(len(data)):
        handler.wfile.write(data[i : i + 1])
        if handler.faulty.closing.wait(0.2):
            return


def _half_body(handler: _Handler, body: dict[str, Any]) -> None:
    data = completion(handler.faulty.reply(body)).encode()
    handler.send_response(200)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])


def _half_json(handler: _Handler, body: dict[str, Any]) -> None:
    text = completion(handler.faulty.reply(body))
    handler.send(200, text[: len(text) // 2])


def _drop(handler: _Handler, body: dict[str, Any]) -> None:
    handler.close_connection = True


def _no_usage(handler: _Handler, body: dict[str, Any]) -> None:
    handler.send(200, json.dumps({"choices": [{"message": {"content": handler.faulty.reply(body)}}]}))


def _wrong_key(handler: _Handler, body: dict[str, Any]) -> None:
    """As hosted servers do, it repeats the key that it refuses."""
    handler.send(401, json.dumps({"error": {"message": f"incorrect: {handler.headers['authorization']}"}}))


FAULTS: dict[str, Act] = {
    "ok": _ok,
    "hang": _hang,
    "drip": _drip,
    "drip headers": _drip_headers,
    "drop": _drop,
    "429": _status(429),
    "429, wait 7": _status(429, retry_after="7"),
    "429, wait an hour": _status(429, retry_after="3600"),
    "500": _status(500),
    "503": _status(503),
    "400": _status(400),
    "404": _status(404),
    "redirect": _status(307, location="http://127.0.0.1:9/v1/chat/completions"),
    "wrong key": _wrong_key,
    "half body": _half_body,
    "half JSON": _half_json,
    "not JSON": lambda handler, body: handler.send(200, "<html>busy</html>"),
    "no choices": lambda handler, body: handler.send(200, json.dumps({"choices": []})),
    "no usage": _no_usage,
    # What the model says, where the server is well.
    "cut off": _content('{"text": "the red cir', "length"),
    "truncated": _content('{"text": "the red cir'),
    "wrong schema": _content('{"answer": "red"}'),
    "more fields": _content('{"text": "the red circle goes into the box", "note": "done"}'),
    "wrong type": _content('{"text": 5}'),
    "a list": _content('["red"]'),
    "empty": _content('{"text": "  "}'),
    "two lines": _content('{"text": "one\\ntwo"}'),
    "too long": _content(json.dumps({"text": "x" * 5000})),
    "surrogate": _content('{"text": "half \\ud83d"}'),
    "not a number": _content('{"text": NaN}'),
    "refusal": _content(None, "stop", refusal="I would rather not"),
    "filtered": _content(None, "content_filter"),
}
SERVER_FAULTS = ("hang", "drip", "drop", "429", "500", "503", "half body", "half JSON", "not JSON", "no choices")
BAD_REPLIES = {
    "cut off": "cut off",
    "truncated": "not JSON",
    "wrong schema": "not of the schema",
    "more fields": "not of the schema",
    "wrong type": "not of the schema",
    "a list": "not of the schema",
    "empty": "empty text",
    "two lines": "several lines",
    "too long": "not of the schema",
    "surrogate": "not text",
    "not a number": "not JSON",
    "refusal": "no content",
    "filtered": "no content",
}
"""What a model may say wrongly, and the reason for which it is rejected."""
