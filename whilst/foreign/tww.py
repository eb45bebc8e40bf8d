"""TWW's sample JSON: a conversation with times, and segments in the metadata. It has no place for thoughts.

Source: Think While Watching (arXiv 2603.11896), `dataloader.py` and `data/sample_data` of its repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from whilst.foreign.layout import Record, answered, checked_record, items, own_meta, split
from whilst.sample import Found, Rejection, StrPath, as_float, claim, parse_json, replacing, sort_out
from whilst.timeline import Answer, Event, Query, Sample, SampleError, Segment, Video, fail, is_seconds, validate


def read_tww(path: StrPath) -> list[Sample]:
    """TWW's samples: one JSON file, or the `*.json` of a folder in order of name, as its loader takes them.

    - `metadata.segment_info`: Segments; `metadata.video_duration`: Video.end.
    - a human turn: Query at its `timestamps`, with the text of `value` (options and all) less the tag "<video>";
      the gpt turn after it: Answer at the same time, with the whole of its text.
    - everything else (frame files, resolutions, original_questions, ...): meta["tww"].

    Raises:
        SampleError: at the first file that is no such timeline, naming the file.
    """
    found = _scan_tww(path)
    return [sample if isinstance(sample, Sample) else _raise(sample) for _, sample in found]


def scan_tww(path: StrPath) -> tuple[list[Sample], list[Rejection]]:
    """As `read_tww`, with a rejection for each file that it would raise at; its `line` counts the files from 1."""
    return sort_out(_scan_tww(path))


def write_tww(samples: Iterable[Sample], path: StrPath) -> None:
    """Write one `<id>.json` a sample into the folder `path`, which holds no JSON yet.

    TWW's loader also wants `sample_timestamps`, `frame_files`, `frames_path` and `num_frames`: give them in
    meta["tww"]["metadata"], and those of the segments in meta["tww"]["segments"].

    Raises:
        SampleError: for a folder with JSON in it, and for a sample that TWW cannot say: thoughts, silence, memory, a
            video that does not start at 0, several answers or answers later than their query, ...
    """
    folder = Path(path)
    if any(folder.glob("*.json")):
        fail(
            os.fspath(path),
            "",
            "holds JSON files already, which would be read with the new ones; choose an empty folder",
        )
    ids: dict[str, int] = {}
    records: dict[str, Record] = {}
    for n, sample in enumerate(samples, start=1):
        try:
            if Path(f"{sample.id}.json").name != f"{sample.id}.json":
                fail("", "id", f"{sample.id!r} is no file name; use one without slashes")
            records[f"{sample.id}.json"] = checked_record(sample, _tww_record, _tww_sample, sample.id)
            claim(sample.id, n, ids)
        except SampleError as error:
            raise SampleError(f"{os.fspath(path)}:{n}: {error}; nothing was written") from error
    for name, record in records.items():
        with replacing(folder / name) as part:
            Path(part).write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _scan_tww(path: StrPath) -> Found:
    files = sorted(Path(path).glob("*.json")) if os.path.isdir(path) else [Path(path)]
    if not files:
        fail(os.fspath(path), "", "holds no *.json file; name a TWW sample or the folder of them")
    for n, file in enumerate(files, start=1):
        try:
            yield n, _tww_sample(parse_json(file.read_bytes()), file.stem)
        except SampleError as error:
            yield n, SampleError(f"{file}: {error}")


def _raise(error: SampleError) -> Sample:
    raise error


def _tww_sample(record: Record, default_id: str) -> Sample:
    top, top_rest = split(record, "", ("video", "conversations", "metadata"), ("video", "conversations", "metadata"))
    known = ("timestamps", "video_duration", "segment_info")
    metadata, metadata_rest = split(top["metadata"], "metadata", known, ("segment_info",))
    segments, segment_rests = _segments(metadata["segment_info"])
    pairs, turn_rests, tag = _turns(top["conversations"])
    asked = [query.time for query, _ in pairs]
    if metadata.get("timestamps", asked) != asked:
        fail("", "metadata.timestamps", f"{metadata['timestamps']} are not those of the human turns, {asked}")
    own = {
        "top": top_rest,
        "metadata": metadata_rest,
        "segments": segment_rests if any(segment_rests) else None,
        "turns": turn_rests if any(turn_rests) else None,
        "tag": None if tag == _TAG or not pairs else {"text": tag},
    }
    events: list[Event] = [*segments, *(event for pair in pairs for event in pair)]
    sample = Sample(
        default_id,
        Video(top["video"], 0.0, as_float(metadata.get("video_duration"))),
        tuple(sorted(events, key=lambda event: event.time)),
        meta={"tww": rest} if (rest := {name: item for name, item in own.items() if item}) else {},
    )
    validate(sample)
    return sample


_TAG = "<video>\n"  # stands before the first question


def _segments(value: Record) -> tuple[list[Segment], list[dict[str, Any]]]:
    segments, rests = [], []
    for i, span in enumerate(items(value, "metadata.segment_info")):
        name = f"metadata.segment_info[{i}]"
        found, rest = split(span, name, ("start", "end"), ("start", "end"))
        if not is_seconds(found["start"]) or not is_seconds(found["end"]):
            fail("", name, f"start and end must be finite numbers of seconds >= 0, not {found}")
        segments.append(Segment(as_float(found["start"]), as_float(found["end"])))
        rests.append(rest)
    return segments, rests


def _turns(value: Record) -> tuple[list[tuple[Query, Answer]], list[dict[str, Any]], str]:
    """The queries with their answers, what else stands in each turn, and the tag before the first question."""
    turns = items(value, "conversations")
    if len(turns) % 2:
        fail("", "conversations", "ends with a human turn that nothing answers; add the gpt turn or leave it out")
    pairs, rests, tag = [], [], ""
    for i in range(0, len(turns), 2):
        human, human_rest = _turn(turns[i], f"conversations[{i}]", "human", ("timestamps", "id"), ("timestamps",))
        gpt, gpt_rest = _turn(turns[i + 1], f"conversations[{i + 1}]", "gpt", (), ())
        text, time = human["value"], as_float(human["timestamps"])
        if not is_seconds(time):
            fail("", f"conversations[{i}].timestamps", f"must be a finite number of seconds >= 0, not {time!r}")
        if i == 0:
            tag = next((tag for tag in (_TAG, "<video>") if text.startswith(tag)), "")
            text = text[len(tag) :]
        query = Query(human.get("id", f"q{i // 2}"), time, text)
        pairs.append((query, Answer(time, gpt["value"], query.id)))
        rests += [human_rest, gpt_rest]
    return pairs, rests, tag


def _turn(
    turn: Record, name: str, speaker: str, known: tuple[str, ...], needed: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    found, rest = split(turn, name, ("from", "value", *known), ("from", "value", *needed))
    if found["from"] != speaker:
        fail("", f"{name}.from", f"is {found['from']!r}; human and gpt must take turns, human first")
    if not isinstance(found["value"], str):
        fail("", f"{name}.value", f"must be text, not {found['value']!r}")
    return found, rest


def _tww_record(sample: Sample, default_id: str) -> Record:
    own, pairs, segments = own_meta(sample, "tww"), answered(sample), sample.segments()
    tag = own.get("tag", {"text": _TAG})["text"]
    turns: list[dict[str, Any]] = []
    for i, (query, answer) in enumerate(pairs):
        human = {"from": "human", "timestamps": query.time, "value": query.text if i else tag + query.text}
        turns += [human | ({} if query.id == f"q{i}" else {"id": query.id}), {"from": "gpt", "value": answer.text}]
    spans = [{"start": segment.start, "end": segment.end} for segment in segments]
    metadata = {
        **own.get("metadata", {}),
        "timestamps": [query.time for query, _ in pairs],
        "segment_info": _joined(spans, own.get("segments", ())),
    }
    if sample.video.end is not None:
        metadata["video_duration"] = sample.video.end
    conversations = _joined(turns, own.get("turns", ()))
    return {"video": sample.video.path, "conversations": conversations, "metadata": metadata} | dict(own.get("top", {}))


def _joined(mine: list[dict[str, Any]], rests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    # Rests without an entry of their own become entries that the check by reading back turns down.
    nothing: dict[str, Any] = {}
    return [found | rest for found, rest in zip_longest(mine, rests, fillvalue=nothing)]
