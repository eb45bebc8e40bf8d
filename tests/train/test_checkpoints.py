"""Checkpoints: whole or not there, damage that is found, retention, full disks, folders of other recipes."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests.train.grpo_runs import FPS, PACKED, write_samples
from train import checkpoints as store
from train import sft
from train.attempt import claim
from train.checkpoint_files import (
    MANIFEST,
    OLD,
    PART,
    CheckpointError,
    Manifest,
    checkpoints,
    contents,
    last_checkpoint,
    prune,
    publish,
    read_manifest,
    remove,
    sweep,
    verify,
)
from train.checkpoints import out_of_space, resume_point
from train.final import save_final
from train.sft import DataSettings, SFTRecipe, build_trainer, run
from train.stage import ModelSettings, OptimSettings, StageError
from whilst.checkpoint import CONTRACT
from whilst.files import fingerprints
from whilst.recipe import save_resolved
from whilst.runs import read_run
from whilst.sample import Answer, read_samples, write_jsonl


@pytest.fixture(scope="module")
def recipe(checkpoints: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> SFTRecipe:
    samples = write_samples(tmp_path_factory.mktemp("samples"), seconds=(1, 2))
    return SFTRecipe(
        name="test",
        stage="sft",
        output="",
        model=ModelSettings(str(checkpoints["qwen3_vl"])),
        data=DataSettings(str(samples), fps=FPS),
        optim=OptimSettings(steps=4, learning_rate=1e-3, schedule="constant"),
        render=PACKED,
        save_steps=1,
        keep_checkpoints=3,
        log_steps=1,
    )


@pytest.fixture(scope="module")
def done(recipe: SFTRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps that kept the last three checkpoints."""
    return run(replace(recipe, output=str(tmp_path_factory.mktemp("done") / "run")))


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "copy"))


def small(output: Path, step: int, text: str = "weights", **changes: int) -> Path:
    """A whole checkpoint of one small file, and one in a folder."""
    part = output / f"{PART}test"
    (part / "shards").mkdir(parents=True)
    (part / "model.safetensors").write_text(text)
    (part / "shards" / "0.pt").write_text("x" * 100)
    files = fingerprints(part, contents(part))
    publish(
        part,
        output / f"checkpoint-{step}",
        Manifest(**({"step": step, "ranks": 1, "batch": 1} | changes), version="1", files=files),
    )  # type: ignore[arg-type]
    return output / f"checkpoint-{step}"


# --- whole, or damaged ------------------------------------------------------------------------------------------------


def test_a_manifest_names_every_file_with_its_size_and_content(done: Path) -> None:
    manifest = verify(done / "checkpoint-4")
    on_disk = {str(p.relative_to(done / "checkpoint-4")) for p in (done / "checkpoint-4").rglob("*") if p.is_file()}
    assert set(manifest.files) == on_disk - {MANIFEST}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= on_disk
    assert (manifest.step, manifest.ranks, manifest.batch) == (4, 1, 1)
    assert manifest.bytes == sum((done / "checkpoint-4" / name).stat().st_size for name in manifest.files)
    assert not list(done.glob(f"{PART}*")) and not list(done.glob(f"{OLD}*"))


def truncate(folder: Path) -> None:
    with (folder / "optimizer.pt").open("r+b") as file:
        file.truncate(1000)


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(content)


DAMAGE = {
    "truncated": (truncate, r"optimizer\.pt: expected \d+ bytes, found 1000"),
    "a bit": (flip, r"model\.safetensors: expected sha256 [0-9a-f]{12}\.\.\., found [0-9a-f]{12}\.\.\."),
    "missing": (lambda folder: (folder / "rng_state.pth").unlink(), r"rng_state\.pth: missing; expected \d+ bytes"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), r"no manifest\.json, so it is not whole"),
    "half a manifest": (lambda folder: (folder / MANIFEST).write_text('{"schema": '), r"manifest\.json: Expecting"),
    "another schema": (
        lambda folder: (folder / MANIFEST).write_text('{"schema": 1}'),
        "not of schema whilst.checkpoint",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_saying_so(
    name: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, told = DAMAGE[name]
    harm(copy / "checkpoint-4")
    with pytest.raises(CheckpointError, match=told):
        verify(copy / "checkpoint-4")
    assert last_checkpoint(copy) == copy / "checkpoint-3"
    said = capsys.readouterr().err
    assert "checkpoint-4 is passed over" in said and "checkpoint-3" not in said


def test_a_run_that_lost_all_checkpoints_does_not_start_anew_in_silence(recipe: SFTRecipe, copy: Path) -> None:
    for step in (2, 3, 4):
        truncate(copy / f"checkpoint-{step}")
    with pytest.raises(CheckpointError, match=r"none of its checkpoints \(checkpoint-4, checkpoint-3, checkpoint-2\)"):
        run(replace(recipe, output=str(copy)))
    told = read_run(copy)
    assert told is not None and told.state == "failed" and told.error.startswith("CheckpointError")
    assert last_checkpoint(copy / "nothing") is None


def test_a_run_goes_on_from_the_newest_whole_one_and_ends_the_same(recipe: SFTRecipe, done: Path, copy: Path) -> None:
    """The last two are damaged, one by a bit: steps 3 and 4 are trained again, and take their places."""
    flip(copy / "checkpoint-4")
    truncate(copy / "checkpoint-3")
    (copy / CONTRACT).unlink()
    run(replace(recipe, output=str(copy)))
    verify(copy / "checkpoint-4")
    for name in ("model.safetensors", "checkpoint-4/model.safetensors", "checkpoint-3/optimizer.pt"):
        assert (copy / name).read_bytes() == (done / name).read_bytes(), name


def test_a_finished_run_is_not_trained_further(recipe: SFTRecipe, done: Path, copy: Path) -> None:
    """Killed between the last checkpoint and the final model, a run has no step left to take."""
    for file in ("model.safetensors", CONTRACT):
        (copy / file).unlink()
    run(replace(recipe, output=str(copy)))
    assert (copy / "model.safetensors").read_bytes() == (done / "model.safetensors").read_bytes()
    assert json.loads((copy / "trainer_state.json").read_text())["global_step"] == 4
    told = read_run(copy)
    assert told is not None and (told.state, told.step, told.attempt) == ("finished", 4, 2)


# --- retention --------------------------------------------------------------------------------------------------------


def test_the_newest_are_kept(done: Path) -> None:
    assert sorted(p.name for p in done.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]


def test_an_old_one_goes_when_the_new_one_is_whole_and_not_before(
    recipe: SFTRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(part: Path, final: Path, manifest: Manifest) -> None:
        seen.append((manifest.step, sorted(checkpoints(final.parent))))
        publish(part, final, manifest)

    monkeypatch.setattr(store, "publish", watched)
    run(replace(recipe, output=str(tmp_path / "run"), keep_checkpoints=1))
    assert seen == [(1, []), (2, [1]), (3, [2]), (4, [3])]
    assert list(checkpoints(tmp_path / "run")) == [4]


def test_steps_that_were_passed_over_count_for_nothing(tmp_path: Path) -> None:
    """8 is damaged; the run went on from 4 and has saved 6: of 2, 4, 6 two are kept, and 8 stays for a look."""
    for step in (2, 4, 8, 6):
        small(tmp_path, step)
    prune(tmp_path, 2, 6)
    assert list(checkpoints(tmp_path)) == [8, 6, 4]
    prune(tmp_path, None, 8)
    assert list(checkpoints(tmp_path)) == [8, 6, 4]
    assert list(checkpoints(small(tmp_path, 8, "again").parent)) == [8, 6, 4]
    assert (tmp_path / "checkpoint-8" / "model.safetensors").read_text() == "again"


def test_a_removal_that_is_cut_short_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path, 1)

    def killed(path: Path) -> None:
        (Path(path) / MANIFEST).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        remove(tmp_path / "checkpoint-1")
    assert not checkpoints(tmp_path) and last_checkpoint(tmp_path) is None
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


# --- no room ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_before_anything_is_written(
    recipe: SFTRecipe, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(recipe, output=str(copy), keep_checkpoints=1)
    shutil.rmtree(copy / "checkpoint-4")
    shutil.rmtree(copy / "checkpoint-3")
    needed = read_manifest(copy / "checkpoint-2").bytes
    before = {str(p): p.stat().st_mtime_ns for p in (copy / "checkpoint-2").rglob("*")}
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
        with pytest.raises(
            StageError, match=rf"takes about {needed / 1e9:.3g} GB, and {(needed - 1) / 1e9:.3g} GB are"
        ):
            run(recipe)
    assert {str(p): p.stat().st_mtime_ns for p in (copy / "checkpoint-2").rglob("*")} == before
    assert list(checkpoints(copy)) == [2] and not list(copy.glob(f"{PART}*"))
    run(recipe)
    assert list(checkpoints(copy)) == [4]


def test_the_first_checkpoint_is_expected_by_arithmetic(recipe: SFTRecipe, tmp_path: Path) -> None:
    """float32 weights and two moments, 12 bytes a parameter: within 5% of what is written."""
    trainer = build_trainer(replace(recipe, output=str(tmp_path / "run"), optim=replace(recipe.optim, steps=1)))
    expected = trainer._expected_bytes()
    assert expected == 12 * sum(p.numel() for p in trainer.model.parameters())
    trainer.train()
    assert read_manifest(tmp_path / "run" / "checkpoint-1").bytes == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("share", (0.1, 0.7))
def test_room_that_ends_while_writing_leaves_what_was_there(share: float, recipe: SFTRecipe, copy: Path) -> None:
    """The system refuses to let a file grow: the weights at 0.1, the optimiser's state, which is larger, at 0.7."""
    recipe = replace(recipe, output=str(copy))
    (copy / CONTRACT).unlink()
    shutil.rmtree(copy / "checkpoint-4")
    largest = max(size for size, _ in read_manifest(copy / "checkpoint-3").files.values())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer = build_trainer(recipe)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * largest), before[1]))
    try:
        with pytest.raises(CheckpointError, match="there was no room for it.*earlier checkpoints are intact"):
            trainer.train(resume_from_checkpoint=str(copy / "checkpoint-3"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(copy.glob(f"{PART}*"))
    assert last_checkpoint(copy) == copy / "checkpoint-3"


def test_files_are_flushed_when_all_ranks_have_written(
    recipe: SFTRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors writes under a passing name and renames: another rank would flush what is no longer there."""
    order: list[str] = []
    writing, flush = store.failing, store.flush

    @contextmanager
    def failing(trainer: object) -> Iterator[None]:
        with writing(trainer):
            yield
        order.append("all have written")

    def flushed(folder: Path) -> None:
        order.append("flushed")
        flush(folder)

    monkeypatch.setattr(store, "failing", failing)
    monkeypatch.setattr(store, "flush", flushed)
    build_trainer(replace(recipe, output=str(tmp_path), optim=replace(recipe.optim, steps=1))).train()
    assert order == ["all have written", "flushed"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_no_space_is_recognised_by_what_the_libraries_say(tmp_path: Path) -> None:
    with pytest.raises(OSError) as full, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert out_of_space(full.value)
    with pytest.raises(RuntimeError) as torchs:
        torch.save({"x": torch.zeros(1 << 16)}, "/dev/full")
    assert out_of_space(torchs.value)
    assert not out_of_space(ValueError("shapes differ"))


# --- ranks and recipes ------------------------------------------------------------------------------------------------


def fake(recipe: SFTRecipe, output: Path, batch: int) -> object:
    """As much of a trainer on one rank as `resume_point` asks for."""
    accelerator = SimpleNamespace(num_processes=1)
    return SimpleNamespace(
        output=output,
        accelerator=accelerator,
        batch=batch,
        data="",
        is_deepspeed_enabled=False,
        is_world_process_zero=lambda: True,
    )


def test_another_number_of_ranks_is_allowed_where_the_same_data_follow(
    recipe: SFTRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = small(tmp_path, 2, ranks=4, batch=16)
    assert resume_point(fake(recipe, tmp_path, 16)) == saved
    assert "saved on 4 ranks, resumed on 1: data go on in their order" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"saved on 4 ranks with a global batch of 16; on 1 ranks it is 4.*Use 4"):
        resume_point(fake(recipe, tmp_path, 4))
    sharded = fake(recipe, tmp_path, 16)
    sharded.is_deepspeed_enabled = True  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="ZeRO's shards of 4 ranks cannot be read by 1"):
        resume_point(sharded)


@pytest.mark.parametrize("changed", ("order", "text", "nothing"))
def test_a_changed_data_set_is_not_gone_on_with(changed: str, recipe: SFTRecipe, copy: Path, tmp_path: Path) -> None:
    """The same path in the recipe, other data in it: row 3 would be another one than the checkpoint has trained on."""
    samples = read_samples(recipe.data.train)
    if changed == "order":
        samples = samples[::-1]
    elif changed == "text":
        first = samples[0]
        events = tuple(replace(e, text=e.text + " !") if isinstance(e, Answer) else e for e in first.events)
        assert events != first.events
        samples = [replace(first, events=events), *samples[1:]]
    shutil.rmtree(copy / "checkpoint-4")
    data = tmp_path / "samples.jsonl"
    write_jsonl(samples, data)
    again = replace(recipe, output=str(copy), data=replace(recipe.data, train=str(data)))
    save_resolved(again, copy / "recipe.yaml")
    if changed == "nothing":
        run(again)
        assert 4 in checkpoints(copy)
        return
    with pytest.raises(CheckpointError, match="checkpoint-3: saved while training on other data than data.train has"):
        run(again)
    assert list(checkpoints(copy)) == [3, 2]


def test_checkpoints_of_another_recipe_are_not_gone_on_from(recipe: SFTRecipe, copy: Path) -> None:
    recipe = replace(recipe, output=str(copy))
    before = (copy / "recipe.yaml").read_text()
    other = replace(recipe, optim=replace(recipe.optim, learning_rate=2e-3), seed=7)
    with pytest.raises(StageError) as refused:
        run(other)
    assert "optim.learning_rate: 0.001 -> 0.002" in str(refused.value) and "seed: 0 -> 7" in str(refused.value)
    assert "steps" not in str(refused.value)
    assert (copy / "recipe.yaml").read_text() == before
    claim(replace(recipe, save_steps=2, log_steps=5, keep_checkpoints=None, report_to=("wandb",)))
    for folder in checkpoints(copy).values():
        remove(folder)
    claim(other)  # nothing to mix
    assert "0.002" in (copy / "recipe.yaml").read_text()


def test_more_steps_go_on_under_a_constant_rate_alone(recipe: SFTRecipe, tmp_path: Path) -> None:
    for name, schedule, warmup in (
        ("constant", "constant", 0.0),
        ("share", "constant", 0.1),
        ("cosine", "cosine", 0.0),
    ):
        optim = replace(recipe.optim, schedule=schedule, warmup_ratio=warmup)
        begun = replace(recipe, output=str(tmp_path / name), optim=optim)
        claim(begun)
        small(tmp_path / name, 2)
        longer = replace(begun, optim=replace(begun.optim, steps=99))
        if name == "constant":
            claim(longer)
        else:
            with pytest.raises(StageError, match="optim.steps: "):
                claim(longer)


# --- the final model --------------------------------------------------------------------------------------------------


def test_a_final_model_is_whole_or_cannot_be_loaded(
    recipe: SFTRecipe, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short at any of its renames, the folder has no contract; written again, it has all of it."""
    recipe = replace(recipe, output=str(copy))
    trainer = build_trainer(recipe)
    trainer.train(resume_from_checkpoint=str(copy / "checkpoint-4"))
    contract, rename, moved = sft.contract_of(recipe), os.replace, []

    def cut(source, target):
        if Path(source).parent.name.startswith(PART):
            moved.append(Path(target).name)
            if len(moved) == 4:
                raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", cut)
        save_final(trainer, recipe, contract)
    assert not (copy / CONTRACT).exists()
    save_final(trainer, recipe, contract)
    assert (copy / CONTRACT).exists() and load_file(copy / "model.safetensors")
