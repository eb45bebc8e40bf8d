"""Samples that are too easy or too hard are left out, with the figure that says so; what was rolled out is kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.mix import RewardMix, RewardTerm
from tests.rewards.episodes import ask, episode
from tests.rewards.episodes import sample as asked
from train import difficulty
from train.difficulty import (
    Difficulty,
    keep_by_difficulty,
    measure,
    read_difficulty,
    rolled_out,
    write_difficulty,
)
from train.policies import Limits, Task
from train.pool import ClipStore, PoolError
from whilst.episode import Episode
from whilst.sample import Sample, Segment, Thought, Video
from whilst.video import VideoError


def sample(id: str, *ends: float, start: float = 0.0, video: str = "video.mp4") -> Sample:
    """Segments that follow each other from `start` to each of `ends`."""
    begins = (start, *ends[:-1])
    return Sample(id, Video(video), tuple(Segment(a, b) for a, b in zip(begins, ends, strict=True)))


SUCCESS = {"a": [0.0, 0.0], "b": [1.0, 0.0], "c": [1.0, 1.0], "d": [0.5, 0.0]}
SETTINGS = Difficulty(rollouts=2, low=0.25, high=0.75)


def test_too_hard_and_too_easy_are_rejected_with_the_figure() -> None:
    """Means 0, 0.5, 1, 0.25; bounds count as inside."""
    kept, rejected = keep_by_difficulty(SUCCESS, SETTINGS)
    assert kept == ["b", "d"] and len(kept) + len(rejected) == len(SUCCESS)
    assert {one.sample: one.reason for one in rejected} == {
        "a": "too hard: mean success 0 of 2 rollouts is below 0.25",
        "c": "too easy: mean success 1 of 2 rollouts is above 0.75",
    }


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan")], [1.0, 2.0], [-0.1, 0.0]])
def test_successes_that_cannot_be_are_named(values: list[float]) -> None:
    with pytest.raises(PoolError, match="sample x: needs 2 successes of 0 to 1"):
        keep_by_difficulty({"x": values}, SETTINGS)


@pytest.mark.parametrize("fields", [(0, 0.1, 0.9), (2, 0.9, 0.1), (2, -0.1, 0.5), (2, 0.1, 1.5), (2, float("nan"), 1)])
def test_settings_that_make_no_sense_are_named(fields: tuple[int, float, float]) -> None:
    with pytest.raises(PoolError, match="difficulty: needs rollouts >= 1 and 0 <= low <= high <= 1"):
        Difficulty(*fields)


@pytest.fixture
def rolled(tmp_path: Path) -> tuple[Path, list[Sample]]:
    samples = [sample(id, 1.0, 2.0) for id in SUCCESS]
    made_with = {"checkpoint": "runs/x", "limits": (16, 8)}
    write_difficulty(tmp_path / "difficulty.jsonl", samples, SUCCESS, SETTINGS, made_with)
    return tmp_path / "difficulty.jsonl", samples


def test_what_was_rolled_out_is_read_back(rolled: tuple[Path, list[Sample]]) -> None:
    path, samples = rolled
    made_with = {"checkpoint": "runs/x", "limits": (16, 8)}
    assert read_difficulty(path, samples, SETTINGS, made_with) == SUCCESS
    assert read_difficulty(path, samples, Difficulty(2, 0.0, 1.0), made_with) == SUCCESS  # other bounds, same rollouts
    moved = [replace(one, video=Video("elsewhere/video.mp4")) for one in samples]
    assert read_difficulty(path, moved, SETTINGS, made_with) == SUCCESS
    assert [file.name for file in path.parent.iterdir()] == ["difficulty.jsonl"]


def test_a_file_that_does_not_fit_is_named(rolled: tuple[Path, list[Sample]]) -> None:
    path, samples = rolled
    made_with = {"checkpoint": "runs/x", "limits": (16, 8)}
    with pytest.raises(PoolError, match="made with rollouts = 2, not 4; remove it"):
        read_difficulty(path, samples, Difficulty(4, 0.25, 0.75), made_with)
    with pytest.raises(PoolError, match="made with checkpoint = 'runs/x', not 'runs/y'"):
        read_difficulty(path, samples, SETTINGS, made_with | {"checkpoint": "runs/y"})
    with pytest.raises(PoolError, match="made with seed = None, not 1"):
        read_difficulty(path, samples, SETTINGS, made_with | {"seed": 1})
    with pytest.raises(PoolError, match="sample d is in the file or in the data, but not in both"):
        read_difficulty(path, samples[:3], SETTINGS, made_with)
    with pytest.raises(PoolError, match="sample e is in the file or in the data, but not in both"):
        read_difficulty(path, [*samples, sample("e", 1.0)], SETTINGS, made_with)
    other = replace(samples[1], events=(*samples[1].events, Thought(2.0, "now")))
    with pytest.raises(PoolError, match="sample b has changed since it was rolled out"):
        read_difficulty(path, [samples[0], other, *samples[2:]], SETTINGS, made_with)


@pytest.mark.parametrize("text", ["", "{}\n", '{"schema": "whilst.difficulty/1"}\n', "[1]\n", "{broken"])
def test_a_file_of_something_else_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.jsonl").write_text(text)
    with pytest.raises(PoolError, match=r"d.jsonl.*remove it, and the samples are rolled out again"):
        read_difficulty(tmp_path / "d.jsonl", [], SETTINGS, {})


def test_a_torn_line_is_named(rolled: tuple[Path, list[Sample]]) -> None:
    path, samples = rolled
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:-5], *lines[3:]]))
    with pytest.raises(PoolError, match=r"difficulty.jsonl:3: not a line of schema"):
        read_difficulty(path, samples, SETTINGS, {"checkpoint": "runs/x", "limits": (16, 8)})
    record = json.loads(lines[1])
    assert record == {"sample": "a", "digest": record["digest"], "success": [0.0, 0.0]}


class Scripted:
    """Answers the first `right` of every sample's rollouts as the sample does, the others wrong."""

    def __init__(self, right: dict[str, int]) -> None:
        self.right, self.synced = right, 0

    def sync(self) -> None:
        self.synced += 1

    def rollout(self, tasks: Sequence[Task], limits: Limits) -> list[Episode]:
        assert len({task.seed for task in tasks}) == len(tasks)
        return [self._episode(task) for task in tasks]

    def _episode(self, task: Task) -> Episode:
        gold = task.sample.answers_to("q")[0]
        said = gold.text if task.rollout < self.right[task.sample.id] else "something else"
        return episode(task.sample, replies={"q": [(gold.time, said)]}, rollout=task.rollout)


def fail() -> None:
    raise VideoError("it cannot be read")


def test_difficulty_is_the_first_reward_over_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [asked(ask("q", "which ?", "red"), id=name) for name in ("none", "some", "all")]
    policy = Scripted({"none": 0, "some": 1, "all": 4})
    store = ClipStore(2.0, 0.0)
    monkeypatch.setattr(store, "get", lambda sample, fps=None: () if sample.id != "broken" else fail())
    mix = RewardMix([RewardTerm("exact"), RewardTerm("brevity", weight=0.1)])
    settings = Difficulty(rollouts=4, low=0.1, high=0.9)
    numbered = dict(enumerate(samples))
    success = measure(numbered, policy, store, mix, settings, Limits(4, 4), seed=0)
    assert success == {"none": [0.0] * 4, "some": [1.0, 0.0, 0.0, 0.0], "all": [1.0] * 4}
    kept, rejected = keep_by_difficulty(success, settings)
    assert kept == ["some"] and [r.sample for r in rejected] == ["none", "all"] and policy.synced == 1
    broken = measure(
        {7: replace(samples[0], id="broken")} | numbered, policy, store, mix, settings, Limits(4, 4), seed=0
    )
    assert broken == {"broken": []} | success
    assert keep_by_difficulty(broken, settings)[0] == ["broken", "some"], "rollouts reject it, and say why"
    with pytest.raises(PoolError, match="sample none: reward tiou gives no share of 0 to 1"):
        measure(numbered, policy, store, RewardMix([RewardTerm("tiou")]), settings, Limits(4, 4), seed=0)
    with pytest.raises(PoolError, match="t_grpo, compares rollouts"):
        measure(numbered, policy, store, RewardMix([RewardTerm("t_grpo")]), settings, Limits(4, 4), seed=0)


def test_what_was_rolled_out_before_a_run_was_stopped_is_not_rolled_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(difficulty, "AT_ONCE", 1)
    file, samples = tmp_path / "difficulty.jsonl", [sample(id, 1.0, 2.0) for id in SUCCESS]
    measured: list[str] = []

    def measure(some: Mapping[int, Sample]) -> dict[str, list[float]]:
        (one,) = some.values()
        if len(measured) == 2:
            raise ZeroDivisionError("a reward with a bug")
        measured.append(one.id)
        assert samples[next(iter(some))] is one, "its number decides its seeds, whoever rolls it out"
        return {one.id: SUCCESS[one.id]}

    with pytest.raises(ZeroDivisionError):
        rolled_out(file, samples, SETTINGS, {}, measure)
    begun = list(measured)
    assert len(begun) == 2 and not file.exists()
    with pytest.raises(PoolError, match=r"made with seed = None, not 1; remove it"):
        rolled_out(file, samples, SETTINGS, {"seed": 1}, measure)
    measured.clear()
    measured += ["-"] * 3  # beyond the bug
    assert rolled_out(file, samples, SETTINGS, {}, measure) == SUCCESS
    assert sorted([*begun, *measured[3:]]) == sorted(SUCCESS)
    assert [one.name for one in tmp_path.iterdir()] == ["difficulty.jsonl"]
    assert rolled_out(file, samples, SETTINGS, {}, lambda some: pytest.fail("it is all there")) == SUCCESS
