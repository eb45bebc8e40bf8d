"""Thought grounding: figures worked out by hand, and thoughts that name everything."""

from collections.abc import Sequence
from typing import Any

import pytest

from rewards.base import RewardError, Scored
from rewards.grounding import VARIANTS, Grounding, content
from tests.rewards.episodes import alone, ask, episode, right, sample
from whilst.sample import Sample

# Facts by segment: {in-1, red}, {}, {touch, red, blue}, {out-1, red}. q rests on e0, r on e0 and e2.
GOLD = ["in-1 red .", "none .", "touch red blue .", "out-1 red ."]
META: dict[str, Any] = {
    "thought_edges": [["e0"], [], ["e1"], ["e2"]],
    "answer_edges": {"q": ["e0"], "r": ["e0", "e2"], "s": []},
}
ASKS = (
    ask("q", "red", kind="backward"),
    ask("r", "red", kind="order"),
    ask("s", "yellow", kind="unanswerable"),  # rests on nothing that was told: no chain
)
WORLD = sample(*ASKS, thoughts=GOLD, meta=META)


def scored(thoughts: Sequence[str], reward: Grounding | None = None, of: Sample = WORLD) -> Scored:
    one = episode(of, thoughts)
    found = (reward or Grounding())(one, alone(one))
    assert found is not None
    return found


def test_the_right_thoughts_are_worth_one() -> None:
    assert scored(GOLD).score == 1.0
    assert scored(["RED in-1", "", "blue, touch: red", "red. out-1"]).score == 1.0  # order and signs do not matter


def test_worked_out_by_hand() -> None:
    # Said: {in-1, red}, {green}, {red}, {red, blue}. Coverage: q 2/2; r (2 + 1) / (2 + 2); mean 7/8.
    # Right: 2 + 0 + 1 + 1 = 4; wrong: green 1; blue in segment 3 was told in segment 2: 1/2. Precision 4 / 5.5 = 8/11.
    found = scored(["in-1 red .", "green .", "red .", "red blue ."])
    assert found.parts == pytest.approx({"coverage": 7 / 8, "precision": 8 / 11})
    assert found.score == pytest.approx(2 * (7 / 8) * (8 / 11) / (7 / 8 + 8 / 11))
    # beta 2: 5 P C / (4 P + C)
    twice = scored(["in-1 red .", "green .", "red .", "red blue ."], Grounding(**VARIANTS["grounding_coverage"][1]))
    assert twice.score == pytest.approx(5 * (7 / 8) * (8 / 11) / (4 * 8 / 11 + 7 / 8))


def test_what_is_told_later_does_not_support_what_is_said_now() -> None:
    # "blue" in segment 0 is told in segment 2 only: wrong in full; "in-1" in segment 2 was told before: half
    early = scored(["in-1 red blue .", "", "touch red blue .", "out-1 red ."]).parts["precision"]
    stale = scored(["in-1 red .", "", "touch red blue in-1 .", "out-1 red ."]).parts["precision"]
    assert (early, stale) == pytest.approx((7 / 8, 7 / 7.5))
    assert scored(["in-1 red .", "", "touch red blue in-1 .", "out-1 red ."], Grounding(stale=0.0)).score == 1.0


def test_evidence_said_after_another_segment_covers_nothing() -> None:
    # all the evidence in the last thought: q 0/2, r 2/4
    assert scored(["", "", "", "in-1 red out-1 ."]).parts["coverage"] == pytest.approx(1 / 4)


ALL = "in-1 out-1 touch red blue"


@pytest.mark.parametrize("name", ["grounding", *VARIANTS])
@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", "none .", "A B C D", "nan", "inf", "9" * 5000, "💥", "the", "red " * 500, ALL, f"{ALL} " * 50,
        f"{ALL} green yellow white in-2 out-2", "red",
    ],
)  # fmt: skip
def test_no_constant_thought_comes_near(name: str, text: str) -> None:
    reward = Grounding(**VARIANTS[name][1]) if name in VARIANTS else Grounding()
    assert scored([text] * 4, reward).score < 0.85 < scored(GOLD, reward).score == 1.0


def test_nothing_said_is_worth_nothing() -> None:
    assert scored([]) == Scored(0.0, {"coverage": 0.0, "precision": 0.0})
    assert scored(["none ."] * 4).score == 0.0
    assert scored(["yellow"] * 4).score == 0.0


def test_all_names_after_every_segment_even_where_all_are_known_from_the_start() -> None:
    gold = ["in-1 red blue .", "in-1 red .", "in-1 blue .", "red blue ."]
    meta = {"thought_edges": [["a"], ["b"], ["c"], ["d"]], "answer_edges": {"q": ["a"], "r": ["d"], "s": []}}
    of = sample(*ASKS, thoughts=gold, meta=meta)
    # three names: 3 + 2 + 2 + 2 right, one stale one in each of the last three: 9 / 10.5
    found = scored(["in-1 red blue ."] * 4, of=of)
    assert found.parts == pytest.approx({"coverage": 1.0, "precision": 9 / 10.5})
    assert found.score < scored(gold, of=of).score == 1.0


def test_words_of_no_thought_of_the_sample_are_judged_or_not() -> None:
    lenient = Grounding(**VARIANTS["grounding_sample_words"][1])
    said = ["slowly in-1 red .", "", "touch red blue .", "out-1 red ."]
    assert scored(said).parts["precision"] == pytest.approx(7 / 8)
    assert scored(said, lenient).score == 1.0
    # "yellow" is an answer of the sample: a name it knows
    assert scored(["yellow in-1 red .", *said[1:]], lenient).parts["precision"] == pytest.approx(7 / 8)


def test_a_lazy_silence_is_not_judged_where_it_is_unknown() -> None:
    of = sample(*ASKS, thoughts=["in-1 red .", "", "", "out-1 red ."], meta=META | {"thought_edges": [["e0"], ["e2"]]})
    said = ["in-1 red .", "", "touch red blue .", "out-1 red ."]
    # idle: red was told before (1/2), touch and blue never: 4 / 6.5
    assert scored(said, of=of).parts["precision"] == pytest.approx(4 / 6.5)
    assert scored(said, Grounding(silences="unknown"), of=of).score == 1.0


def test_what_happens_in_unknown_words_is_not_judged() -> None:
    meta = META | {"thought_edges": [["e0"], ["e2"]], "shown_edges": [["e0"], [], ["e1"], ["e2"]]}
    of = sample(*ASKS, thoughts=["in-1 red .", "", "", "out-1 red ."], meta=meta)
    assert scored(["in-1 red .", "", "touch red blue .", "out-1 red ."], of=of).score == 1.0
    # the second segment is idle, and known to be: touch is new there, red stale: 4 / 5.5
    assert scored(["in-1 red .", "touch red .", "", "out-1 red ."], of=of).parts["precision"] == pytest.approx(8 / 11)


def test_frames_and_articles_name_nothing() -> None:
    assert content("Here the red circle goes into the box.") == {"red", "circle", "goes", "into", "box"}
    assert content("I see that IN-2 Red-Circle is 1.5 m") == {"in-2", "red-circle", "1.5", "m"}
    assert content("ｒｅｄ\u00a0CIRCLE!") == {"red", "circle"}
    assert content("...") == frozenset()


@pytest.mark.parametrize(
    "of",
    [
        sample(*ASKS, thoughts=GOLD),
        sample(*ASKS, thoughts=GOLD, meta={"thought_edges": META["thought_edges"]}),
        sample(*ASKS, thoughts=GOLD, meta={"answer_edges": META["answer_edges"]}),
        sample(*ASKS, thoughts=GOLD, meta=META | {"answer_edges": {"q": ["x"]}}),  # rests on what no thought says
        sample(thoughts=GOLD, meta=META),
        WORLD.without_thoughts(),
    ],
)
def test_a_sample_that_does_not_record_what_is_needed_is_not_scored(of: Sample) -> None:
    for one in (episode(of), right(of), episode(of, [ALL] * 4)):
        assert Grounding()(one, alone(one)) is None


def test_constants_are_checked() -> None:
    for wrong in ({"beta": 0.0}, {"beta": float("nan")}, {"stale": 1.5}):
        with pytest.raises(RewardError, match="grounding: beta"):
            Grounding(**wrong)  # type: ignore[arg-type]
