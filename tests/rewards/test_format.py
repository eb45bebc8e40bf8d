"""Whether replies and thoughts are written as asked."""

from typing import Any

import pytest

from rewards.base import RewardError
from rewards.format import BoxedOnce, Intervals, Pattern, Sections, ThoughtFormat
from rewards.registry import build
from tests.rewards.episodes import alone, ask, episode, sample, standing

GOOD = "<think>it moved</think>\n<answer>red</answer>"
GLUE = "<think>x</think><answer>A</answer><glue>{}</glue>"


def replied(reward: Any, reply: str, finished: bool = True) -> float:
    one = episode(sample(ask("q", "red")), replies={"q": reply}, finished=finished)
    scored = reward(one, alone(one))
    assert scored is not None
    return scored.score


@pytest.mark.parametrize(
    ("reply", "pattern", "sections"),
    [
        (GOOD, 1, 1),
        (f"  {GOOD}\n", 1, 1),
        ("<think>a\nb</think><answer>c</answer>", 1, 1),
        (f"Well, {GOOD}", 0, 0),
        (f"{GOOD} so", 0, 0),
        ("<answer>red</answer><think>it moved</think>", 0, 0),
        ("<think>it moved<answer>red</answer>", 0, 0),
        ("red", 0, 0),
        ("", 0, 0),
        # Video-R1's pattern takes these
        ("<think></think><answer></answer>", 1, 0),
        ("<think>x</think><answer>  </answer>", 1, 0),
        (GOOD * 2, 1, 0),
        ("<think>x</think><answer>A</answer><answer>B</answer>", 1, 0),
    ],
)
def test_think_and_answer(reply: str, pattern: float, sections: float) -> None:
    assert replied(build("video_r1_format", {}), reply) == replied(Pattern(), reply) == pattern
    assert replied(Sections(), reply) == sections


def test_sections_of_other_names() -> None:
    assert replied(Sections(("see", "think", "say")), "<see>a</see> <think>b</think> <say>c</say>") == 1.0
    assert replied(Sections(("see", "think", "say")), "<see>a</see> <say>c</say>") == 0.0


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (r"so \boxed{A}", 1),
        (r"\boxed{A}\boxed{A}", 0),
        (r"\boxed{}", 0),
        (r"\boxed{A", 0),
        ("A", 0),
        (r"\boxed{\boxed{A}}", 0),
    ],
)
def test_boxed_once(reply: str, score: float) -> None:
    assert replied(BoxedOnce(), reply) == score


@pytest.mark.parametrize(
    ("glue", "score"),
    [
        ("[(1, 2.5)]", 1),
        ("[(1, 2.5), (3, 4),]", 1),
        ("[[0,0], [3 , 4]]", 1),
        ("[(4, 3)]", 0),
        ("[(1, 2), (4, 3)]", 0),
        ("[(1, 2, 3)]", 0),
        ("(1, 2)", 0),
        ("[1, 2]", 0),
        ("[(1, inf)]", 0),
        ("[(nan, nan)]", 0),
        ("[(1, 1e999)]", 0),
        ("[(-1, 2)]", 0),
        ("[(١, ٢)]", 0),
        ("[(1, 2)] [(1, 2)]", 0),
        ("from 1 to 2", 0),
        ("", 0),
        ("[]", 0),
    ],
)
def test_intervals(glue: str, score: float) -> None:
    assert replied(Intervals(), GLUE.format(glue)) == score
    assert replied(build("videochat_r1_gqa_format", {}), GLUE.format(glue)) == (1 if glue == "[]" else score)


def test_intervals_stand_in_one_tag_of_a_whole_reply() -> None:
    assert replied(Intervals(), "<glue>[(1, 2)]</glue>") == 0.0
    assert replied(Intervals(pattern=r"<glue>.*</glue>"), "<glue>[(1, 2)]</glue>") == 1.0
    assert replied(Intervals(pattern=r"<glue>.*</glue>"), "<glue>[(1, 2)]</glue><glue>[(1, 2)]</glue>") == 0.0
    assert replied(Intervals(), GLUE.format("[" + "(1, 2), " * 10_000 + "(1, 2)]")) == 1.0
    assert replied(Intervals(), GLUE.format("[" + "(1, 2), " * 10_000)) == 0.0


def test_replies_that_do_not_count_are_not_well_formed() -> None:
    assert replied(Sections(), GOOD, finished=False) == 0.0
    shown = sample(ask("q", "red"), standing("f", "now", 0.0, (2.0, 3.0), 4.0))
    one = episode(shown, replies={"q": GOOD, "f": [(2.0, GOOD)]})
    early = episode(shown, replies={"q": GOOD, "f": [(1.0, GOOD), (2.0, GOOD)]})
    for reward in (Sections(), Pattern()):
        given = reward(one, alone(one)), reward(early, alone(early))
        assert [scored and scored.score for scored in given] == [1.0, 0.5]
        nothing = episode(sample())
        assert reward(nothing, alone(nothing)) is None


def test_thoughts() -> None:
    # a word is a token, and the boundary token one more
    one = episode(sample(segments=4), ["a b", "a b c", "a\nb", ""])
    for reward, score, parts in (
        (ThoughtFormat(), 0.0, (0.0, 0.0, 0.0)),
        (ThoughtFormat(most=3), -0.25, (0.0, 0.25, 0.0)),
        (ThoughtFormat(lines=1), -0.25, (0.0, 0.0, 0.25)),
        (ThoughtFormat(most=3, lines=1), -0.5, (0.0, 0.25, 0.25)),
    ):
        scored = reward(one, alone(one))
        assert scored is not None and scored.score == score
        assert tuple(scored.parts[name] for name in ("unfinished", "too_long", "too_many_lines")) == parts
    cut = episode(sample(segments=4), ["a"], finished=False)
    scored = ThoughtFormat()(cut, alone(cut))
    assert scored is not None and scored.score == -1.0
    nothing = episode(sample(segments=0))
    assert ThoughtFormat()(nothing, alone(nothing)) is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Pattern("("), "no regular expression"),
        (lambda: Intervals("["), "no regular expression"),
        (lambda: Sections(()), "one or more"),
        (lambda: Sections(("a", "a")), "that differ"),
    ],
)
def test_wrong_parameters(make: Any, said: str) -> None:
    with pytest.raises(RewardError, match=said):
        make()
