"""What an endpoint has answered, kept by the content of the request: asking the same again costs nothing.

    cache = Cache("runs/cache")
    with cache.alone(key := key_of(request)):
        entry = cache.get(key) or cache.put(key, {"value": ..., "request": without_images(request)})

An entry is one small JSON file, <folder>/<first two hex digits>/<sha256>.json. It appears whole or not at all, and the
first one stays: a process that comes second gets what is there, so every process and every later run sees the same.
A request that ended in a rejection has an entry too, with `rejected` instead of `value`; delete it to try once more:
`grep -rlZ '^ "rejected"' FOLDER | xargs -0 rm`. A killed process may leave a *.part file, which nobody reads.
A request holds no key and no address, so neither does an entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.source import SynthError

SCHEMA = "whilst.reply/1"


class CacheError(SynthError):
    """An entry that cannot be read. The message names the file and the fix."""


def key_of(request: Mapping[str, Any]) -> str:
    """The SHA-256 (hex) of a request, whatever the order of its fields."""
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def without_images(value: Any) -> Any:
    """The same JSON value with each data URI replaced by its hash: to be read by people, and small."""
    if isinstance(value, Mapping):
        return {name: without_images(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_images(item) for item in value]
    if isinstance(value, str) and value.startswith("data:"):
        return f"{value.partition(',')[0]},sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return value


class Cache:
    """Entries in a folder, which is created; safe to use from several threads and processes."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Hold back other threads with the same key, so that what two of them want is asked for once."""
        with self._guard:
            lock, holders = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, holders + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, holders = self._locks[key]
                if holders == 1:
                    del self._locks[key]
                else:
                    self._locks[key] = (lock, holders - 1)

    def get(self, key: str) -> dict[str, Any] | None:
        """The entry of a key, or None.

        Raises:
            CacheError: there is one, and it is not whole or of another schema.
        """
        path = self._path(key)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        return _entry(text, path)

    def put(self, key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Keep an entry, unless there is one; returns the one that is kept."""
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        text = json.dumps({"schema": SCHEMA} | dict(entry), indent=1, allow_nan=False) + "\n"
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f"{key}.", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(part, path)  # unlike a rename it fails where there is an entry: the first one stays
        except FileExistsError:
            pass  # another process was first
        finally:
            os.unlink(part)
        return _entry(path.read_bytes(), path)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def _entry(text: bytes, path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except ValueError as error:
        raise CacheError(f"{path}: not JSON ({error}); delete this file and run again") from error
    if not isinstance(entry, dict) or entry.get("schema") != SCHEMA or not {"value", "rejected"} & entry.keys():
        raise CacheError(f"{path}: not an entry of schema {SCHEMA!r}; delete this file and run again")
    return entry
