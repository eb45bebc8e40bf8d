"""The videos that a page may ask for: those of one folder, and uploads. A client names them by id, never by path."""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from whilst.decode import VideoError, opened
from whilst.video import stream_frames

SUFFIXES = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm")
MOST_PIXELS = 4096 * 4096  # of a frame of an upload
MOST_UPLOADS = 16
BLOCK = 1 << 16

# What files begin with that hold pictures themselves. Playlists, which FFmpeg would open too, name other files and
# addresses: an upload must not be able to read those.
BEGINNINGS = ((0, b"\x1aE\xdf\xa3"), (0, b"OggS"), (0, b"FLV\x01"), (4, b"ftyp"), (8, b"AVI "))


class Body(Protocol):
    """What an upload is read from."""

    def read(self, size: int, /) -> bytes: ...


class UploadError(ValueError):
    """An upload that is not taken. status: the HTTP status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Video:
    """A video that may be watched. name: as it is shown."""

    id: str
    name: str
    path: Path
    uploaded: bool = False


class Videos:
    """The videos of `folder`, and uploads, which live in a folder of their own until `close`."""

    def __init__(self, folder: Path, upload_bytes: int) -> None:
        if not folder.is_dir():
            raise VideoError(f"{folder}: there is no such folder")
        self.folder, self.upload_bytes = folder.resolve(), upload_bytes
        self._uploads: dict[str, Video] = {}
        self._kept = TemporaryDirectory(prefix="whilst-uploads-")
        self._lock = threading.Lock()

    def all(self) -> list[Video]:
        """Uploads, then the folder's videos by name. A link that leads out of the folder is none of them."""
        found = []
        for path in sorted(self.folder.iterdir()):
            is_video = path.suffix.lower() in SUFFIXES and path.is_file()
            if path.name.startswith(".") or not path.resolve().is_relative_to(self.folder):
                continue
            if is_video or (path / "frames.json").is_file():
                found.append(Video(hashlib.sha256(path.name.encode()).hexdigest()[:16], path.name, path))
        with self._lock:
            return [*self._uploads.values(), *found]

    def get(self, id: object) -> Video | None:
        return next((video for video in self.all() if video.id == id), None)

    def upload(self, name: str, size: int, body: Body) -> Video:
        """Take `size` bytes of a video. Raises UploadError for one that is too large, cut off, or no video."""
        if size > self.upload_bytes:
            raise UploadError(413, f"{size} bytes are more than the limit of {self.upload_bytes}")
        with self._lock:
            if len(self._uploads) >= MOST_UPLOADS:
                raise UploadError(507, f"{MOST_UPLOADS} uploads are kept already: restart the server to clear them")
        video = Video(secrets.token_hex(8), _plain(name), Path(self._kept.name, secrets.token_hex(8)), uploaded=True)
        try:
            _store(video.path, size, body)
            _check(video)
        except BaseException:
            video.path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._uploads[video.id] = video
        return video

    def close(self) -> None:
        """Delete the uploads."""
        self._kept.cleanup()


def _plain(name: str) -> str:
    """A client's file name as a label: its last part, what can be printed, not endless."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[:80] or "upload"


def _store(path: Path, size: int, body: Body) -> None:
    left = size
    with path.open("wb") as file:
        while left and (block := body.read(min(BLOCK, left))):
            file.write(block)
            left -= len(block)
    if left:
        raise UploadError(400, f"the upload broke off {left} bytes before its end")


def _check(video: Video) -> None:
    """Decode the first frame. Messages name the upload, not the file it is kept in."""
    with video.path.open("rb") as file:
        beginning = file.read(16)
    if not any(beginning[at : at + len(magic)] == magic for at, magic in BEGINNINGS):
        raise UploadError(415, f"{video.name}: not an MP4, MOV, MKV, WebM, AVI, Ogg or FLV file")
    try:
        with opened(video.path) as file:
            width, height = file.stream.width, file.stream.height
        if width * height > MOST_PIXELS:
            raise UploadError(415, f"{video.name}: frames of {width} x {height} pixels are too large")
        next(stream_frames(video.path, 1.0))
    except VideoError as error:
        raise UploadError(415, str(error).replace(str(video.path), video.name)) from error
