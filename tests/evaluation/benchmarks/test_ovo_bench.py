"""OVO-Bench: what the reader asks and when, the published scorer to the last digit, and what the strict one gives."""

import importlib.metadata
import importlib.util
import json
import math
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks import ovo_bench
from evaluation.benchmarks.base import BenchmarkError, Given, Verdict, by_task, mean
from evaluation.benchmarks.ovo_bench import BENCHMARK, CATEGORIES, results
from evaluation.benchmarks.strict import letters
from tests.evaluation.benchmarks.real import DATA, conserved, real, said, sorted_out, write
from whilst.episode import polls
from whilst.sample import Answer

# Totals of the published scorer on the published results; where known, backward, realtime and forward too.
GOLDEN: Mapping[str, tuple[float, ...]] = {
    "Gemini": (63.00, 62.54, 69.32, 57.15),
    "GPT": (59.38,),
    "QWen2VL_72B_": (56.27,),
    "LLaVA_Video": (52.91,),
    "LLaVA_OV": (52.74,),
    "QWen2VL_7B_": (50.39,),
    "InternVL2": (50.14,),
    "LongVU": (46.71,),
    "FlashVStream": (33.61,),
}
SETS = sorted(path.name for path in (DATA / "ovo_bench" / "results").glob("*") if path.name in GOLDEN) or ["GPT"]

CHOICE = {"id": 0, "task": "EPM", "video": "a/1.mp4", "realtime": 12.3, "question": "What was cut ?"}
CHOICE |= {"answer": "a leek", "options": ["an onion", "a leek", "a leek", "garlic"], "gt": 2}
REC = {"id": 1, "task": "REC", "video": "a/1.mp4", "activity": "clapping", "start_times": [3, 18], "end_times": [5, 21]}
REC |= {"test_info": [{"realtime": 4, "count": 0}, {"realtime": 20.5, "count": 1}, {"realtime": 21.0, "count": 2}]}
SSR = {"id": 2, "task": "SSR", "video": "a/2.mp4", "tutorial": "Soup", "all_steps": ["cut", "cook"]}
SSR |= {"start_time": [2, 10], "end_time": [8, 30]}
SSR |= {
    "test_info": [
        {"realtime": 9, "step": "cook", "type": 0},
        {"realtime": 4, "step": "cut", "type": 1},
        {"realtime": 12, "step": "cook", "type": 1},
    ]
}
CRR = {"id": 3, "task": "CRR", "video": "a/2.mp4", "question": "What does she find ?", "answer": "a key"}
CRR |= {"ask_time": 6, "clue_time": 11, "test_info": [{"realtime": 6, "type": 0}, {"realtime": 13, "type": 1}]}
SMALL = [CHOICE, REC, SSR, CRR]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "ovo.json", SMALL)


def percent(verdicts: list[Verdict], total: str = "overall") -> float:
    return round(100 * BENCHMARK.totals[total].of(verdicts), 2)


# ---- The reader.


def test_a_video_is_one_stream_with_all_its_queries(small: Path) -> None:
    samples, rejected = conserved(BENCHMARK, small, videos="films", segment_seconds=8.0)
    assert not rejected
    first, second = samples
    assert (first.id, first.video.path, first.meta["benchmark"]) == ("a/1.mp4", "films/a/1.mp4", "ovo_bench")
    assert [(query.id, query.kind, query.time) for query in first.queries()] == [("1", "REC", 4.0), ("0", "EPM", 13.0)]
    assert [(query.id, query.time) for query in second.queries()] == [("2/1", 4.0), ("3", 6.0), ("2/0", 9.0)]
    # asked at the whole second that is visible; a reply is due at each test, two at one second
    assert [(a.time, a.text) for a in first.answers_to("1")] == [(4.0, "0"), (21.0, "1"), (21.0, "2")]
    assert [(a.time, a.text) for a in second.answers_to("2/0")] == [(9.0, "No"), (12.0, "Yes")]
    assert [(a.time, a.text) for a in second.answers_to("3")] == [(6.0, "No"), (13.0, "Yes")]
    assert first.answers_to("0")[0].text == "C"  # by index: the text stands twice
    assert "C. a leek" in first.queries()[1].text and "letter" in first.queries()[1].text
    rec, ssr = first.queries()[0], second.queries()[2]
    assert (rec.evidence, ssr.evidence) == (((3.0, 5.0), (18.0, 21.0)), ((10.0, 12.0),))
    assert "cook" in ssr.text and "What does she find" in second.queries()[1].text and "clapping" in rec.text
    assert "key" not in second.queries()[1].text


def test_segments_end_where_a_query_is_put(small: Path) -> None:
    first, second = sorted_out(BENCHMARK.read(small, segment_seconds=8.0))[0]
    assert [(s.start, s.end) for s in first.segments()] == [(0, 4), (4, 8), (8, 13), (13, 16), (16, 21)]
    assert [s.end for s in second.segments()] == [4, 6, 8, 9, 12, 13]
    for sample in (first, second):
        ends = [segment.end for segment in sample.segments()]
        for step, due in enumerate(polls(sample)):
            assert all(poll.time == ends[step - 1] for poll in due)


def test_nothing_is_put_after_the_end_of_a_video(small: Path, tmp_path: Path) -> None:
    lengths = write(tmp_path / "lengths.json", {"1.mp4": 20.9, "a/2.mp4": 60})
    first = sorted_out(BENCHMARK.read(small, durations=str(lengths), segment_seconds=8.0))[0][0]
    assert first.video.end == 20.9
    assert [a.time for a in first.answers_to("1")] == [4.0, 20.9, 20.9]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task": "XYZ"}, "none of OVO-Bench's"),
        ({"gt": 4}, "gt: 4 is no index of the 4 options"),
        ({"realtime": "12"}, "realtime: '12' is of the wrong type"),
        ({"gt": True}, "gt: True is of the wrong type"),
        ({"realtime": -3}, "must be a finite number of seconds"),
        ({"options": ["a"]}, "options: must be two texts or more"),
        ({"options": ["a", " "], "gt": 0}, "options: must be two texts or more"),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "ovo.json", [CHOICE | change, {**CHOICE, "id": 9}, CRR])
    samples, rejected = conserved(BENCHMARK, path)
    assert [one.id for one in rejected] == ["0"] and reason in rejected[0].reason
    assert [query.id for sample in samples for query in sample.queries()] == ["9", "3"]


def test_a_bad_forward_row_is_rejected_query_by_query(tmp_path: Path) -> None:
    tests = [{"realtime": 9, "step": "cook", "type": 2}, {"realtime": 9, "step": "cut", "type": 0}]
    path = write(tmp_path / "ovo.json", [SSR | {"test_info": tests}, REC | {"test_info": []}])
    samples, rejected = conserved(BENCHMARK, path)
    assert not samples
    assert [one.id for one in rejected] == ["2/0", "2/1", "1"]


def test_another_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"ovo\.json: must be a list of objects"):
        list(BENCHMARK.read(write(tmp_path / "ovo.json", {"a": 1})))
    with pytest.raises(BenchmarkError, match="no such file"):
        list(BENCHMARK.read(tmp_path / "none.json"))


def test_the_real_file() -> None:
    path = real("ovo_bench", "ovo_bench_new.json")
    samples, rejected = conserved(BENCHMARK, path, segment_seconds=10.0)
    assert not rejected
    rows = json.loads(path.read_text())
    assert len(samples) == 644 == len({row["video"] for row in rows})
    kinds = Counter(query.kind for sample in samples for query in sample.queries())
    assert sum(kinds[task] for task in ovo_bench.CHOICE) == 1468
    replies = sum(isinstance(event, Answer) for sample in samples for event in sample.events)
    assert replies == 3035  # items, polls among them
    [leek] = [q for s in samples for q in s.queries() if q.id == "1303"]  # two options of one text, gt is the second
    [home] = [s for s in samples if leek in s.queries()]
    assert home.answers_to("1303")[0].text == "D"
    by_id = {row["id"]: row for row in rows}
    for sample in samples:
        for query in sample.queries():
            if query.kind in ovo_bench.CHOICE:
                row = by_id[int(query.id)]
                assert query.time == math.ceil(row["realtime"])
                assert sample.answers_to(query.id)[0].text == letters(5)[row["gt"]]
        assert sample.video.end == max(event.time for event in sample.events)


# ---- Judging replies of streams.


def test_each_poll_is_an_item_of_its_own(small: Path) -> None:
    first, second = sorted_out(BENCHMARK.read(small))[0]
    rec = first.queries()[0]
    given = [Given(4.0, "0"), Given(21.0, "2"), Given(21.0, "2")]
    assert [(v.credit, v.gold, v.part) for v in ovo_bench.strict(first, rec, given)] == [
        (1.0, "0", 0),
        (0.0, "1", 1),
        (1.0, "2", 2),
    ]
    assert [v.reason for v in ovo_bench.strict(first, rec, given[:1])] == ["", "no reply", "no reply"]
    ssr = second.queries()[2]
    verdicts = ovo_bench.strict(second, ssr, [Given(9.0, "No"), Given(12.0, "knows")])
    assert [(v.part, v.credit, v.reason) for v in verdicts] == [(0, 1.0, ""), (2, 0.0, "neither yes nor no")]
    failed = ovo_bench.strict(second, ssr, [Given(9.0, "", False, "out of memory")])
    assert [v.reason for v in failed] == ["failed: out of memory"] * 2


def test_the_official_rule_has_the_published_faults(small: Path) -> None:
    first, second = sorted_out(BENCHMARK.read(small))[0]
    epm, rec, crr = first.queries()[1], first.queries()[0], second.queries()[1]

    def official(sample: Any, query: Any, *texts: str) -> list[float]:
        times = [a.time for a in sample.answers_to(query.id)]
        given = [Given(time, text) for time, text in zip(times, texts, strict=False)]
        return [verdict.credit for verdict in ovo_bench.official(sample, query, given)]

    assert official(first, epm, "ABCDE") == [1.0]
    assert official(first, epm, "I Can not tell") == [1.0]  # a C in it
    assert official(first, epm, "c") == [0.0]
    assert official(first, epm) == [0.0]
    assert official(first, rec, "0", "a 1", "1 or 2") == [1.0, 1.0, 0.0]  # digits are joined: 12
    assert official(second, crr, "YesNo", "Y") == [1.0, 1.0]
    assert official(second, crr, "no", "yes") == [0.0, 0.0]  # by case
    assert official(second, crr, "Y", "N") == [0.0, 0.0]
    assert official(second, crr, "None", "") == [1.0, 0.0]


# ---- Strategies that look at nothing.


def strategy(samples: Any, rule: Any, choice: str, count: str, yes_no: str) -> list[Verdict]:
    found = []
    for text, tasks in ((choice, ovo_bench.CHOICE), (count, ("REC",)), (yes_no, ("SSR", "CRR"))):
        found += [verdict for verdict in said(rule, samples, text) if verdict.task in tasks]
    return found


def unable(samples: Any, rule: Any) -> list[Verdict]:
    """ "Unable to answer" where it is offered, else A; yes; 1."""
    found = [v for v in strategy(samples, rule, "A", "1", "Yes") if v.task != "HLD"]
    for sample in samples:
        for query in sample.queries():
            if query.kind == "HLD":
                place = (query.options or ()).index("Unable to answer")
                found += rule(sample, query, [Given(query.time, letters(5)[place])])
    return found


def test_strategies_that_look_at_nothing_win_officially_and_not_strictly() -> None:
    samples, _ = sorted_out(BENCHMARK.read(real("ovo_bench", "ovo_bench_new.json")))
    official, strict = ovo_bench.official, ovo_bench.strict
    everything = strategy(samples, official, "ABCDE", "1", "YesNo")
    assert percent(everything) == 91.17
    assert percent(unable(samples, official)) == 44.12
    assert percent(strategy(samples, official, "A", "1", "Yes")) == 37.25
    assert percent(said(official, samples, "")) == 0
    assert percent(strategy(samples, official, "A", "1", "YesNo"), "forward") == 73.50

    everything = strategy(samples, strict, "ABCDE", "ABCDE", "YesNo")
    assert {verdict.credit for verdict in everything} == {0.0}
    for text in ("", "ABCDE", "YesNo", "0123456789", "A B C D", "yes no"):
        assert mean(said(strict, samples, text)) == 0
    # a reply that never changes earns no more than chance where golds are weighed alike, in every task
    for verdicts in (
        *(strategy(samples, strict, letter, count, yes) for letter, count, yes in ("A1Y", "B0N", "C2Y", "D3N", "E9Y")),
        strategy(samples, strict, "A", "1", "Yes"),
        strategy(samples, strict, "B", "2", "No"),
    ):
        for task, of_task in by_task(verdicts).items():
            chance = mean_chance(of_task)
            assert balanced_of(of_task) <= chance + 1e-9, task


def mean_chance(verdicts: list[Verdict]) -> float:
    return sum(verdict.chance for verdict in verdicts) / len(verdicts)


def balanced_of(verdicts: list[Verdict]) -> float:
    return BENCHMARK.totals["balanced"].of(verdicts)


# ---- Published results.


@pytest.mark.parametrize("name", SETS)
def test_the_published_totals_are_exact(name: str) -> None:
    annotations = real("ovo_bench", "ovo_bench_new.json")
    official, strict = results(annotations, real("ovo_bench", "results", name))
    expected = GOLDEN[name]
    totals = ("overall", "backward", "realtime", "forward")
    assert [percent(official, total) for total in totals[: len(expected)]] == list(expected)
    assert sum(verdict.counted for verdict in strict) == 3035
    assert {v.reason for v in strict if v.credit == 0} <= {
        "wrong", "no reply", "not one of the options", "not a number", "neither yes nor no", "not in the results",
        "several rows that disagree", "the reply is a list, not a text",
    }  # fmt: skip


def test_rows_that_are_missing_or_disagree_are_wrong_strictly() -> None:
    annotations = real("ovo_bench", "ovo_bench_new.json")
    official, strict = results(annotations, real("ovo_bench", "results", "GPT"))
    tasks = by_task(official)
    assert (
        "REC" not in tasks and len(tasks["HLD"]) == 187
    )  # as the files have it: REC and SSR missing, three rows twice
    assert Counter(v.reason for v in strict if v.task in ("REC", "SSR")) == {"not in the results": 698 + 629}
    twice = {v.query: (v.credit, v.reason) for v in strict if v.query in ("414", "424", "427")}
    assert twice["414"] == (1.0, "")
    assert twice["424"] == twice["427"] == (0.0, "several rows that disagree")


@pytest.mark.parametrize("name", SETS)
def test_lmms_eval_agrees(name: str, tmp_path: Path) -> None:
    scorer = lmms_scorer(tmp_path)
    official, _ = results(real("ovo_bench", "ovo_bench_new.json"), real("ovo_bench", "results", name))
    rows: dict[str, list[Any]] = {category: [] for category in CATEGORIES}
    for file in real("ovo_bench", "results", name).glob("*.json"):
        for category, found in json.loads(file.read_text()).items():
            rows[category] += found
    theirs = dict[str, list[float]]()
    for category in ("backward", "realtime"):
        theirs |= scorer.calculate_score_backward_realtime(rows[category])[1]
    theirs |= scorer.calculate_score_forward(rows["forward"])[1]
    # lmms-eval leaves replies that are null out of forward tasks; the published script has them as wrong
    null = [v for v in official if v.reason == "no reply" and v.task in CATEGORIES["forward"]]
    kept = by_task([verdict for verdict in official if verdict not in null])
    ours = {task: [verdict.credit for verdict in of_task] for task, of_task in kept.items()}
    assert {task: sorted(credits) for task, credits in ours.items()} == {
        task: sorted(map(float, credits)) for task, credits in theirs.items()
    }


def lmms_scorer(folder: Path) -> Any:
    """The scorer of lmms-eval: of the wheel or folder WHILST_LMMS_EVAL, or of the installed package."""
    inside = "lmms_eval/tasks/ovobench/score_utils/score.py"
    place = os.environ.get("WHILST_LMMS_EVAL", "")
    file = Path(place, inside)
    if place.endswith(".whl"):
        with zipfile.ZipFile(place) as wheel:
            file = Path(wheel.extract(inside, folder))
    elif not place:
        try:
            file = Path(str(importlib.metadata.distribution("lmms_eval").locate_file(inside)))
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("needs lmms-eval: install it, or set WHILST_LMMS_EVAL to its wheel or its folder")
    spec = importlib.util.spec_from_file_location("lmms_ovo_score", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- Results in the documented format.


def result_file(folder: Path, **rows: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder / "m_offline.json", {"backward": [], "realtime": [], "forward": []} | rows)
    return folder


def answered(row: dict[str, Any], *replies: Any) -> dict[str, Any]:
    tests = [test | {"response": reply} for test, reply in zip(row["test_info"], replies, strict=True)]
    return row | {"test_info": tests}


def picked(reply: Any) -> dict[str, Any]:
    return {"id": 0, "video": "x/a/1.mp4", "task": "EPM", "question": "", "response": reply, "ground_truth": "C"}


def test_results_in_the_documented_format(small: Path, tmp_path: Path) -> None:
    folder = result_file(
        tmp_path / "m",
        backward=[picked("(C) a leek")],
        forward=[answered(REC, None, "I count 1", "2"), answered(SSR, "No", "Yes", "no"), answered(CRR, "N", "Yes")],
    )
    official, strict = results(small, folder)
    assert {v.task: 0 for v in official}.keys() == {"EPM", "REC", "SSR", "CRR"}
    assert [(v.task, v.credit) for v in official] == [
        ("EPM", 1), ("REC", 0), ("REC", 1), ("REC", 1), ("SSR", 1), ("SSR", 1), ("SSR", 0), ("CRR", 1), ("CRR", 1),
    ]  # fmt: skip
    found = {(v.query, v.part): (v.credit, v.reason) for v in strict}
    assert found == {
        ("0", 0): (1.0, ""),
        ("1", 0): (0.0, "no reply"),
        ("1", 1): (0.0, "not a number"),
        ("1", 2): (1.0, ""),
        ("2/0", 0): (1.0, ""),
        ("2/1", 1): (1.0, ""),
        ("2/0", 2): (0.0, "wrong"),
        ("3", 0): (0.0, "neither yes nor no"),
        ("3", 1): (1.0, ""),
    }


def test_a_reply_that_is_a_list(small: Path, tmp_path: Path) -> None:
    folder = result_file(tmp_path / "m", backward=[picked(["C"])])
    official, strict = results(small, folder)
    assert [v.credit for v in official] == [1.0]  # the script looks it up in the list
    assert strict[-1].reason == "not in the results" and strict[1].reason == "not in the results"
    assert [v.reason for v in strict if v.query == "0"] == ["the reply is a list, not a text"]
    result_file(tmp_path / "m", forward=[answered(REC, ["0"], "1", "2")])
    with pytest.raises(BenchmarkError, match=r"m_offline\.json: forward\[0\]: test_info\[0\]: response: .* is a list"):
        results(small, folder)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"backward": [picked(3)]}, "response: 3 is neither text, a list nor null"),
        ({"backward": [picked("C") | {"ground_truth": None}]}, "ground_truth: None is of the wrong type"),
        ({"backward": [picked("C") | {"task": "OCR"}]}, "task: must be one of EPM, HLD, ASI"),
        ({"backward": 1}, "backward: must be a list"),
        ({"forward": [REC]}, r"field missing: response"),
    ],
)
def test_a_bad_result_file_is_an_error(small: Path, tmp_path: Path, rows: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        results(small, result_file(tmp_path / "m", **rows))


def test_a_row_of_no_item_counts_officially_and_is_listed(small: Path, tmp_path: Path) -> None:
    folder = result_file(tmp_path / "m", backward=[picked("C") | {"id": 77}, picked("B") | {"task": "HLD"}])
    official, strict = results(small, folder)
    assert [(v.query, v.task, v.credit) for v in official] == [("77", "EPM", 1), ("0", "HLD", 0)]
    listed = [v for v in strict if not v.counted]
    assert [v.query for v in listed] == ["77", "0"]
    assert all(v.reason.endswith("not in the annotations") and v.credit == 0 for v in listed)
    assert len(strict) - len(listed) == 1 + 3 + 3 + 2


def test_a_folder_without_results_is_an_error(small: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"holds no \.json files"):
        results(small, tmp_path / "nowhere")
