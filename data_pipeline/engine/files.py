"""Files that are either whole or not there, and manifests that say so.

A job writes its files under other names, has them reach the disk, renames them, and last of all writes its manifest in
the same way. So a job without a valid manifest has not been done, whatever lies about, and is done again; one with a
valid manifest is never done twice. A write that fails raises, and fails the job.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.source import SynthError
from whilst.files import fingerprints, sync

SCHEMA = "whilst.manifest/1"


@dataclass(frozen=True)
class Manifest:
    """What a job has made. `key` is a digest of all that decides its outcome; `files` maps paths, relative to the run's
    folder, to (bytes, sha256); `figures` are its counts, as JSON."""

    key: str
    files: Mapping[str, tuple[int, str]]
    figures: Mapping[str, Any]


@contextmanager
def committing(folder: Path, names: Sequence[str]) -> Iterator[list[Path]]:
    """Paths to write to, one a name (relative to `folder`), that take the names' places when the block ends well.

    The files have reached the disk before the first is renamed. What an earlier, killed attempt left is removed.

    Raises:
        OSError: something cannot be written; nothing is renamed then.
    """
    finals = [folder / name for name in names]
    for final in finals:
        final.parent.mkdir(parents=True, exist_ok=True)
        for stale in final.parent.glob(f".{final.name}.*.part"):
            stale.unlink(missing_ok=True)
    # With the process's id: a worker that outlives its killed parent for a moment writes to no file of ours.
    parts = [final.parent / f".{final.name}.{os.getpid()}.part" for final in finals]
    try:
        yield parts
        for part in parts:
            sync(part)
        for part, final in zip(parts, finals, strict=True):
            os.replace(part, final)
        for parent in {final.parent for final in finals}:
            sync(parent)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def write_text(folder: Path, name: str, text: str) -> None:
    """One whole text file, or none."""
    with committing(folder, [name]) as [part]:
        part.write_text(text, encoding="utf-8", newline="\n")


def digest(value: object) -> str:
    """sha256 of a JSON value in its one canonical form."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(folder: Path, name: str, key: str, files: Sequence[str], figures: Mapping[str, Any]) -> Manifest:
    """Seal a job: fingerprint its files and write `name`. Call it when all of them are in place."""
    manifest = Manifest(key, fingerprints(folder, sorted(files)), figures)
    text = json.dumps({"schema": SCHEMA} | asdict(manifest), ensure_ascii=False, indent=1) + "\n"
    write_text(folder, name, text)
    return manifest


def read_manifest(folder: Path, name: str, key: str) -> Manifest | None:
    """The manifest of a job that is done: one of this `key`, all of whose files are as it says. None where it is not.

    Raises:
        SynthError: a manifest of another key: the recipe, an input or the program is not that of this run any more.
    """
    path = folder / name
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))  # renamed into place when whole: never torn
    if record.pop("schema", None) != SCHEMA:
        raise SynthError(f"{path}: not a manifest of schema {SCHEMA!r}; remove the output folder and start anew")
    if record["key"] != key:
        raise SynthError(
            f"{path}: made from other inputs, another recipe or another version of whilst than this run would use; "
            "write to another output, or remove this one"
        )
    files = {file: (size, found) for file, (size, found) in record["files"].items()}
    if not all((folder / file).is_file() for file in files) or fingerprints(folder, files) != files:
        return None
    return Manifest(record["key"], files, record["figures"])
