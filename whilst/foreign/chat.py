"""The two messages that VST, StreamingVLM and LiveCC share, one JSON list a line of a JSONL file:

[{"role": "user", "content": [
    {"type": "video", "video": path or image paths, "video_start": s, "video_end": s},
    {"type": "text", "text": instruction, "previous": text memory}]},
 {"role": "assistant", "content": [
    {"type": "text_stream", "text_stream": [[start, end, text], ...],
     "qa_stream": [[start, end, question, answer], ...]}]}]
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from whilst.foreign.layout import Reader, Record, Writer, checked_record, items, own_meta, split
from whilst.sample import Found, StrPath, as_float, claim, json_lines, replacing
from whilst.timeline import Answer, Event, Query, Sample, SampleError, Video, fail, validate


@dataclass(frozen=True)
class Chat:
    """A record taken apart. `own` is what only the layout `key` knows; `stream` the assistant's streams."""

    key: str
    id: str
    video: Video
    memory: str
    instruction: str
    own: Mapping[str, Any]
    stream: Mapping[str, Any]

    def sample(self, events: Iterable[Event], own: Mapping[str, Any]) -> Sample:
        """The valid sample of these events; `own` adds to what only the layout knows."""
        meta: dict[str, Any] = {"instruction": self.instruction} if self.instruction != "" else {}
        if rest := {name: item for name, item in {**self.own, **own}.items() if item}:
            meta[self.key] = rest
        sample = Sample(self.id, self.video, tuple(events), self.memory, meta)
        validate(sample)
        return sample

    def query_ids(self, count: int) -> list[str]:
        """The ids of the queries in `qa_stream`."""
        ids = items(self.stream.get("query_ids", [f"q{i}" for i in range(count)]), "query_ids")
        if len(ids) != count or not all(isinstance(item, str) for item in ids):
            fail("", "query_ids", f"must be {count} texts, one for each entry of qa_stream, not {ids!r}")
        return ids


def read_chat(record: Record, key: str, default_id: str) -> Chat:
    """Take a record apart; `key` names the layout in `Sample.meta`."""
    if not isinstance(record, list) or len(record) != 2:
        fail("", "", "a line must be a list of two messages, the user's and the assistant's")
    user, user_rest = split(record[0], "user", ("role", "content", "id"), ("role", "content"))
    assistant, assistant_rest = split(record[1], "assistant", ("role", "content"), ("role", "content"))
    if (user["role"], assistant["role"]) != ("user", "assistant"):
        fail("", "role", f"the messages must be of user and assistant, not {user['role']!r} and {assistant['role']!r}")
    contents, replies = items(user["content"], "user.content"), items(assistant["content"], "assistant.content")
    if len(contents) != 2:
        fail("", "user.content", f"must be a video and a text, not {len(contents)} items")
    video, video_rest = split(
        contents[0], "user.content[0]", ("type", "video", "video_start", "video_end"), ("type", "video")
    )
    text, text_rest = split(contents[1], "user.content[1]", ("type", "text", "previous"), ("type", "text"))
    if (video["type"], text["type"]) != ("video", "text"):
        fail("", "user.content", f"must be a video and a text, not {video['type']!r} and {text['type']!r}")
    if len(replies) != 1 or not isinstance(replies[0], dict) or "text_stream" not in replies[0]:
        fail("", "assistant.content", "must be one item with a text_stream; plain chat is no timeline, leave it out")
    stream, stream_rest = split(replies[0], "stream", ("type", "text_stream", "qa_stream", "query_ids"), ())
    if "previous" in text and "previous" in video_rest:
        fail("", "user.content", "has `previous` twice, with the video and with the text; keep one")
    # StreamingVLM takes `previous` from either item.
    previous_in = "video" if "previous" in video_rest else ""
    memory = video_rest.pop("previous", text.get("previous", ""))
    path, images = _path(video["video"])
    end = as_float(video.get("video_end"))
    return Chat(
        key,
        user.get("id", default_id),
        Video(path, as_float(video.get("video_start", 0.0)), end),
        memory,
        text["text"],
        {
            "user": user_rest,
            "video": video_rest,
            "text": text_rest,
            "assistant": assistant_rest,
            "stream": stream_rest,
            "images": images,
            "previous_in": previous_in,
        },
        stream,
    )


def _path(video: Record) -> tuple[Any, list[str]]:
    if not isinstance(video, list):
        return video, []
    if not video or not all(isinstance(image, str) for image in video):
        fail("", "user.content[0].video", f"must be a path or a list of image paths, not {video!r}")
    folders = {str(PurePosixPath(image).parent) for image in video}
    if len(folders) != 1:
        fail("", "user.content[0].video", f"its images must lie in one folder, not in {sorted(folders)}; move them")
    return folders.pop(), [PurePosixPath(image).name for image in video]


def chat_record(sample: Sample, key: str, default_id: str, stream: Mapping[str, Any]) -> Record:
    """The two messages of a sample around the assistant's streams."""
    own = own_meta(sample, key)
    images = [str(PurePosixPath(sample.video.path) / name) for name in own.get("images", [])]
    video = {"type": "video", "video": images or sample.video.path, "video_start": sample.video.start}
    if sample.video.end is not None:
        video["video_end"] = sample.video.end
    text = {"type": "text", "text": sample.meta.get("instruction", "")}
    if sample.memory:
        (video if own.get("previous_in") == "video" else text)["previous"] = sample.memory
    user: dict[str, Any] = {"role": "user", "content": [video | own.get("video", {}), text | own.get("text", {})]}
    if sample.id != default_id:
        user["id"] = sample.id
    reply = {"type": "text_stream", **stream} | own.get("stream", {})
    assistant = {"role": "assistant", "content": [reply]}
    return [user | own.get("user", {}), assistant | own.get("assistant", {})]


def stated_ids(pairs: Sequence[tuple[Query, Answer]]) -> dict[str, list[str]]:
    """The field `query_ids`, where the ids are not the ones that the reader gives."""
    ids = [query.id for query, _ in pairs]
    return {} if ids == [f"q{i}" for i in range(len(ids))] else {"query_ids": ids}


# ---- Files.


def scan_lines(path: StrPath, read: Reader, key: str) -> Found:
    """Each line's sample or SampleError. A last line of whole numbers, LiveCC's seek index, is passed over."""
    ids: dict[str, int] = {}
    index: tuple[int, SampleError] | None = None
    for line, record in json_lines(path):
        if index:
            yield index
            index = None
        try:
            if isinstance(record, SampleError):
                raise record
            sample = read(record, f"{key}-{line}")
            claim(sample.id, line, ids)
        except SampleError as error:
            if line > 1 and isinstance(record, list) and all(type(item) is int for item in record):
                index = line, error  # an error like any other, unless this is the last line
            else:
                yield line, error
        else:
            yield line, sample


def write_lines(samples: Iterable[Sample], path: StrPath, write: Writer, read: Reader, key: str) -> None:
    """Write the records and beside them the byte offset of each in `<stem>_seeks.jsonl`."""
    stem, ending = os.path.splitext(os.fspath(path))
    if ending != ".jsonl":
        fail(os.fspath(path), "", "must end in .jsonl: the foreign loaders ask for it")
    ids: dict[str, int] = {}
    lines: list[bytes] = []
    for line, sample in enumerate(samples, start=1):
        try:
            record = checked_record(sample, write, read, f"{key}-{line}")
            claim(sample.id, line, ids)
        except SampleError as error:
            raise SampleError(f"{os.fspath(path)}:{line}: {error}; nothing was written") from error
        lines.append(json.dumps(record, ensure_ascii=False, default=dict).encode() + b"\n")
    seeks, at = [], 0
    for text in lines:
        seeks.append(at)
        at += len(text)
    with replacing(path) as part, replacing(f"{stem.replace('_with_seeks', '')}_seeks.jsonl") as seeks_part:
        Path(part).write_bytes(b"".join(lines))
        Path(seeks_part).write_text(json.dumps(seeks) + "\n", encoding="utf-8")
