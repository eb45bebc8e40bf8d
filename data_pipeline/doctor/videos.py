"""One video file: is it there, can it be decoded, how long is it, what does it look like. Remembered once it is known.

The memory is a file with one JSON line a video, keyed by path, size, time of change and depth of the check. Lines are
appended and reach the disk one by one, so a run that is killed loses nothing but the videos it was at.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from data_pipeline.doctor.lookalikes import CELLS, FRAMES, picture_hash
from data_pipeline.source import SynthError
from whilst.video import VideoError, probe, stream_frames

SCHEMA = "whilst.video_check/1"
BEGINS = f'{{"schema": "{SCHEMA}"'  # every line of the memory

Depth = Literal["few", "all"]
"""Which frames are decoded: FRAMES of them and the last one, or all."""

Problem = Literal["missing video", "zero-byte video", "undecodable video"]
Key: TypeAlias = tuple[str, int, int, str]


@dataclass(frozen=True)
class VideoCheck:
    """What was found: `duration` in seconds, sizes in pixels, `hash` (see lookalikes) as base64.

    With a `problem`, `detail` says what is wrong and how to mend it, and what could not be read is None.
    """

    path: str
    problem: Problem | None = None
    detail: str = ""
    duration: float | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    hash: str | None = None

    def pictures(self) -> np.ndarray:
        """The hash (FRAMES, 8, 8, 3) uint8 of a video without a problem."""
        assert self.hash is not None
        return np.frombuffer(base64.b64decode(self.hash), np.uint8).reshape(FRAMES, CELLS, CELLS, 3)


def check_video(path: str, depth: Depth) -> VideoCheck:
    """Check one video file, or folder of images. What is wrong with it is told, not raised."""
    if not os.path.exists(path):
        return VideoCheck(path, "missing video", "there is no such file; fetch it, or correct video.path")
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return VideoCheck(path, "zero-byte video", "the file is empty; fetch or convert it again")
    try:
        info = probe(path)
        # The middle of each of FRAMES equal parts, whose pictures are the hash; then the last frame, or all of them.
        step = info.duration / FRAMES
        hashes = [picture_hash(image) for _, image in stream_frames(path, 1.0 / step, step / 2)]
        start = 0.0 if depth == "all" else max(0.0, info.duration - 1.0 / info.fps)
        for _ in stream_frames(path, info.fps, start):
            pass
    except VideoError as error:
        return VideoCheck(path, "undecodable video", str(error).removeprefix(f"{path}: "))
    except Exception as error:
        # Damaged headers make PyAV fail in ways of its own (a name that is not UTF-8, a codec that is None). One such
        # file is a finding like any other, and must not end the check of all others.
        return VideoCheck(path, "undecodable video", f"{type(error).__name__}: {error}: fetch or convert it again")
    text = base64.b64encode(np.stack(hashes[:FRAMES]).tobytes()).decode()
    return VideoCheck(path, None, "", info.duration, info.fps, info.width, info.height, text)


def check_videos(paths: Sequence[str], depth: Depth, state: Path | None, workers: int) -> Iterator[VideoCheck]:
    """The checks of all paths, in their order, by `workers` processes. What `state` knows already is not done again.

    A video that has a problem is not remembered: it may have been mended since.

    Raises:
        SynthError: `state` is no such file.
    """
    keys = [_key(path, depth) for path in paths]
    known = _read(state) if state is not None and state.exists() else {}
    todo = [path for path, key in zip(paths, keys, strict=True) if key not in known]
    done = _checked(todo, depth, workers)
    for key in keys:
        if key in known:
            yield known[key]
            continue
        check = next(done)
        if state is not None and check.problem is None and key is not None:
            _append(state, key, check)
        yield check


def _checked(paths: Sequence[str], depth: Depth, workers: int) -> Iterator[VideoCheck]:
    if workers == 1 or len(paths) < 2:
        yield from (check_video(path, depth) for path in paths)
        return
    # Not forked: the parent may run threads. Few are handed out ahead, so that memory does not grow with the list.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        ahead = deque(pool.submit(check_video, path, depth) for path in paths[: 4 * workers])
        for path in [*paths[4 * workers :], *[None] * len(ahead)]:
            yield ahead.popleft().result()
            if path is not None:
                ahead.append(pool.submit(check_video, path, depth))


def _key(path: str, depth: Depth) -> Key | None:
    """None for what is not there."""
    if not os.path.exists(path):
        return None
    files = sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)]
    stats = [file.stat() for file in files]
    changed = max((stat.st_mtime_ns for stat in stats), default=0)
    return os.path.abspath(path), sum(stat.st_size for stat in stats), changed, depth


def _read(state: Path) -> dict[Key | None, VideoCheck]:
    """What earlier runs found. Half a line at the end, where one was killed, is cut off: the next one begins there."""
    data = state.read_bytes()
    whole = data.rfind(b"\n") + 1
    known: dict[Key | None, VideoCheck] = {}
    for line, text in enumerate(data[:whole].splitlines(), start=1):
        try:
            record = json.loads(text)
            if record["schema"] != SCHEMA:
                raise ValueError(f"schema {record['schema']!r}")
            path, size, changed, depth = record["key"]
            known[path, size, changed, depth] = VideoCheck(**record["check"])
        except (ValueError, TypeError, KeyError) as error:
            raise SynthError(_no_state(state, line)) from error
    torn, begins = data[whole:], BEGINS.encode()
    if torn and torn[: len(begins)] != begins[: len(torn)]:
        raise SynthError(_no_state(state, len(known) + 1))
    os.truncate(state, whole)
    return known


def _no_state(state: Path, line: int) -> str:
    return f"{state}:{line}: not a line of schema {SCHEMA!r}; give another file, or remove this one"


def _append(state: Path, key: Key, check: VideoCheck) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    with open(state, "a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps({"schema": SCHEMA, "key": key, "check": asdict(check)}, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
