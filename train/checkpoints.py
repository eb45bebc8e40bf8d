"""Checkpoints that are whole or not there, and the one that a run goes on from.

A checkpoint is written under another name, by all ranks; its files reach the disk; a manifest with the size and the
sha256 of each is written last; then one rename makes it `checkpoint-N`. So a folder of that name is whole unless its
disk or a hand has damaged it since, which is found when it is read. docs/CHECKPOINTS.md has the whole contract.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import gethostname
from typing import Any

from accelerate.utils import gather_object
from peft import PeftModel
from transformers import AutoModelForImageTextToText, Trainer, TrainerCallback
from transformers.utils import cached_file

from train.stage import StageError, TrainRecipe
from train.stopping import Preempted
from train.together import from_rank_0, together
from whilst import __version__
from whilst.checkpoint import CONTRACT, Contract
from whilst.files import fingerprints, flush, sync, write_whole
from whilst.recipe import save_resolved

MANIFEST = "manifest.json"
SCHEMA = "whilst.checkpoint/1"
PREFIX = "checkpoint-"
PART = ".saving-"  # folders that are being written; what a killed run leaves of them is removed by the next
OLD = ".removing-"  # checkpoints that are being removed: never a torn folder under a checkpoint's name


class CheckpointError(StageError):
    """Checkpoints that cannot be written, read or gone on from; names the folder and the fix."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds. ranks: how many wrote it; batch: samples (GRPO: groups) that an update, or generation,
    takes over all ranks; files: (bytes, sha256) by path relative to the folder."""

    step: int
    ranks: int
    batch: int
    version: str
    files: Mapping[str, tuple[int, str]]

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.files.values())


# --- reading ----------------------------------------------------------------------------------------------------------


def checkpoints(output: str | Path) -> dict[int, Path]:
    """Folders of a run that are called like a checkpoint, by step, the newest first."""
    found = {p.name.removeprefix(PREFIX): p for p in Path(output).glob(f"{PREFIX}*") if p.is_dir()}
    return {int(n): found[n] for n in sorted((n for n in found if n.isdigit()), key=int, reverse=True)}


def read_manifest(folder: Path) -> Manifest:
    """What a checkpoint says it holds. CheckpointError where it says nothing, or nothing that can be understood."""
    file = folder / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{folder}: it has no {MANIFEST}, so it is not whole")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record.pop("schema", None) != SCHEMA:
            raise ValueError(f"not of schema {SCHEMA}")
        record["files"] = {str(name): (int(size), str(found)) for name, (size, found) in record["files"].items()}
        return Manifest(**record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def verify(folder: Path) -> Manifest:
    """The manifest of a checkpoint whose files are all as it says: sizes first, then contents.

    Raises:
        CheckpointError: the first file that is missing or other than when it was saved: expected and found.
    """
    manifest = read_manifest(folder)
    for name, (size, _) in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; expected {size} bytes")
        if file.stat().st_size != size:
            raise CheckpointError(f"{file}: expected {size} bytes, found {file.stat().st_size}")
    found = fingerprints(folder, manifest.files)
    for name, (_, expected) in manifest.files.items():
        if found[name][1] != expected:
            raise CheckpointError(
                f"{folder / name}: expected sha256 {expected[:12]}..., found {found[name][1][:12]}..."
            )
    return manifest


def last_checkpoint(output: str | Path) -> Path | None:
    """The newest whole checkpoint of a run; damaged ones are passed over, saying which file is wrong. None where the
    run has none yet.

    Raises:
        CheckpointError: there are checkpoints, and none is whole. Work must not be lost by starting anew in silence.
    """
    found = checkpoints(output)
    for folder in found.values():
        try:
            verify(folder)
        except CheckpointError as error:
            print(f"{error}: {folder.name} is passed over", file=sys.stderr, flush=True)
        else:
            return folder
    if found:
        listed = ", ".join(folder.name for folder in found.values())
        raise CheckpointError(
            f"{output}: none of its checkpoints ({listed}) is whole, see above; put one back from a copy, or, to start "
            f"anew, remove them or give another output"
        )
    return None


def resume_point(trainer: WholeCheckpoints) -> Path | None:
    """The checkpoint that all ranks go on from: rank 0 looks for it and tells. None: from the beginning.

    Raises:
        CheckpointError: none is whole, a rank does not see it, or it cannot be gone on from on this number of ranks.
    """
    out, found = trainer.output, None
    with together(CheckpointError):
        if trainer.is_world_process_zero():
            found = last_checkpoint(out)
    name = from_rank_0(found.name if found else None)
    if name is None:
        return None
    with together(CheckpointError):
        if not (out / name / MANIFEST).is_file():
            raise _not_shared(out / name)
        _check_ranks(read_manifest(out / name), trainer, out / name)
    return out / name


def _check_ranks(manifest: Manifest, trainer: WholeCheckpoints, folder: Path) -> None:
    now = trainer.accelerator.num_processes
    if manifest.batch != trainer.batch:
        raise CheckpointError(
            f"{folder}: saved on {manifest.ranks} ranks with a global batch of {manifest.batch}; on {now} ranks it is "
            f"{trainer.batch}, so other data would follow. Use {manifest.ranks} ranks; runs with optim.global_batch "
            f"(sft) or rollout.global_groups (grpo) can change their ranks"
        )
    if manifest.ranks == now:
        return
    if trainer.is_deepspeed_enabled:
        raise CheckpointError(f"{folder}: ZeRO's shards of {manifest.ranks} ranks cannot be read by {now}; use as many")
    if trainer.is_world_process_zero():
        print(
            f"{folder.name}: saved on {manifest.ranks} ranks, resumed on {now}: data go on in their order, random "
            f"states of ranks (dropout) begin anew",
            file=sys.stderr,
        )


def load_strictly(trainer: Any, checkpoint: str) -> bool:
    """Load the weights of a checkpoint into the trainer's model by exact names; False where that is the stock method's
    task (DeepSpeed, FSDP, LoRA).

    The stock method matches names as they stand in the file, and Qwen2.5-VL saves its vision tower under other names
    than it has in memory: a resumed run would silently start from an untrained tower.
    """
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or isinstance(trainer.model, PeftModel):
        return False
    saved = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=trainer.model.dtype)
    trainer.model.load_state_dict(saved.state_dict(), strict=True)
    return True


# --- writing ----------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> list[str]:
    """All files in a folder and below it."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def publish(part: Path, final: Path, manifest: Manifest) -> None:
    """Give a folder whose files have reached the disk its manifest and its name. A damaged folder of that name goes."""
    write_whole(part / MANIFEST, json.dumps({"schema": SCHEMA, **asdict(manifest)}, indent=1) + "\n")
    if final.exists():
        remove(final)
    os.replace(part, final)
    sync(final.parent)


def remove(folder: Path) -> None:
    """Remove a checkpoint: a kill in the middle leaves nothing under its name."""
    old = folder.with_name(f"{OLD}{folder.name}-{secrets.token_hex(4)}")
    os.replace(folder, old)
    shutil.rmtree(old)


def sweep(output: Path) -> None:
    """Remove what killed attempts were writing or removing."""
    for left in (*output.glob(f"{PART}*"), *output.glob(f"{OLD}*")):
        shutil.rmtree(left)


def prune(output: Path, keep: int | None, step: int) -> None:
    """Remove all but the newest `keep` checkpoints up to the one of `step`, which has just become whole. Newer ones
    were passed over as damaged: they stay for a look until training comes to their step."""
    older = [folder for number, folder in checkpoints(output).items() if number <= step]
    for folder in older[keep:] if keep is not None else ():
        remove(folder)


def check_space(output: Path, needed: int) -> None:
    """CheckpointError where the disk has fewer than `needed` bytes left. Nothing is written then."""
    free = shutil.disk_usage(output).free
    if free < needed:
        raise CheckpointError(_told(output, f"{free / 1e9:.3g} GB are free", needed))


def _told(output: Path, found: str, needed: int) -> str:
    return (
        f"{output}: a checkpoint takes about {needed / 1e9:.3g} GB, and {found}; earlier checkpoints are intact. Make "
        f"room, or lower keep_checkpoints (one more than that is on the disk while saving), and run it again"
    )


def out_of_space(error: BaseException) -> bool:
    """Whether a write failed for want of room; torch and safetensors tell of it in words only."""
    words = ("No space left", "quota exceeded", "file write failed", "File too large", "unexpected pos")
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
        word in str(error) for word in words
    )


def _not_shared(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder}: {gethostname()} does not see what rank 0 wrote there; a run's output must lie in a folder that all "
        f"nodes share (NFS, Lustre, ...)"
    )


@contextmanager
def shared_part(trainer: Any, output: Path, needed: int) -> Iterator[Path]:
    """A new folder beside the run's files, the same on all ranks, that is gone when the block ends.

    Raises:
        CheckpointError: too little room for `needed` bytes, before or while writing, or a rank that does not see it.
    """
    part, main = Path(from_rank_0(str(output / f"{PART}{secrets.token_hex(4)}"))), trainer.is_world_process_zero()
    with together(CheckpointError):
        if main:
            sweep(output)
            check_space(output, needed)
            part.mkdir(parents=True)
    try:
        with together(CheckpointError):
            if not part.is_dir():
                raise _not_shared(part)
        yield part
    except Exception as error:
        if not isinstance(error, StageError) and out_of_space(error):
            raise CheckpointError(_told(output, f"there was no room for it ({error})", needed)) from error
        raise
    finally:
        if main:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _failing(trainer: Any) -> Iterator[None]:
    """As `together`; but where writing itself waits for other ranks (shards), a rank that fails must end at once: its
    launcher then ends the others."""
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        yield
        with together(CheckpointError):
            pass
    else:
        with together(CheckpointError):
            yield


class WholeCheckpoints(Trainer):
    """A Trainer whose checkpoints are whole: to be inherited before TRL's class. keep: how many stay; None: all."""

    keep: int | None = None
    _part: Path | None = None

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(str(self.args.output_dir))

    @property
    def batch(self) -> int:
        """Samples an update takes over all ranks."""
        a = self.args
        return int(a.per_device_train_batch_size * a.gradient_accumulation_steps * self.accelerator.num_processes)

    def save_beside(self, folder: Path) -> None:
        """What a stage adds to a checkpoint; called on every rank."""

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._part) if self._part is not None else str(super()._get_output_dir(trial))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not load_strictly(self, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Upstream takes one more step where a checkpoint is of the last one."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        out, main, ranks = self.output, self.is_world_process_zero(), self.accelerator.num_processes
        step = self.state.global_step
        with shared_part(self, out, self._expected_bytes()) as part:
            folder = part / f"{PREFIX}{step}"
            self._part = part
            try:
                with _failing(self):
                    Trainer._save_checkpoint(self, model, trial)
                    self.save_beside(folder)
            finally:
                self._part = None
            with together(CheckpointError):  # only now: a file that is being written has another name before
                flush(folder)
            # what a rank has written it sees; of others' files it may not know yet (NFS)
            names = sorted({name for seen in gather_object([contents(folder)]) for name in seen})
            own: dict[str, tuple[int, str]] = {}
            with together(CheckpointError):
                own = fingerprints(folder, names[self.accelerator.process_index :: ranks])
            files = {name: found for part_of in gather_object([own]) for name, found in part_of.items()}
            with together(CheckpointError):
                if main:
                    manifest = Manifest(step, ranks, self.batch, __version__, dict(sorted(files.items())))
                    publish(folder, out / folder.name, manifest)
                    prune(out, self.keep, step)

    def save_and_stop(self) -> None:
        """Between two steps: save, unless that is done, and raise Preempted."""
        step = self.state.global_step
        there = (self.output / f"{PREFIX}{step}" / MANIFEST).is_file()
        if step and not from_rank_0(there):
            self._save_checkpoint(self.model, None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        raise Preempted(step)

    def _expected_bytes(self) -> int:
        """Of the last checkpoint; of a run's first: its weights, and two moments of those that are trained."""
        for folder in checkpoints(self.output).values():
            if (folder / MANIFEST).is_file():
                return read_manifest(folder).bytes
        return sum(_bytes(p) + (8 * _bytes(p) // p.element_size() if p.requires_grad else 0) for p in _weights(self))


def _weights(trainer: Any) -> list[Any]:
    return list(trainer.model.parameters())


def _bytes(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size())  # ZeRO-3 keeps parts


class Resumable(TrainerCallback):
    """Keeps the W&B run of a resumed training the same."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = sys.modules["wandb"].run if "wandb" in sys.modules else None
        if run is not None and state.is_world_process_zero:
            write_whole(Path(args.output_dir, "wandb_run_id"), run.id)


# --- the final model --------------------------------------------------------------------------------------------------


def save_final(trainer: Any, recipe: TrainRecipe, contract: Contract) -> None:
    """The trained model as an ordinary HF folder, with the base's processor files and the streaming contract.

    Written elsewhere first. The contract, without which nothing loads the folder, goes first and comes back last.
    """
    out, main = Path(recipe.output), trainer.is_world_process_zero()
    with shared_part(trainer, out, sum(_bytes(p) for p in _weights(trainer) if p.requires_grad)) as part:
        with _failing(trainer):
            if trainer.is_fsdp_enabled:  # its checkpoints stay in shards
                trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
            trainer.save_model(str(part))
            if main:
                trainer.state.save_to_json(str(part / "trainer_state.json"))
                for name in ("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.jinja"):
                    file = cached_file(recipe.model.path, name, _raise_exceptions_for_missing_entries=False)
                    if file is not None:
                        shutil.copy(file, part / name)
                save_resolved(contract, part / CONTRACT)
                flush(part)
        with together(CheckpointError):
            if main:
                (out / CONTRACT).unlink(missing_ok=True)
                sync(out)
                for made in part.iterdir():
                    if made.name != CONTRACT:
                        os.replace(made, out / made.name)
                sync(out)
                os.replace(part / CONTRACT, out / CONTRACT)
                sync(out)
