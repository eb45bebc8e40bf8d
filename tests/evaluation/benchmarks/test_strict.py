"""Strict judging: the whole reply is read once, and what cannot be read is wrong, with a reason."""

import pytest

from evaluation.benchmarks.base import Given, Verdict, balanced, by_task, mean, mean_of_tasks
from evaluation.benchmarks.strict import judge_number, judge_option, judge_words, judge_yes_no, option, shown, unread

OPTIONS = ("a red cup", "a blue cup", "no cup at all", "a blue cup")


@pytest.mark.parametrize(
    ("reply", "index"),
    [
        ("B", 1),
        ("b", 1),
        (" (B) ", 1),
        ("B.", 1),
        ("(B).", 1),
        ("B. a blue cup", 1),
        ("B: A blue cup.", 1),
        ("B) a blue cup", 1),
        ("(D) a blue cup;", 3),
        ("a red cup", 0),
        ("A red  cup.", 0),
        ("No cup at all", 2),
        # never
        ("a blue cup", None),  # two options have this text
        ("E", None),
        ("AB", None),
        ("ABCD", None),
        ("A B", None),
        ("The answer is A", None),
        ("A. a blue cup", None),  # the letter and the text of different options
        ("A because the cup is red", None),
        ("(A", None),
        ("A or B", None),
        ("<answer>A</answer>", None),
        ("", None),
        ("cup", None),
    ],
)
def test_an_option_is_the_whole_reply(reply: str, index: int | None) -> None:
    assert option(reply, OPTIONS) == index


def test_a_letter_goes_before_a_text_that_is_a_letter() -> None:
    assert option("B", ("B", "A")) == 1
    assert option("A. B", ("B", "A")) == 0


def test_options_beyond_z_are_told_by_their_text() -> None:
    many = tuple(f"step {i}" for i in range(40))
    assert option("step 33", many) == 33
    assert option("Z", many) == 25


def test_the_first_reply_that_is_no_silence_counts_if_it_was_finished() -> None:
    assert unread([]) == "no reply"
    assert unread([Given(1.0, ""), Given(2.0, "  ")]) == "no reply"
    assert unread([Given(1.0, ""), Given(2.0, "B", finished=False), Given(3.0, "B")]) == "cut off"
    assert unread([Given(0.0, "", False, "no such video")]) == "failed: no such video"
    assert unread([Given(1.0, ""), Given(2.0, "B")]) == ""
    assert shown([Given(1.0, ""), Given(2.0, "B"), Given(3.0, "C")]) == "B"


def test_what_is_wrong_has_a_reason() -> None:
    assert judge_option([Given(0.0, "A")], OPTIONS, [0]) == (1.0, "")
    assert judge_option([Given(0.0, "D")], OPTIONS, [1, 3]) == (1.0, "")
    assert judge_option([Given(0.0, "C")], OPTIONS, [0]) == (0.0, "wrong")
    assert judge_option([Given(0.0, "Hm")], OPTIONS, [0]) == (0.0, "not one of the options")
    assert judge_option([Given(0.0, "A", finished=False)], OPTIONS, [0]) == (0.0, "cut off")
    assert judge_number([Given(0.0, "3.")], 3) == (1.0, "")
    assert judge_number([Given(0.0, "13")], 3) == (0.0, "wrong")
    assert judge_number([Given(0.0, "3 times")], 3) == (0.0, "not a number")
    assert judge_yes_no([Given(0.0, "Yes.")], True) == (1.0, "")
    assert judge_yes_no([Given(0.0, "no")], True) == (0.0, "wrong")
    assert judge_yes_no([Given(0.0, "YesNo")], True) == (0.0, "neither yes nor no")
    assert judge_words([Given(0.0, "Cut  branches.")], "cut branches") == (1.0, "")
    assert judge_words([Given(0.0, "cut the branches")], "cut branches") == (0.0, "wrong")


def test_figures_made_of_verdicts() -> None:
    def made(task: str, credit: float, gold: str, counted: bool = True) -> Verdict:
        return Verdict("v", "s", "q", task, credit, "", counted=counted, gold=gold)

    verdicts = [made("a", 1, "x"), made("a", 1, "x"), made("a", 1, "x"), made("a", 0, "y"), made("b", 0, "x")]
    assert list(by_task(verdicts)) == ["a", "b"]
    assert mean(verdicts) == 3 / 5
    assert mean_of_tasks(verdicts) == (3 / 4 + 0) / 2
    assert balanced(verdicts) == ((1 + 0) / 2 + 0) / 2
    assert mean([made("a", 1, "x"), made("a", 0, "x", counted=False)]) == 1
    assert mean([]) == mean_of_tasks([]) == balanced([]) == 0
