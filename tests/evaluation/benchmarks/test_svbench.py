"""SVBench: chains at the end of their scenes, exact words as a floor, and a judge's scores summed up."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks.base import BenchmarkError, Given
from evaluation.benchmarks.svbench import BENCHMARK, SINGLE, mean_scores, scores_of
from tests.evaluation.benchmarks.real import conserved, said, write


def scene(start: Any, end: Any, *pairs: tuple[Any, Any]) -> dict[str, Any]:
    chain = {"questions": [question for question, _ in pairs], "answers": [answer for _, answer in pairs]}
    return {"images": ["1.jpg"], "chain": chain, "qac_timestamps_start": start, "qac_timestamps_end": end}


def folder(tmp_path: Path) -> Path:
    made = tmp_path / "chains"
    made.mkdir()
    scenes = [
        scene(0, 12, ("Who ?", "A man."), ("Where ?", "In a car.")),
        {},
        scene("00:12", "01:05", ("Why ?", "Rain.")),
    ]
    write(made / "v1.json", scenes)
    write(made / "v2.json", [scene(0, 5, ("What ?", "A dog."))])
    return made


def test_chains_in_order(tmp_path: Path) -> None:
    samples, rejected = conserved(BENCHMARK, folder(tmp_path), segment_seconds=30.0)
    assert not rejected
    assert [(s.id, [(q.id, q.time) for q in s.queries()]) for s in samples] == [
        ("v1.mp4", [("v1/0/0", 12.0), ("v1/0/1", 12.0), ("v1/2/0", 65.0)]),
        ("v2.mp4", [("v2/0/0", 5.0)]),
    ]
    assert [segment.end for segment in samples[0].segments()] == [12.0, 30.0, 60.0, 65.0]


def test_bad_scenes_are_rejected(tmp_path: Path) -> None:
    scenes = [
        scene(0, "later", ("Who ?", "A man."), ("Where ?", "There.")),
        scene(0, 5, ("Who ?", 3), ("", "x"), ("What ?", "A dog.")),
        {"images": [], "qac_timestamps_end": 4},
        {"chain": {"questions": ["a"], "answers": []}, "qac_timestamps_end": 4},
    ]
    path = write(tmp_path / "v.json", scenes)
    samples, rejected = conserved(BENCHMARK, path)
    assert len(samples[0].queries()) == 1
    assert [one.id for one in rejected] == ["v/0/0", "v/0/1", "v/1/0", "v/1/1", "v/2", "v/3"]
    lengths = write(tmp_path / "lengths.json", {"v.mp4": 3})
    assert len(conserved(BENCHMARK, path, durations=str(lengths))[1]) == 7  # after the end
    with pytest.raises(BenchmarkError, match="a list of scenes"):
        list(BENCHMARK.read(write(tmp_path / "w.json", {"chain": {}})))


def test_exact_words_are_a_floor(tmp_path: Path) -> None:
    samples, _ = conserved(BENCHMARK, folder(tmp_path))
    assert BENCHMARK.official is None
    verdicts = said(BENCHMARK.strict, samples, "a man")
    assert BENCHMARK.totals["exact"].of(verdicts) == 1 / 4
    assert BENCHMARK.totals["replied"].of(verdicts) == 1.0
    assert BENCHMARK.totals["replied"].of(said(BENCHMARK.strict, samples, " ")) == 0.0
    query = samples[0].queries()[0]
    cut = BENCHMARK.strict(samples[0], query, [Given(12.0, "A man.", finished=False)])
    assert (cut[0].credit, cut[0].reason, BENCHMARK.totals["replied"].of(cut)) == (0.0, "cut off", 0.0)


JUDGED = """1. Semantic Accuracy:
Score: 8
Comments: good
2. Contextual Coherence:
Score: 10 / 10
3. Logical Consistency: Score 7
4. Temporal Understanding:
Score: -1
Comments: does not apply
5. Informational Completeness:
Score: **6**
Overall Evaluation:
Score: 7"""


def test_scores_of_a_judge() -> None:
    found = scores_of(JUDGED)
    assert list(found.values()) == [8, 10, 7, -1, 6, 7]
    published = scores_of(JUDGED, as_published=True)
    assert published["Temporal Understanding"] == 1  # the minus is lost in the released pattern
    assert {k: v for k, v in published.items() if k != "Temporal Understanding"} == {
        k: v for k, v in found.items() if k != "Temporal Understanding"
    }
    assert scores_of("Accuracy:\nScore: 9", SINGLE) == {"Accuracy": 9}
    assert scores_of("nothing", SINGLE) == {"Accuracy": None}


def test_mean_scores_leave_out_what_does_not_apply() -> None:
    rows = [{"Accuracy": 8, "Time": -1}, {"Accuracy": 5, "Time": 4}, {"Accuracy": None, "Time": -1}]
    found = mean_scores(rows)
    assert found["Accuracy"].value == pytest.approx((8 + 5) / 2)
    assert found["Time"].value == 4.0
    assert "over 1 of 3; 2 that it does not apply to and 0 unread" in found["Time"].definition
    assert "1 unread" in found["Accuracy"].definition
    assert mean_scores([{"Time": -1}])["Time"].value is None
    with pytest.raises(BenchmarkError, match="11 is no score"):
        mean_scores([{"Accuracy": 11}])
