"""One request to an OpenAI-compatible server, and what came of it: what the model said, a fault, or an error.

    server = Server("http://localhost:8000/v1", key=None, timeout_seconds=120.0, longest_wait_seconds=120.0)
    completion = server.complete({"model": "m", "messages": [{"role": "user", "content": "hello"}]})

A fault may be gone when the same request is sent again. Nothing is tried again here.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from data_pipeline.source import SynthError
from data_pipeline.text.schemas import BadReply


class EndpointError(SynthError):
    """A server that cannot be used as configured, or that keeps failing. The message names setting or fault and fix."""


class Fault(Exception):
    """The server or the way to it failed. `wait`: the seconds after which it asks to be tried again."""

    def __init__(self, reason: str, detail: str, wait: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.wait = reason, detail, wait


@dataclass(frozen=True)
class Completion:
    """A choice (an object with a `message`) and the tokens that it took, None where the server does not say."""

    choice: Mapping[str, Any]
    prompt_tokens: int | None
    completion_tokens: int | None

    def content(self) -> str:
        """What the model has said, to its end.

        Raises:
            BadReply: it was cut off, or it has said nothing.
        """
        if self.choice.get("finish_reason") == "length":
            raise BadReply("cut off", "longer than max_tokens")
        content = self.choice["message"].get("content")
        if not isinstance(content, str):
            raise BadReply("no content", str(self.choice["message"].get("refusal") or self.choice.get("finish_reason")))
        return content


class Server:
    """Where requests go. Safe to use from several threads; `key` shows in no message and no representation."""

    def __init__(self, base_url: str, key: str | None, timeout_seconds: float, longest_wait_seconds: float) -> None:
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._key, self._timeout, self._longest_wait = key, timeout_seconds, longest_wait_seconds
        self._tls = ssl.create_default_context()  # once, as it reads all certificates

    def complete(self, request: Mapping[str, Any]) -> Completion:
        """Send a request once.

        Raises:
            Fault: no whole response in time, a status that may change, or a body that is no completion.
            EndpointError: a wrong address, key or model; or the server asks to wait for too long.
        """
        try:
            response = asyncio.run(self._send(request))
        except TimeoutError as error:
            raise Fault("timeout", f"no whole response within {self._timeout} s") from error
        except httpx.TransportError as error:
            raise Fault("no connection", f"{type(error).__name__}: {error}") from error
        status = response.status_code
        if status == 200:
            return _completion(response.content)
        said = f"HTTP {status}: {self._hidden(response.text)[:300]}"
        # A redirect is a wrong address too: the key is not sent on to wherever it leads.
        if status in (401, 403, 404, 405) or 300 <= status < 400:
            raise EndpointError(f"{self._url}: {said}; check base_url, model and key_variable, then run again")
        raise Fault(f"HTTP {status}", said, self._retry_after(response))

    async def _send(self, request: Mapping[str, Any]) -> httpx.Response:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        # httpx's own timeouts begin anew with every byte, so a slow drip would never end: this one is for all of it.
        async with asyncio.timeout(self._timeout), httpx.AsyncClient(verify=self._tls, timeout=None) as client:
            return await client.post(self._url, json=request, headers=headers)

    def _retry_after(self, response: httpx.Response) -> float | None:
        """The seconds that a server asks to wait (RFC 9110, 10.2.3: a number or a date); None: it does not say."""
        header = response.headers.get("retry-after", "")
        try:
            seconds = float(header)
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
            except ValueError:
                return None  # nothing, or neither of the two
        if seconds > self._longest_wait:
            raise EndpointError(
                f"{self._url}: HTTP {response.status_code}: to be tried again in {seconds:.0f} s, longer than "
                "longest_wait_seconds; raise it, or run again later: what was answered is cached"
            )
        return max(0.0, seconds)

    def _hidden(self, text: str) -> str:
        """The text without the key: some servers repeat it in what they say of it."""
        return text if self._key is None else text.replace(self._key, "***")


def _completion(content: bytes) -> Completion:
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        if not isinstance(choice["message"], dict):
            raise TypeError("the message is no object")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Fault("no completion", f"{type(error).__name__}: {error} in {content[:200]!r}") from error
    usage = body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Completion(choice, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
