"""SFT: bitwise resume, exact accumulation and weights, refused data, adapters, and the contract it leaves behind."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.train.zygote import Zygote
from train import sft, stage
from train.checkpoint_files import MANIFEST
from train.final import save_final
from train.losses import DecisionLoss, SFTLoss
from train.rows import DataError
from train.sft import DataSettings, SFTRecipe, build_trainer, run
from train.stage import LoraSettings, ModelSettings, OptimSettings
from whilst.backbones.base import BackboneError
from whilst.checkpoint import load_checkpoint
from whilst.recipe import load_recipe, save_resolved
from whilst.render_config import MemoryCut, RenderConfig
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video, read_samples, write_jsonl
from whilst.session import StreamSession
from whilst.video import write_video

ROOT = Path(__file__).parents[2]
PACKED = RenderConfig(layout="recurrent_packed", rule="text_memory")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of two or three one-second segments, with thoughts and one query each."""
    folder = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(0)
    made = []
    for i in range(8):
        seconds = 2 + i % 2
        write_video(folder / f"{i}.mp4", rng.integers(0, 255, (2 * seconds, 32, 32, 3), dtype=np.uint8), 2)
        events: list = []
        for k in range(seconds):
            events += [Segment(float(k), k + 1.0), Thought(k + 1.0, f"in-{k % 2 + 1} red-circle .")]
        events += [
            Query("q", float(seconds), "which in-1 ?", kind="backward"),
            Answer(float(seconds), "red-circle", "q"),
        ]
        made.append(Sample(f"s{i}", Video(f"{i}.mp4"), tuple(events)))
    write_jsonl(made, folder / "train.jsonl")
    return folder / "train.jsonl"


@pytest.fixture
def recipe(samples: Path, checkpoint: Path, tmp_path: Path) -> SFTRecipe:
    return SFTRecipe(
        name="test",
        stage="sft",
        output=str(tmp_path / "run"),
        model=ModelSettings(str(checkpoint)),
        data=DataSettings(str(samples)),
        optim=OptimSettings(steps=5, batch_size=2, learning_rate=1e-3, schedule="decay_second_half"),
        render=PACKED,
        save_steps=2,
        log_steps=1,
    )


class Killed(RuntimeError):
    pass


class KillAt(TrainerCallback):
    """Stops the process, as far as training can tell, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def history(output: str) -> list[dict[str, float]]:
    return [e for e in json.loads(Path(output, "trainer_state.json").read_text())["log_history"] if "loss" in e]


@pytest.mark.parametrize("schedule", get_args(get_type_hints(OptimSettings)["schedule"]))
def test_every_schedule_warms_up(recipe: SFTRecipe, schedule: str) -> None:
    """The rates that four updates are made at, as the trainer's own scheduler says."""
    optim = replace(recipe.optim, steps=8, schedule=schedule, warmup_steps=2)
    trainer = build_trainer(replace(recipe, optim=optim))
    trainer.create_optimizer_and_scheduler(8)
    rates = []
    for _ in range(4):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates[:3] == pytest.approx([0.0, 0.5e-3, 1e-3])
    if schedule == "constant":
        assert rates[3] == pytest.approx(1e-3)


def test_the_loss_on_held_out_samples_is_logged_and_changes_nothing(recipe: SFTRecipe, tmp_path: Path) -> None:
    plain = run(replace(recipe, output=str(tmp_path / "plain")))
    held_out = []
    for size in (2, 3):  # the loss is over all labels, however they are batched
        data = replace(recipe.data, validation=recipe.data.train)
        watched = replace(recipe, output=str(tmp_path / f"watched{size}"), data=data)
        if size == 3:
            watched = replace(watched, optim=replace(recipe.optim, steps=1, batch_size=3))
        out = run(watched)
        log = json.loads((out / "trainer_state.json").read_text())["log_history"]
        held_out.append([entry for entry in log if "validation_loss" in entry])
        if size == 2:
            assert (out / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    (before, after), (before_3, _) = held_out
    assert (before["step"], after["step"]) == (0, 5)
    assert after["validation_loss"] < before["validation_loss"]
    assert before["validation_loss"] == pytest.approx(before_3["validation_loss"], rel=1e-5)
    assert before["validation_accuracy"] == pytest.approx(before_3["validation_accuracy"], rel=1e-5)


def test_resume_is_bitwise(recipe: SFTRecipe, tmp_path: Path) -> None:
    whole = run(replace(recipe, output=str(tmp_path / "whole")))
    trainer = build_trainer(recipe)
    trainer.add_callback(KillAt(3))
    with pytest.raises(Killed):
        trainer.train()
    resumed = run(recipe)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [e["loss"] for e in history(str(resumed))] == [e["loss"] for e in history(str(whole))]


def test_accumulation_equals_one_big_batch(recipe: SFTRecipe, tmp_path: Path) -> None:
    """The loss is normalised by the global weight, although the micro-batches have unequal numbers of labels."""
    logs = []
    for name, batch, accumulation in (("big", 4, 1), ("small", 1, 4)):
        optim = replace(recipe.optim, steps=1, batch_size=batch, accumulation=accumulation)
        logs.append(history(str(run(replace(recipe, output=str(tmp_path / name), optim=optim)))))
    (big,), (small,) = logs
    assert big["loss"] == pytest.approx(small["loss"], rel=1e-5)
    assert big["grad_norm"] == pytest.approx(small["grad_norm"], rel=1e-4)


def test_gradient_checkpointing_changes_nothing(recipe: SFTRecipe, tmp_path: Path) -> None:
    logs = []
    for name, on in (("on", True), ("off", False)):
        optim = replace(recipe.optim, steps=2, gradient_checkpointing=on)
        logs.append(history(str(run(replace(recipe, output=str(tmp_path / name), optim=optim)))))
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_loss_is_the_weighted_mean_by_hand(recipe: SFTRecipe) -> None:
    render = replace(PACKED, thought_weight=0.5, answer_weight=3.0)
    trainer = build_trainer(replace(recipe, render=render))
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, dict(batch))
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "loss_weight")}
        hidden = trainer.model.model(**inputs).last_hidden_state
        logits = trainer.model.lm_head(hidden)[:, :-1].log_softmax(-1)
    labels, weights = batch["labels"][:, 1:], batch["loss_weight"][:, 1:]
    assert set(weights.unique().tolist()) == {0.0, 0.5, 3.0}
    assert bool(((labels != -100) == (weights > 0)).all())
    nll = -logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert loss.item() == pytest.approx(((nll * weights).sum() / weights.sum()).item(), rel=1e-5)


def test_a_file_that_is_named_twice_counts_twice(recipe: SFTRecipe) -> None:
    """StreamingVLM's first stage lists one file twice; its samples have the same ids, and both are there."""
    assert isinstance(recipe.data.train, str)
    files = [(recipe.data.train,) * n for n in (1, 2)]
    once, twice = (build_trainer(replace(recipe, data=replace(recipe.data, train=train))) for train in files)
    assert len(twice.train_dataset) == 2 * len(once.train_dataset) == 16
    same = [t.data_collator([t.train_dataset[i]])["input_ids"] for t, i in ((once, 0), (twice, 0), (twice, 8))]
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
    both = twice.data_collator([twice.train_dataset[0], twice.train_dataset[8]])
    assert torch.equal(both["labels"][0], both["labels"][1])
    assert len(both["video_grid_thw"]) == 2 * len(twice.data_collator([twice.train_dataset[0]])["video_grid_thw"])


def test_packing_trains_on_the_same_labels(recipe: SFTRecipe) -> None:
    plain = build_trainer(recipe)
    packed = build_trainer(replace(recipe, data=replace(recipe.data, pack_tokens=600)))
    assert len(packed.train_dataset) < len(plain.train_dataset)

    def learned(trainer: sft.StreamingSFTTrainer) -> int:
        picks = [trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]
        return int((trainer.data_collator(picks)["labels"] != -100).sum())

    assert learned(packed) == learned(plain)


def test_lora_trains_adapters_and_loads_again(recipe: SFTRecipe) -> None:
    lora = replace(
        recipe, model=replace(recipe.model, lora=LoraSettings(rank=4, alpha=8), freeze_vision="tower+merger")
    )
    out = run(lora)
    assert (out / "adapter_model.safetensors").exists()
    assert all("language_model" in name for name in load_file(out / "adapter_model.safetensors"))
    loaded = load_checkpoint(out)
    session = StreamSession(loaded.backbone, loaded.renderer, fps=2.0, thought_tokens=4)
    session.watch(np.zeros((2, 32, 32, 3), np.uint8), [0.0, 0.5], 1.0)
    assert session.think().ids
    assert all(math.isfinite(entry["loss"]) for entry in history(str(out)))


def test_modules_that_lora_leaves_whole_move_and_load_again(recipe: SFTRecipe) -> None:
    """LIVE trains its connector and head beside the adapters: they are saved with them and put back."""
    full = LoraSettings(rank=4, alpha=8, full=("merger", "lm_head"))
    optim = replace(recipe.optim, steps=1, schedule="constant")
    lora = replace(recipe, model=replace(recipe.model, lora=full, freeze_vision="tower+merger"), optim=optim)
    trainer = build_trainer(lora)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    whole = [n for n in before if "modules_to_save" in n]
    moved = [n for n in whole if not torch.equal(before[n], after[n])]
    assert any("visual.merger" in n for n in moved) and any("lm_head" in n for n in moved) and len(whole) < len(before)
    save_final(trainer, lora, sft.contract_of(lora))
    loaded = dict(load_checkpoint(recipe.output).backbone.model.named_parameters())
    for name in moved:
        assert torch.equal(loaded[name], after[name]), name
    with pytest.raises(BackboneError, match=r"lora\.full: no module of .* is called 'connector'"):
        stage.prepare_model(replace(lora.model, lora=replace(full, full=("connector",))))


def test_frozen_vision_does_not_move(recipe: SFTRecipe) -> None:
    out = run(replace(recipe, model=replace(recipe.model, freeze_vision="tower+merger")))
    before, after = load_file(Path(recipe.model.path, "model.safetensors")), load_file(out / "model.safetensors")
    visual = [name for name in before if "visual" in name]
    assert visual and all(torch.equal(before[name], after[name]) for name in visual)
    assert any(not torch.equal(before[name], after[name]) for name in before if name not in visual)


def test_bfloat16_recipe_takes_steps(recipe: SFTRecipe) -> None:
    out = run(replace(recipe, model=replace(recipe.model, dtype="bfloat16"), optim=replace(recipe.optim, steps=2)))
    assert all(math.isfinite(entry["loss"]) for entry in history(str(out)))


def test_the_folder_is_a_stream(recipe: SFTRecipe, samples: Path) -> None:
    out = run(replace(recipe, optim=replace(recipe.optim, steps=1)))
    loaded = load_checkpoint(out)
    assert loaded.contract.render == recipe.render
    assert loaded.contract.fps == 2.0 and loaded.contract.thinks
    lengths = {s.end - s.start for sample in read_samples(samples) for s in sample.segments()[:-1]}
    assert lengths == {loaded.contract.segment_seconds}
    assert load_recipe(out / "recipe.yaml", SFTRecipe).optim.steps == 1
    assert (out / "rejected.jsonl").read_text() == ""


def test_frames_are_as_large_as_in_training(recipe: SFTRecipe) -> None:
    """A stream that shows other pixels than training did is another model: the contract carries them."""
    model = replace(recipe.model, max_pixels=16 * 16)
    out = run(replace(recipe, model=model, optim=replace(recipe.optim, steps=1)))
    assert load_checkpoint(out).backbone.spec.frame_size(32, 32) == (16, 16)
    assert stage.prepare_model(recipe.model).spec.frame_size(32, 32) == (32, 32)


def test_too_many_rejected_samples_is_an_error_and_few_are_listed(
    recipe: SFTRecipe, samples: Path, tmp_path: Path
) -> None:
    lines = samples.read_text().splitlines()
    for line in lines:
        record = json.loads(line)
        source = samples.parent / record["video"]["path"]
        (tmp_path / source.name).write_bytes(source.read_bytes() if source.name != "3.mp4" else b"not a video")
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    data = replace(recipe.data, train=str(tmp_path / "train.jsonl"))
    with pytest.raises(DataError, match=r"1 samples cannot be used.*max_rejected is 0"):
        build_trainer(replace(recipe, data=data))
    trainer = build_trainer(replace(recipe, data=replace(data, max_rejected=1)))
    (rejected,) = [json.loads(line) for line in Path(recipe.output, "rejected.jsonl").read_text().splitlines()]
    assert rejected["sample"] == "s3" and "3.mp4" in rejected["reason"]
    assert len(trainer.train_dataset) == 7


def test_what_is_cut_of_text_memory_is_listed(recipe: SFTRecipe, samples: Path, tmp_path: Path) -> None:
    """Also where a sample is rejected for its memory."""
    given = ["", "in-1 .", "in-1 none . out-1 none .", "<|im_end|>", "", "", "", ""]
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    for record, memory in zip(lines, given, strict=True):
        record["memory"] = memory
        record["video"]["path"] = str(samples.parent / record["video"]["path"])
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    data = replace(recipe.data, train=str(tmp_path / "train.jsonl"), max_rejected=1)
    render = RenderConfig(memory_cut=MemoryCut(2, 1))
    trainer = build_trainer(replace(recipe, data=data, render=render))
    assert len(trainer.train_dataset) == 7
    (told,) = [json.loads(line) for line in Path(recipe.output, "memory_cut.jsonl").read_text().splitlines()]
    tokens = len(trainer.processing_class.encode(given[2], add_special_tokens=False))
    assert told == {"sample": "s2", "tokens": tokens - 3}


def test_silence_puts_an_empty_turn_in_place_of_each_thought(recipe: SFTRecipe) -> None:
    render = RenderConfig(layout="interleaved", rule="last_segments", rule_params={"n": 1})
    kept, silent, dropped = (
        build_trainer(replace(recipe, render=render, data=replace(recipe.data, thoughts=t)))
        for t in ("keep", "silence", "drop")
    )
    labels = [int((t.data_collator([t.train_dataset[0]])["labels"] != -100).sum()) for t in (kept, silent, dropped)]
    thoughts = 2
    assert labels[1] == labels[2] + thoughts and labels[0] > labels[1]


@pytest.mark.slow
def test_two_ranks_equal_one(recipe: SFTRecipe, family: str, forks: Zygote, tmp_path: Path) -> None:
    """The same four rows on one rank, or two each on two ranks (gloo): they have unequal numbers of labels, so a mean
    of means would differ, and so would decisions that each rank counts for itself. torchrun starts the ranks of one
    family, as a user does."""
    words = ("in-1 red-circle .", "in-2 red-circle .", "red-circle")
    recipe = replace(recipe, loss=SFTLoss(DecisionLoss(words, focal=2.0, balance="inverse")))
    logs = []
    for ranks in (1, 2):
        optim = replace(recipe.optim, steps=2, batch_size=4 // ranks)
        spread = replace(recipe, output=str(tmp_path / f"ranks{ranks}"), optim=optim, save_steps=0)
        if ranks == 1:
            run(spread)
        elif family == "qwen3_vl":
            save_resolved(spread, tmp_path / "recipe.yaml")
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
            command = [*launch, "-m", "whilst.cli", "sft", str(tmp_path / "recipe.yaml")]
            subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
        else:
            for rank in forks.start(spread, ranks=2).wait():
                assert rank.code == 0, rank.output[-3000:]
        logs.append(history(spread.output))
    for one, two in zip(*logs, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3_vl"], indirect=True)  # the same for all
def test_wandb_runs_offline_and_goes_on_under_its_id(recipe: SFTRecipe, forks: Zygote) -> None:
    """No key, no network: the run is kept on disk, and a resumed training continues it. wandb keeps state for a whole
    process, so each training has one of its own."""
    logged = replace(recipe, report_to=("wandb",), optim=replace(recipe.optim, steps=4))
    environment = dict.fromkeys(name for name in os.environ if name.startswith("WANDB"))
    (done,) = forks.start(logged, env=environment).wait()
    assert done.code == 0, done.output[-3000:]
    out = Path(logged.output)
    first = (out / "wandb_run_id").read_text()
    assert len(list(out.glob(f"wandb/offline-run-*{first}"))) == 1
    (out / "checkpoint-4" / MANIFEST).unlink()
    (done,) = forks.start(logged, env=environment).wait()
    assert done.code == 0, done.output[-3000:]
    assert (out / "wandb_run_id").read_text() == first
