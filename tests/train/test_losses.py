"""Losses of SFT by worked numbers, and that how rows lie on micro-batches changes nothing (ranks: test_sft.py)."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from train.losses import DecisionLoss, Decisions, LossError, SFTLoss, class_weights
from train.sft import DataSettings, SFTRecipe, StreamingSFTTrainer, build_trainer, run
from train.stage import ModelSettings, OptimSettings
from whilst.backbones.base import Backbone
from whilst.render import IGNORE, Renderer
from whilst.render_config import RenderConfig
from whilst.sample import Sample, Segment, Silence, Thought, Video, write_jsonl
from whilst.video import write_video

WORDS = ("", "now", "unknown")
FOCAL = DecisionLoss(WORDS, focal=2.0, balance="inverse")
STATES = (("now", "", ""), ("", "", "unknown"), ("", "now", ""), ("", "", "in-1 ."))  # thoughts of four samples


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, checkpoints: Mapping[str, Path]) -> SFTRecipe:
    """Four samples of three segments, each with a state; 8 silences, 2 now, 1 unknown, and a thought that is none."""
    folder = tmp_path_factory.mktemp("states")
    rng = np.random.default_rng(0)
    made = []
    for i, states in enumerate(STATES):
        write_video(folder / f"{i}.mp4", rng.integers(0, 255, (6, 32, 32, 3), dtype=np.uint8), 2)
        events: list[Any] = []
        for k, state in enumerate(states):
            events += [Segment(float(k), k + 1.0), Thought(k + 1.0, state) if state else Silence(k + 1.0)]
        made.append(Sample(f"s{i}", Video(f"{i}.mp4"), tuple(events)))
    write_jsonl(made, folder / "train.jsonl")
    return SFTRecipe(
        name="test",
        stage="sft",
        output=str(folder / "run"),
        model=ModelSettings(str(checkpoints["qwen2_5_vl"])),
        data=DataSettings(str(folder / "train.jsonl")),
        optim=OptimSettings(steps=2, batch_size=4, learning_rate=1e-3, schedule="constant"),
        render=RenderConfig(silence_weight=0.5),
        loss=SFTLoss(FOCAL),
        log_steps=1,
    )


@pytest.fixture(scope="module")
def trainer(recipe: SFTRecipe) -> StreamingSFTTrainer:
    return build_trainer(recipe)


@pytest.fixture
def renderer(backbones: Mapping[str, Backbone]) -> Renderer:
    one = backbones["qwen2_5_vl"]
    return Renderer(one.tokenizer, one.spec, RenderConfig())


def batch_of(trainer: StreamingSFTTrainer, picks: Sequence[int]) -> dict[str, Any]:
    return dict(trainer.data_collator([trainer.train_dataset[i] for i in picks]))


def update(trainer: StreamingSFTTrainer, cuts: Sequence[Sequence[int]], decision: DecisionLoss | None) -> list[float]:
    """Loss and norm of the gradient of one update whose micro-batches hold these samples."""
    if decision is not None:
        decisions = Decisions(decision, trainer.decisions.renderer)
        decisions.of_data = trainer.decisions.of_data
    trainer.decisions, before = (decisions if decision is not None else None), trainer.decisions
    trainer.model.train()
    trainer.model.zero_grad()
    batches = [batch_of(trainer, cut) for cut in cuts]
    total = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    losses = [trainer.compute_loss(trainer.model, batch, num_items_in_batch=total) for batch in batches]
    sum(losses).backward()  # type: ignore[union-attr]
    trainer.decisions = before
    squares = [p.grad.square().sum() for p in trainer.model.parameters() if p.grad is not None]
    return [sum(loss.item() for loss in losses), torch.stack(squares).sum().sqrt().item()]


# ---- Weights.


def nll(trainer: StreamingSFTTrainer, batch: dict[str, Any]) -> torch.Tensor:
    """-log p (B, L) of each label, 0 where there is none."""
    with torch.no_grad():
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "loss_weight")}
        logits = trainer.model.lm_head(trainer.model.model(**inputs).last_hidden_state).log_softmax(-1)
    labels = batch["labels"]
    ahead = torch.zeros(labels.shape)
    ahead[:, 1:] = -logits[:, :-1].gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
    return ahead.where(labels != IGNORE, 0.0)


def test_a_thought_and_silences_weighed_by_hand(trainer: StreamingSFTTrainer) -> None:
    """TaYS: sum(w nll) / sum(w), 0.5 on the token that says nothing: now, end, and two silences weigh 1, 1, .5, .5."""
    batch = batch_of(trainer, [0])
    weights = batch["loss_weight"][batch["labels"] != IGNORE]
    assert weights.tolist() == [1.0, 1.0, 0.5, 0.5]
    losses = nll(trainer, batch)[batch["labels"] != IGNORE]
    trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch).item()
    assert loss == pytest.approx((losses[0] + losses[1] + (losses[2] + losses[3]) / 2).item() / 3, rel=1e-5)


def test_weights_of_classes_by_worked_numbers() -> None:
    counts = torch.tensor([6, 2, 0])
    inverse = class_weights(replace(FOCAL, balance="inverse"), counts)
    assert inverse.tolist() == pytest.approx([2 / 3, 2.0, 0.0])
    # effective numbers with beta 0.9: (1 - 0.9) / (1 - 0.9^6) = 0.21342 and 0.52632, scaled by 8 / 2.33315
    effective = class_weights(replace(FOCAL, balance="effective", beta=0.9), counts)
    assert effective.tolist() == pytest.approx([0.73178, 1.80465, 0.0], abs=1e-4)
    for weights in (inverse, effective):
        assert (weights * counts).sum().item() == pytest.approx(8.0)  # mean 1 over the decisions
    assert class_weights(replace(FOCAL, balance="none"), counts).tolist() == [1.0, 1.0, 0.0]
    assert class_weights(FOCAL, torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_decisions_are_whole_turns_that_are_a_word(trainer: StreamingSFTTrainer) -> None:
    assert trainer.decisions is not None and trainer.decisions.of_data is not None
    assert trainer.decisions.of_data.tolist() == [8, 2, 1]
    labels = batch_of(trainer, [0, 3])["labels"]
    found = [row[row >= 0].tolist() for row in trainer.decisions.classes(labels)]
    assert found == [[1, 0, 0], [0, 0]]  # "in-1 ." is no decision
    b = trainer.decisions.boundary
    now = trainer.decisions.ids[1][0]
    # turns that stand side by side: a boundary token ends one; a turn that goes on after the word is no decision
    row = torch.tensor([[IGNORE, b, now, b, now, 7, b, IGNORE, now, b, b]])
    assert trainer.decisions.classes(row).tolist() == [[-1, 0, 1, -1, -1, -1, -1, -1, 1, -1, 0]]


def test_the_loss_by_hand(trainer: StreamingSFTTrainer) -> None:
    """w a_c (1 - p)^2 (-log p) at decisions, w (-log p) elsewhere, over the sum of all w."""
    picks = [0, 1, 2, 3]
    batch = batch_of(trainer, picks)
    losses, weights = nll(trainer, batch).double(), batch["loss_weight"].double()
    assert trainer.decisions is not None
    classes = trainer.decisions.classes(batch["labels"])
    balance = torch.tensor([11 / 8 / 3, 11 / 2 / 3, 11 / 1 / 3], dtype=torch.float64)
    factor = torch.where(classes >= 0, balance[classes.clamp(min=0)] * (1 - (-losses).exp()) ** 2, 1.0)
    loss, _ = update(trainer, [picks], FOCAL)
    assert loss == pytest.approx(((losses * weights * factor).sum() / weights.sum()).item(), rel=1e-4)


@pytest.mark.parametrize("focal", [0.0, 1.0, 2.0])
def test_the_gradient_goes_through_the_focal_factor(renderer: Renderer, focal: float) -> None:
    """Against finite differences; at p = 1 it is 0, not nan."""
    decisions = Decisions(replace(FOCAL, focal=focal, counts="data"), renderer)
    decisions.of_data = torch.tensor([6, 2, 1])
    classes = torch.tensor([0, 1, -1, 2])
    log_probs = torch.tensor([0.9, 0.5, 0.3, 0.01], dtype=torch.float64).log().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: -(decisions.factors(classes, x) * x).sum(), (log_probs,))
    certain = torch.zeros(1, requires_grad=True)
    (decisions.factors(torch.tensor([0]), certain) * certain).sum().backward()
    assert certain.grad is not None and math.isfinite(certain.grad.item())


# ---- How rows lie changes nothing.


@pytest.mark.parametrize("counts", ["update", "data"])
@pytest.mark.parametrize("balance", ["inverse", "effective"])
def test_micro_batches_change_nothing(trainer: StreamingSFTTrainer, counts: Any, balance: Any) -> None:
    decision = replace(FOCAL, counts=counts, balance=balance, beta=0.9)
    whole = update(trainer, [[0, 1, 2, 3]], decision)
    for cuts in ([[0, 1], [2, 3]], [[3], [1], [2], [0]]):
        assert update(trainer, cuts, decision) == pytest.approx(whole, rel=1e-4)
    assert whole != pytest.approx(update(trainer, [[0, 1, 2, 3]], None), rel=1e-2)


def test_counts_of_a_micro_batch_are_another_loss_for_each_cut(trainer: StreamingSFTTrainer) -> None:
    """What Streamo's code does: a row that holds nothing but silence weighs it as if it were rare."""
    decision = replace(FOCAL, counts="micro_batch")
    whole = update(trainer, [[0, 1, 2, 3]], decision)
    assert whole == pytest.approx(update(trainer, [[0, 1, 2, 3]], FOCAL), rel=1e-4)
    for cuts in ([[0, 1], [2, 3]], [[0], [1], [2], [3]]):
        assert update(trainer, cuts, decision) != pytest.approx(whole, rel=1e-2)


def test_a_run_logs_how_often_each_decision_is_found(recipe: SFTRecipe, tmp_path: Path) -> None:
    validated = replace(recipe.data, validation=recipe.data.train)
    out = run(replace(recipe, output=str(tmp_path / "run"), data=validated))
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in log if "loss" in entry]
    assert len(steps) == 2 and all(math.isfinite(entry["loss"]) for entry in steps)
    for name in ("recall_silence", "recall_now", "recall_unknown"):
        assert all(0.0 <= entry[name] <= 1.0 for entry in steps)
    assert sum("validation_loss" in entry for entry in log) == 2  # the plain weighted loss


# ---- What is refused.


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"words": ()}, "different words, at least one"),
        ({"words": ("now", "now")}, "different words"),
        ({"focal": 0.5}, "0 or at least 1"),
        ({"beta": 1.0}, "from 0 to 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(LossError, match=told):
        DecisionLoss(**({"words": WORDS} | settings))


def test_words_that_one_token_cannot_tell_apart(renderer: Renderer) -> None:
    with pytest.raises(LossError, match="'now' and 'now now' begin with the same token"):
        Decisions(DecisionLoss(("", "now", "now now")), renderer)
    implicit = Renderer(renderer.tokenizer, renderer.spec, RenderConfig(silence="implicit"))
    with pytest.raises(LossError, match="silence: turn"):
        Decisions(FOCAL, implicit)


def test_words_that_no_turn_is(renderer: Renderer) -> None:
    decisions = Decisions(DecisionLoss(("red-circle",)), renderer)
    with pytest.raises(LossError, match=r"no turn of data\.train is any of them"):
        decisions.count_data([torch.tensor([IGNORE, *decisions.ids[0][:1], 7, decisions.boundary])])
