"""The sample survives every file form, and every bad input is named with its file, line, field and fix."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whilst.sample import (
    SCHEMA,
    Answer,
    Event,
    Query,
    Sample,
    SampleError,
    Segment,
    Silence,
    Thought,
    Video,
    from_record,
    read_jsonl,
    read_parquet,
    read_samples,
    scan_jsonl,
    to_record,
    validate,
    write_jsonl,
    write_parquet,
)

EVENTS: tuple[Event, ...] = (
    Query("stand", 0.5, "tell-when out red-circle ?", kind="forward", window=(6.0, 7.0)),
    Segment(0.0, 2.0),
    Thought(2.0, "in-1 red-circle . é 猫"),
    Silence(2.0, "stand"),
    Query(
        "q0",
        2.0,
        "which in-1 ?",
        kind="backward",
        options=("red-circle", "blue-square"),
        window=(2.0, 2.0),
        evidence=((0.0, 1.0), (1.5, 2.0)),
        knowable_at=1.0,
    ),
    Answer(2.0, "A", "q0"),
    Segment(2.5, 4.0),
    Silence(4.0),
    Segment(4.0, 6.125),
    Answer(6.125, "now", "stand"),
    Answer(7.0, "still", "stand"),
)


def sample(id: str = "a", path: str = "videos/a.mp4") -> Sample:
    meta: dict[str, Any] = {"subkinds": {"q0": "which_in"}, "list": [1, 2.5, None, True], "text": "ü"}
    return Sample(id, Video(path, 0.0, 8.0), EVENTS, memory="before .\n", meta=meta)


def placed(found: Sample, folder: Path) -> Sample:
    """As a reader hands it out: the video path absolute."""
    return replace(found, video=replace(found.video, path=os.path.join(folder, found.video.path)))


def test_helpers() -> None:
    it = sample()
    validate(it)
    assert from_record(to_record(it)) == it
    assert [s.time for s in it.segments()] == [2.0, 4.0, 6.125]
    assert [q.id for q in it.queries()] == ["stand", "q0"]
    assert [a.text for a in it.answers_to("stand")] == ["now", "still"]
    assert it.answers_to("nobody") == ()
    bare = it.without_thoughts()
    assert len(bare.events) == len(EVENTS) - 1 and not any(isinstance(e, Thought) for e in bare.events)
    assert bare.memory == it.memory
    assert it.with_events(list(EVENTS[:2])).events == EVENTS[:2]
    assert hash(it) == hash(sample())


@pytest.mark.parametrize(
    ("write", "read", "name"), [(write_jsonl, read_jsonl, "x.jsonl"), (write_parquet, read_parquet, "x.parquet")]
)
def test_round_trip(tmp_path: Path, write: Callable[..., None], read: Callable[..., list[Sample]], name: str) -> None:
    samples = [sample("a"), sample("b", "c/../b.mp4"), Sample("empty", Video("v"), ())]
    file = tmp_path / "new" / name
    write(samples, file)
    found = read(file)
    folder = tmp_path / "new"
    assert found == [placed(samples[0], folder), placed(sample("b", "b.mp4"), folder), placed(samples[2], folder)]
    # Written elsewhere the paths still lead to the same videos; written in place the file does not change.
    first = file.read_bytes()
    write(found, tmp_path / "other" / name)
    assert read(tmp_path / "other" / name) == found
    write(found, file)
    assert read(file) == found
    if name.endswith(".jsonl"):
        assert json.loads(first.decode().splitlines()[0])["video"]["path"] == "videos/a.mp4"
        assert file.read_text().splitlines()[0] == first.decode().splitlines()[0]
    assert os.listdir(folder) == [name]


def test_absolute_path_outside_the_folder_stays(tmp_path: Path) -> None:
    outside = str(tmp_path / "v.mp4")
    write_jsonl([sample(path=outside)], tmp_path / "data" / "x.jsonl")
    assert json.loads((tmp_path / "data" / "x.jsonl").read_text())["video"]["path"] == outside
    # `data-2` begins with `data` but does not lie in it.
    write_jsonl([sample(path=str(tmp_path / "data-2" / "v.mp4"))], tmp_path / "data" / "x.jsonl")
    assert json.loads((tmp_path / "data" / "x.jsonl").read_text())["video"]["path"].startswith("/")


def test_parquet_columns(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_parquet([sample(), Sample("open", Video("v"), (Segment(0.0, 1.0),))], tmp_path / "x.parquet")
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [(r["schema"], r["id"], r["duration"], r["n_events"]) for r in rows] == [
        (SCHEMA, "a", 8.0, len(EVENTS)),
        (SCHEMA, "open", None, 1),
    ]
    assert json.loads(rows[0]["events"]) == to_record(sample())["events"]


def test_whole_numbers_and_left_out_fields(tmp_path: Path) -> None:
    events = [{"type": "segment", "start": 0, "end": 2}, {"type": "silence", "time": 2}]
    record = {"schema": SCHEMA, "id": "a", "video": {"path": "v", "end": 3}, "events": events}
    found = from_record(record)
    assert found == Sample("a", Video("v", 0.0, 3.0), (Segment(0.0, 2.0), Silence(2.0)))
    assert type(found.events[0].time) is float and type(found.video.end) is float


def test_options_by_text_or_letter() -> None:
    query = Query("q", 1.0, "?", options=("cat", "dog"))
    for text in ("cat", "dog", "A", "B"):
        validate(Sample("a", Video("v"), (query, Answer(1.0, text, "q"))))
    for text in ("C", "AB", "a", "bird", "A."):
        with pytest.raises(SampleError, match=r"events\[1\]\.text: .* none of the options"):
            validate(Sample("a", Video("v"), (query, Answer(1.0, text, "q"))))


def test_gaps_and_ties_are_allowed() -> None:
    events = (Segment(1.0, 2.0), Thought(2.0, ""), Query("q", 2.0, "?"), Answer(2.0, "x", "q"), Segment(5.0, 6.0))
    validate(Sample("a", Video("v", 1.0), events))


# ---- Bad input. A change to the good record below, and what the message has to say.

Change = Callable[[dict[str, Any]], Any]


def edit(path: str, value: Any) -> Change:
    """Set, by a path such as `events.3.time`, one value of the record."""

    def change(record: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        target: Any = record
        for part in parents:
            target = target[part]
        target[last] = value

    return change


def drop(path: str) -> Change:
    def change(record: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        target: Any = record
        for part in parents:
            target = target[part]
        del target[last]

    return change


def append(*events: dict[str, Any]) -> Change:
    return lambda record: record["events"].extend(events)


QUERY = {"type": "query", "id": "q9", "time": 7.0, "text": "who ?"}
ANSWER = {"type": "answer", "time": 7.0, "text": "me", "query": "q9"}

BAD: list[tuple[str, Change, str, str]] = [
    ("schema", edit("schema", "whilst.sample/2"), "schema", "'whilst.sample/2' is not known"),
    ("no schema", drop("schema"), "", "field missing: schema"),
    ("null schema", edit("schema", None), "schema", "None is not known"),
    ("unknown field", edit("evnts", []), "", "unknown field: evnts"),
    ("unknown event field", edit("events.1.color", 1), "events[1]", "unknown field: color"),
    ("type in video", edit("video.type", "file"), "video", "unknown field: type"),
    ("missing events", drop("events"), "", "field missing: events"),
    ("missing video path", drop("video.path"), "video", "field missing: path"),
    ("missing event time", drop("events.2.time"), "events[2]", "field missing: time"),
    ("missing segment end", drop("events.1.end"), "events[1]", "field missing: end"),
    ("missing type", drop("events.1.type"), "events[1].type", "must be one of segment, thought"),
    ("unknown type", edit("events.1.type", "thougt"), "events[1].type", "not 'thougt'"),
    ("type no text", edit("events.1.type", ["segment"]), "events[1].type", "must be one of"),
    ("event no object", edit("events.1", 3), "events[1].type", "must be one of"),
    ("events no list", edit("events", {}), "events", "must be a list"),
    ("video no object", edit("video", "v.mp4"), "video", "must be an object"),
    ("id no text", edit("id", 7), "id", "must be text, not 7"),
    ("id empty", edit("id", " "), "id", "must not be empty"),
    ("path empty", edit("video.path", ""), "video.path", "must not be empty"),
    ("memory no text", edit("memory", ["a"]), "memory", "must be text"),
    ("meta no object", edit("meta", [1]), "meta", "must be an object"),
    ("meta null", edit("meta", None), "meta", "must be an object"),
    ("meta NaN", edit("meta.list.1", math.nan), "meta.list[1]", "no JSON number"),
    ("time text", edit("events.2.time", "2.0"), "events[2].time", "must be a finite number"),
    ("time true", edit("events.2.time", True), "events[2].time", "not True"),
    ("time null", edit("events.2.time", None), "events[2].time", "not None"),
    ("time NaN", edit("events.2.time", math.nan), "events[2].time", "not nan"),
    ("time inf", edit("events.2.time", math.inf), "events[2].time", "not inf"),
    ("time huge", edit("events.2.time", 10**400), "events[2].time", "must be a finite number"),
    ("time negative", edit("events.2.time", -1.0), "events[2].time", "must be a finite number of seconds >= 0"),
    ("video start NaN", edit("video.start", math.nan), "video.start", "must be a finite number"),
    ("video start negative", edit("video.start", -0.5), "video.start", "must be a finite number"),
    ("video end inf", edit("video.end", math.inf), "video.end", "must be a finite number"),
    ("video reversed", edit("video.end", 0.0), "video.end", "not after video.start"),
    ("text no text", edit("events.2.text", 5), "events[2].text", "must be text"),
    ("query text empty", edit("events.0.text", ""), "events[0].text", "must not be empty"),
    ("answer text empty", edit("events.9.text", " "), "events[9].text", "use a silence event"),
    ("answer query no text", edit("events.5.query", ["q0"]), "events[5].query", "must be text"),
    ("answer without query", drop("events.5.query"), "events[5]", "field missing: query"),
    ("surrogate", edit("events.2.text", "\ud800"), "events[2].text", "surrogate"),
    ("kind no text", edit("events.4.kind", 3), "events[4].kind", "must be text"),
    ("out of order", edit("events.3.time", 1.0), "events[3].time", "1.0 s comes after an event at 2.0 s"),
    ("segment out of order", append({"type": "segment", "start": 6.5, "end": 6.75}), "events[11].end", "comes after"),
    ("segment empty", edit("events.6.start", 4.0), "events[6].end", "not after the segment's start"),
    ("segment reversed", edit("events.6.start", 5.0), "events[6].end", "not after the segment's start"),
    ("overlap", edit("events.6.start", 1.5), "events[6].start", "overlaps the segment before it"),
    ("after the video", edit("events.10.time", 8.5), "events[10].time", "outside the video's [0.0, 8.0] s"),
    ("before the video", edit("video.start", 1.0), "events[0].time", "outside the video's"),
    ("segment before the video", edit("video.start", 0.25), "events[1].start", "outside the video's"),
    ("unknown query", edit("events.5.query", "q7"), "events[5].query", "no query has the id 'q7'"),
    ("silence unknown", edit("events.3.query", "q7"), "events[3].query", "no query has the id 'q7'"),
    ("answer too early", append(ANSWER, QUERY), "events[11].query", "before it is asked"),
    ("silence too early", edit("events.3.query", "q0"), "events[3].query", "before it is asked"),
    ("no answer", append(QUERY), "events[11].id", "'q9' has no answer"),
    ("silence with text", append(QUERY, ANSWER | {"type": "silence"}), "events[12]", "unknown field: text"),
    ("knowable", edit("events.4.knowable_at", 2.5), "events[5].time", "before it can be known: 2.0 s < 2.5 s"),
    ("knowable outside", edit("events.4.knowable_at", 9.0), "events[4].knowable_at", "outside the video's"),
    ("not an option", edit("events.5.text", "green"), "events[5].text", "none of the options"),
    ("letter too far", edit("events.5.text", "C"), "events[5].text", "none of the options"),
    ("options no list", edit("events.4.options", "AB"), "events[4].options", "must be a list"),
    ("options of numbers", edit("events.4.options", [1, 2]), "events[4].options[0]", "must be text"),
    ("two queries of one id", append(QUERY, ANSWER, QUERY, ANSWER), "events[13].id", "a second query 'q9'"),
    ("window reversed", edit("events.0.window", [7.0, 6.0]), "events[0].window", "runs backwards"),
    ("window outside", edit("events.0.window", [7.0, 9.0]), "events[0].window[1]", "outside the video's"),
    ("window of three", edit("events.0.window", [1.0, 2.0, 3.0]), "events[0].window", "must be a pair"),
    ("window a number", edit("events.0.window", 3.0), "events[0].window", "must be a list"),
    ("window NaN", edit("events.0.window", [math.nan, 2.0]), "events[0].window[0]", "must be a finite number"),
    ("evidence reversed", edit("events.4.evidence.1", [2.0, 1.5]), "events[4].evidence[1]", "runs backwards"),
    ("evidence outside", edit("events.4.evidence.1", [1.0, 8.5]), "events[4].evidence[1][1]", "outside the video's"),
    ("evidence flat", edit("events.4.evidence", [0.0, 1.0]), "events[4].evidence[0]", "must be a pair"),
    ("evidence null", edit("events.4.evidence", None), "events[4].evidence", "must be a list of spans"),
]


@pytest.mark.parametrize(("change", "field", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_record(tmp_path: Path, change: Change, field: str, says: str) -> None:
    good = to_record(sample())
    bad = json.loads(json.dumps(good)) | {"id": "b"}
    change(bad)
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(good) + "\n\n" + json.dumps(bad) + "\n")
    with pytest.raises(SampleError) as caught:
        read_jsonl(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:3: {field}: " if field else f"{file}:3: "), message
    assert says in message
    samples, rejections = scan_jsonl(file)
    assert [s.id for s in samples] == ["a"]
    assert [(r.line, f"{file}:3: {r.reason}") for r in rejections] == [(3, message)]


def test_standing_query_with_silence_alone_has_no_answer() -> None:
    events = (Query("q", 1.0, "?"), Silence(2.0, "q"))
    with pytest.raises(SampleError, match=r"x\.jsonl:4: events\[0\]\.id: the query 'q' has no answer"):
        validate(Sample("a", Video("v"), events), "x.jsonl:4")


BAD_LINES = [
    b"{",
    b"[1, 2]",
    b"7",
    b"null",
    b'{"schema": "\xff"}',
    b"[" * 100_000,
    b"1" * 5000,
]


def test_conservation(tmp_path: Path) -> None:
    """Items in = items out + items rejected, each with a reason and its own line."""
    good = [json.dumps(to_record(sample(name))).encode() for name in "abc"]
    bad = [json.dumps(to_record(sample("z")) | {"memory": None}).encode()]
    lines = [good[0], b"", *BAD_LINES, b"  \r", good[1], good[0], *bad, b"\t", good[2] + b"\r"]
    file = tmp_path / "x.jsonl"
    file.write_bytes(b"\n".join(lines))
    samples, rejections = scan_jsonl(file)
    assert [s.id for s in samples] == ["a", "b", "c"]
    not_blank = [i for i, line in enumerate(lines, start=1) if line.strip()]
    assert len(samples) + len(rejections) == len(not_blank)
    accepted = {1, 4 + len(BAD_LINES), len(lines)}
    assert [r.line for r in rejections] == [i for i in not_blank if i not in accepted]
    assert all(r.reason for r in rejections)
    duplicate = next(r for r in rejections if "id of line 1 too" in r.reason)
    assert duplicate.line == 5 + len(BAD_LINES)


def test_conservation_where_nesting_reaches_the_interpreters_limit(tmp_path: Path) -> None:
    depths = range(10, 3000, 10)
    lines = [
        json.dumps(to_record(sample(str(n))) | {"meta": {"a": 0}}).replace(": 0}", f": {'[' * n}{']' * n}}}")
        for n in depths
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    samples, rejections = scan_jsonl(tmp_path / "x.jsonl")
    assert samples and rejections and len(samples) + len(rejections) == len(lines)


def test_an_id_is_claimed_by_valid_samples_alone(tmp_path: Path) -> None:
    bad = to_record(sample()) | {"memory": None}
    (tmp_path / "x.jsonl").write_text(json.dumps(bad) + "\n" + json.dumps(to_record(sample())) + "\n")
    samples, rejections = scan_jsonl(tmp_path / "x.jsonl")
    assert [s.id for s in samples] == ["a"] and [r.line for r in rejections] == [1]


def test_duplicate_ids(tmp_path: Path) -> None:
    line = json.dumps(to_record(sample())) + "\n"
    (tmp_path / "x.jsonl").write_text(line + line)
    with pytest.raises(SampleError, match=r"x\.jsonl:2: id: 'a' is the id of line 1 too"):
        read_jsonl(tmp_path / "x.jsonl")


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_writers_refuse_bad_samples_and_leave_the_file_alone(tmp_path: Path, write: Callable[..., None]) -> None:
    file = tmp_path / "x"
    file.write_text("before")
    with pytest.raises(SampleError, match=r"x:2: id: 'a' is the id of line 1 too.*nothing was written"):
        write([sample(), sample()], file)
    with pytest.raises(SampleError, match=r"x:1: video\.path: must not be empty"):
        write([sample(path="")], file)
    with pytest.raises(SampleError, match=r"x:1: meta\.a: .* is no JSON value"):
        write([replace(sample(), meta={"a": {1}})], file)  # type: ignore[dict-item]
    with pytest.raises(SampleError, match=r"x:1: events\[0\]: must be a segment"):
        write([sample().with_events(["segment"])], file)  # type: ignore[list-item]
    assert file.read_text() == "before" and os.listdir(tmp_path) == ["x"]


def test_bad_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "x.parquet"
    file.write_bytes(b"no parquet")
    with pytest.raises(SampleError, match=r"x\.parquet: not a Parquet file"):
        read_parquet(file)
    pq.write_table(pa.table({"id": ["a"]}), file)
    with pytest.raises(SampleError, match=r"x\.parquet: column missing: duration, events"):
        read_parquet(file)
    write_parquet([sample("a"), sample("b")], file)
    rows = pq.read_table(file).to_pylist()
    rows[1]["events"] = json.dumps([{"type": "thought", "time": 9.0, "text": ""}])
    pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(SampleError, match=r"x\.parquet:2: events\[0\]\.time: 9\.0 s is outside"):
        read_parquet(file)
    rows[1]["events"] = None
    pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(SampleError, match=r"x\.parquet:2: not JSON"):
        read_parquet(file)


@pytest.mark.parametrize(("write", "suffix"), [(write_jsonl, "jsonl"), (write_parquet, "parquet")])
def test_shards_are_read_by_their_name(tmp_path: Path, write: Callable[..., None], suffix: str) -> None:
    for k, ids in enumerate((["a", "b"], ["c"])):
        write([sample(id) for id in ids], tmp_path / f"train-{k:05d}-of-00002.{suffix}")
    assert [one.id for one in read_samples(tmp_path / "train")] == ["a", "b", "c"]
    assert [one.id for one in read_samples(tmp_path / f"train-00001-of-00002.{suffix}")] == ["c"]
    write([sample("a")], tmp_path / f"train-00001-of-00002.{suffix}")
    with pytest.raises(SampleError, match=rf"train-00001-of-00002\.{suffix}: id: 'a' is in train-00000-of-00002"):
        read_samples(tmp_path / "train")
    (tmp_path / f"train-00000-of-00002.{suffix}").unlink()
    with pytest.raises(SampleError, match=rf"train: of 2 shards some are missing .*train-00000-of-00002\.{suffix}"):
        read_samples(tmp_path / "train")
    with pytest.raises(SampleError, match=r"test: no such samples; give a \.jsonl"):
        read_samples(tmp_path / "test")
    with pytest.raises(SampleError, match=r"x\.jsonl: no such file"):
        read_samples(tmp_path / "x.jsonl")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        read_jsonl(tmp_path / "nowhere.jsonl")
