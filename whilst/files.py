"""Files that are either whole or not there: written under another name, on the disk, then renamed; and what proves that
they still are what was written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

THREADS = min(8, os.cpu_count() or 1)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Put `content` in the place of `path`. Who reads it, or comes after a crash, sees the old file or the new one."""
    path = Path(path)
    part = path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: str | Path) -> None:
    """Have a file's content, or a folder's list of names, reach the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def flush(folder: Path) -> None:
    """Have all files in a folder, and the folder, reach the disk; several at a time."""
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(sync, [folder, *folder.rglob("*")]))


def fingerprint(path: Path) -> tuple[int, str]:
    """(bytes, sha256) of a file."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        return os.fstat(file.fileno()).st_size, found


def fingerprints(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """(bytes, sha256) of files, by their names relative to `folder`. Several at a time: hashing leaves Python's lock
    alone."""
    names = list(names)
    with ThreadPoolExecutor(THREADS) as threads:
        return dict(zip(names, threads.map(lambda name: fingerprint(folder / name), names), strict=True))
