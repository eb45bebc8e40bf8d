"""Contrast with rollouts of a changed video: figures worked out by hand."""

import pytest

from rewards.base import RewardError, Scene
from rewards.contrast import TGRPO, VARIANTS, EvidenceContrast
from tests.rewards.episodes import ask, episode, sample
from whilst.episode import Episode

OPEN = sample(ask("q", "red", kind="backward", evidence=((1.0, 2.0),)), ask("r", "blue", kind="present"))
TEXTS = {0.0: ("", ""), 0.5: ("red", "red"), 1.0: ("red", "blue")}


def rollout(accuracy: float, perturbation: str = "") -> Episode:
    """An episode with this share of its two answers right."""
    q, r = TEXTS[accuracy]
    return episode(OPEN, replies={"q": q, "r": r}, perturbation=perturbation)


def scene(group: list[float], other: list[float], perturbation: str) -> Scene:
    perturbed = tuple(rollout(one, perturbation) for one in other)
    return Scene(tuple(map(rollout, group)), {perturbation: perturbed})


def bonuses(reward: TGRPO, group: list[float], shuffled: list[float]) -> list[float]:
    there = scene(group, shuffled, "shuffled_frames")
    found = [reward(one, there) for one in there.group]
    return [one.score for one in found if one is not None]


# group mean 0.5
@pytest.mark.parametrize(
    ("shuffled", "code", "paper"),
    [
        ([0.0, 0.5], True, True),  # 0.25
        ([0.5, 0.5], True, True),  # 0.5 >= 0.5
        ([0.5, 0.5, 0.5, 0.5, 1.0], True, False),  # 0.6: 0.5 >= 0.48, but not >= 0.6
        ([1.0, 0.5], False, False),  # 0.75: 0.5 < 0.6
    ],
)
def test_the_bonus_of_t_grpo(shuffled: list[float], code: bool, paper: bool) -> None:
    group = [1.0, 0.5, 0.0]
    assert bonuses(TGRPO(), group, shuffled) == ([0.3, 0.3, 0.0] if code else [0.0] * 3)
    published = TGRPO(**VARIANTS["t_grpo_paper"][1])
    assert bonuses(published, group, shuffled) == ([0.3, 0.3, 0.0] if paper else [0.0] * 3)
    assert bonuses(TGRPO(bonus=1.0, floor=0.5), group, shuffled) == ([1.0, 0.0, 0.0] if code else [0.0] * 3)


def test_t_grpo_grades_by_kind_as_video_r1_does() -> None:
    # ROUGE of "a red ball" and "a red cube": (2/3 + 1/2 + 2/3) / 3 = 11/18; relative error of 8 and 10: 0.2
    cases = (("free_form", "a red cube", "a red ball", 11 / 18), ("regression", "10", "8", 0.8))
    for kind, gold, said, graded in cases:
        of = sample(ask("q", gold, kind=kind))
        near, wrong = (episode(of, replies={"q": f"<answer>{text}</answer>"}) for text in (said, "nothing"))
        there = Scene((near, wrong), {"shuffled_frames": (wrong,)})
        by_kind = TGRPO(answer_in="tag", types="video_r1")
        first, second = by_kind(near, there), by_kind(wrong, there)
        assert first is not None and second is not None
        assert (first.score, second.score) == (0.3, 0.0) and first.parts["group"] == pytest.approx(graded / 2)
        exact = TGRPO(answer_in="tag")(near, there)
        assert exact is not None and exact.score == 0.0


def test_where_nobody_is_ever_right_nobody_gets_the_bonus() -> None:
    assert bonuses(TGRPO(), [0.0, 0.0], [0.0]) == [0.0, 0.0]
    assert bonuses(TGRPO(), [0.0, 0.0], [1.0]) == [0.0, 0.0]


def test_figures_of_t_grpo_are_told() -> None:
    there = scene([1.0, 0.0], [0.5], "shuffled_frames")
    scored = TGRPO()(there.group[0], there)
    assert scored is not None and scored.parts == {"group": 0.5, "shuffled": 0.5}


def test_accuracy_less_accuracy_without_the_evidence() -> None:
    there = scene([1.0, 0.5, 0.0], [0.0, 0.5], "evidence_removed")  # mean 0.25
    found = [EvidenceContrast()(one, there) for one in there.group]
    assert [one.score for one in found if one is not None] == pytest.approx([0.75, 0.25, -0.25])
    assert found[0] is not None and found[0].parts == {"whole": 1.0, "removed": 0.25}
    # "backward" alone: q is right in the first and second rollout, and in the second without evidence
    kinds = [EvidenceContrast(kinds=("backward",))(one, there) for one in there.group]
    assert [one.score for one in kinds if one is not None] == pytest.approx([0.5, 0.5, -0.5])


@pytest.mark.parametrize("text", ["", " ", "A B C D", "red blue", "nan", "inf", "9" * 5000, "red " * 50, "💥", "red"])
def test_a_constant_gains_nothing(text: str) -> None:
    """It is the same with or without the frames: the contrast is 0, and the bonus is for what is right alone."""
    group, other = (
        tuple(episode(OPEN, replies={"q": text, "r": text}, perturbation=name) for _ in "ab")
        for name in ("", "evidence_removed")
    )
    one = EvidenceContrast()(group[0], Scene(group, {"evidence_removed": other}))
    assert one is not None and one.score == 0.0
    bonus = TGRPO(floor=0.5)(group[0], Scene(group, {"shuffled_frames": other}))
    assert bonus is not None and bonus.score == 0.0


def test_a_sample_without_queries_is_not_scored() -> None:
    silent = episode(sample())
    assert TGRPO()(silent, Scene((silent,), {"shuffled_frames": (silent,)})) is None
    assert EvidenceContrast()(silent, Scene((silent,), {"evidence_removed": (silent,)})) is None
    there = scene([1.0], [0.0], "evidence_removed")
    assert EvidenceContrast(kinds=("order",))(there.group[0], there) is None


def test_faults_are_errors() -> None:
    one = rollout(1.0)
    for reward, name in ((TGRPO(), "shuffled_frames"), (EvidenceContrast(), "evidence_removed")):
        assert reward.perturbations == (name,)
        with pytest.raises(RewardError, match=f"no rollouts under '{name}'"):
            reward(one, Scene((one,)))
    with pytest.raises(RewardError, match="0 of 1 rollouts can be right or wrong"):
        TGRPO()(one, Scene((one,), {"shuffled_frames": (episode(sample()),)}))
    with pytest.raises(RewardError, match="t_grpo: ratio -1"):
        TGRPO(ratio=-1.0)


def test_answers_in_boxes() -> None:
    one = episode(OPEN, replies={"q": "it was \\boxed{red}", "r": "\\boxed{blue}"})
    there = Scene((one,), {"evidence_removed": (rollout(0.0),)})
    for place, value in (("boxed", 1.0), ("whole", 0.0)):
        scored = EvidenceContrast(answer_in=place)(one, there)  # type: ignore[arg-type]
        assert scored is not None and scored.score == value


def test_without_evidence_the_contrast_does_not_apply() -> None:
    asked = sample(ask("q", "red", kind="backward"))
    told = [episode(asked, replies={"q": text}) for text in ("red", "blue", "")]
    assert [EvidenceContrast()(one, Scene((one,))) for one in told] == [None] * 3
