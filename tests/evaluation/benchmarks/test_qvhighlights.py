"""QVHighlights: the published metrics to the last digit, average precision against other ways to get it, and words."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.benchmarks import qvhighlights
from evaluation.benchmarks.base import BenchmarkError, Given, Verdict
from evaluation.benchmarks.qvhighlights import (
    BENCHMARK,
    IOUS,
    average_precisions,
    first_overlap,
    highlight_credits,
    metrics,
    moment_credits,
    results,
    score_precision,
    spoken,
)
from tests.evaluation.benchmarks.real import conserved, real, write_lines

ROW = {"qid": 7, "query": "A man rides.", "duration": 20, "vid": "v_0.0_20.0", "relevant_windows": [[4, 8], [14, 20]]}
ROW |= {
    "relevant_clip_ids": [2, 3, 7, 8, 9],
    "saliency_scores": [[1, 2, 3], [4, 4, 4], [0, 1, 2], [2, 2, 2], [3, 3, 4]],
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "val.jsonl", [ROW, {**ROW, "qid": 8, "relevant_windows": [[0, 20]]}])


def predicted(qid: int = 7, **more: Any) -> dict[str, Any]:
    return {"qid": qid, "query": "", "vid": "v_0.0_20.0", "pred_relevant_windows": [[4, 8, 0.9], [14, 19, 0.5]]} | more


# ---- The published metrics.


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        real("annotations", "qvhighlights", "sample_val_preds_metrics_raw.json").read_text()
    )
    return found


@pytest.fixture(scope="module")
def verdicts() -> tuple[list[Verdict], list[Verdict]]:
    """Official and strict ones of the published sample predictions."""
    release = real("annotations", "qvhighlights", "highlight_val_release.jsonl")
    return results(release, real("annotations", "qvhighlights", "sample_val_preds.jsonl"))


Both = tuple[list[Verdict], list[Verdict]]


def test_the_published_metrics_are_reproduced(published: dict[str, Any], verdicts: Both) -> None:
    assert metrics(verdicts[0]) == published


def test_totals_are_the_published_figures_and_strictly_no_better(published: dict[str, Any], verdicts: Both) -> None:
    brief = published["brief"]
    official, strict = verdicts
    for name, total in BENCHMARK.totals.items():
        figure = brief[name.replace("HL-", "HL-min-")]
        assert round(100 * total.of(official), 2) == figure
        assert 100 * total.of(strict) <= figure + 0.005
    assert round(100 * BENCHMARK.totals["MR-full-mAP"].of(strict), 2) == brief["MR-full-mAP"]
    reasons = Counter(v.reason for v in strict if v.task == "HL-Fair-mAP")
    assert reasons.keys() == {"", "partly right", "not one score a clip"} and reasons["not one score a clip"] == 13


def test_the_real_file_as_streams() -> None:
    release = real("annotations", "qvhighlights", "highlight_val_release.jsonl")
    samples, rejected = conserved(BENCHMARK, release, videos="clips", segment_seconds=10.0)
    assert (sum(len(sample.queries()) for sample in samples), rejected) == (1550, [])
    for sample in samples:
        for query in sample.queries():
            told = sample.answers_to(query.id)[0].text
            assert query.time == sample.video.end == sample.segments()[-1].end
            found = qvhighlights.strict(sample, query, [Given(query.time, told)])
            assert {v.credit for v in found if v.task.startswith("MR-full-R1")} == {1.0}
            if told.count(";") < 10:  # at most ten windows are looked at
                assert {v.credit for v in found if v.task.startswith("MR-full")} == {1.0}


# ---- Its parts.


def test_one_right_window_is_found_once() -> None:
    gold = [[4.0, 8.0], [14.0, 20.0]]
    both = average_precisions([[4, 8, 0.9], [14, 19, 0.5]], gold)
    iou = 5 / 6
    assert both.tolist() == pytest.approx([1.0 if iou >= t else 0.5 for t in IOUS])
    twice = average_precisions([[4, 8, 0.9], [4, 8, 0.8], [14, 20, 0.5]], gold)
    assert twice.tolist() == pytest.approx([(1 + 2 / 3) / 2] * 10)
    assert average_precisions([], gold).tolist() == [0.0] * 10
    assert average_precisions([[14, 20, 0.1], [0, 1, 0.9]], gold)[0] == pytest.approx(1 / 4)  # by score, not as listed


def test_the_first_window_is_held_against_the_best_right_one() -> None:
    assert first_overlap([[14, 19, 0.1], [4, 8, 0.9]], [[4, 8], [14, 20]]) == pytest.approx(5 / 6)
    assert first_overlap([[9, 10, 1]], [[4, 8]]) == 0


def test_ranges_of_length_have_their_own_right_windows() -> None:
    found = dict(moment_credits([[4, 8, 1], [14, 20, 0.5]], [[4, 8], [14, 20]]))
    assert found["MR-short-mAP"] == found["MR-full-mAP"] == found["MR-short-R1@0.95"] == 1
    assert not any(name.startswith(("MR-middle", "MR-long")) for name in found)
    long = dict(moment_credits([[0, 40, 1]], [[0, 40], [50, 60]]))
    assert (long["MR-long-mAP"], long["MR-short-mAP"], long["MR-full-mAP"]) == (1, 0, 0.5)


def plain_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Mean, over steps of recall, of the best precision at no less recall; thresholds tried one by one."""
    points = []
    for least in sorted(set(scores), reverse=True):
        chosen = scores >= least
        points.append((positive[chosen].sum() / positive.sum(), positive[chosen].mean()))
    steps = sorted({recall for recall, _ in points if recall > 0})
    return float(np.mean([max(p for r, p in points if r >= step) for step in steps]))


def test_the_precision_of_scores_against_a_plain_count() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(2, 30))
        positive = rng.random(n) < 0.4
        scores = rng.integers(0, 6, n).astype(float) if rng.random() < 0.5 else rng.normal(size=n)
        if positive.any() and not positive.all():
            assert score_precision(positive, scores) == pytest.approx(plain_precision(positive, scores))
    assert score_precision(np.ones(3, bool), np.zeros(3)) == 1
    assert score_precision(np.zeros(3, bool), np.ones(3)) == 0


def test_highlights_of_three_raters() -> None:
    best_first = [0.0] * 10
    best_first[3], best_first[9] = 2.0, 1.0
    found = dict(highlight_credits(best_first, ROW))
    assert found["HL-VeryGood-Hit1"] == 1
    assert found["HL-VeryGood-mAP"] == pytest.approx(1.0)  # clip 3 for all, clip 9 for the third
    assert dict(highlight_credits([*[0.0] * 10, 9.0], ROW))["HL-Fair-Hit1"] == 0  # the highest clip does not exist


# ---- Files that lack something.


def test_what_is_missing_leaves_the_published_mean_and_not_the_strict_one(small: Path, tmp_path: Path) -> None:
    official, strict = results(small, write_lines(tmp_path / "p.jsonl", [predicted(pred_saliency_scores=[0.0] * 9)]))
    total = BENCHMARK.totals["MR-full-R1@0.5"].of
    assert (total(official), total(strict)) == (1.0, 0.5)
    reasons = {(v.query, v.task): v.reason for v in strict}
    assert reasons["8", "MR-full-mAP"] == "not in the results"
    assert reasons["7", "HL-Fair-mAP"] == "not one score a clip"
    assert metrics(official)["brief"]["MR-full-R1@0.5"] == 100.0


def test_a_broken_window_is_wrong_strictly(small: Path, tmp_path: Path) -> None:
    broken = predicted(pred_relevant_windows=[[4, 8, 1], [9, 3, 0.1]])
    strict = results(small, write_lines(tmp_path / "p.jsonl", [broken, predicted(8)]))[1]
    assert {v.reason for v in strict if v.query == "7"} == {"a broken window"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([predicted(99)], "qid: 99 is not in"),
        ([predicted(), predicted()], "p.jsonl:2: qid: 7 has a row above"),
        ([predicted(pred_relevant_windows=[])], "is empty, on which the published scorer fails too"),
        ([predicted(pred_relevant_windows=[[1, 2]])], r"must be \[start, end, score\]"),
        ([predicted(pred_saliency_scores=3)], "pred_saliency_scores: must be a list"),
        ([{"qid": "7"}], "qid: must be a number"),
        ([], "holds no predictions"),
    ],
)
def test_a_bad_prediction_file_is_an_error(small: Path, tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        results(small, write_lines(tmp_path / "p.jsonl", rows))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"relevant_windows": []}, "relevant_windows: must be windows"),
        ({"relevant_windows": [[8, 4]]}, "relevant_windows: must be windows"),
        ({"saliency_scores": [[1, 2, 3]]}, "as many as relevant_clip_ids"),
        ({"relevant_clip_ids": [2, 3, 7, 8, 10]}, "must be numbers of the 10 clips"),
        ({"duration": "20"}, "duration: '20' is of the wrong type"),
        ({"duration": 30}, "duration: 30.0 s, but 20.0 s in another row"),
    ],
)
def test_a_bad_row_is_rejected(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = write_lines(tmp_path / "val.jsonl", [ROW, {**ROW, "qid": 8} | change])
    samples, [rejected] = conserved(BENCHMARK, path)
    assert rejected.id == "8" and reason in rejected.reason and len(samples) == 1


# ---- Words.


@pytest.mark.parametrize(
    ("reply", "windows"),
    [
        ("12-30; 44-60", [(12, 30), (44, 60)]),
        ("12.5 - 30 s.", [(12.5, 30)]),
        ("12 to 30", [(12, 30)]),
        ("12-30, 44-60 seconds", [(12, 30), (44, 60)]),
        ("30-12", None),
        ("From 12 to 30", None),
        ("12", None),
        ("", None),
    ],
)
def test_windows_in_words(reply: str, windows: list[tuple[float, float]] | None) -> None:
    found = spoken(reply)
    assert (found and [(w[0], w[1]) for w in found]) == windows


def test_replies_in_words(small: Path) -> None:
    [sample], _ = conserved(BENCHMARK, small, segment_seconds=6.0)
    first = sample.queries()[0]
    assert sample.answers_to("7")[0].text == "4-8; 14-20" and first.evidence == ((4.0, 8.0), (14.0, 20.0))
    found = {v.task: v.credit for v in qvhighlights.strict(sample, first, [Given(20.0, "14-20; 0-1")])}
    assert (found["MR-full-R1@0.7"], found["MR-full-mAP"]) == (1, 0.5)
    none = qvhighlights.strict(sample, first, [Given(20.0, "in the middle")])
    assert {(v.credit, v.reason) for v in none} == {(0.0, "no windows")}
    assert {v.reason for v in qvhighlights.strict(sample, first, [])} == {"no reply"}
    # the last query asks for the whole clip
    assert {v.credit for v in qvhighlights.strict(sample, sample.queries()[1], [Given(20.0, "0-20")])} == {1.0}
