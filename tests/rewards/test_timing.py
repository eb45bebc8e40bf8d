"""When standing queries are replied to: figures worked out by hand, and ways to talk that should not pay."""

import itertools
import random

import pytest

from rewards.base import Reward, RewardError
from rewards.standing import Gold, standing
from rewards.timing import VARIANTS, Duplicates, InSpan, MMDuet2, Pauc, Prefix, WindowF1, best_matching
from tests.rewards.episodes import alone, ask, episode, right, sample
from whilst.sample import Sample


def once(answer: str) -> Sample:
    """Asked at 1 s and polled every second until 10 s; to be answered from 4 s to 8 s. Outside: 1, 2, 3, 9, 10."""
    polled = [(float(t), answer if t == 4 else "") for t in range(1, 11)]
    return sample(ask("q", *polled, time=1.0, kind="forward", window=(4.0, 8.0)), segments=10)


ONE = once("now")
# Three things happen, at 3, 5 and 8 s; they are told of until the next, the last until 10 s. Outside: 1, 2.
MANY = sample(
    ask(
        "q",
        *[(1.0, ""), (2.0, ""), (3.0, "a cat"), (4.0, ""), (5.0, "a dog"), (6.0, ""), (7.0, ""), (8.0, "a cat")],
        *[(9.0, ""), (10.0, "")],
        time=1.0,
        kind="forward",
        window=(3.0, 10.0),
    ),
    segments=10,
)
Said = list[tuple[float, str]]
MMDUET2 = Pauc(early="ignored")


def score(reward: Reward, said: Said | str, of: Sample = ONE, finished: bool = True) -> float:
    one = episode(of, replies={"q": said}, finished=finished)
    scored = reward(one, alone(one))
    assert scored is not None
    return scored.score


def test_what_there_is_to_say_and_when() -> None:
    (one,) = standing(ONE)
    assert one.golds == (Gold("now", 4.0, 8.0),)
    assert one.outside == [1.0, 2.0, 3.0, 9.0, 10.0]
    (many,) = standing(MANY)
    assert many.golds == (Gold("a cat", 3.0, 5.0, True), Gold("a dog", 5.0, 8.0, True), Gold("a cat", 8.0, 10.0))
    assert [g.text for t in (4.0, 5.0, 8.0) for g in many.golds if g.holds(t)] == ["a cat", "a dog", "a cat"]
    assert many.outside == [1.0, 2.0]
    (late,) = standing(MANY, late=4.0)
    assert [(gold.start, gold.end) for gold in late.golds] == [(3.0, 7.0), (5.0, 9.0), (8.0, 10.0)]


def test_the_same_words_at_the_next_poll_are_another_thing_to_say() -> None:
    of = sample(ask("q", (1.0, "a cat"), (2.0, "a cat"), (3.0, ""), time=0.5, kind="forward", window=(1.0, 4.0)))
    assert standing(of)[0].golds == (Gold("a cat", 1.0, 2.0, True), Gold("a cat", 2.0, 4.0))
    assert score(WindowF1(), [(1.0, "a cat"), (2.0, "a cat")], of) == 1.0
    assert score(WindowF1(), [(1.0, "a cat")], of) == pytest.approx(2 / 3)


def test_no_standing_query_no_score() -> None:
    plain = sample(ask("q", "red", kind="backward"))
    missed = sample(ask("q", (4.0, "red"), kind="forward", window=(1.0, 3.0)))  # never polled in its window
    for of in (plain, missed):
        one = episode(of, replies={"q": "red"})
        for reward in (Pauc(), WindowF1(), Duplicates(), Prefix(), InSpan(), MMDuet2()):
            assert reward(one, alone(one)) is None


# te - ts = 4, S = 2.
# right at 4: (0 * 0.5 + 4 * 2) / 8 = 1                      right at 6: (2 * 0.5 + 2 * 2) / 8 = 0.625
# wrong at 4, right at 6: (0 + 2 * 0 + 2 * 2) / 8 = 0.5      silence: 4 * 0.5 / 8 = 0.25
# wrong at 4: 0                                              right at 8: 4 * 0.5 / 8 = 0.25
# right at 5, wrong at 7: (0.5 + 2 * 2 + 0) / 8 = 0.5625     right at 9: outside, as silence
@pytest.mark.parametrize(
    ("said", "value"),
    [
        ([(4.0, "now")], 1.0),
        ([(6.0, "now")], 0.625),
        ([(4.0, "no"), (6.0, "now")], 0.5),
        ([], 0.25),
        ([(4.0, "no")], 0.0),
        ([(8.0, "now")], 0.25),
        ([(5.0, "now"), (7.0, "no")], 0.5625),
        ([(9.0, "now")], 0.25),
        ([(4.0, " Now. ")], 1.0),
    ],
)
def test_pauc_worked_out(said: Said, value: float) -> None:
    assert score(MMDUET2, said) == pytest.approx(value)
    assert score(Pauc(), said) == pytest.approx(value)


def test_pauc_of_a_reply_that_is_partly_right() -> None:
    # F1 of "red circle" and "red square" is 1/2: s = 1 from 4 to 8, of 2: 0.5
    of = once("red circle")
    assert score(Pauc(match="f1"), [(4.0, "red square")], of) == pytest.approx(0.5)
    assert score(Pauc(), [(4.0, "red square")], of) == 0.0


# Scores 0 to 4, 0.5 of them before a reply, half of a delay counts: te - ts = 4, S = 4.
# right at 4: 1      right at 8, as if at 6: (2 * 0.5 + 2 * 4) / 16 = 0.5625      silence: 4 * 0.5 / 16 = 0.125
# right at 6, as if at 5, wrong at 8, as if at 6: (0.5 + 4 + 0) / 16 = 0.28125
@pytest.mark.parametrize(
    ("said", "value"),
    [
        ([(4.0, "now")], 1.0),
        ([(8.0, "now")], 0.5625),
        ([], 0.125),
        ([(6.0, "now"), (8.0, "no")], 0.28125),
    ],
)
def test_pauc_as_the_code_of_mmduet2_has_it(said: Said, value: float) -> None:
    assert score(Pauc("ignored", most=4.0, delay=0.5), said) == pytest.approx(value)
    assert score(MMDuet2(in_span=0.0, most=4.0, delay=0.5), said) == pytest.approx(value)


def test_a_reply_before_the_window_voids_the_area_unless_it_is_ignored() -> None:
    assert score(MMDUET2, [(2.0, "now"), (4.0, "now")]) == 1.0
    assert score(Pauc(), [(2.0, "now"), (4.0, "now")]) == 0.0
    # of three answers only the first is lost: the others have (0.5 * 3) / 6 and (0.5 * 2) / 4
    assert score(Pauc(), [(2.0, "a cat"), (3.0, "a cat")], MANY) == pytest.approx((0 + 0.25 + 0.25) / 3)


def test_pauc_of_several_answers() -> None:
    # [3, 5): right at once, 1. [5, 8): right at 7: (2 * 0.5 + 1 * 2) / 6 = 1/2. [8, 10]: "a dog" again, 0.
    said = [(3.0, "a cat"), (7.0, "a dog"), (8.0, "a dog")]
    assert score(Pauc(), said, MANY) == pytest.approx((1 + 0.5 + 0) / 3)


def test_a_window_without_length() -> None:
    of = sample(ask("q", (3.0, ""), (4.0, "now"), time=3.0, kind="forward", window=(4.0, 4.0)))
    assert score(Pauc(), [(4.0, "now")], of) == 1.0
    assert score(Pauc(), [(4.0, "no")], of) == 0.0
    assert score(Pauc(), [], of) == 0.25


# One answer. Right once: P = R = 1. At 4 and 6: P = 1/2, R = 1, F = 2/3. At all ten polls: P = 1/10, F = 2/11.
@pytest.mark.parametrize(
    ("said", "value"),
    [
        ([(5.0, "now")], 1.0),
        ([(4.0, "now"), (6.0, "now")], 2 / 3),
        ("now", 2 / 11),
        ([(2.0, "now")], 0.0),
        ([(9.0, "now")], 0.0),
        ([(4.0, "no")], 0.0),
        ([], 0.0),
    ],
)
def test_window_f1_worked_out(said: Said | str, value: float) -> None:
    assert score(WindowF1(), said) == pytest.approx(value)


def test_each_answer_takes_one_reply_and_each_reply_one_answer() -> None:
    # two of three answers are met, by two of four replies: 2 * 2 / (4 + 3)
    said = [(2.0, "a cat"), (3.0, "a cat"), (4.0, "a cat"), (9.0, "a cat")]
    assert score(WindowF1(), said, MANY) == pytest.approx(4 / 7)
    one = episode(MANY, replies={"q": said})
    scored = WindowF1()(one, alone(one))
    assert scored is not None and scored.parts == {"precision": 0.5, "recall": pytest.approx(2 / 3)}
    # late by 6 s: two replies at 8 and 9 s are for the first "a cat" [3, 9] and the second [8, 10], one each
    assert score(WindowF1(late=6.0), [(8.0, "a cat"), (9.0, "a cat")], MANY) == pytest.approx(4 / 5)
    assert score(WindowF1(), [(8.0, "a cat"), (9.0, "a cat")], MANY) == pytest.approx(2 / 5)


def test_five_seconds_of_grace_end_at_the_window() -> None:
    five = WindowF1(**VARIANTS["window_f1_5s"][1])
    assert score(five, [(7.0, "a cat"), (10.0, "a dog")], MANY) == pytest.approx(4 / 5)
    # the first answer is from 4 s: five seconds later is 9 s, but the window ends at 8 s
    assert score(five, [(9.0, "now")]) == 0.0


def test_matching_is_the_largest_there_is() -> None:
    rng = random.Random(0)
    for _ in range(300):
        replies, answers = rng.randint(0, 5), rng.randint(1, 5)
        fitting = [[a for a in range(answers) if rng.random() < 0.4] for _ in range(replies)]
        found = best_matching(fitting)
        assert len(set(found.values())) == len(found)
        assert all(answer in fitting[reply] for answer, reply in found.items())
        padded = [*range(answers), *[-1] * replies]
        best = max(sum(a in fitting[r] for r, a in enumerate(p)) for p in itertools.permutations(padded, replies))
        assert len(found) == best


def test_a_long_dialogue_is_matched_without_recursion() -> None:
    # each reply fits its own answer and the one before; all can be matched only in one way
    fitting = [[i - 1, i] if i else [0] for i in range(5000)]
    assert len(best_matching(fitting)) == 5000
    assert best_matching([[1, 0], [0, 1], [1]]).keys() == {0, 1}


def test_duplicates() -> None:
    assert score(Duplicates(), [(4.0, "now")]) == 0.0
    # "now" three times of four replies, once is free: 2 / 4
    assert score(Duplicates(), [(3.0, "no"), (4.0, "now"), (5.0, "Now."), (6.0, " now")]) == -0.5
    assert score(Duplicates(), "now") == -0.9
    # there are two cats to tell of
    assert score(Duplicates(), [(3.0, "a cat"), (5.0, "a dog"), (8.0, "a cat")], MANY) == 0.0
    assert score(Duplicates(), [(3.0, "a cat"), (5.0, "a cat"), (8.0, "a cat")], MANY) == pytest.approx(-1 / 3)
    assert score(Duplicates(), []) == 0.0


def test_prefix() -> None:
    # "it goes" is cut short by "it", drawn out by "it goes on": 2 of 3
    assert score(Prefix(), [(4.0, "it goes"), (5.0, "it"), (6.0, "it goes on")]) == pytest.approx(-2 / 3)
    assert score(Prefix(), [(4.0, "it goes"), (5.0, "it goes"), (6.0, "item")]) == 0.0  # a duplicate, another word
    assert score(Prefix(), [(3.0, "a"), (5.0, "a dog")], MANY) == 0.0  # what the sample says is never a fault
    assert score(Prefix(), [(3.0, "a cat"), (5.0, "a cat sits")], MANY) == -0.5
    assert score(Prefix(), []) == 0.0


def test_in_span() -> None:
    assert score(InSpan(), [(4.0, "now")]) == 1.0
    assert score(InSpan(), [(4.0, "now"), (9.0, "now")]) == 0.0
    assert score(InSpan(), [(1.0, "a"), (2.0, "b"), (3.0, "c"), (4.0, "now")]) == -0.5
    assert score(InSpan(), []) == 0.0
    # polled inside its window alone: nobody can be outside
    inside = sample(ask("q", (4.0, "now"), kind="forward", window=(4.0, 4.0)))
    assert InSpan()(episode(inside), alone(episode(inside))) is None


def test_mmduet2_adds_its_parts() -> None:
    # right at 4 and again at 5: PAUC 1, one of two replies is a duplicate, both are in the span
    one = episode(ONE, replies={"q": [(4.0, "now"), (5.0, "now")]})
    scored = MMDuet2(rep=0.5, in_span=0.2)(one, alone(one))
    assert scored is not None and scored.score == pytest.approx(1 - 0.25 + 0.2)
    assert scored.parts == {"pauc": 1.0, "rep": -0.5, "in_span": 1.0, "prefix": 0.0}


def test_what_was_cut_off_is_a_reply_and_is_not_right() -> None:
    assert score(Pauc(), [(4.0, "now")], finished=False) == 0.0
    assert score(WindowF1(), [(4.0, "now")], finished=False) == 0.0
    assert score(InSpan(), [(9.0, "now")], finished=False) == -1.0


def test_an_option_may_be_given_by_its_letter() -> None:
    of = sample(ask("q", (3.0, ""), (4.0, "red"), time=3.0, kind="forward", window=(4.0, 4.0), options=("red", "blue")))
    for text, value in (("A", 1.0), ("red", 1.0), ("B", 0.0), ("A B", 0.0)):
        assert score(WindowF1(), [(4.0, text)], of) == value


NOTHING = ["", " ", "\n", "A B C D", "nan", "inf", "9" * 5000, "now " * 500, "a cat a dog a cat now", "💥", "ｎow!"]


@pytest.mark.parametrize("text", NOTHING)
@pytest.mark.parametrize("of", [ONE, MANY])
def test_no_constant_reply_wins(of: Sample, text: str) -> None:
    """At every poll, or at every poll of the window alone."""
    best = right(of)
    inside = [(float(t), text) for t in range(3, 11)]
    for reward in (Pauc(), MMDUET2, WindowF1(), WindowF1(match="f1", least=0.8), MMDuet2()):
        top = reward(best, alone(best))
        assert top is not None
        for said in (text, inside):
            assert score(reward, said, of) <= 0.5 < top.score


def test_talking_all_the_time_does_not_pay_even_in_the_right_words() -> None:
    for reward in (Pauc(), WindowF1(), Duplicates(), InSpan()):
        assert score(reward, "now") < score(reward, [(4.0, "now")])
        assert score(reward, "now") < 0.2
    # PAUC as published is won by it; the other terms of MMDuet2 are why it is not: 1 - 0.9 + 0.0
    assert score(MMDUET2, "now") == 1.0
    assert score(MMDuet2(), "now") == pytest.approx(0.1)
    assert score(MMDuet2(), []) == 0.25


def test_constants_are_checked() -> None:
    with pytest.raises(RewardError, match="pauc: before"):
        Pauc(before=2.0)
    for make in (Pauc, MMDuet2):
        with pytest.raises(RewardError, match="pauc: delay 0"):
            make(delay=0.0)
    with pytest.raises(RewardError, match="window_f1: least"):
        WindowF1(least=0.0)
    with pytest.raises(RewardError, match="late nan"):
        WindowF1(late=float("nan"))
