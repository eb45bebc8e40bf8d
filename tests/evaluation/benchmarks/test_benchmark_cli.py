"""The stage behind `whilst benchmark` and `whilst score`: files written, nothing lost, both rules side by side."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from evaluation import benchmark as stage
from evaluation.benchmark import convert, judge, score_results, show
from evaluation.benchmarks.all import BENCHMARKS, find
from evaluation.benchmarks.base import BenchmarkError, Rejected
from evaluation.predict import Reply, predict
from tests.evaluation.benchmarks.real import real, write, write_lines
from whilst.checkpoint import Checkpoint
from whilst.clips import segment_clips
from whilst.sample import Sample, read_samples
from whilst.video import write_video

OVO = [
    {"id": 0, "task": "EPM", "video": "a.mp4", "realtime": 12, "question": "What ?", "options": ["x", "y"], "gt": 1},
    {"id": 1, "task": "OCR", "video": "a.mp4", "realtime": 30, "question": "What ?", "options": ["x", "y"], "gt": 0},
    {"id": 2, "task": "OCR", "video": "a.mp4", "realtime": 30, "question": "What ?", "options": ["x", "y"], "gt": 7},
    {"id": 3, "task": "CRR", "video": "b.mp4", "question": "Who ?", "ask_time": 6, "clue_time": 11,
     "test_info": [{"realtime": 6, "type": 0}, {"realtime": 13, "type": 1}]},
]  # fmt: skip


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    return write(tmp_path / "ovo.json", OVO)


def told(report: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_conversion_writes_samples_rejections_and_a_manifest(annotations: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = convert("ovo_bench", annotations, tmp_path / "films", out, {"segment_seconds": 10.0})
    samples = read_samples(out / "samples.jsonl")
    assert [sample.video.path for sample in samples] == [str(tmp_path / "films" / name) for name in ("a.mp4", "b.mp4")]
    assert all(sample.meta["benchmark"] == "ovo_bench" for sample in samples)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert rejected == [{"id": "2", "reason": "gt: 7 is no index of the 2 options"}]
    assert json.loads((out / "manifest.json").read_text()) == report
    assert (report["queries_in_file"], report["queries"], report["rejected"], report["samples"]) == (4, 3, 1, 2)
    assert report["tasks"] == {"CRR": 1, "EPM": 1, "OCR": 1} and report["options"] == {"segment_seconds": 10.0}
    text = told(report)
    assert "3 queries in 2 samples, 1 rejected" in text and "rejected 1: gt" in text


def test_a_reader_that_loses_a_query_is_an_error(
    annotations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = find("ovo_bench")

    def forgetful(*given: Any, **options: Any) -> Iterator[Sample | Rejected]:
        yield from list(whole.read(*given, **options))[:-1]

    monkeypatch.setattr(stage, "find", lambda name: replace(whole, read=forgetful))
    with pytest.raises(BenchmarkError, match="4 queries, but 2 read and 1 rejected"):
        convert("ovo_bench", annotations, "", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_names_are_errors(annotations: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="'ovo' is no benchmark; there are ovo_bench, "):
        convert("ovo", annotations, "", tmp_path)
    with pytest.raises(BenchmarkError, match="'seconds' is no option of it; its options: segment_seconds, durations"):
        convert("ovo_bench", annotations, "", tmp_path, {"seconds": 3})
    with pytest.raises(BenchmarkError, match="has no published result files; give a .jsonl file"):
        score_results("video_holmes", annotations, tmp_path)


def test_replies_of_episodes_are_judged_by_both_rules(annotations: Path, tmp_path: Path) -> None:
    convert("ovo_bench", annotations, "", tmp_path / "out")
    samples = read_samples(tmp_path / "out" / "samples.jsonl")
    replies = {
        "a.mp4": [Reply("1", 30.0, "AB", True), Reply("0", 12.0, "B", True)],
        "b.mp4": [Reply("3", 6.0, "No", True), Reply("3", 13.0, "YesNo", True)],
    }
    judged = judge("ovo_bench", samples, replies)
    assert judged["official"] is not None and judged["strict"] is not None
    assert [v.credit for v in judged["official"]] == [1, 1, 1, 1]
    assert [v.credit for v in judged["strict"]] == [1, 0, 1, 0]
    failed = judge("ovo_bench", samples, {"b.mp4": replies["b.mp4"]}, {"a.mp4": "no such video"})
    assert [v.reason for v in failed["strict"] or ()] == [
        "failed: no such video", "failed: no such video", "", "neither yes nor no",
    ]  # fmt: skip
    assert judge("omnimmi", [], {})["official"] is None


def test_a_converted_benchmark_runs_from_video_to_verdicts(
    annotations: Path, tmp_path: Path, new_checkpoint: Callable[..., Checkpoint]
) -> None:
    rng = np.random.default_rng(0)
    for name, seconds in (("a.mp4", 30), ("b.mp4", 13)):
        write_video(tmp_path / name, rng.integers(0, 256, (2 * seconds, 32, 32, 3)).astype(np.uint8), 2.0)
    report = convert("ovo_bench", annotations, tmp_path, tmp_path / "out", {"segment_seconds": 8.0})
    samples = read_samples(tmp_path / "out" / "samples.jsonl")
    clips = [segment_clips(sample, 1.0) for sample in samples]
    assert sum(map(len, clips)) == report["segments"] == 5 + 3
    episodes = predict(new_checkpoint(thinks=False), samples, clips, answer_tokens=2)
    judged = judge("ovo_bench", samples, {episode.sample: episode.replies for episode in episodes})
    said = [(reply.query, reply.time) for episode in episodes for reply in episode.replies]
    assert said == [("0", 12.0), ("1", 30.0), ("3", 6.0), ("3", 13.0)]
    for verdicts in judged.values():
        assert [(v.query, v.part) for v in verdicts or ()] == [("0", 0), ("1", 0), ("3", 0), ("3", 1)]


def test_a_file_of_replies_is_scored(annotations: Path, tmp_path: Path) -> None:
    replies = [
        {"query": "0", "text": "B"},
        {"query": "1", "text": "AB", "time": 30},
        {"query": "3", "time": 6, "text": "no"},
    ]
    file = write_lines(tmp_path / "replies.jsonl", replies)
    report = score_results("ovo_bench", annotations, file)
    overall = report["totals"]["micro"]
    assert (overall["official"], overall["strict"]) == (2 / 4, 2 / 4)
    assert report["totals"]["overall"]["definition"].startswith("mean of the categories")
    assert report["reasons"] == {"not one of the options": 1, "no reply": 1}
    assert [(one["query"], one["part"], one["official"], one["strict"]) for one in report["differ"]] == [
        ("1", 0, 1.0, 0.0),
        ("3", 0, 0.0, 1.0),  # "no": the published rule wants "No"
    ]
    assert [(one["query"], one["reason"]) for one in report["unread"]] == [
        ("1", "not one of the options"),
        ("3", "no reply"),
    ]
    assert report["tasks"]["CRR"] == {
        "items": 2, "official_items": 2, "official": 0.0, "strict": 0.5, "balanced": 0.5, "chance": 0.5,
        "constant": 0.5,
    }  # fmt: skip
    json.dumps(report, allow_nan=False)
    text = told(report)
    assert "2 items are judged differently" in text and "micro" in text and "50.00" in text
    # against the samples of a conversion it is the same
    convert("ovo_bench", annotations, "", tmp_path / "out")
    again = score_results("ovo_bench", tmp_path / "out" / "samples.jsonl", file)
    assert again["totals"] == report["totals"]
    with pytest.raises(BenchmarkError, match="is no sample of omnimmi"):
        score_results("omnimmi", tmp_path / "out" / "samples.jsonl", file)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "77", "text": "B"}, "replies.jsonl:1: query: '77' is not in the annotations"),
        ({"query": "0", "text": None}, "text and failure must be texts"),
        ({"query": "0", "text": "B", "time": "3"}, "time: '3' must be seconds"),
        ({"query": "0", "text": "B", "sample": "b.mp4"}, "query: '0' is not in the annotations"),
    ],
)
def test_a_bad_reply_is_an_error(annotations: Path, tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        score_results("ovo_bench", annotations, write_lines(tmp_path / "replies.jsonl", [row]))


def test_a_failure_in_a_file_of_replies_is_listed(annotations: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "r.jsonl", [{"query": "0", "text": "", "failure": "out of memory"}])
    report = score_results("ovo_bench", annotations, file)
    assert report["unread"][0]["reason"] == "failed: out of memory"


def test_published_results_are_scored() -> None:
    report = score_results(
        "ovo_bench", real("ovo_bench", "ovo_bench_new.json"), real("ovo_bench", "results", "FlashVStream")
    )
    overall = report["totals"]["overall"]
    assert round(100 * overall["official"], 2) == 33.61 and overall["gap"] == overall["official"] - overall["strict"]
    assert sum(figures["items"] for figures in report["tasks"].values()) == 3035
    hld = report["tasks"]["HLD"]
    assert hld["strict"] < hld["chance"] < hld["constant"]
    json.dumps(report, allow_nan=False)


def test_every_benchmark_says_what_it_is() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name == find(name).name
        assert benchmark.track in ("asked", "poll", "push") and benchmark.source and benchmark.licence
        assert benchmark.tested_on in ("real files", "fixtures in the documented format")
        assert benchmark.totals and all(len(total.definition) > 20 for total in benchmark.totals.values())
