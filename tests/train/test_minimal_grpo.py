"""The minimal loop and the trainer on TRL are one algorithm: same episodes, same gradients, on the first pass over a
generation and on a later one, where ratios are clipped and the KL is not zero."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from rewards.mix import RewardTerm
from train import minimal_grpo
from train.grpo import build_trainer
from train.grpo_recipe import EpisodeData, GRPORecipe, LossSettings
from train.grpo_trainer import EpisodeGRPOTrainer
from train.minimal_grpo import Settings, Tokens, log_probs, make_tasks, most_tokens, objective, play, prepare
from train.pool import SamplePool
from train.rollouts import RolloutSettings
from train.stage import ModelSettings, OptimSettings
from whilst.backbones.base import load
from whilst.checkpoint import CONTRACT, Contract
from whilst.recipe import save_resolved
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video, read_samples, write_jsonl
from whilst.video import write_video

RENDERS = {
    "recurrent_packed": RenderConfig(layout="recurrent_packed", rule="text_memory", memory_tokens=40),
    "recurrent": RenderConfig(layout="recurrent"),
    "in_context": RenderConfig(layout="interleaved", rule="visual_window", rule_params={"budget": 4}),
}
# An untrained model answers nothing right, but it repeats itself more or less.
S = Settings(
    steps=2,
    groups=3,
    rollouts=4,
    thought_tokens=6,
    answer_tokens=3,
    rewards=(RewardTerm("repetition", 10.0, {"n": 1, "roles": ["thought", "answer"]}),),
    beta=0.05,
    passes=2,
    learning_rate=2e-3,
    max_grad_norm=1e9,
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of two or three one-second segments, a query after each and two after the last."""
    folder = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(0)
    made = []
    for i in range(4):
        seconds = 2 + i % 2
        write_video(folder / f"{i}.mp4", rng.integers(0, 255, (2 * seconds, 32, 48, 3), dtype=np.uint8), 2)
        events: list[Any] = []
        for k in range(seconds):
            end = k + 1.0
            events += [Segment(float(k), end), Thought(end, "red-circle ."), Query(f"q{k}", end, "which in-1 ?")]
            events += [Answer(end, "red-circle", f"q{k}")]
        events += [Query("last", float(seconds), "which out-1 ?"), Answer(float(seconds), "none", "last")]
        made.append(Sample(f"s{i}", Video(f"{i}.mp4"), tuple(events)))
    write_jsonl(made, folder / "train.jsonl")
    return folder / "train.jsonl"


def contracted(checkpoint: Path, render: RenderConfig, folder: Path) -> str:
    """The checkpoint as a folder that SFT could have left, so sure of ten tokens that turns end and words recur."""
    shutil.copytree(checkpoint, folder)
    backbone = load(checkpoint)
    with torch.no_grad():
        sure = [backbone.tokenizer.convert_tokens_to_ids("<|im_end|>"), *range(300, 309)]
        backbone.model.get_output_embeddings().weight[sure] *= 4.0
    backbone.model.save_pretrained(folder)
    save_resolved(Contract(base=str(checkpoint), fps=2.0, thinks=True, render=render), folder / CONTRACT)
    return str(folder)


def recipe_of(path: str, samples: Path, out: Path, s: Settings) -> GRPORecipe:
    return GRPORecipe(
        name="test",
        stage="grpo",
        seed=s.seed,
        source="none",
        output=str(out),
        model=ModelSettings(path, freeze_vision="tower+merger"),
        optim=OptimSettings(s.steps, learning_rate=s.learning_rate, schedule="constant", max_grad_norm=s.max_grad_norm),
        data=EpisodeData(str(samples)),
        rollout=RolloutSettings(
            groups=s.groups,
            rollouts=s.rollouts,
            thought_tokens=s.thought_tokens,
            answer_tokens=s.answer_tokens,
            temperature=s.temperature,
        ),
        rewards=s.rewards,
        loss=LossSettings(s.loss, clip_low=s.clip_low, clip_high=s.clip_high, beta=s.beta, iterations=s.passes),
    )


@dataclass
class Recorded(TrainerCallback):
    """Weights before, and gradients at, each optimiser step of a trainer."""

    trainer: EpisodeGRPOTrainer

    def __post_init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        self.weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
        self.gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def relative_gap(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """Largest difference of any parameter's gradient, relative to that gradient's norm."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-12)) for name in ours)


CASES = [("recurrent_packed", loss) for loss in ("dapo", "grpo", "dr_grpo")]
CASES += [("recurrent", "dapo"), ("in_context", "dapo")]


@pytest.mark.parametrize(("context", "loss"), CASES)
def test_gradients_are_those_of_the_trainer(
    context: str, loss: Any, checkpoint: Path, samples: Path, tmp_path: Path
) -> None:
    s = replace(S, loss=loss, temperature=0.8)
    path = contracted(checkpoint, RENDERS[context], tmp_path / "model")
    trainer = build_trainer(recipe_of(path, samples, tmp_path / "out", s))
    made = trainer.rollouts.generation(0, 0, 1)
    recorded = Recorded(trainer)
    trainer.add_callback(recorded)
    trainer.train()

    ours, policy, collator = prepare(path)
    backbone = ours.backbone
    data = read_samples(samples)
    picks = SamplePool(data, s.seed).groups(0, 0, 1, s.groups)
    groups = play(policy, make_tasks(data, picks, 0, ours.contract.fps, s), s)
    episodes = {(one.episode.sample.id, one.episode.rollout): one.episode for one in made.judged}
    assert {(one.episode.sample.id, one.episode.rollout): one.episode for group in groups for one in group} == episodes
    rows = minimal_grpo.rows_of(groups, ours.renderer)
    assert len({len(row) for row in rows}) > 1  # there is padding
    tokens = minimal_grpo.tokens_of(rows, most_tokens(data, s), s)
    assert len(tokens.old) > 100 and len(tokens.advantage.unique()) > 4
    with torch.no_grad():
        first = log_probs(backbone, rows, collator, s.temperature)
    assert float((first - tokens.old).abs().max()) < 1e-4

    gaps = []
    for weights, gradients in zip(recorded.weights, recorded.gradients, strict=True):
        backbone.model.load_state_dict(weights, strict=False)
        backbone.model.zero_grad()
        now = log_probs(backbone, rows, collator, s.temperature)
        objective(now, tokens, first, s).backward()  # type: ignore[no-untyped-call]
        gaps.append(
            relative_gap({n: p.grad for n, p in backbone.model.named_parameters() if p.grad is not None}, gradients)
        )
    ratio = (now.detach() - tokens.old).exp()  # of the second pass
    assert bool((ratio > 1 + s.clip_high).any() and (ratio < 1 - s.clip_low).any())
    assert len(gaps) == 2 and max(gaps) <= 1e-5


def test_objective_by_hand() -> None:
    """Ratios 2, 2, 0.5 and 0.5 with bounds 0.8 and 1.28. Advantage 1 at ratio 2: min(2, 1.28); -1: min(-2, -1.28) = -2,
    unclipped; 1 at 0.5: min(0.5, 0.8); -1: min(-0.5, -0.8) = -0.8, clipped. With weights 0.1, 0.2, 0.3 and 0.4:
    -(0.128 - 0.4 + 0.15 - 0.32) = 0.442. KL where the reference is twice as likely: 2 - ln 2 - 1 = 0.3069 each."""
    old = torch.zeros(4)
    now = torch.tensor([2.0, 2.0, 0.5, 0.5]).log().requires_grad_()
    tokens = Tokens(old, torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    loss = objective(now, tokens, None, Settings())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0.442, abs=1e-6)
    assert now.grad is not None
    assert now.grad.tolist() == pytest.approx([0.0, 0.4, -0.15, 0.0], abs=1e-6)  # clipped tokens get none
    kl = objective(now, tokens, now.detach() + math.log(2), Settings(beta=0.5)) - loss
    assert kl.item() == pytest.approx(0.5 * (1 - math.log(2)), abs=1e-6)


def test_training_moves_the_language_model_alone(
    checkpoint: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = contracted(checkpoint, RENDERS["recurrent_packed"], tmp_path / "model")
    before = dict(load(path).model.named_parameters())
    trained = minimal_grpo.train(path, read_samples(samples), replace(S, temperature=0.8)).model
    moved = {name for name, p in trained.named_parameters() if not torch.equal(p, before[name])}
    assert moved and not any("visual" in name for name in moved)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["step 0", "step 1"]


def test_groups_without_spread_teach_nothing(
    checkpoint: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, with accuracy alone: an untrained model answers nothing, so all scores are 0."""
    path = contracted(checkpoint, RENDERS["in_context"], tmp_path / "model")
    minimal_grpo.main([path, str(samples), "--steps", "2", "--groups", "2", "--rollouts", "2"])
    assert capsys.readouterr().out.splitlines() == [f"step {i}: reward 0.000, 0 rows" for i in range(2)]
