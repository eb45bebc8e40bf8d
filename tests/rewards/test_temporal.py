"""Temporal IoU: figures worked out by hand, degenerate spans, and replies that try to win without looking."""

import math
import random
from typing import Any

import pytest

from rewards.base import RewardError
from rewards.temporal import VARIANTS, Span, TemporalIoU, iou, merged, read_spans, read_time_r1
from tests.rewards.episodes import alone, ask, episode, sample
from whilst.episode import Episode
from whilst.sample import Sample


def variant(name: str) -> TemporalIoU:
    return TemporalIoU(**VARIANTS[name][1])


def world(answer: str = "from 2.0 to 6.0 seconds", segments: int = 10, **fields: Any) -> Sample:
    return sample(ask("q", answer, time=float(segments), **fields), segments=segments)


def score(reply: str, answer: str = "from 2.0 to 6.0 seconds", reward: TemporalIoU | None = None) -> float:
    one = episode(world(answer), replies={"q": reply})
    scored = (reward or TemporalIoU())(one, alone(one))
    assert scored is not None
    return scored.score


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("12.0 to 15.5", [(12.0, 15.5)]),
        ("from 12.0 to 15.5 seconds.", [(12.0, 15.5)]),
        ("12.0-15.5 s", [(12.0, 15.5)]),
        ("12s – 15 s", [(12.0, 15.0)]),
        ("[12.0, 15.5]", [(12.0, 15.5)]),
        ("Between 12 and 15 secs", [(12.0, 15.0)]),
        ("1:05 to 1:10.5", [(65.0, 70.5)]),
        ("1:00:05 - 1:00:10", [(3605.0, 3610.0)]),
        ("1 to 2, 4 to 5 and 7 to 8", [(1.0, 2.0), (4.0, 5.0), (7.0, 8.0)]),
        ("[[1, 2], [4, 5]]", [(1.0, 2.0), (4.0, 5.0)]),
        ("between 1 and 2 and between 4 and 5", [(1.0, 2.0), (4.0, 5.0)]),
        ("3 to 3", [(3.0, 3.0)]),
        ("none", []),
        ("[]", []),
    ],
)
def test_spans_are_read(text: str, spans: list[Span]) -> None:
    assert read_spans(text) == tuple(spans)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "12", "12.0", "it lasts from 12 to 15", "12 to 15 or so", "12 and 15", "15 to 12", "-3 to 5",
        "3 to -5", "nan to 5", "0 to inf", "1e3 to 2e3", "12 to 15 20", "12 to", "[12, 15", "1 to 2,", "1 to 2 4 to 5",
        "1:75 to 2:00", "١٢ to ١٥", "１ to ２", "1² to 3", "9" * 400 + " to " + "9" * 401, "12,5 to 15,5", "[[]]",
        "1 to 2, none", "12.0 minutes to 15 minutes",
    ],
)  # fmt: skip
def test_what_is_not_spans_alone_is_not_read(text: str) -> None:
    assert read_spans(text) is None


def test_the_reader_of_time_r1_takes_the_last_match_of_the_last_tag() -> None:
    assert read_time_r1("<answer>1 to 2</answer> <answer>from 3.5 to 4 or 5 and 6.</answer> 8 to 9") == ((5.0, 6.0),)
    assert read_time_r1("it lasts from 12. to 15.5 seconds") == ((12.0, 15.5),)
    assert read_time_r1("15 to 12") is None
    assert read_time_r1("nothing") is None


@pytest.mark.parametrize("text", ["9" * 200_000, "9." * 100_000, "1 to 2, " * 50_000, "[" * 100_000, "1:" * 100_000])
def test_reading_does_not_blow_up(text: str) -> None:
    assert read_spans(text) is None
    read_time_r1(text)


# Gold is [2, 6] of a video of 10 s.
# [4, 8]: 2 s are shared, the union [2, 8] has 6 s: 1/3. v2: both ends differ by 2 s: 1/3 * 0.8 * 0.8 = 0.21333
# [7, 9]: nothing shared. Hull or not: 0.
# [2, 6]: 1.  [0, 10]: 4/10; v2: 0.4 * (1 - 0.2) * (1 - 0.4) = 0.192
@pytest.mark.parametrize(
    ("reply", "v1", "v2"),
    [
        ("4 to 8", 1 / 3, 1 / 3 * 0.64),
        ("7 to 9", 0.0, 0.0),
        ("2 to 6", 1.0, 1.0),
        ("0 to 10", 0.4, 0.192),
        ("4 to 4", 0.0, 0.0),
        ("6 to 2", 0.0, 0.0),
        ("0 to 1000000000000", 4e-12, 0.0),  # the end is further off than the video is long: not below 0
        ("", 0.0, 0.0),
        ("none", 0.0, 0.0),
    ],
)
def test_worked_examples(reply: str, v1: float, v2: float) -> None:
    assert score(reply) == pytest.approx(v1)
    assert score(reply, reward=variant("tiou_v2")) == pytest.approx(v2)


def test_hull_and_true_union_differ_where_there_is_a_gap() -> None:
    # gold [2, 4] and [6, 8], reply [2, 4]: 2 s shared; the union has 4 s (1/2), the hull [2, 8] has 6 s (1/3)
    answer = "2 to 4 and 6 to 8"
    assert score("2 to 4", answer) == pytest.approx(1 / 2)
    assert score("2 to 4", answer, variant("tiou_hull")) == pytest.approx(1 / 3)


def test_several_intervals_are_merged_and_swept() -> None:
    # gold [0, 4] + [6, 10]: 8 s. reply [1, 3] + [2, 7] = [1, 7]: 6 s. shared [1, 4] + [6, 7]: 4 s. union 8 + 6 - 4 = 10
    assert score("1 to 3, 2 to 7", "0 to 4 and 6 to 10") == pytest.approx(0.4)
    # v2: the first starts differ by 1, the last ends by 3: 0.4 * 0.9 * 0.7
    assert score("1 to 3, 2 to 7", "0 to 4 and 6 to 10", variant("tiou_v2")) == pytest.approx(0.252)


def test_several_spans_where_one_is_asked_for() -> None:
    assert score("2 to 6, 2 to 6") == 0.0
    # all of it is listed: [0, 10] once merged, of which 4 s are gold
    assert score("0 to 5, 5 to 10", reward=variant("tiou_intervals")) == pytest.approx(0.4)
    assert score("I think 7 to 9. Or 2 to 6", reward=variant("tiou_time_r1")) == 1.0


def test_the_variants_of_time_r1_on_their_own_example() -> None:
    # inter [4, 6], hull [2, 8]
    reply = "<answer>the event is from 4.0 to 8.0</answer>"
    assert score(reply, reward=variant("tiou_time_r1")) == pytest.approx(1 / 3)
    assert score(reply, reward=variant("tiou_v2_time_r1")) == pytest.approx(1 / 3 * 0.64)
    assert score(reply) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ([(3.0, 3.0)], [(3.0, 3.0)], 1.0),  # the same moment
        ([(3.0, 3.0)], [(4.0, 4.0)], 0.0),
        ([(3.0, 3.0)], [(2.0, 4.0)], 0.0),
        ([(2.0, 4.0)], [(3.0, 3.0)], 0.0),
        ([], [], 1.0),
        ([], [(2.0, 4.0)], 0.0),
        ([(2.0, 4.0)], [], 0.0),
        ([(1.0, 2.0), (2.0, 3.0)], [(1.0, 3.0)], 1.0),  # they touch
        ([(0.0, 1.7e308)], [(0.0, 1.0)], 0.0),
    ],
)
def test_degenerate_spans(one: list[Span], other: list[Span], value: float) -> None:
    assert iou(one, other) == pytest.approx(value)
    assert iou(one, other, "hull") == pytest.approx(value)


def test_iou_equals_counting_seconds() -> None:
    rng = random.Random(0)
    for _ in range(300):
        one, other = (
            [(float(a), float(a + rng.randint(0, 6))) for a in rng.choices(range(20), k=rng.randint(1, 4))]
            for _ in "ab"
        )
        cells = [{t for s, e in spans for t in range(int(s), int(e))} for spans in (one, other)]
        if cells[0] | cells[1]:
            assert iou(one, other) == pytest.approx(len(cells[0] & cells[1]) / len(cells[0] | cells[1]))
        assert iou(one, other) == iou(other, one)
        assert 0.0 <= iou(one, other, "hull") <= iou(one, other) <= 1.0
        assert all(a[1] < b[0] for a, b in zip(merged(one), merged(one)[1:], strict=False))


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " ",
        "A B C D",
        "nan",
        "inf to inf",
        "0 to inf",
        "-1 to 1",
        "2 to 6 " * 50,
        "２ to ６",
        "\\boxed{2 to 6}",
        "💥",
    ],
)
def test_nothing_is_won_by_what_cannot_be_read(reply: str) -> None:
    for name in ("tiou_v2", "tiou_hull", "tiou_intervals"):
        assert score(reply, reward=variant(name)) == 0.0
    assert score(reply) == 0.0


def test_everything_is_worth_less_than_what_is_right() -> None:
    for reward in (TemporalIoU(), *map(variant, VARIANTS)):
        assert score("0 to 10", reward=reward) <= 0.4 < score("2 to 6", reward=reward) == 1.0


def test_a_reply_that_was_cut_off_is_worth_nothing() -> None:
    one = episode(world(), replies={"q": "2 to 6"}, finished=False)
    scored = TemporalIoU()(one, alone(one))
    assert scored is not None and (scored.score, scored.parts) == (0.0, {"iou": 0.0, "read": 0.0})


def test_boxes_are_opened_where_the_recipe_says_so() -> None:
    assert score("\\boxed{2 to 6}", reward=TemporalIoU(answer_in="boxed")) == 1.0
    assert score("2 to 6", reward=TemporalIoU(answer_in="boxed")) == 0.0


def asks_for_spans(of: Sample) -> bool:
    one = episode(of, replies={"q": "2 to 6"})
    return TemporalIoU()(one, alone(one)) is not None


def test_which_queries_ask_for_spans_depends_on_the_sample_alone() -> None:
    assert asks_for_spans(world())
    assert not asks_for_spans(world("a red circle"))
    assert not asks_for_spans(world("12"))
    assert not asks_for_spans(world("none"))
    assert not asks_for_spans(world("2 to 6", options=("2 to 6", "3 to 4")))
    assert asks_for_spans(world("none", kind="grounding"))


def test_where_gold_is_empty_only_an_empty_reply_is_right() -> None:
    for reply, value in (("none", 1.0), ("[]", 1.0), ("2 to 6", 0.0), ("", 0.0)):
        one = episode(world("none", kind="grounding"), replies={"q": reply})
        scored = TemporalIoU()(one, alone(one))
        assert scored is not None and scored.score == value


def test_a_grounding_query_in_other_words_has_its_evidence() -> None:
    of = world("when the door opens", kind="grounding", evidence=((2.0, 6.0),))
    one = episode(of, replies={"q": "4 to 8"})
    scored = TemporalIoU()(one, alone(one))
    assert scored is not None and scored.score == pytest.approx(1 / 3)
    bare = world("when the door opens", kind="grounding")
    with pytest.raises(RewardError, match=r"sample 'a', query 'q'.*must read as spans"):
        TemporalIoU()(episode(bare), alone(episode(bare)))


def test_the_mean_is_over_the_queries_that_ask_for_spans() -> None:
    of = sample(ask("q", "2 to 6", time=10.0), ask("r", "0 to 1", time=10.0), ask("s", "blue", time=10.0), segments=10)
    one: Episode = episode(of, replies={"q": "2 to 6", "r": "", "s": "red"})
    scored = TemporalIoU()(one, alone(one))
    assert scored is not None and scored.score == 0.5 and math.isclose(scored.parts["read"], 0.5)
