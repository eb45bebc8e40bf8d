"""The clock: every tick takes the frame on screen then, whatever the file; a file that cannot say so is an error."""

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from whilst.video import Frames, VideoError, probe, read_frames, stream_frames, write_video

BLOCK = 8


def numbered(n: int, height: int = 32, width: int = 48) -> np.ndarray:
    """n pictures; each spells its own number in 8 black or white blocks, so that any codec keeps it."""
    images = np.full((n, height, width, 3), 128, np.uint8)
    for i in range(n):
        for bit in range(8):
            row, column = divmod(bit, 4)
            value = 235 if i >> bit & 1 else 20
            images[i, row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK] = value
    return images


def numbers(images: np.ndarray) -> list[int]:
    """What `numbered` wrote."""

    def bit(image: np.ndarray, k: int) -> int:
        row, column = divmod(k, 4)
        return int(image[row * BLOCK + 2 : row * BLOCK + 6, column * BLOCK + 2 : column * BLOCK + 6].mean() > 128)

    return [sum(bit(image, k) << k for k in range(8)) for image in images]


def write_stamped(
    path: Path,
    images: np.ndarray,
    pts: Sequence[int],
    base: Fraction,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """A video whose frames carry the timestamps `pts` in units of `base` seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(1) / base, options=options or {})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = images.shape[1], images.shape[2], "yuv420p"
        stream.codec_context.time_base = base
        if codec == "mpeg4":
            stream.codec_context.max_b_frames = 2
        for image, stamp in zip(images, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s at 10 fps, a keyframe about every 3 s, B-frames: 200 numbered frames."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_stamped(path, numbered(200), range(200), Fraction(1, 10), options={"g": "30", "preset": "veryfast"})


def test_written_pixels_come_back(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (14, 48, 48, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", images, fps=2.0)
    frames = read_frames(tmp_path / "a.mp4", fps=2.0)
    assert frames.times.tolist() == [i / 2 for i in range(14)]
    assert frames.pts.tolist() == frames.times.tolist()
    assert np.abs(frames.images.astype(int) - images).max() <= 2


def test_a_tick_takes_the_frame_on_screen_and_never_a_later_one(clip: Path) -> None:
    frames = read_frames(clip, fps=4.0)
    assert numbers(frames.images) == [int(tick * 10) for tick in np.arange(80) / 4]
    assert (frames.pts <= frames.times).all()


def test_a_tick_faster_than_the_video_repeats_its_frames(clip: Path) -> None:
    frames = read_frames(clip, fps=20.0, end=1.0)
    assert numbers(frames.images) == [i // 2 for i in range(20)]
    assert np.allclose(frames.pts, np.arange(20) // 2 / 10)


def test_thirty_fps_of_television_at_one_fps_gives_one_frame_in_each_second(tmp_path: Path) -> None:
    path = write_stamped(tmp_path / "ntsc.mp4", numbered(200), range(200), Fraction(1001, 30000))
    frames = read_frames(path, fps=1.0, end=6.0)
    assert numbers(frames.images) == [0, 29, 59, 89, 119, 149]  # frame 30 comes 1 ms after the first second
    assert [len(frames.slice(second, second + 1.0)) for second in range(6)] == [1] * 6


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg2video")],
)
def test_a_range_is_the_same_frames_as_the_whole(tmp_path: Path, name: str, codec: str) -> None:
    options = {"g": "40", "bf": "2", "b": "2M"}
    path = write_stamped(tmp_path / name, numbered(250), range(250), Fraction(1, 25), codec, options)
    whole = read_frames(path, fps=5.0)
    assert numbers(whole.images) == list(range(0, 250, 5))
    for start, end in [(0.4, 1.0), (1.56, 3.16), (1.6, 3.2), (4.0, 4.2), (7.9, 9.9)]:
        part = read_frames(path, fps=5.0, start=start, end=end)
        assert numbers(part.images) == [int((start + i / 5) * 25 + 0.01) for i in range(len(part))]
        assert len(part) == round((end - start) * 5)
    part = read_frames(path, fps=5.0, start=6.0)
    assert (part.images == whole.images[30:]).all()


def test_far_apart_ticks_take_the_right_frames(clip: Path) -> None:
    assert numbers(read_frames(clip, fps=0.2).images) == [0, 50, 100, 150]
    assert numbers(read_frames(clip, fps=0.15, start=1.0).images) == [10, 76, 143]


def overwrite(path: Path, copy: Path, start: float, end: float) -> Path:
    """A copy whose packets from `start` to `end` seconds are noise."""
    data, at = bytearray(path.read_bytes()), 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.pts is None or packet.time_base is None:
                continue  # the empty packet that ends a stream
            at = data.index(bytes(packet), at)
            if start <= packet.pts * packet.time_base < end:
                data[at : at + packet.size] = b"\x5a" * packet.size
    copy.write_bytes(data)
    return copy


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_what_lies_between_the_first_frame_and_the_range_is_not_decoded(tmp_path: Path, suffix: str) -> None:
    options = {"g": "30", "bf": "0", "sc_threshold": "0"}
    path = write_stamped(tmp_path / f"whole{suffix}", numbered(200), range(200), Fraction(1, 10), options=options)
    broken = overwrite(path, tmp_path / f"broken{suffix}", 3.0, 9.0)
    assert numbers(read_frames(broken, fps=2.0, start=15.0).images) == list(range(150, 200, 5))
    with pytest.raises(VideoError, match=r"broken\.m..: cannot be decoded"):
        read_frames(broken, fps=2.0)


def test_reading_stops_after_the_last_tick(clip: Path, tmp_path: Path) -> None:
    broken = overwrite(clip, tmp_path / "broken.mp4", 9.0, 20.0)
    assert numbers(read_frames(broken, fps=2.0, end=5.0).images) == list(range(0, 50, 5))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_rate_is_flagged_and_read_by_its_true_timestamps(tmp_path: Path, name: str) -> None:
    stamps = [0, 40, 80, 900, 940, 2500, 2600, 3000]
    path = write_stamped(tmp_path / name, numbered(8), stamps, Fraction(1, 1000), options={"bf": "0"})
    assert probe(path).variable_rate
    frames = read_frames(path, fps=2.0, end=3.0)
    assert numbers(frames.images) == [0, 2, 4, 4, 4, 5]
    assert np.allclose(frames.pts, [0.0, 0.08, 0.94, 0.94, 0.94, 2.5], atol=1e-3)
    assert frames.times.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


def test_milliseconds_of_matroska_do_not_lose_frames(tmp_path: Path) -> None:
    path = write_stamped(tmp_path / "a.mkv", numbered(90), range(90), Fraction(1, 30))
    assert numbers(read_frames(path, fps=30.0).images) == list(range(90))
    assert not probe(path).variable_rate


def test_the_clock_starts_at_the_first_frame(tmp_path: Path) -> None:
    path = write_stamped(tmp_path / "late.mkv", numbered(20), range(50, 70), Fraction(1, 10))
    frames = read_frames(path, fps=5.0)
    assert frames.times[0] == 0.0
    assert numbers(frames.images) == list(range(0, 20, 2))
    assert numbers(read_frames(path, fps=10.0, start=1.5).images) == [15, 16, 17, 18, 19]


def test_timestamps_in_decoding_order_are_put_right(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "decoding_order.mp4"
    with av.open(str(clip)) as source, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        first = packets[0].dts or 0  # below zero, and times below zero would be cut off
        for packet in packets:
            packet.dts = packet.pts = (packet.dts or 0) - first
            packet.stream = stream
            copy.mux(packet)
    with av.open(str(path)) as container:  # the file is as broken as it is meant to be
        stamps = [frame.pts for frame in container.decode(video=0) if frame.pts is not None]
        assert stamps != sorted(stamps)
    frames = read_frames(path, fps=10.0)
    assert numbers(frames.images) == list(range(200))
    assert np.allclose(frames.pts, np.arange(200) / 10)
    assert numbers(read_frames(path, fps=10.0, start=15.0).images) == list(range(150, 200))


def test_the_stream_gives_the_same_frames_lazily(clip: Path, tmp_path: Path) -> None:
    frames = read_frames(clip, fps=3.0, start=2.0, end=7.0)
    pairs = list(stream_frames(clip, fps=3.0, start=2.0, end=7.0))
    assert [time for time, _ in pairs] == frames.times.tolist()
    assert (np.stack([image for _, image in pairs]) == frames.images).all()
    broken = overwrite(clip, tmp_path / "broken.mp4", 9.0, 20.0)
    stream = stream_frames(broken, fps=2.0)
    assert numbers(np.stack([next(stream)[1] for _ in range(10)])) == list(range(0, 50, 5))


def test_probe_says_what_the_file_is(clip: Path, tmp_path: Path) -> None:
    info = probe(clip)
    assert (info.path, info.width, info.height, info.variable_rate) == (str(clip), 48, 32, False)
    assert info.duration == pytest.approx(20.0)
    assert info.fps == pytest.approx(10.0)
    write_video(tmp_path / "a.mkv", numbered(14), fps=2.0)
    info = probe(tmp_path / "a.mkv")
    assert (info.duration, info.fps) == (pytest.approx(7.0), pytest.approx(2.0))


def test_a_video_filmed_upright_stands_upright(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    lying = np.zeros((4, 32, 48, 3), np.uint8)
    lying[:, :, 40:] = 255  # bright at its right
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.set_display_rotation(90)  # degrees counter-clockwise: its right becomes its top
        for image in lying:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    images = read_frames(path, fps=4.0).images
    assert images.shape == (4, 48, 32, 3)
    assert images[0, :6].mean() > 200
    assert images[0, 10:].mean() < 50
    assert (probe(path).width, probe(path).height) == (32, 48)


# Folders and memory ---------------------------------------------------------------------------------------------------


def write_folder(path: Path, n: int, name: str = "frame_{:03d}.png", clock: object = None) -> Path:
    path.mkdir()
    for i, image in enumerate(numbered(n)):
        Image.fromarray(image).save(path / name.format(i))
    (path / "frames.json").write_text(json.dumps({"fps": 4.0} if clock is None else clock))
    return path


def test_a_folder_is_read_by_the_rate_in_its_frames_json(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", 20)
    assert numbers(read_frames(folder, fps=2.0).images) == list(range(0, 20, 2))
    assert numbers(read_frames(folder, fps=8.0, start=1.0, end=2.0).images) == [4, 4, 5, 5, 6, 6, 7, 7]
    info = probe(folder)
    assert (info.duration, info.fps, info.width, info.height) == (5.0, 4.0, 48, 32)


def test_frames_in_memory_are_read_again_at_another_rate(clip: Path) -> None:
    frames = read_frames(clip, fps=10.0, start=5.0, end=10.0)
    again = read_frames(frames, fps=2.0, start=6.0, end=8.0)
    assert numbers(again.images) == [60, 65, 70, 75]
    assert again.times.tolist() == [6.0, 6.5, 7.0, 7.5]
    with pytest.raises(VideoError, match=r"starts at 0.0 s, but the first frame is at 5.0 s"):
        read_frames(frames, fps=2.0)


def test_slices_and_concat_are_inverse(clip: Path) -> None:
    frames = read_frames(clip, fps=2.0)
    parts = [frames.slice(0.0, 3.3), frames.slice(3.3, 7.0), frames.slice(7.0, 99.0)]
    assert [len(part) for part in parts] == [7, 7, 26]
    whole = Frames.concat(parts)
    assert (whole.images == frames.images).all() and (whole.times == frames.times).all()
    assert (whole.pts == frames.pts).all()
    with pytest.raises(VideoError, match="strictly increasing"):
        Frames.concat([parts[1], parts[0]])
    with pytest.raises(VideoError, match="one size"):
        Frames.concat([parts[0], Frames(np.zeros((1, 4, 4, 3), np.uint8), np.array([50.0]))])


def test_frames_refuse_other_shapes() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    for bad in (images.astype(np.float32), images[..., :1], images[0]):
        with pytest.raises(VideoError, match="uint8"):
            Frames(bad, np.array([0.0, 1.0]))
    for times in ([0.0], [1.0, 0.0], [0.0, np.nan]):
        with pytest.raises(VideoError, match="times"):
            Frames(images, np.array(times))


# Bad input ------------------------------------------------------------------------------------------------------------


def missing(path: Path) -> Path:
    return path / "missing.mp4"


def zero_bytes(path: Path) -> Path:
    (path / "zero.mp4").touch()
    return path / "zero.mp4"


def text(path: Path) -> Path:
    (path / "notes.mp4").write_text("This is not a video.\n" * 100)
    return path / "notes.mp4"


def text_by_name(path: Path) -> Path:
    (path / "notes.txt").write_text("This is not a video.\n" * 100)
    return path / "notes.txt"


def picture(path: Path) -> Path:
    Image.fromarray(numbered(1)[0]).save(path / "one.png")
    return path / "one.png"


def audio(path: Path) -> Path:
    with av.open(str(path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path / "sound.mp4"


def cut_before_its_index(path: Path) -> Path:
    write_video(path / "whole.mp4", numbered(40), fps=4.0)
    data = (path / "whole.mp4").read_bytes()
    (path / "cut.mp4").write_bytes(data[: len(data) // 2])
    return path / "cut.mp4"


def cut_after_its_index(path: Path) -> Path:
    with av.open(str(path / "whole.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=4, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for image in numbered(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    data = (path / "whole.mp4").read_bytes()
    (path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    return path / "cut.mp4"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, r"missing\.mp4: there is no such file"),
        (zero_bytes, r"zero\.mp4: the file is empty .*: fetch"),
        (text, r"notes\.mp4: cannot be decoded .*: fetch"),
        (text_by_name, r"notes\.txt: (not a video|cannot be decoded)"),
        (picture, r"one\.png: not a video .*frames\.json"),
        (audio, r"sound\.mp4: has no video stream \(only audio\): choose"),
        (cut_before_its_index, r"cut\.mp4: cannot be decoded .*truncated: fetch"),
        (cut_after_its_index, r"cut\.mp4: truncated: .*fetch"),
    ],
)
def test_a_bad_file_is_named_with_its_fix(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    path = make(tmp_path)
    for use in (probe, lambda p: read_frames(p, fps=2.0), lambda p: next(stream_frames(p, fps=2.0))):
        with pytest.raises(VideoError, match=message):
            use(path)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.avi"])
def test_a_file_that_ends_before_its_header_says_is_truncated(tmp_path: Path, name: str) -> None:
    codec = "libx264" if name.endswith("mkv") else "mpeg4"
    write_stamped(tmp_path / f"whole.{name[-3:]}", numbered(100), range(100), Fraction(1, 10), codec, {"g": "10"})
    data = (tmp_path / f"whole.{name[-3:]}").read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 7 // 10])
    with pytest.raises(VideoError, match=rf"{name}: (truncated|cannot be decoded)"):
        read_frames(tmp_path / name, fps=2.0)
    assert numbers(read_frames(tmp_path / name, fps=2.0, end=2.0).images) == [0, 5, 10, 15]


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_must_be_positive(clip: Path, tmp_path: Path, fps: float) -> None:
    for use in (lambda: read_frames(clip, fps=fps), lambda: write_video(tmp_path / "a.mp4", numbered(2), fps)):
        with pytest.raises(VideoError, match="fps must be a positive number"):
            use()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", "folder"])
def test_a_range_outside_the_video_is_refused(tmp_path: Path, suffix: str) -> None:
    if suffix == "folder":
        path = write_folder(tmp_path / "folder", 20)
    else:
        path = tmp_path / f"a{suffix}"
        write_stamped(path, numbered(20), range(20), Fraction(1, 4))
    for start, end in [(-1.0, 2.0), (5.0, None), (6.0, 8.0), (3.0, 6.0), (2.0, 2.0), (3.0, 1.0), (float("nan"), 1.0)]:
        with pytest.raises(VideoError, match=rf"{path.name}: .*(outside the video|finite seconds|is empty)"):
            read_frames(path, fps=2.0, start=start, end=end)
    assert len(read_frames(path, fps=2.0, end=5.02)) == 11  # annotations round


def bad_folders(path: Path) -> dict[str, Path]:
    no_clock = write_folder(path / "no_clock", 3)
    (no_clock / "frames.json").unlink()
    mixed = write_folder(path / "mixed", 3)
    Image.fromarray(numbered(1, 64, 64)[0]).save(mixed / "frame_003.png")
    broken = write_folder(path / "broken", 3)
    (broken / "frame_001.png").write_bytes(b"no picture")
    empty = path / "empty"
    empty.mkdir()
    return {
        r"frames\.json is missing": no_clock,
        r"fps must be a positive number": write_folder(path / "zero", 3, clock={"fps": 0}),
        r"frames\.json: must be": write_folder(path / "list", 3, clock=[1, 2]),
        r"f_11\.png sorts before f_2\.png: pad": write_folder(path / "unpadded", 12, "f_{}.png"),
        r"mixed: the picture size changes": mixed,
        r"frame_001\.png: not an image": broken,
        r"empty: the folder holds no images": empty,
    }


def test_an_image_that_would_fill_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses above twice as many
    with pytest.raises(VideoError, match=r"frame_000\.png: not an image that can be read: Image size"):
        read_frames(write_folder(tmp_path / "a", 3), fps=4.0)


def test_a_bad_folder_is_named_with_its_fix(tmp_path: Path) -> None:
    for message, folder in bad_folders(tmp_path).items():
        with pytest.raises(VideoError, match=message):
            read_frames(folder, fps=4.0)


@pytest.mark.parametrize("clock", [b'{"fps": 2', b'{"fps": "\xff"}', b"[" * 100_000], ids=["cut", "no UTF-8", "nested"])
def test_a_damaged_clock_is_of_its_folder_alone(tmp_path: Path, clock: bytes) -> None:
    folder = write_folder(tmp_path / "a", 3)
    (folder / "frames.json").write_bytes(clock)
    with pytest.raises(VideoError, match=r"frames\.json: must be"):
        read_frames(folder, fps=4.0)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(VideoError, match="at least one image"):
        write_video(path, numbered(0), 2.0)
    with pytest.raises(VideoError, match="uint8"):
        write_video(path, numbered(2).astype(np.float32), 2.0)
    with pytest.raises(VideoError, match="sizes differ"):
        write_video(path, [numbered(1)[0], numbered(1, 64, 64)[0]], 2.0)
    with pytest.raises(VideoError, match="cannot be written as no-such-codec"):
        write_video(path, numbered(2), 2.0, codec="no-such-codec")
    with pytest.raises(VideoError, match="cannot be written as libx264 yuv420p"):
        write_video(path, numbered(2, 33, 33), 2.0, pixel_format="yuv420p")
