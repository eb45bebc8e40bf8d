"""A generation: groups, what is dropped and replaced, what is rejected; perturbed groups share what they can."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards.base import RewardError
from rewards.mix import RewardMix, RewardTerm
from tests.rewards.episodes import ask, episode
from tests.rewards.episodes import sample as asked
from train.policies import Limits, Task
from train.pool import ClipStore, Curriculum, Ramp, SamplePool
from train.rollouts import Generation, Rollouts, RolloutSettings
from train.rows import DataError
from whilst.clips import SegmentClip
from whilst.episode import Episode
from whilst.sample import Sample
from whilst.video import VideoError


class Script:
    """Right in the first `right` rollouts of a sample (by id); perturbed ones are wrong."""

    def __init__(self, right: dict[str, int]) -> None:
        self.right, self.tasks, self.synced = right, list[Task](), 0

    def sync(self) -> None:
        self.synced += 1

    def rollout(self, tasks: Sequence[Task], limits: Limits) -> list[Episode]:
        self.tasks += tasks
        return [self._episode(task) for task in tasks]

    def _episode(self, task: Task) -> Episode:
        right = not task.perturbation and task.rollout < self.right.get(task.sample.id, 1)
        said = {"q": [(4.0, "red" if right else "blue")]}
        return episode(task.sample, replies=said, rollout=task.rollout, perturbation=task.perturbation)


class Store(ClipStore):
    """Four clips of one grey frame each; `broken` cannot be read."""

    def __init__(self, broken: Sequence[str] = ()) -> None:
        super().__init__(2.0, 0.0)
        self.broken, self.rates = broken, list[float | None]()

    def get(self, sample: Sample, fps: float | None = None) -> tuple[SegmentClip, ...]:
        self.rates.append(fps)
        if sample.id in self.broken:
            raise VideoError(f"{sample.id}.mp4: torn")
        rng = np.random.default_rng(0)
        return tuple(
            SegmentClip(s, rng.integers(0, 255, (1, 8, 8, 3), dtype=np.uint8), (s.start,), 2.0)
            for s in sample.segments()
        )


def samples(n: int, **fields: Any) -> list[Sample]:
    return [asked(ask("q", "red", kind="backward", **fields), id=f"s{i}") for i in range(n)]


def rollouts_of(
    tmp_path: Path,
    policy: Script,
    store: Store | None = None,
    *,
    of: Sequence[Sample] | None = None,
    terms: Sequence[RewardTerm] = (RewardTerm("exact"),),
    max_rejected: int = 0,
    curriculum: Curriculum | None = None,
    **settings: Any,
) -> Rollouts:
    chosen = list(of or samples(8))
    return Rollouts(
        chosen,
        SamplePool(chosen, 0, curriculum),
        store or Store(),
        policy,
        RewardMix(terms),
        RolloutSettings(**{"groups": 3, "rollouts": 4} | settings),
        advantage="mean",
        seed=5,
        max_rejected=max_rejected,
        rejected_file=tmp_path / "rejected.jsonl",
    )


def names(groups: Sequence[Sequence[Any]]) -> list[str]:
    return [group[0].episode.sample.id for group in groups]


def test_groups_scores_and_advantages(tmp_path: Path) -> None:
    policy = Script({})
    made = rollouts_of(tmp_path, policy).generation(0, 0, 1)
    assert len(made.groups) == 3 and not made.idle and policy.synced == 1
    for group in made.groups:
        assert [one.episode.rollout for one in group] == [0, 1, 2, 3]
        assert [one.mixed.total for one in group] == [1.0, 0.0, 0.0, 0.0]
        assert [one.advantage for one in group] == [0.75, -0.25, -0.25, -0.25]
    assert len({task.seed for task in policy.tasks}) == len(policy.tasks) == 12
    again = rollouts_of(tmp_path, Script({})).generation(0, 0, 1)
    assert names(again.groups) == names(made.groups)


def test_ranks_roll_out_other_samples(tmp_path: Path) -> None:
    made = [rollouts_of(tmp_path, Script({})).generation(1, rank, 2) for rank in (0, 1)]
    assert not set(names(made[0].groups)) & set(names(made[1].groups))


def test_groups_without_spread_are_replaced_and_counted(tmp_path: Path) -> None:
    right = {f"s{i}": 0 for i in range(8)} | {"s1": 2, "s6": 3}
    made = rollouts_of(tmp_path, Script(right), resample_rounds=2).generation(0, 0, 1)
    assert set(names(made.groups)) <= {"s1", "s6"} and made.groups
    assert all(one.advantage == 0 for group in made.idle for one in group)
    assert made.counts["groups"] == len(made.groups) + len(made.idle) == 3 + made.counts["resampled_groups"]
    assert made.counts["equal_groups"] == len(made.idle)
    whole = rollouts_of(tmp_path, Script(right), drop_equal=False).generation(0, 0, 1)
    assert len(whole.groups) == 3 and not whole.idle
    assert whole.counts["equal_groups"] == sum(name not in ("s1", "s6") for name in names(whole.groups))


def test_what_cannot_be_read_is_rejected_once_and_replaced(tmp_path: Path) -> None:
    chosen = samples(8)
    first = names(rollouts_of(tmp_path, Script({}), of=chosen).generation(0, 0, 1).groups)
    store = Store(broken=[first[1]])
    made = rollouts_of(tmp_path, Script({}), store, of=chosen, max_rejected=1, resample_rounds=1)
    generation = made.generation(0, 0, 1)
    assert len(generation.groups) == 3 and first[1] not in names(generation.groups)
    assert generation.counts["rejected_groups"] == 1
    for number in range(1, 6):
        made.generation(number, 0, 1)
    (line,) = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line) == {"sample": first[1], "reason": f"{first[1]}.mp4: torn"}


def test_too_many_rejections_stop_the_run(tmp_path: Path) -> None:
    store = Store(broken=[f"s{i}" for i in range(8)])
    with pytest.raises(
        DataError, match=r"2 samples cannot be used, data.max_rejected is 1; the last: s\d: s\d.mp4: torn"
    ):
        rollouts_of(tmp_path, Script({}), store, max_rejected=1).generation(0, 0, 1)


def test_a_generation_of_rejected_samples_alone_is_empty(tmp_path: Path) -> None:
    store = Store(broken=[f"s{i}" for i in range(8)])
    made: Generation = rollouts_of(tmp_path, Script({}), store, max_rejected=8).generation(0, 0, 1)
    assert not made.judged and made.counts["rejected_groups"] == 3


def test_perturbed_groups_share_one_change_and_reach_the_reward(tmp_path: Path) -> None:
    policy = Script({f"s{i}": 4 for i in range(8)} | {"s0": 4})
    terms = [RewardTerm("exact"), RewardTerm("t_grpo", parameters={"bonus": 0.3, "ratio": 0.8})]
    made = rollouts_of(tmp_path, policy, terms=terms, drop_equal=False).generation(0, 0, 1)
    shuffled = [task for task in policy.tasks if task.perturbation == "shuffled_frames"]
    assert len(shuffled) == 12 and len({id(task.clips) for task in shuffled}) == 3  # encoded once a sample
    assert {task.seed for task in shuffled} == {task.seed for task in policy.tasks if not task.perturbation}
    # accuracy 1 against 0 of shuffled frames: everyone gets the bonus
    assert {one.mixed.terms["t_grpo"].score for group in made.groups for one in group} == {0.3}  # type: ignore[union-attr]


def test_evidence_is_removed_where_there_is_some(tmp_path: Path) -> None:
    chosen = [asked(ask("q", "red", evidence=((1.0, 2.0),)), id="with"), asked(ask("q", "red"), id="without")]
    policy = Script({})
    terms = [RewardTerm("exact"), RewardTerm("evidence_contrast")]
    made = rollouts_of(tmp_path, policy, of=chosen, terms=terms, groups=2).generation(0, 0, 1)
    assert {t.sample.id for t in policy.tasks if t.perturbation} == {"with"}
    applies = {g[0].episode.sample.id: g[0].mixed.terms["evidence_contrast"] is not None for g in made.groups}
    assert applies == {"with": True, "without": False}


def test_permuted_advantages_are_the_groups_own_in_another_order(tmp_path: Path) -> None:
    made = rollouts_of(tmp_path, Script({}), control="permute_advantages").generation(0, 0, 1)
    signals = [[one.advantage for one in group] for group in made.groups]
    assert all(sorted(signal) == [-0.25, -0.25, -0.25, 0.75] for signal in signals)
    assert any(signal[0] != 0.75 for signal in signals)


def test_rewards_in_threads_are_the_same(tmp_path: Path) -> None:
    one, four = (rollouts_of(tmp_path, Script({}), reward_threads=n).generation(0, 0, 1) for n in (1, 4))
    assert [[j.mixed.total for j in g] for g in one.groups] == [[j.mixed.total for j in g] for g in four.groups]


def test_a_reward_that_fails_stops_the_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rollouts_of(tmp_path, Script({}))
    monkeypatch.setitem(made.mix.rewards, "exact", lambda episode, scene: 1 / 0)
    with pytest.raises(RewardError, match=r"reward 'exact' failed on sample 's\d', rollout 0: ZeroDivisionError"):
        made.generation(0, 0, 1)


def test_the_curriculum_reaches_the_frames(tmp_path: Path) -> None:
    store = Store()
    curriculum = Curriculum(frames=Ramp(4, 8, 2))
    made = rollouts_of(tmp_path, Script({}), store, curriculum=curriculum)
    made.generation(0, 0, 1)
    made.generation(2, 0, 1)
    assert store.rates[:3] == [1.0] * 3 and store.rates[3:] == [2.0] * 3  # 4 and 8 frames of 4 seconds


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rollouts": 1}, "rollouts must be at least 2"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"control": "none at all"}, "choose none or permute_advantages"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RolloutSettings(**{"groups": 1, "rollouts": 2} | settings)
