"""Two report folders against each other: the same queries or an error, both figures, what flipped."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evaluation import compare as module
from evaluation.benchmarks.base import Benchmark, Total, mean_of_tasks
from evaluation.compare import CompareError, compare, show, write
from evaluation.scores import Scored
from evaluation.statistics import paired_mean

SAMPLES = {"hash": "abc", "n": 8, "queries": 16, "videos": 8}
Outcomes = dict[str, list[bool]]


def scored(rights: list[bool]) -> list[Scored]:
    """Two queries a sample, a sample a video; the second one is of kind order."""
    made = []
    for i, right in enumerate(rights):
        kind = "order" if i % 2 else "backward"
        name = f"s{i // 2}"
        got, reason = ("x", "") if right else ("y", "wrong")
        made.append(Scored(f"{name}.mp4", f"q{i % 2}", kind, kind, "x", got, right, True, name, reason=reason))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """folder(name, {arm: rights}, **changes of the report) -> an output folder of an evaluation."""

    def make(name: str, arms: Outcomes, **changes: Any) -> Path:
        out = tmp_path / name
        out.mkdir()
        manifests = {arm: {"model": f"{name}-{arm}", "settings": {"batch": 1}} for arm in arms}
        report: dict[str, Any] = {"samples": SAMPLES, "scorer": "exact", "manifests": manifests}
        report["arms"] = {arm: {} for arm in arms}
        (out / "report.json").write_text(json.dumps(report | changes))
        lines = [
            json.dumps({"job": arm} | asdict(item) | {"credit": item.value})
            for arm, rights in arms.items()
            for item in scored(rights)
        ]
        (out / "scored.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return out

    return make


BASE = [True, False] * 8
BETTER = [True, True, True, True, False, True, *BASE[6:]]


def test_both_figures_and_a_paired_difference(folder: Callable[..., Path]) -> None:
    found = compare(folder("a", {"x": BASE}), folder("b", {"x": BETTER}))
    (pair,) = found["pairs"]
    assert (pair["a"], pair["b"], pair["better"], pair["worse"]) == ("x", "x", 3, 1)
    total = pair["kinds"]["all"]
    assert (total["a"], total["b"], total["n"], total["videos"]) == (0.5, 10 / 16, 16, 8)
    by_hand = paired_mean(
        [(one.video, other.value, one.value) for one, other in zip(scored(BASE), scored(BETTER), strict=True)], 2000, 0
    )
    assert total["difference"] == pytest.approx(2 / 16) == by_hand.value
    assert (total["ci_low"], total["ci_high"], total["p"]) == (by_hand.low, by_hand.high, by_hand.p)
    assert pair["kinds"]["order"]["difference"] == 3 / 8 and pair["kinds"]["backward"]["difference"] == -1 / 8
    assert [(c["sample"], c["query"], c["a"], c["b"]) for c in pair["changed"]] == [
        ("s0", "q1", "y", "x"), ("s1", "q1", "y", "x"), ("s2", "q0", "x", "y"), ("s2", "q1", "y", "x"),
    ]  # fmt: skip
    assert pair["differs"] == ['model: "a-x" -> "b-x"'] and found["samples"] == SAMPLES
    back = compare(found["b"], found["a"])["pairs"][0]
    assert back["kinds"]["all"]["difference"] == -total["difference"] and back["better"] == 1


def test_a_folder_against_itself_says_nothing(folder: Callable[..., Path]) -> None:
    one = folder("a", {"x": BASE, "y": BETTER})
    for pair in compare(one, one)["pairs"]:
        assert not pair["changed"] and not pair["differs"]
        for found in pair["kinds"].values():
            assert (found["difference"], found["ci_low"], found["ci_high"], found["p"]) == (0.0, 0.0, 0.0, 1.0)


def test_which_arms_are_compared(folder: Callable[..., Path]) -> None:
    a, b = folder("a", {"x": BASE, "y": BETTER}), folder("b", {"y": BASE, "z": BASE})
    single = folder("c", {"w": BASE})

    def arms(first: Path | str, second: Path | str) -> list[tuple[str, str]]:
        return [(pair["a"], pair["b"]) for pair in compare(first, second, draws=20)["pairs"]]

    assert arms(a, b) == [("y", "y")]
    assert arms(f"{a}:x", f"{a}:y") == [("x", "y")]
    assert arms(f"{a}:y", b) == arms(a, f"{b}:y") == [("y", "y")]
    assert arms(single, f"{b}:z") == [("w", "z")]
    with pytest.raises(CompareError, match="have no arm of the same name; name one of each: .*a:x .*c:w"):
        arms(a, single)
    with pytest.raises(CompareError, match="no arm 'q'; there are: x, y"):
        arms(f"{a}:q", b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": SAMPLES | {"hash": "def"}}, "different samples .*; evaluate both on the same file"),
        ({"scorer": "ovo_bench"}, r"different scorers \(exact, ovo_bench\); evaluate both with the same"),
    ],
)
def test_other_samples_or_scorers_are_refused(
    folder: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CompareError, match=message):
        compare(folder("a", {"x": BASE}), folder("b", {"x": BASE}, **changes))


def test_what_is_no_report_is_named(folder: Callable[..., Path], tmp_path: Path) -> None:
    a = folder("a", {"x": BASE})
    with pytest.raises(CompareError, match="nothing/report.json: no such file; give the output folder"):
        compare(a, tmp_path / "nothing")
    old = folder("old", {"x": BASE})
    (old / "scored.jsonl").unlink()
    with pytest.raises(CompareError, match="does not hold single queries .*; run `whilst eval` again"):
        compare(a, old)
    torn = folder("torn", {"x": BASE})
    (torn / "scored.jsonl").write_text('{"job": "x"}\n')
    with pytest.raises(CompareError, match="scored.jsonl: line 1: .*; run `whilst eval` again"):
        compare(a, torn)
    short = folder("short", {"x": BASE[:-2]})
    with pytest.raises(CompareError, match="do not have the same queries .such as s7/q"):
        compare(a, short)


def test_totals_of_a_benchmark_are_compared(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    total = Total("mean over tasks", mean_of_tasks)
    toy = Benchmark("toy", "", "", "", "asked", lambda: iter(()), lambda *_: [], None, {"overall": total})
    monkeypatch.setattr(module, "find_benchmark", lambda name: toy if name == "toy" else None)
    made = [folder(name, {"x": rights}, scorer="toy") for name, rights in (("a", BASE), ("b", BETTER))]
    overall = compare(*made, draws=50)["pairs"][0]["totals"]["overall"]
    assert overall["definition"] == "mean over tasks" and overall["videos"] == 8
    assert (overall["a"], overall["b"]) == (0.5, (7 / 8 + 3 / 8) / 2)
    assert overall["difference"] == pytest.approx(overall["b"] - overall["a"])


def test_it_is_shown_and_written(folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare(folder("a", {"x": BASE}), folder("b", {"x": BETTER}))
    out = StringIO()
    show(found, Console(file=out, width=200))
    text = out.getvalue()
    assert "of 16 queries of 8 videos 3 became better and 1 worse; +12.5 points" in text
    assert "+ s0/q1 order: 'y' -> 'x', 'x'" in text and "- s2/q0 backward" in text
    page = write(found, tmp_path / "out")
    assert json.loads((tmp_path / "out/compare.json").read_text()) == found
    markdown = page.read_text()
    assert "+12.5" in markdown and "s0/q1" in markdown and "Queries that changed" in markdown
    monkeypatch.setattr(module, "LISTED", 2)
    assert "the first 2 (and 2 more)" in write(found, tmp_path / "out").read_text()
    out = StringIO()
    show(found, Console(file=out, width=200))
    assert "and 2 more" in out.getvalue() and "s2/q0" not in out.getvalue()


def test_partial_credit_counts_as_a_change(folder: Callable[..., Path]) -> None:
    a, b = folder("a", {"x": BASE}), folder("b", {"x": BASE})
    items = scored(BASE)
    items[1] = replace(items[1], credit=0.5)
    (b / "scored.jsonl").write_text(
        "".join(json.dumps({"job": "x"} | asdict(i) | {"credit": i.value}) + "\n" for i in items)
    )
    (pair,) = compare(a, b)["pairs"]
    assert pair["better"] == 1 and pair["kinds"]["all"]["difference"] == pytest.approx(0.5 / 16)
