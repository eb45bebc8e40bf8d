"""Checkpoints on the disk: whole or not there.

A checkpoint is written under another name; its files reach the disk; a manifest with the size and the sha256 of each is
written last; then one rename makes it `checkpoint-N`. So a folder of that name is whole unless its disk or a hand has
damaged it since, which is found when it is read. docs/CHECKPOINTS.md has the whole contract; train/checkpoints.py is
what ranks and the trainer do about it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from train.stage import StageError
from whilst.files import fingerprints, sync, write_whole

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
    takes over all ranks; data: a digest of the rows that are trained on, "" where none is kept; files: (bytes, sha256)
    by path relative to the folder."""

    step: int
    ranks: int
    batch: int
    version: str
    files: Mapping[str, tuple[int, str]]
    data: str = ""

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.files.values())


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
