"""TempCompass: three formats at the end of a clip, captioning turned away, and the published rules with their rate."""

from pathlib import Path

import pytest

from evaluation.benchmarks.base import BenchmarkError, Given, Verdict
from evaluation.benchmarks.tempcompass import (
    BENCHMARK,
    captioning_rating,
    rule_caption_matching,
    rule_multi_choice,
    rule_yes_no,
)
from tests.evaluation.benchmarks.real import conserved, write
from whilst.sample import Sample

CHOICE = {"question": "What is it doing?\nA. running\nB. hopping", "answer": "B. hopping"}
YES_NO = {"question": "Is it running?", "answer": "no"}
CAPTION = {
    "question": "Which caption fits?\nCaption A: It is hopping: fast.\nCaption B: It is running.",
    "answer": "Caption A: It is hopping: fast.",
}
OPTION = {"question": "Which fits?\nOption 1: It hops.\nOption 2: It runs.", "answer": "Option 2: It runs."}


def folder(tmp_path: Path) -> Path:
    made = tmp_path / "questions"
    made.mkdir()
    write(made / "multi-choice.json", {"7": {"action": [CHOICE], "order": [CHOICE]}})
    write(made / "yes_no.json", {"7": {"action": [YES_NO]}, "7_reverse": {"direction": [YES_NO]}})
    write(made / "caption_matching.json", {"7": {"action": [CAPTION, OPTION]}})
    write(made / "captioning.json", {"7": {"action": [{"question": "...", "answer": "A. hopping"}]}})
    return made


def samples_of(tmp_path: Path) -> list[Sample]:
    lengths = write(tmp_path / "lengths.json", {"7": 9.5, "7_reverse": 9.5})
    return conserved(BENCHMARK, folder(tmp_path), durations=str(lengths))[0]


def test_one_sample_a_clip(tmp_path: Path) -> None:
    lengths = write(tmp_path / "lengths.json", {"7": 9.5})
    samples, rejected = conserved(BENCHMARK, folder(tmp_path), durations=str(lengths))
    [sample] = samples
    assert [(q.id, q.kind, q.time) for q in sample.queries()] == [
        ("7/caption_matching/action/0", "caption_matching/action", 9.5),
        ("7/caption_matching/action/1", "caption_matching/action", 9.5),
        ("7/multi-choice/action/0", "multi-choice/action", 9.5),
        ("7/multi-choice/order/0", "multi-choice/order", 9.5),
        ("7/yes_no/action/0", "yes_no/action", 9.5),
    ]
    assert [sample.answers_to(q.id)[0].text for q in sample.queries()] == ["A", "B", "B", "B", "no"]
    assert "judged by a language model" in rejected[0].reason
    assert "7_reverse.mp4: its duration is not known" in rejected[1].reason


def test_bad_rows_are_rejected(tmp_path: Path) -> None:
    rows = [
        {"question": "What?\nA. x\nB. y", "answer": "C. z"}, {"question": "What?\nx\ny", "answer": "x"},
        {"question": "What?\nA. x", "answer": "A. x"}, {"question": "What?"}, "text", CHOICE,
    ]  # fmt: skip
    lengths = write(tmp_path / "lengths.json", {"7": 9.5})
    path = write(tmp_path / "multi-choice.json", {"7": {"action": rows}})
    samples, rejected = conserved(BENCHMARK, path, durations=str(lengths))
    assert (len(samples[0].queries()), len(rejected)) == (1, 5)
    path = write(tmp_path / "yes_no.json", {"7": {"action": [{"question": "Is it?", "answer": "maybe"}]}})
    assert "neither yes nor no" in conserved(BENCHMARK, path, durations=str(lengths))[1][0].reason
    for name, value, message in (
        ("other.json", {"7": {}}, "must be one of"),
        ("yes_no.json", [], "an object of videos"),
        ("yes_no.json", {"7": {"colour": []}}, "an object of action"),
        ("yes_no.json", {"7": {"action": {}}}, "a list of questions"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            list(BENCHMARK.read(write(tmp_path / name, value)))


@pytest.mark.parametrize(
    ("said", "rating"),
    [("B", 1), ("B. hopping", 1), ("B) whatever", 1), ("B.", 1), ("A", 0), ("hopping", None), ("b", None), ("", None),
     ("The answer is B", None), ("AB", None)],
)  # fmt: skip
def test_the_rule_of_multi_choice(said: str, rating: int | None) -> None:
    assert rule_multi_choice(said, "B. hopping") == rating


@pytest.mark.parametrize(
    ("said", "rating"), [("No.", 1), ("nothing of the kind", 1), ("Yes", 0), ("It is not", None), ("", None)]
)
def test_the_rule_of_yes_no(said: str, rating: int | None) -> None:
    assert rule_yes_no(said, "no") == rating


@pytest.mark.parametrize(
    ("said", "rating"),
    [
        ("Option 2: It runs.", 1),
        ("Option 2", 1),
        ("Option 2.", 1),
        ("It runs.", 1),
        ("(b) It runs.", 1),  # what follows ") "
        ("Option 1", 0),
        ("2", None),
        ("it runs.", None),
    ],
)
def test_the_rule_of_caption_matching(said: str, rating: int | None) -> None:
    assert rule_caption_matching(said, OPTION["question"], OPTION["answer"]) == rating


def test_a_colon_inside_a_caption_cuts_it_as_published() -> None:
    assert rule_caption_matching("It is hopping", CAPTION["question"], CAPTION["answer"]) == 1
    assert rule_caption_matching("It is hopping: fast.", CAPTION["question"], CAPTION["answer"]) is None


def test_strict_captions(tmp_path: Path) -> None:
    sample = samples_of(tmp_path)[0]
    query = sample.queries()[1]
    for text, reason in (
        ("Option 2: It runs.", ""), ("option 2", ""), ("it runs", ""), ("Option 1", "wrong"),
        ("Option 1 or Option 2", "not one of the options"), ("", "no reply"),
    ):  # fmt: skip
        assert BENCHMARK.strict(sample, query, [Given(9.5, text)])[0].reason == reason


def test_totals(tmp_path: Path) -> None:
    samples = samples_of(tmp_path)
    replies = {"multi-choice": "B", "yes_no": "I do not know", "caption_matching": "Option 2"}

    def judged(rule: object) -> list[Verdict]:
        return [
            verdict
            for sample in samples
            for query in sample.queries()
            for verdict in rule(sample, query, [Given(9.5, replies[str(query.kind).partition("/")[0]])])  # type: ignore[operator]
        ]

    for rule in (BENCHMARK.strict, BENCHMARK.official):
        verdicts = judged(rule)
        totals = {name: total.of(verdicts) for name, total in BENCHMARK.totals.items()}
        # multi-choice 2 of 2, yes_no 0 of 2, caption_matching 1 of 2 (Option 2 is none of the captions)
        assert [totals[name] for name in ("multi-choice", "yes_no", "caption_matching")] == [1.0, 0.0, 0.5]
        assert totals["mean_of_formats"] == 0.5
        assert totals["action"] == pytest.approx(2 / 4)
        assert totals["match_success_rate"] == pytest.approx(3 / 6)
        assert {one.gold for one in verdicts} == {"B", "no", "Caption A", "Option 2"}


def test_captions_by_a_judge() -> None:
    assert captioning_rating("Reasoning: it hops.\nAnswer: B. hopping", "B. hopping") == 1
    assert captioning_rating("Answer: A. running", "B. hopping") == 0
    assert captioning_rating("Answer: B. hopping, not A. running", "B. hopping") == 0  # two letters
    assert captioning_rating("B. hopping", "B. hopping") == 1
    assert captioning_rating("", "B. hopping") == captioning_rating("invalid_request_error", "B. x") == -1
