"""Reading a video at 2 fps: 60 s of 224 x 224 at 30 fps, H.264 with a keyframe at least every 250 frames.

Claim: the last 10 s are read at least 3 times faster than by decoding everything, because reading seeks.

Baseline: PyAV, decoding every frame from zero to RGB and then picking, once tuned (one converter for all frames, on one
thread: the claim is against this one) and once as it is commonly written (`frame.to_ndarray` of each frame). Where all
60 s are read nothing can be skipped but the conversion of the frames that are not picked.

All three must pick the same pictures. Frames per second are those that are picked, by CPU time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from benchmarks._measure import last_line, one_thread, paired_ratio, table, take_turns
from whilst.video import read_frames, write_video

TARGET = 3.0
SECONDS, RATE, PIXELS = 60, 30, 224
FPS = 2.0
TAIL = 10.0  # seconds


def film(seconds: int) -> Iterator[np.ndarray]:
    """A moving, slightly noisy texture with a square that crosses it: (PIXELS, PIXELS, 3) uint8 a frame."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:PIXELS, :PIXELS]
    texture = 120 + 40 * (np.sin(x / 17) + np.cos(y / 23))
    for i in range(seconds * RATE):
        layers = np.stack([np.roll(texture, i, 0), np.roll(texture, 2 * i, 1), texture], axis=-1)
        image = np.clip(layers + rng.normal(0, 4, (PIXELS, PIXELS, 1)), 0, 255).astype(np.uint8)
        row, column = int((np.sin(i / 40) * 0.4 + 0.5) * (PIXELS - 32)), 2 * i % (PIXELS - 32)
        image[row : row + 32, column : column + 32] = (220, 30, 30)
        yield image


def picked(images: list[np.ndarray], start: float) -> np.ndarray:
    """Of all frames those at 2 fps from `start` on; right because the clip's rate is constant."""
    return np.stack(images[round(start * RATE) :: round(RATE / FPS)])


def everything(path: Path, start: float) -> np.ndarray:
    """The baseline as it is commonly written."""
    with av.open(str(path)) as container:
        return picked([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], start)


def everything_tuned(path: Path, start: float) -> np.ndarray:
    """The baseline at its best."""
    converter = VideoReformatter()
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = container.decode(video=0)
        return picked([converter.reformat(f, format="rgb24", threads=1).to_ndarray() for f in frames], start)


def ours(path: Path, start: float) -> np.ndarray:
    """What whilst does."""
    return read_frames(path, FPS, start=start).images


def measure(path: Path, start: float, repeats: int) -> dict[str, Any]:
    """Median CPU seconds and picked frames per second of each, from `start` to the end, and the ratios."""
    readers: dict[str, Callable[[Path, float], np.ndarray]] = {
        "ours": ours,
        "everything_tuned": everything_tuned,
        "everything": everything,
    }
    pictures = {name: read(path, start) for name, read in readers.items()}
    for name, images in pictures.items():
        assert np.array_equal(images, pictures["ours"]), f"{name} picks other pictures than ours"
    seconds = take_turns({name: partial(read, path, start) for name, read in readers.items()}, repeats)
    return {
        "frames": len(pictures["ours"]),
        "seconds": {name: median(times) for name, times in seconds.items()},
        "frames_per_second": {name: len(pictures["ours"]) / median(times) for name, times in seconds.items()},
        "ratio_tuned": paired_ratio(seconds["everything_tuned"], seconds["ours"]),
        "ratio_common": paired_ratio(seconds["everything"], seconds["ours"]),
    }


def main(seconds: int = SECONDS, repeats: int = 7) -> str:
    """Measure on a clip of `seconds`, which is written to a folder of its own and deleted."""
    one_thread()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        options = {"preset": "veryfast", "crf": "23", "g": "250"}
        write_video(path, film(seconds), RATE, pixel_format="yuv420p", options=options)
        with av.open(str(path)) as container:
            keyframes = sum(packet.is_keyframe for packet in container.demux(video=0))
        results = {"last 10 s": measure(path, seconds - TAIL, repeats), "whole clip": measure(path, 0.0, repeats)}
    readers = list(results["whole clip"]["seconds"])
    print(f"{seconds} s, {seconds * RATE} frames, {keyframes} keyframes; frames per second of CPU time at {FPS:g} fps:")
    print(
        table(
            ["range", "frames", *readers, "times faster than tuned", "than common"],
            [
                [name, r["frames"], *r["frames_per_second"].values(), r["ratio_tuned"], r["ratio_common"]]
                for name, r in results.items()
            ],
        )
    )
    ratio = results["last 10 s"]["ratio_tuned"]
    details = {"unit": "CPU seconds", "keyframes": keyframes, "repeats": repeats, "ranges": results}
    return last_line("last 10 s of 60 s at 2 fps, times faster", ratio, TARGET, ratio >= TARGET, details)


if __name__ == "__main__":
    print(main())
