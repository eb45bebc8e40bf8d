"""Files that are either whole or not there: written under another name, on the disk, then renamed."""

from __future__ import annotations

import os
from pathlib import Path


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
