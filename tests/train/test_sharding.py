"""Models that are spread over two processes (gloo) learn what one process does: ZeRO-2, ZeRO-3, adapters, FSDP2; and
what is exported of them says, without Whilst, what they said.

Bounds are on `drift` (tests/train/grpo_runs.py): how far the trained weights lie apart, of the way that training went.
Sums in another order cost about 1e-5 of it; a mean of the ranks' means would cost more than 1e-2.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from tests.train import grpo_runs
from tests.train.grpo_runs import PACKED, drift, logged, run_apart, weights
from tests.train.sharding_worker import said
from tests.train.zygote import Zygote
from train import sft, stage
from train.checkpoint_files import read_manifest
from train.export import ExportSettings, export_run
from train.memory import checkpoint_bytes
from train.sft import DataSettings, SFTRecipe
from train.sharding import FROM_THE_RECIPE, check, consolidate, deepspeed_config, shipped
from train.stage import LoraSettings, ModelSettings, OptimSettings, StageError
from whilst.backbones.base import Backbone
from whilst.backbones.base import load as load_backbone

WORKER = "tests.train.sharding_worker"
LORA = LoraSettings(rank=4, alpha=8)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of one to four segments: in an update of four, one rank's are up to four times as long as the other's."""
    return grpo_runs.write_samples(tmp_path_factory.mktemp("samples"))


def recipe_of(checkpoint: Path, samples: Path, output: Path, **optim: Any) -> SFTRecipe:
    return SFTRecipe(
        name="test",
        stage="sft",
        output=str(output),
        model=ModelSettings(str(checkpoint)),
        data=DataSettings(str(samples)),
        optim=OptimSettings(
            **{"steps": 4, "global_batch": 4, "learning_rate": 1e-3, "schedule": "constant", **optim},
        ),
        render=PACKED,
        log_steps=1,
    )


@pytest.fixture(scope="module")
def runs(
    forks: Zygote, checkpoints: Mapping[str, Path], samples: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, SFTRecipe]:
    """All runs of two ranks in two pairs of processes, and what they must equal in this one. Four rows an update: here
    at once, there one at a time on each rank, two times."""
    folder = tmp_path_factory.mktemp("runs")

    def two(name: str, family: str = "qwen2_5_vl", **optim: Any) -> SFTRecipe:
        return recipe_of(checkpoints[family], samples, folder / name, **optim)

    def lora(recipe: SFTRecipe) -> SFTRecipe:
        return replace(recipe, model=replace(recipe.model, lora=LORA, freeze_vision="tower"))

    def bf16(recipe: SFTRecipe) -> SFTRecipe:
        return replace(recipe, model=replace(recipe.model, dtype="bfloat16"), save_steps=4)

    made = {
        "zero2": two("zero2", deepspeed="zero2"),
        "zero3": replace(two("zero3", deepspeed="zero3"), save_steps=4),
        "lora3": replace(lora(two("lora3", deepspeed="zero3")), save_steps=4),
        "bf16-2": bf16(two("bf16-2", deepspeed="zero2")),
        "bf16-3": bf16(two("bf16-3", deepspeed="zero3")),
        "bf16-lora3": lora(bf16(two("bf16-lora3", deepspeed="zero3"))),
        "fsdp2": replace(two("fsdp2", "qwen3_vl", fsdp2=True), save_steps=2),
        "killed": replace(two("killed", deepspeed="zero3"), save_steps=2),
    }
    for rank in run_apart(forks, list(made.values()), folder / "first", ranks=2, fault="killed", worker=WORKER):
        assert rank.code == -signal.SIGKILL, rank.output[-3000:]
    assert not Path(made["killed"].output, "model.safetensors").exists()
    made["resumed"] = replace(made["fsdp2"], output=str(folder / "resumed"))  # from the checkpoint in the middle
    shutil.copytree(Path(made["fsdp2"].output, "checkpoint-2"), Path(made["resumed"].output, "checkpoint-2"))
    for rank in run_apart(forks, [made["resumed"], made["killed"]], folder / "second", ranks=2, worker=WORKER):
        assert rank.code == 0, rank.output[-3000:]
    made["one"] = two("one", batch_size=4)
    made["one-lora"] = lora(two("one-lora", batch_size=4))
    made["one-qwen3"] = two("one-qwen3", "qwen3_vl", batch_size=4)
    for name in ("one", "one-lora", "one-qwen3"):
        sft.run(made[name])
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("name", "alone"), [("zero2", "one"), ("zero3", "one"), ("fsdp2", "one-qwen3")])
def test_two_ranks_equal_one(name: str, alone: str, runs: Mapping[str, SFTRecipe]) -> None:
    """Accumulated gradients make the update of the big batch, although the
    ranks hold rows of unequal lengths and numbers of labels."""
    two, one = runs[name], runs[alone]
    assert drift(weights(two.output), weights(one.output), one.model.path) < 1e-4
    for figure in ("loss", "grad_norm"):
        assert logged(two.output, figure) == pytest.approx(logged(one.output, figure), rel=1e-4), figure


@pytest.mark.slow
@pytest.mark.parametrize(("name", "uninterrupted"), [("killed", "zero3"), ("resumed", "fsdp2")])
def test_resumed_equals_uninterrupted(name: str, uninterrupted: str, runs: Mapping[str, SFTRecipe]) -> None:
    """Under ZeRO-3 after kill -9 on both ranks, and under FSDP2: bitwise, on as many ranks."""
    resumed, whole = weights(runs[name].output), weights(runs[uninterrupted].output)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert logged(runs[name].output, "loss") == logged(runs[uninterrupted].output, "loss")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_consolidated_shards_say_what_the_trained_model_said(
    name: str, runs: Mapping[str, SFTRecipe], tmp_path: Path
) -> None:
    """The shards of the last checkpoint are the saved model, under the names that the model has in memory; a model that
    is loaded from them gives the log-probs that the ranks had together."""
    recipe = runs[name]
    shards = consolidate(Path(recipe.output, "checkpoint-4"))
    plain = replace(recipe, optim=OptimSettings(steps=1), output=str(tmp_path))
    for model in (Path(recipe.output), None):
        trainer = sft.build_trainer(plain if model is None else replace(plain, model=ModelSettings(str(model))))
        if model is None:
            before = said(trainer)
            trainer.model.load_state_dict(shards, strict=True)
        expected = torch.load(Path(recipe.output, "said.pt"), weights_only=True)["logps"]
        torch.testing.assert_close(said(trainer), expected, atol=1e-5, rtol=0)
    assert float((before - expected).abs().max()) > 0.1, "the untrained model must be told apart"


@pytest.mark.slow
def test_adapters_under_zero_3_equal_those_of_one_process(runs: Mapping[str, SFTRecipe]) -> None:
    two, one = (load_file(Path(runs[name].output, "adapter_model.safetensors")) for name in ("lora3", "one-lora"))
    assert two.keys() == one.keys()
    assert max(float(tensor.abs().max()) for name, tensor in one.items() if "lora_B" in name) > 1e-3
    assert max(float((two[name] - one[name]).abs().max()) for name in one) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bf16-2", "bf16-3", "bf16-lora3"])
def test_bfloat16_trains_float32_copies(name: str, runs: Mapping[str, SFTRecipe]) -> None:
    """The saved weights are the copies rounded; the frequencies of the positions stay float32."""
    out = Path(runs[name].output)
    saved = torch.load(out / "said.pt", weights_only=True)
    assert saved["weights"] == {"torch.bfloat16"} and saved["buffers"] == {"torch.float32"}
    copies = consolidate(out / "checkpoint-4")
    assert {tensor.dtype for tensor in copies.values()} == {torch.float32}
    if name == "bf16-lora3":
        assert copies and all("lora" in parameter for parameter in copies)
    else:
        written = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.bfloat16).state_dict()
        assert written.keys() == copies.keys()
        assert all(torch.equal(copies[key].bfloat16(), written[key]) for key in written)
        assert any(not torch.equal(copies[key], written[key].float()) for key in written), "no more than bfloat16"
    # as in float32, to bfloat16's precision
    alike = "one-lora" if name == "bf16-lora3" else "one"
    assert logged(out, "loss") == pytest.approx(logged(runs[alike].output, "loss"), rel=2e-2)


# --- what is exported of them -----------------------------------------------------------------------------------------

EXPORTED: tuple[tuple[str, int | None, Literal["bfloat16", "float32"], bool], ...] = (
    # run, checkpoint (None: its final model), dtype, adapter alone
    ("killed", None, "float32", False),
    ("killed", 4, "float32", False),
    ("killed", 2, "float32", False),
    ("bf16-3", None, "bfloat16", False),
    ("bf16-3", 4, "bfloat16", False),
    ("lora3", None, "float32", False),
    ("lora3", 4, "float32", False),
    ("lora3", None, "float32", True),
    ("lora3", 4, "float32", True),
    ("fsdp2", 4, "float32", False),
)


@pytest.fixture(scope="module")
def exported(runs: Mapping[str, SFTRecipe], tmp_path_factory: pytest.TempPathFactory) -> Mapping[Any, torch.Tensor]:
    """Logits (1, L, V) of every exported folder, loaded and run by a process that imports no Whilst."""
    folder = tmp_path_factory.mktemp("exported")
    asked, outs = [], {}
    for i, (name, checkpoint, dtype, adapter) in enumerate(EXPORTED):
        base, out = runs[name].model.path, folder / f"{i}.pt"
        settings = ExportSettings(dtype, adapter, checkpoint, base="owner/base" if adapter else None)
        made = export_run(Path(runs[name].output), folder / str(i), settings).folder
        asked.append(f"{base},{made},{out}" if adapter else f"{made},{out}")
        outs[name, checkpoint, dtype, adapter] = out
    plain = Path(__file__).with_name("plain_logits.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(plain), *asked], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {what: torch.load(out, weights_only=True) for what, out in outs.items()}


@pytest.mark.slow
def test_a_checkpoint_is_as_large_as_was_expected(runs: Mapping[str, SFTRecipe]) -> None:
    """Room is asked for before it is written. FSDP2's files say a good deal of every tensor, which is small here."""
    for name, weight, zero, within in (("zero3", 4, 3, 0.02), ("bf16-2", 2, 2, 0.02), ("fsdp2", 4, 0, 0.15)):
        whole = sum(tensor.numel() for tensor in load_file(Path(runs[name].output, "model.safetensors")).values())
        files = read_manifest(Path(runs[name].output, "checkpoint-4")).files
        found = sum(size for file, (size, _) in files.items() if file.endswith((".pt", ".safetensors", ".distcp")))
        assert found == pytest.approx(checkpoint_bytes(whole, whole, weight, zero), rel=within), name


@pytest.mark.slow
@pytest.mark.parametrize("what", EXPORTED, ids=lambda what: "-".join(map(str, what)))
def test_an_exported_model_says_what_the_sharded_one_said(
    what: Any, runs: Mapping[str, SFTRecipe], exported: Mapping[Any, torch.Tensor]
) -> None:
    """Saved in shards, killed, resumed, consolidated, exported, loaded by plain transformers: the logits are those of
    the trained model while its ranks still held it. In bfloat16 to its precision: in float32 the same weights say what
    is 1% away too."""
    name, checkpoint, dtype, _ = what
    trained = torch.load(Path(runs[name].output, "said.pt"), weights_only=True)["logits"]
    written = exported[what]
    assert written.dtype == trained.dtype == getattr(torch, dtype) and torch.isfinite(trained).all()
    apart = float((written.float() - trained.float()).norm() / trained.float().norm())
    if checkpoint == 2:
        assert apart > 0.1, "weights from before the kill must be told apart"
    else:
        assert apart < (1e-5 if dtype == "float32" else 0.02)


@pytest.mark.slow
def test_an_export_in_bfloat16_is_the_float32_copies_rounded(runs: Mapping[str, SFTRecipe], tmp_path: Path) -> None:
    run = Path(runs["killed"].output)
    trained = AutoModelForImageTextToText.from_pretrained(run, dtype=torch.float32).state_dict()
    for checkpoint in (None, 4):
        written = export_run(run, tmp_path / str(checkpoint), ExportSettings(checkpoint=checkpoint)).folder
        rounded = AutoModelForImageTextToText.from_pretrained(written, dtype="auto").state_dict()
        assert all(torch.equal(rounded[name], tensor.bfloat16()) for name, tensor in trained.items())


# --- what is refused --------------------------------------------------------------------------------------------------


def test_every_shipped_configuration_leaves_to_the_recipe_what_it_says() -> None:
    assert shipped() == ["zero2", "zero2_offload", "zero3", "zero3_offload"]
    for name in shipped():
        config = deepspeed_config(name, "bfloat16")
        assert config["zero_optimization"]["stage"] == int(name[4])
        assert ("offload_optimizer" in config["zero_optimization"]) == name.endswith("offload")
        assert config["bf16"] == {"enabled": "auto"} and config["data_types"] == {"grad_accum_dtype": "fp32"}
        assert all(config[key] == "auto" for key in FROM_THE_RECIPE)


def test_an_unknown_configuration_names_the_known_ones() -> None:
    with pytest.raises(StageError, match="'zero4' is neither a file nor one of zero2, zero2_offload, zero3, zero3_off"):
        deepspeed_config("zero4", "float32")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_micro_batch_size_per_gpu": 2}, "train_micro_batch_size_per_gpu: is 2, but optim.batch_size"),
        ({"gradient_clipping": 0.5}, "gradient_clipping: is 0.5, but optim.max_grad_norm"),
        ({"optimizer": {"type": "Adam"}}, "optimizer: the recipe's optim says it .*remove the section"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler: the recipe's optim says it"),
        ({"bf16": {"enabled": True}}, "bf16.enabled: is True, but model.dtype of the recipe is float32"),
        ({"bf16": {"bf16_optimizer_states": True}}, "bf16_optimizer_states: updates below"),
        ({"fp16": {"enabled": True}}, "fp16: a recipe's model.dtype"),
        ({"zero_optimization": {}}, "zero_optimization.stage: is None"),
        (
            {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": False}},
            "stage3_gather_16bit_weights_on_model_save: must be true",
        ),
        ({"zero_force_ds_cpu_optimizer": True}, "zero_force_ds_cpu_optimizer: must be false"),
        ([], "is an object of keys, not list"),
    ],
)
def test_a_file_that_contradicts_the_recipe_is_refused(changes: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}} | changes if isinstance(changes, dict) else changes))
    with pytest.raises(StageError, match=said):
        deepspeed_config(str(file), "float32")


def test_a_file_may_leave_out_what_the_recipe_says(tmp_path: Path) -> None:
    """Without gradient_clipping DeepSpeed would clip nothing, whatever the recipe says."""
    file = tmp_path / "own.json"
    file.write_text('{"zero_optimization": {"stage": 3}}')
    config = deepspeed_config(str(file), "float32")
    assert all(config[key] == "auto" for key in FROM_THE_RECIPE)
    assert config["zero_optimization"] == {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}


def test_what_cannot_be_spread_is_refused_before_anything_is_loaded(
    samples: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero3 = recipe_of(checkpoint, samples, tmp_path, deepspeed="zero3")
    fsdp2 = recipe_of(checkpoint, samples, tmp_path, fsdp2=True)
    for recipe in (zero3, fsdp2):
        with pytest.raises(StageError, match="ranks are started together, a single one too: `torchrun"):
            sft.build_trainer(recipe)
    monkeypatch.setenv("RANK", "0")
    check(zero3)
    with pytest.raises(StageError, match="there is one rank"):
        check(fsdp2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check(fsdp2)
    with pytest.raises(StageError, match="fsdp2: adapters"):
        check(replace(fsdp2, model=replace(fsdp2.model, lora=LORA)))
    with pytest.raises(StageError, match="fsdp2: rollouts of grpo"):
        check(replace(fsdp2, stage="grpo"))


def test_each_rank_loads_onto_its_own_gpu(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before ranks have met: all of a node would load onto its GPU 0 else, which holds no eight models."""
    asked: list[str] = []

    def load(*args: Any, device: str, **kwargs: Any) -> Backbone:
        asked.append(device)
        return load_backbone(*args, **kwargs)

    monkeypatch.setattr(stage, "load", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for rank in (None, "3"):
        if rank is not None:
            monkeypatch.setenv("LOCAL_RANK", rank)
        stage.prepare_model(ModelSettings(str(checkpoint)))
    assert asked == ["cuda:0", "cuda:3"]
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(StageError, match="rank 4 of its node sees 4 GPUs"):
        stage.prepare_model(ModelSettings(str(checkpoint)))


def test_a_folder_without_shards_is_said(checkpoint: Path) -> None:
    with pytest.raises(StageError, match="neither ZeRO's shards .* nor FSDP2's"):
        consolidate(checkpoint)
