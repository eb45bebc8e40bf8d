"""Accuracy by type of answer, which reply counts, and that evaluation counts the same."""

import random
from dataclasses import replace
from typing import Any

import pytest

from evaluation import predict, scores
from rewards.accuracy import (
    F1,
    OPEN,
    VARIANTS,
    Accuracy,
    Exact,
    MultipleChoice,
    Number,
    Ocr,
    Regression,
    Rouge,
    Rounded,
    Verbatim,
    YesNo,
)
from rewards.base import RewardError
from rewards.overlap import rouge_n
from rewards.queries import counting_reply, spoke_early
from rewards.registry import build
from tests.rewards.episodes import Ask, alone, ask, episode, sample, standing, turn
from whilst.episode import Episode
from whilst.sample import Sample

OPTIONS = ("red circle", "blue square", "cat")


def scored(reward: Any, one: Episode) -> float | None:
    given = reward(one, alone(one))
    return None if given is None else given.score


def replied(reward: Any, gold: str, reply: str, **fields: Any) -> float | None:
    """The score of one reply to one query."""
    return scored(reward, episode(sample(ask("q", gold, **fields)), replies={"q": reply}))


# ---- Types of answers.


@pytest.mark.parametrize("gold", ["B", "blue square"])
@pytest.mark.parametrize(
    ("reply", "score"),
    [("B", 1), ("b.", 1), ("(B)", 1), ("blue square", 1), ("Blue square.", 1), ("A", 0), ("B B", 0), ("A or B", 0)],
)
def test_multiple_choice(gold: str, reply: str, score: float) -> None:
    assert replied(MultipleChoice(), gold, reply, options=OPTIONS) == score
    assert replied(Accuracy(), gold, reply, options=OPTIONS) == score


def test_two_options_of_one_text_are_one_option() -> None:
    assert replied(MultipleChoice(), "C", "B", options=("red", "blue", "blue")) == 1.0


def test_a_choice_whose_answer_is_no_option_is_an_error() -> None:
    valid = sample(ask("q", "B", options=OPTIONS))
    query = replace(valid.queries()[0], options=("only one",))
    broken = valid.with_events(query if event == valid.queries()[0] else event for event in valid.events)
    with pytest.raises(RewardError, match="'q'.*'B'.*none of its options"):
        scored(MultipleChoice(), episode(broken, replies={"q": "A"}))


@pytest.mark.parametrize(("reply", "score"), [("Yes.", 1), ("no", 0), ("yes no", 0), ("yes it is", 0), ("", 0)])
def test_yes_no(reply: str, score: float) -> None:
    assert replied(YesNo(), "yes", reply) == replied(Accuracy(), "yes", reply) == score
    assert replied(YesNo(), "red", reply) is None


@pytest.mark.parametrize(
    ("reply", "tolerance", "score"),
    [
        ("50", {}, 1),
        ("50.0", {}, 1),
        ("51", {}, 0),
        ("51", {"absolute": 1.0}, 1),
        ("51.1", {"absolute": 1.0}, 0),
        ("55", {"relative": 0.1}, 1),  # 0.1 * 50 = 5
        ("44.9", {"relative": 0.1}, 0),
        ("44.9", {"relative": 0.1, "absolute": 6.0}, 1),  # the wider of both
        ("nan", {"absolute": 1e300}, 0),
        ("inf", {"absolute": 1e300}, 0),
        ("-1e999", {"relative": 0.99}, 0),
        ("1e308", {}, 0),
        ("٥٠", {}, 0),
        ("50 50", {}, 0),
        ("about 50", {}, 0),
    ],
)
def test_number(reply: str, tolerance: dict[str, float], score: float) -> None:
    assert replied(Number(**tolerance), "50", reply) == replied(Accuracy(**tolerance), "50", reply) == score


def test_numbers_so_far_apart_that_their_difference_overflows() -> None:
    assert replied(Number(absolute=1e308), "1e308", "-1e308") == 0.0
    assert replied(Regression(), "1e308", "-1e308") == 0.0
    assert replied(Number(), "red", "-1e308") is None


@pytest.mark.parametrize("wrong", [{"absolute": -1.0}, {"relative": 1.0}, {"relative": -0.1}])
def test_tolerances_out_of_range(wrong: dict[str, float]) -> None:
    for kind in (Number, Accuracy):
        with pytest.raises(RewardError, match=next(iter(wrong))):
            kind(**wrong)


@pytest.mark.parametrize(
    ("gold", "reply", "score"),
    [
        ("3.14", "3.141", 1),  # both 3.14
        ("3.14", "3.15", 0),
        ("3", "3.0", 0),  # one has a decimal sign
        ("3", "3", 1),
        ("1,000", "1000", 0),  # a comma is one, in Video-R1
        ("1,000", "1000.0", 1),
        ("3", "nan", 0),
    ],
)
def test_rounded_as_video_r1(gold: str, reply: str, score: float) -> None:
    assert replied(Rounded(), gold, reply) == score


@pytest.mark.parametrize(
    ("gold", "reply", "score"),
    [
        ("10", "10", 1.0),
        ("10", "9", 0.9),  # 1 - 1/10
        ("-10", "-12.5", 0.75),
        ("10", "0", 0.0),
        ("10", "25", 0.0),  # 1 - 1.5, clipped
        ("0", "0", 1.0),
        ("0", "0.1", 0.0),
        ("10", "ten", 0.0),
    ],
)
def test_regression(gold: str, reply: str, score: float) -> None:
    assert replied(Regression(), gold, reply) == pytest.approx(score)


def test_regression_as_video_r1() -> None:
    reward = Regression(epsilon=1e-9)
    assert replied(reward, "10", "9") == pytest.approx(1 - (1 + 1e-9) / (10 + 1e-9), abs=1e-15)
    assert replied(reward, "0", "0") == 0.0  # (0 + 1e-9) / (0 + 1e-9) = 1: a right 0 earns nothing there


@pytest.mark.parametrize(
    ("reward", "gold", "reply", "score"),
    [
        (Exact(), "red circle", " Red  circle. ", 1.0),
        (Exact(), "red circle", "red circle red circle", 0.0),
        (Exact(), "red circle", "the red circle", 0.0),
        (Exact(), ".", ".", 1.0),
        (Verbatim(), "red circle", " red circle\n", 1.0),
        (Verbatim(), "red circle", "Red circle", 0.0),
        # said {red, big, circle}, wanted {red, circle}: 2 in common, 2*2/(3+2)
        (F1(), "a red circle", "The red, big circle!", 0.8),
        # repeated words count once: 2*2/(6+2)
        (F1(), "red circle", "red circle red circle red circle", 0.5),
        (F1(), "the", "the", 1.0),
        (F1(), "the", "", 0.0),
        (F1(), "!", "?", 0.0),
        # the same: every part is 1
        (Rouge(), "the red circle moves", "The red circle moves.", 1.0),
        # R-1: 3 of 4 and 3, 6/7. R-2: (red circle) of 3 and 2 bigrams, 2/5. R-L: red circle moves, 6/7
        (Rouge(), "red circle moves", "red circle then moves", (6 / 7 + 2 / 5 + 6 / 7) / 3),
        # backwards: R-1 1, R-2 0, R-L 1 word of 3 and 3
        (Rouge(), "a b c", "c b a", (1 + 0 + 1 / 3) / 3),
        (Rouge(), "red", "red", 1.0),
        # one substitution, one insertion: 2 edits of 4 words
        (Ocr(), "exit on the left", "exit at the left side", 0.5),
        (Ocr(), "exit", "exit exit exit", 0.0),  # 1 - 2, clipped
        (Ocr(), "EXIT", "EXIT", 1.0),
    ],
)
def test_open_answers(reward: Any, gold: str, reply: str, score: float) -> None:
    assert replied(reward, gold, reply) == pytest.approx(score)


def test_accuracy_compares_open_answers_as_asked() -> None:
    assert replied(Accuracy(), "red circle", "red") == 0.0
    assert replied(Accuracy(open="f1"), "red circle", "red") == pytest.approx(2 / 3)
    assert replied(Accuracy(open="ocr"), "red circle", "red") == 0.5
    assert replied(Accuracy(open="verbatim"), "red", "Red") == 0.0
    assert set(OPEN) == {"exact", "verbatim", "f1", "rouge", "ocr"}


@pytest.mark.parametrize(
    ("place", "reply", "score"),
    [
        ("boxed", r"I saw it: \boxed{red}", 1),
        ("boxed", r"\boxed{red} \boxed{blue}", 0),
        ("boxed", "red", 0),
        ("tag", "<think>blue</think><answer>red</answer>", 1),
        ("tag", "<answer>red</answer><answer>red</answer>", 0),
        ("whole", r"\boxed{red}", 0),
    ],
)
def test_where_the_answer_stands(place: Any, reply: str, score: float) -> None:
    assert replied(Accuracy(answer_in=place), "red", reply) == score


def test_a_samples_own_answer_is_right_wherever_it_stands() -> None:
    assert replied(Accuracy(answer_in="boxed"), r"It is \boxed{5}", r"So, \boxed{5.0}") == 1.0
    assert replied(Accuracy(), r"It is \boxed{5}", r"It is \boxed{5}") == 1.0


@pytest.mark.parametrize(
    ("variant", "gold", "reply", "fields", "score"),
    [
        ("video_r1_multiple_choice", "B", "<answer>B</answer>", {"options": OPTIONS}, 1.0),
        ("video_r1_numerical", "2.50", "<think>x</think><answer>2.5</answer>", {}, 1.0),
        ("video_r1_ocr", "exit left", "<answer>exit</answer>", {}, 0.5),
        ("video_r1_free_form", "red circle", "<answer>red circle</answer>", {}, 1.0),
        ("video_r1_regression", "4", "<answer>3</answer>", {}, 0.75),
        ("vst_accuracy", "red", r"\boxed{red}", {}, 1.0),
    ],
)
def test_variants(variant: str, gold: str, reply: str, fields: dict[str, Any], score: float) -> None:
    assert replied(build(variant, {}), gold, reply, **fields) == pytest.approx(score, abs=1e-8)
    assert set(VARIANTS) >= {variant}


# ---- Several queries.


def test_mean_over_queries_and_parts_by_kind() -> None:
    shown = sample(
        ask("a", "red", kind="backward"), ask("b", "3", kind="counting"), ask("c", "no", kind="backward"), ask("d", "x")
    )
    one = episode(shown, replies={"a": "red", "b": "4", "c": "no", "d": "x"})
    given = Accuracy()(one, alone(one))
    assert given is not None and given.score == 0.75
    assert given.parts == {
        "accuracy/backward": 1.0,
        "accuracy/counting": 0.0,
        "accuracy/other": 1.0,
        "queries/backward": 2.0,
        "queries/counting": 1.0,
        "queries/other": 1.0,
    }
    assert scored(Accuracy(kinds=("counting", "other")), one) == 0.5
    assert scored(Accuracy(kinds=("forward",)), one) is None
    assert scored(YesNo(), one) == 1.0  # c alone
    assert scored(Number(), one) == 0.0  # b alone
    assert scored(MultipleChoice(), one) is None


def test_a_sample_without_queries() -> None:
    assert scored(Accuracy(), episode(sample(), ["red"])) is None


def test_a_reply_that_was_cut_off_is_wrong() -> None:
    shown = sample(ask("q", "red"))
    assert scored(Accuracy(), episode(shown, replies={"q": "red"}, finished=False)) == 0.0
    assert scored(Accuracy(), Episode(shown, ())) == 0.0


def test_the_first_of_several_replies_counts() -> None:
    shown = sample(ask("q", (1.0, ""), (2.0, "red"), time=1.0))
    assert scored(Accuracy(), episode(shown, replies={"q": [(1.0, "red"), (2.0, "blue")]})) == 1.0
    assert scored(Accuracy(), episode(shown, replies={"q": [(2.0, "red")]})) == 0.0


@pytest.mark.parametrize(
    ("replies", "score"),
    [
        ([(2.0, "now")], 1.0),  # the first poll of the window
        ([(2.0, "now"), (3.0, "then"), (4.0, "x")], 1.0),  # later ones are not looked at
        ([(3.0, "now")], 0.0),  # the first poll of the window was silent
        ([(1.0, "now"), (2.0, "now")], 0.0),  # too early
        ([(1.0, "wait"), (2.0, "now")], 0.0),
        ([], 0.0),
        ([(4.0, "now")], 0.0),  # after the window
    ],
)
def test_standing_queries(replies: list[tuple[float, str]], score: float) -> None:
    shown = sample(standing("f", "now", 0.0, (2.0, 3.0), 4.0))
    one = episode(shown, replies={"f": replies})
    assert scored(Accuracy(), one) == score
    query = shown.queries()[0]
    assert spoke_early(query, one.replies_to("f")) == any(time < 2.0 for time, _ in replies)
    reply = counting_reply(query, one.replies_to("f"))
    assert reply is not None and reply.time == 2.0


def test_a_reply_after_the_window_does_not_count() -> None:
    shown = sample(ask("f", (1.0, ""), (4.0, "now"), time=1.0, kind="forward", window=(2.0, 3.0)))
    one = episode(shown, replies={"f": "now"})
    assert counting_reply(shown.queries()[0], one.replies_to("f")) is None
    late = episode(shown, replies={"f": [(4.0, "now")]})
    assert scored(Accuracy(), one) == scored(Accuracy(), late) == 0.0


def test_texts_without_ngrams_have_none_in_common() -> None:
    assert rouge_n(["a"], ["a"], 2) == 0.0
    assert rouge_n(["a", "b"], ["a", "b"], 2) == 1.0


# ---- Evaluation counts the same.


def random_case(draw: random.Random, number: int) -> tuple[Sample, Episode]:
    words = ["red", "blue", "now", "green tea"]
    asks: list[Ask] = []
    for i in range(draw.randint(1, 5)):
        kind = draw.choice(["backward", "counting", "forward", "forward", None])
        if kind == "forward" and draw.random() < 0.8:
            start = draw.randint(0, 4)
            end = draw.randint(start, 5)
            asks.append(
                standing(f"q{i}", draw.choice(words), draw.randint(0, start), (start, end), draw.randint(end, 6))
            )
        else:
            polls = sorted(draw.sample(range(7), draw.randint(1, 3)))
            replies = [(float(t), draw.choice([*words, ""])) for t in polls]
            replies[-1] = (replies[-1][0], draw.choice(words))
            asks.append(ask(f"q{i}", *replies, time=float(polls[0]), kind=kind))
    shown = sample(*asks, segments=6, id=f"s{number}")
    golds = {q.id: shown.answers_to(q.id)[0].text for q in shown.queries()}
    said = {
        q.id: [
            (p, draw.choice([golds[q.id], golds[q.id], "", "", draw.choice(words), f" {golds[q.id]} ", " "]))
            for p in range(7)
        ]
        for q in shown.queries()
    }
    one = episode(shown, replies={name: [(float(t), text) for t, text in given] for name, given in said.items()})
    turns = tuple(replace(t, finished=draw.random() < 0.9) for t in one.turns if draw.random() < 0.97)
    return shown, replace(one, turns=turns)


def test_rewards_and_evaluation_agree_on_random_episodes() -> None:
    draw = random.Random(0)
    rights = []
    for number in range(500):
        shown, one = random_case(draw, number)
        replies = [predict.Reply(str(t.query), t.time, t.text, t.finished) for t in one.turns if t.query is not None]
        draw.shuffle(replies)
        evaluated = scores.score([shown], [predict.Episode(shown.id, replies=replies)])
        # words of one case without signs: exact and verbatim are the same on them
        for reward in (Verbatim(), Exact(), Accuracy()):
            given = reward(one, alone(one))
            assert given is not None
            assert given.score == pytest.approx(sum(item.right for item in evaluated) / len(evaluated)), number
            for kind in {item.kind for item in evaluated}:
                of_kind = [item.right for item in evaluated if item.kind == kind]
                assert given.parts[f"accuracy/{kind}"] == pytest.approx(sum(of_kind) / len(of_kind)), number
                assert given.parts[f"queries/{kind}"] == len(of_kind)
        rights += [item.right for item in evaluated]
    assert 300 < sum(rights) < len(rights) - 300  # both outcomes are common: agreement means something


def test_turns_out_of_order_change_nothing() -> None:
    shown = sample(standing("f", "now", 0.0, (2.0, 3.0), 4.0))
    turns = tuple(turn("answer", float(t), t - 1, "f", "now" if t == 2 else "") for t in range(5))
    assert scored(Accuracy(), Episode(shown, turns)) == scored(Accuracy(), Episode(shown, turns[::-1])) == 1.0
