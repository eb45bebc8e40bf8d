"""How ranks write a checkpoint together, and go on from one. What it is on the disk: train/checkpoint_files.py."""

from __future__ import annotations

import errno
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from typing import Any

from accelerate.utils import gather_object
from peft import PeftModel
from transformers import AutoModelForImageTextToText, Trainer, TrainerCallback

from train.checkpoint_files import (
    MANIFEST,
    PART,
    PREFIX,
    CheckpointError,
    Manifest,
    checkpoints,
    contents,
    last_checkpoint,
    prune,
    publish,
    read_manifest,
    sweep,
)
from train.memory import checkpoint_bytes
from train.stage import StageError
from train.stopping import Preempted
from train.together import from_rank_0, together
from whilst import __version__
from whilst.files import fingerprints, flush, write_whole


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
        manifest = read_manifest(out / name)
        _check_data(manifest, trainer, out / name)
        _check_ranks(manifest, trainer, out / name)
    return out / name


def _check_data(manifest: Manifest, trainer: WholeCheckpoints, folder: Path) -> None:
    if manifest.data and trainer.data and manifest.data != trainer.data:
        raise CheckpointError(
            f"{folder}: saved while training on other data than data.train has now (its samples, their order or the "
            f"length of their rows have changed), so some would be trained on twice and some never. Put the data back "
            f"as they were, or train into another output"
        )


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
def failing(trainer: Any) -> Iterator[None]:
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
    """A Trainer whose checkpoints are whole: to be inherited before TRL's class. keep: how many stay; None: all. data:
    a digest of what it trains on, which a checkpoint that it goes on from must share; "": not told."""

    keep: int | None = None
    data: str = ""
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
                with failing(self):
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
                    manifest = Manifest(step, ranks, self.batch, __version__, dict(sorted(files.items())), self.data)
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
        """Of the last checkpoint; of a run's first, by arithmetic (train.memory.checkpoint_bytes)."""
        for folder in checkpoints(self.output).values():
            if (folder / MANIFEST).is_file():
                return read_manifest(folder).bytes
        model: Any = self.model
        sizes = [(parameter_bytes(p) // p.element_size(), p.requires_grad) for p in model.parameters()]
        trained = sum(size for size, trains in sizes if trains)
        return checkpoint_bytes(
            trained,
            trained if isinstance(model, PeftModel) else sum(size for size, _ in sizes),
            next(model.parameters()).element_size(),
            self.accelerator.state.deepspeed_plugin.zero_stage if self.is_deepspeed_enabled else 0,
        )


def parameter_bytes(parameter: Any) -> int:
    """Bytes of a whole parameter, wherever its parts lie."""
    return int(getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size())  # ZeRO-3 keeps parts


class Resumable(TrainerCallback):
    """Keeps the W&B run of a resumed training the same."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = sys.modules["wandb"].run if "wandb" in sys.modules else None
        if run is not None and state.is_world_process_zero:
            write_whole(Path(args.output_dir, "wandb_run_id"), run.id)
