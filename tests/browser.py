"""A real Chromium that tests drive: over the DevTools protocol on two pipes, without another package."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


class Page:
    """One page. What its script throws ends the test."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = os.fdopen(to, "wb"), os.fdopen(back, "rb")
        self._last = 0
        self._session: str | None = None
        self.thrown: list[str] = []
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> Any:
        """Send a command and wait for its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            told = self._read()
            if told.get("id") == self._last:
                assert "error" not in told, f"{method}: {told['error']}"
                return told["result"]

    def _read(self) -> Any:
        text = bytearray()
        while (byte := self._back.read(1)) != b"\0":
            assert byte, "Chromium has gone"
            text += byte
        told = json.loads(text)
        if told.get("method") == "Runtime.exceptionThrown":
            details = told["params"]["exceptionDetails"]
            self.thrown.append(details.get("exception", {}).get("description", details["text"]))
        return told

    def open(self, url: str) -> None:
        """Load a page."""
        self.do("Page.navigate", url=url)
        self.js("new Promise((done) => document.readyState === 'complete' ? done() : (onload = done))")

    def js(self, script: str) -> Any:
        """The value of an expression; promises are waited for."""
        found = self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        assert not self.thrown, self.thrown
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true, looking whenever the document changes."""
        self.js(
            f"""new Promise((done) => {{
              const look = () => ({condition}) && (watcher.disconnect(), done());
              const watcher = new MutationObserver(look);
              const all = {{subtree: true, childList: true, attributes: true, characterData: true}};
              watcher.observe(document, all);
              look();
            }})"""
        )

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """The size of the window, and the colours that its user prefers."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> Path:
        """A screenshot as a PNG file."""
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"]))
        return path


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A Chromium with an empty profile."""
    assert CHROMIUM is not None
    read_here, write_there = os.pipe()
    read_there, write_here = os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    # Chromium reads commands from file descriptor 3 and answers on 4.
    script = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
    command = ["bash", "-c", script, "bash", str(read_there), str(write_there), CHROMIUM, *flags]
    process = subprocess.Popen(
        [*command, "--remote-debugging-pipe", f"--user-data-dir={profile}"],
        pass_fds=(read_there, write_there),
        stderr=subprocess.DEVNULL,
    )
    os.close(read_there)
    os.close(write_there)
    try:
        yield Page(write_here, read_here)
    finally:
        process.kill()
        process.wait()
