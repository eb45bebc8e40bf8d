"""A run: one live stream that a page looks at, in a thread of its own, and the messages that wait for the page."""

from __future__ import annotations

import base64
import io
import json
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from whilst.checkpoint import Checkpoint
from whilst.engines import LiveSettings
from whilst.events import Failed, Rejected, StreamEvent
from whilst.live import LiveStream
from whilst.pace import Clock, Source
from whilst.segmenters import Clip

MOST_WAITING = 5000  # messages: a page that lets more wait does not read, and its run ends
SHOWN = 8  # frames of a segment that are sent to be looked at
SIDE = 480  # pixels of their longer side, at most


class Outbox:
    """Messages for one reader, in order. Bounded: a reader that does not read ends the run."""

    def __init__(self, on_full: Callable[[], None]) -> None:
        self._on_full = on_full
        self._waiting: deque[str] = deque()
        self._closed = False
        self._change = threading.Condition()

    def put(self, message: dict[str, Any]) -> None:
        text = json.dumps(message, ensure_ascii=False, allow_nan=False)
        with self._change:
            if self._closed:
                return
            self._waiting.append(text)
            full = len(self._waiting) > MOST_WAITING
            self._change.notify_all()
        if full:
            self.close()
            self._on_full()

    def close(self) -> None:
        """Nothing more comes."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def take(self, seconds: float) -> list[str] | None:
        """What waits, after at most so many seconds; None when nothing will come any more."""
        with self._change:
            self._change.wait_for(lambda: bool(self._waiting or self._closed), seconds)
            if not self._waiting and self._closed:
                return None
            taken = list(self._waiting)
            self._waiting.clear()
            return taken


class Run:
    """A live stream with an outbox. It ends with its source, by `stop`, or when nobody looks (see serve.Server)."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        source: Source,
        settings: LiveSettings,
        clock: Clock,
        log: Callable[[str], None],
        told: Callable[[str], str],
    ) -> None:
        """told: an error's text as the page may read it (without paths of this machine)."""
        self.id = secrets.token_urlsafe(16)
        self.outbox = Outbox(self.stop)
        self.read = False  # a page is connected
        self.seen = clock.now()  # when a page was last connected
        self.over = threading.Event()
        self._log, self._told = log, told
        self.stream = LiveStream(checkpoint, source, settings, on_event=self._event, clock=clock, on_clip=self._clip)
        self._thread = threading.Thread(target=self._run, name=f"run {self.id[:6]}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stream.stop()

    def _run(self) -> None:
        try:
            self.stream.run()
        except Exception as error:  # the page has its Failed event; other runs go on
            self._log(f"run {self.id[:6]} failed: {type(error).__name__}: {error}")
        finally:
            self.outbox.close()
            self.over.set()

    def _event(self, event: StreamEvent) -> None:
        record = event.record()
        if isinstance(event, Failed | Rejected):
            record["reason"] = self._told(event.reason)
        self.outbox.put(record)

    def _clip(self, clip: Clip) -> None:
        chosen = np.unique(np.linspace(0, len(clip.frames) - 1, min(SHOWN, len(clip.frames))).round().astype(int))
        images = [{"time": float(clip.frames.times[i]), "src": picture(clip.frames.images[i])} for i in chosen]
        self.outbox.put({"type": "frames", "time": clip.end, "of": len(clip.frames), "images": images})


def picture(image: np.ndarray) -> str:
    """A frame (H, W, 3) uint8 as a data URI: small ones without loss, since their pixels are looked at."""
    made = Image.fromarray(image)
    kind = "png" if max(image.shape[:2]) <= 96 else "jpeg"
    made.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    made.save(held, kind, **({"quality": 80} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"


def stop_all(runs: Sequence[Run]) -> None:
    """Stop these runs and wait until they are over."""
    for run in runs:
        run.stop()
    for run in runs:
        run.over.wait()
