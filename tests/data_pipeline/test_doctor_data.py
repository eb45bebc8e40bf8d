"""The doctor of data: every kind of fault is found where it is, sound data has none, and a killed run goes on."""

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from data_pipeline.doctor import videos
from data_pipeline.doctor.data import CHECKS, DataReport, Finding, check_data, print_report, to_record, write_report
from data_pipeline.doctor.lookalikes import groups, picture_hash
from data_pipeline.doctor.videos import check_video, check_videos
from data_pipeline.graph import Edge, make_graph
from data_pipeline.source import Exchange, Source, SynthError, fixed_segments, write_sources
from data_pipeline.source import to_record as source_record
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video, write_jsonl, write_parquet
from whilst.sample import to_record as sample_record
from whilst.video import write_video

X264 = {"preset": "ultrafast", "crf": "30"}


def film(seed: int, seconds: float = 4.0, fps: float = 4.0, height: int = 96, width: int = 128) -> np.ndarray:
    """Two soft blobs that move over a soft background: (T, height, width, 3) uint8. The scene depends on `seed` alone,
    so the same film can be had in other sizes and at other rates."""
    rng = np.random.default_rng(seed)
    base, slope = rng.uniform(40, 200, 3), rng.uniform(-60, 60, (2, 3))
    blobs = [(rng.uniform(0.2, 0.8, 2), rng.uniform(-0.15, 0.15, 2), rng.uniform(-150, 150, 3)) for _ in range(2)]
    y, x = (np.arange(height)[:, None, None] + 0.5) / height, (np.arange(width)[None, :, None] + 0.5) / width
    frames = []
    for i in range(round(seconds * fps)):
        picture = base + slope[0] * x + slope[1] * y
        for place, speed, colour in blobs:
            cx, cy = place + speed * i / fps
            picture = picture + colour * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.02)
        frames.append(picture.clip(0, 255).astype(np.uint8))
    return np.stack(frames)


def sample(id: str, video: str, end: float | None = 4.0, last: float = 4.0, licence: str | None = "CC0") -> Sample:
    """One segment up to `last`, one thought, one query with evidence."""
    events = (
        Segment(0.0, last),
        Thought(last, "something"),
        Query("q0", last, "what ?", evidence=((0.0, 1.0),)),
        Answer(last, "this", "q0"),
    )
    return Sample(id, Video(video, 0.0, end), events, meta={} if licence is None else {"licence": licence})


def source(id: str, video: str, duration: float = 4.0, start: float = 0.0) -> Source:
    edge = Edge("e0", "a", "does", "b", 0.0, duration, "span", duration, "a does b")
    graph = make_graph(id, duration, [("a", "person", "a"), ("b", "activity", "b")], [edge])
    watched = Video(video, start, start + duration)
    return Source(id, watched, graph, fixed_segments(duration, 1.0), "films", id, licence="CC0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three different films of 4 s."""
    for seed, name in enumerate("abc"):
        write_video(tmp_path / f"{name}.mp4", film(seed), 4.0)
    return tmp_path


def told(report: DataReport) -> list[tuple[str, str, str]]:
    return [(finding.check, finding.level, finding.item) for finding in report.findings]


def check(folder: Path, items: Iterable[Sample | Source], **settings: Any) -> DataReport:
    """The report on a file of these records, which may break rules that writers keep."""
    lines = [json.dumps(source_record(one) if isinstance(one, Source) else sample_record(one)) for one in items]
    (folder / "x.jsonl").write_text("\n".join(lines) + "\n")
    return check_data(folder / "x.jsonl", **settings)


def one(report: DataReport) -> Finding:
    assert len(report.findings) == 1, told(report)
    return report.findings[0]


# ---- Sound data.


def test_sound_data_has_no_findings(folder: Path) -> None:
    report = check(folder, [sample("1", "a.mp4"), sample("2", "a.mp4"), sample("3", "b.mp4"), source("1", "c.mp4")])
    assert report.findings == []
    assert (report.records, report.samples, report.sources, report.invalid) == (4, 3, 1, 0)
    assert (report.videos, report.sound, report.unsound) == (3, 3, 0)
    assert report.hours == pytest.approx(12 / 3600)


def test_a_dataset_folder_is_its_shards_and_sources(folder: Path) -> None:
    """Of Parquet and JSONL of the same samples one is read, so no id comes twice; sources are relative to theirs."""
    for k, name in enumerate("ab"):
        made = [sample(name, f"../{name}.mp4")]
        write_parquet(made, folder / "data" / f"train-0000{k}-of-00002.parquet")
        write_jsonl(made, folder / "data" / f"train-0000{k}-of-00002.jsonl")
        write_sources([source(name, f"../{name}.mp4")], _folder(folder / "sources") / f"train-0000{k}-of-00002.jsonl")
    report = check_data(folder)
    assert report.findings == [] and (report.samples, report.sources, report.videos) == (2, 2, 2)
    report = check_data(folder / "data" / "train")
    assert report.findings == [] and (report.samples, report.sources, report.videos) == (2, 0, 2)
    (folder / "data" / "train-00000-of-00002.parquet").write_bytes(b"PAR1 no more")
    finding = one(check_data(folder))
    assert finding.check == "invalid record" and "not a Parquet file" in finding.message


def _folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def test_a_folder_of_images_is_a_video_too(folder: Path) -> None:
    from PIL import Image

    (folder / "images").mkdir()
    for i, picture in enumerate(film(9)):
        Image.fromarray(picture).save(folder / "images" / f"{i:03d}.png")
    assert check(folder, [sample("1", "images")]).findings[0].check == "undecodable video"  # no frames.json
    (folder / "images" / "frames.json").write_text('{"fps": 4.0}')
    assert check(folder, [sample("1", "images")]).findings == []


# ---- Videos.


def test_videos_that_cannot_be_read(folder: Path) -> None:
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video at all\n" * 100)
    whole = (folder / "c.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    names = ["gone", "empty", "text", "half", "a"]
    report = check(folder, [sample(name, f"{name}.mp4") for name in names] + [sample("again", "gone.mp4")])
    wrong = ["missing video", "zero-byte video", "undecodable video", "undecodable video"]
    expected = zip(wrong, names, strict=False)
    assert told(report) == [(check, "error", str(folder / f"{name}.mp4")) for check, name in expected]
    assert (report.videos, report.sound, report.unsound) == (5, 1, 4)
    assert report.findings[0].where == f"{folder / 'x.jsonl'}:1" and "2 records need it" in report.findings[0].message


def test_frames_that_end_before_their_header_says(folder: Path) -> None:
    """Matroska without the last clusters: the header is whole, the pictures are not."""
    write_video(folder / "long.mkv", film(5, seconds=40.0), 4.0)
    data = (folder / "long.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) * 4 // 5])
    assert check_video(str(folder / "long.mkv"), "few").problem is None
    found = check_video(str(folder / "cut.mkv"), "few")
    assert found.problem == "undecodable video" and "truncated" in found.detail


def test_damaged_files_are_findings_and_never_end_the_run(folder: Path) -> None:
    """Wrong bytes anywhere. Some of these files make PyAV fail otherwise than with an error of FFmpeg."""
    rng = np.random.default_rng(0)
    problems = []
    for suffix in (".mp4", ".mkv", ".avi"):
        write_video(folder / f"x{suffix}", film(1, height=32, width=32), 4.0)
        whole = np.fromfile(folder / f"x{suffix}", np.uint8)
        for count in (1, 5, 50, 500) * 5:
            spoilt = whole.copy()
            spoilt[rng.integers(0, len(whole), count)] = rng.integers(0, 256, count)
            spoilt.tofile(folder / f"x{suffix}")
            problems.append(check_video(str(folder / f"x{suffix}"), "all").problem)
    assert set(problems) == {None, "undecodable video"}


def test_a_bug_of_a_decoder_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str) -> Any:
        raise AttributeError("no codec")

    monkeypatch.setattr(videos, "probe", fails)
    found = check_video(str(folder / "a.mp4"), "few")
    assert found.problem == "undecodable video" and found.detail.startswith("AttributeError: no codec")


def test_every_frame_is_decoded_when_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def counting(*arguments: Any) -> Any:
        for time, image in whole(*arguments):
            seen.append(time)
            yield time, image

    whole = videos.stream_frames
    monkeypatch.setattr(videos, "stream_frames", counting)
    check_video(str(folder / "a.mp4"), "few")
    few = len(seen)
    assert few == 9 + 1
    check_video(str(folder / "a.mp4"), "all")
    assert len(seen) - few == 9 + 16


@pytest.mark.parametrize(("end", "findings"), [(4.0, 0), (4.04, 0), (4.2, 1)])
def test_a_sample_that_says_more_than_the_video_lasts(folder: Path, end: float, findings: int) -> None:
    report = check(folder, [sample("1", "a.mp4", end=end, last=3.0)])
    expected = [("duration mismatch", "error", str(folder / "a.mp4"))]
    assert told(report) == expected[:findings]


def test_a_source_that_is_much_shorter_than_its_file_is_worth_a_look(folder: Path) -> None:
    finding = one(check(folder, [source("1", "a.mp4", duration=2.0)]))
    assert (finding.check, finding.level) == ("duration mismatch", "warning")
    assert "source '1' is 2.000 s long, but the file 4.000 s" in finding.message
    # A part that does not begin at 0 is a part on purpose, and so is a sample of less than the video.
    assert check(folder, [source("1", "a.mp4", duration=2.0, start=1.0), sample("2", "b.mp4", 2.0, 2.0)]).findings == []


def test_events_after_the_end_of_the_video(folder: Path) -> None:
    finding = one(check(folder, [sample("in", "a.mp4"), sample("out", "a.mp4", end=None, last=7.0)]))
    assert (finding.check, finding.level, finding.item) == ("outside the video", "error", str(folder / "a.mp4"))
    assert "'out' has a segment at 7.000 s, but the video lasts 4.000 s" in finding.message
    assert finding.where.endswith("x.jsonl:2")
    assert check(folder, [sample("out", "a.mp4", end=None, last=7.0)], tolerance=3.0).findings == []


def test_edges_and_exchanges_after_the_end_of_the_video(folder: Path) -> None:
    late = source("1", "a.mp4", duration=2.0, start=3.0)  # seconds 3 to 5 of 4
    assert [name for name, *_ in told(check(folder, [late]))] == ["duration mismatch", "outside the video"]
    exchange = Exchange("x", "what ?", "this", time=1.0, window=(3.0, 9.0))
    finding = one(check(folder, [replace(source("1", "a.mp4"), exchanges=(exchange,))]))
    assert finding.check == "outside the video" and "exchange 'x' at 9.000 s" in finding.message


# ---- Records.


def test_options_that_a_model_never_reads(folder: Path) -> None:
    def choice(id: str, text: str) -> Sample:
        query = Query("q0", 4.0, text, options=("milk", "oil"))
        return Sample(id, Video("a.mp4"), (Segment(0.0, 4.0), query, Answer(4.0, "oil", "q0")), meta={"licence": "CC0"})

    write_jsonl([choice("bare", "which ?"), choice("told", "which ?\nA. milk\nB. oil")], folder / "samples.jsonl")
    report = check_data(folder / "samples.jsonl")
    assert told(report) == [("options not shown", "warning", "bare")]
    assert "'milk'" in report.findings[0].message


def test_ids_that_come_twice(folder: Path) -> None:
    samples = [sample("1", "a.mp4"), sample("2", "a.mp4"), sample("1", "b.mp4")]
    finding = one(check(folder, [*samples, source("2", "a.mp4")]))  # a source may be called like its sample
    assert (finding.check, finding.level, finding.item) == ("duplicate id", "error", "1")
    assert "x.jsonl:1 has this sample id too" in finding.message and finding.where.endswith("x.jsonl:3")


def test_ids_that_come_twice_in_two_files(folder: Path) -> None:
    for k in (0, 1):
        write_jsonl([sample("1", "a.mp4")], folder / f"part-{k}.jsonl")
    finding = one(check_data(folder))
    assert finding.check == "duplicate id" and "part-0.jsonl:1" in finding.message and "part-1.jsonl:1" in finding.where


def test_licences_are_counted_a_file(folder: Path) -> None:
    items = [sample("1", "a.mp4"), sample("2", "a.mp4", licence=None), sample("3", "a.mp4", licence=" Unknown")]
    finding = one(check(folder, items))
    assert (finding.check, finding.level, finding.item) == ("no licence", "warning", "2")
    assert "2 of the 3 records name no licence" in finding.message and finding.where.endswith(":2")
    assert one(check(folder, [replace(source("1", "a.mp4"), licence="")])).check == "no licence"


def test_records_that_are_none(folder: Path) -> None:
    good = json.dumps(sample_record(sample("good", "a.mp4")))
    backwards = sample_record(sample("backwards", "a.mp4"))
    backwards["events"][0]["start"] = 9.0
    no_graph = source_record(source("no graph", "a.mp4")) | {"graph": {}}
    lines = [good, "{", json.dumps(backwards), json.dumps(no_graph), '{"schema": "whilst.graph/1"}', "[]"]
    (folder / "x.jsonl").write_text("\n".join(lines))
    report = check_data(folder / "x.jsonl")
    assert [(f.check, f.item, f.where.rpartition(":")[2]) for f in report.findings] == [
        ("invalid record", "", "2"),
        ("invalid record", "backwards", "3"),
        ("invalid record", "no graph", "4"),
        ("invalid record", "", "5"),
        ("invalid record", "", "6"),
    ]
    assert (report.records, report.samples, report.invalid) == (6, 1, 5)


def test_no_data_is_an_error(tmp_path: Path) -> None:
    for name in ("", "none", "none.jsonl"):
        with pytest.raises(SynthError, match="no .parquet or .jsonl file"):
            check_data(tmp_path / name)


# ---- Videos that show the same.


def test_the_same_film_in_another_size_codec_and_rate_is_found(folder: Path) -> None:
    write_video(folder / "small.mkv", film(0, fps=5.0, height=48, width=64), 5.0, pixel_format="yuv420p", options=X264)
    (folder / "copy.mp4").write_bytes((folder / "a.mp4").read_bytes())
    names = ["b.mp4", "small.mkv", "c.mp4", "a.mp4", "copy.mp4"]
    finding = one(check(folder, [sample(name, name) for name in names]))
    assert (finding.check, finding.level, finding.item) == ("near-duplicate videos", "warning", str(folder / names[1]))
    for name in ("small.mkv", "a.mp4", "copy.mp4"):
        assert str(folder / name) in finding.message
    assert "3 videos show the same" in finding.message and "b.mp4" not in finding.message


def test_films_that_differ_are_not_alike() -> None:
    films = [film(seed) for seed in range(12)]
    longer = film(0, seconds=6.0)  # begins as the first
    late = films[0].copy()
    late[8, 30:60, 40:80] = (255, 0, 0)  # something that one of the nine frames shows
    frames = [*films, longer, late]
    hashes = [[picture_hash(f[min(len(f) - 1, int((k + 0.5) * len(f) / 9))]) for k in range(9)] for f in frames]
    assert groups(np.array(hashes), [len(f) / 4 for f in frames]) == []
    logo = np.array(hashes)
    logo[1] = logo[0]
    logo[1, :, 0, 0] = 255 - logo[0, :, 0, 0]  # one cell is another
    assert groups(logo, [len(f) / 4 for f in frames]) == [[0, 1]]


def test_alikeness_is_handed_on() -> None:
    """The first is like the second, the second like the third: one group, by durations that drift."""
    same = np.zeros((4, 9, 8, 8, 3), np.uint8)
    assert groups(same, [4.8, 4.0, 4.4, 9.0]) == [[0, 1, 2]]


# ---- Going on.


def test_a_killed_run_goes_on_where_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [sample(name, f"{name}.mp4") for name in "abc"]
    state = folder / "state" / "x.jsonl"
    whole = to_record(check(folder, items))
    checked: list[str] = []

    def dies(path: str, depth: Any) -> Any:
        if len(checked) == 2:
            raise KeyboardInterrupt
        checked.append(path)
        return check_video(path, depth)

    monkeypatch.setattr(videos, "check_video", dies)
    with pytest.raises(KeyboardInterrupt):
        check(folder, items, state=state)
    with open(state, "a") as file:
        file.write('{"schema": "whilst.video_ch')  # and the third line was half written
    checked.clear()
    assert to_record(check(folder, items, state=state)) == whole
    assert checked == [str(folder / "c.mp4")]
    checked.clear()
    assert to_record(check(folder, items, state=state)) == whole and checked == []
    assert len(state.read_text().splitlines()) == 3


def test_a_video_that_changed_is_checked_again_and_a_bad_one_always(folder: Path) -> None:
    items = [sample("a", "a.mp4"), sample("gone", "gone.mp4")]
    state = folder / "state.jsonl"
    assert one(check(folder, items, state=state)).check == "missing video"
    write_video(folder / "gone.mp4", film(7), 4.0)
    assert check(folder, items, state=state).findings == []
    before = os.stat(folder / "a.mp4")
    write_video(folder / "a.mp4", film(0, seconds=2.0), 4.0)
    os.utime(folder / "a.mp4", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert {name for name, *_ in told(check(folder, items, state=state))} == {"duration mismatch", "outside the video"}


def test_a_deeper_check_is_another_check(folder: Path) -> None:
    state = folder / "state.jsonl"
    for depth in ("few", "all", "all"):
        assert check(folder, [sample("a", "a.mp4")], state=state, depth=depth).findings == []
    assert [json.loads(line)["key"][3] for line in state.read_text().splitlines()] == ["few", "all"]


@pytest.mark.parametrize("text", ["my notes\n", "my notes", '{"schema": "whilst.other/1"}\n{"sch', "[]\n"])
def test_a_file_that_is_no_state_is_refused_and_kept(folder: Path, text: str) -> None:
    state = folder / "x.txt"
    state.write_text(text)
    with pytest.raises(SynthError, match=r"x.txt:1: not a line of schema 'whilst.video_check/1'"):
        check(folder, [sample("a", "a.mp4")], state=state)
    assert state.read_text() == text


def test_several_processes_find_the_same(folder: Path) -> None:
    paths = [str(folder / f"{name}.mp4") for name in ("a", "gone", "b", "c")]
    assert list(check_videos(paths, "few", None, 2)) == [check_video(path, "few") for path in paths]


# ---- The report.


def test_the_report_is_for_machines_and_people(folder: Path) -> None:
    report = check(folder, [sample("1", "gone.mp4", licence=None), sample("1", "a.mp4")])
    write_report(report, folder / "out" / "data.json")
    record = json.loads((folder / "out" / "data.json").read_text())
    assert record == json.loads(json.dumps(to_record(report)))
    assert list(record["checks"]) == list(CHECKS)
    assert record["checks"]["missing video"] == record["checks"]["no licence"] == record["checks"]["duplicate id"] == 1
    assert (record["errors"], record["warnings"], record["videos"], record["sound"]) == (2, 1, 2, 1)
    out = StringIO()
    print_report(report, Console(file=out, width=160), shown=2)
    text = out.getvalue()
    assert "2 records (2 samples, 0 sources, 0 invalid), 2 videos, 1 of them sound" in text
    assert text.index("error: duplicate id: 1") < text.index("error: missing video") < text.index("and 1 more")
