"""Exported folders: what others get of a run. Written whole or not at all, with a list of their files and checksums.

`whilst export` writes them (train/export.py: models, data_pipeline/share.py: samples) and pushes them (whilst/hub.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from whilst import __version__
from whilst.files import fingerprints, flush, sync

FILE = "export.json"
SCHEMA = "whilst.export/1"
Kind = Literal["model", "adapter", "dataset"]
TEXTS = (".json", ".yaml", ".md", ".jinja", ".txt")  # small files in which a path of this machine would be seen


class ExportError(ValueError):
    """A run that cannot be exported, or a folder that is not what was exported; says what is wrong and the fix."""


@dataclass(frozen=True)
class File:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Exported:
    """An exported folder. files: by name relative to it, all but export.json itself."""

    folder: Path
    kind: Kind
    files: Mapping[str, File]
    version: str = __version__

    @property
    def size(self) -> int:
        """Bytes of all files, without export.json."""
        return sum(file.size for file in self.files.values())


def listing(exported: Exported) -> list[str]:
    """Its files as lines: bytes, the first of the SHA-256, name."""
    width = max(len(f"{file.size:,}") for file in exported.files.values())
    return [f"  {file.size:>{width},}  {file.sha256[:12]}  {name}" for name, file in exported.files.items()]


def is_exported(folder: Path) -> bool:
    return (folder / FILE).is_file()


@contextmanager
def writing(out: Path, kind: Kind, *, overwrite: bool = False, private: tuple[str, ...] = ()) -> Iterator[Path]:
    """A part folder beside `out` to write into. It takes the place of `out` when the block ends well, and goes if not.

    private: texts (paths of this machine) that no small file may hold. ExportError: `out` is there, unless it is an
    exported folder and overwrite is set; or a file holds one of these texts.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and not (overwrite and is_exported(out)):
        fix = (
            "it is no exported folder, so it is not overwritten; choose another" if overwrite else "or pass --overwrite"
        )
        raise ExportError(f"{out}: it is there already; {'' if overwrite else 'choose another folder, '}{fix}")
    part = out.parent / f".{out.name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a process of this number that was killed
    part.mkdir(parents=True)
    try:
        yield part
        _check_private(part, private)
        files = {name: File(*found) for name, found in fingerprints(part, _files(part)).items()}
        listed = {"schema": SCHEMA, "kind": kind, "version": __version__}
        listed_files = {name: asdict(file) for name, file in files.items()}
        (part / FILE).write_text(json.dumps({**listed, "files": listed_files}, indent=1) + "\n", encoding="utf-8")
        for path in part.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # safetensors writes for the owner alone
        flush(part)
        old = out.parent / f".{out.name}.{os.getpid()}.old"
        if out.exists():
            os.rename(out, old)
        os.rename(part, out)
        sync(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_exported(folder: Path) -> Exported:
    """What a folder says it holds, after every file was read and compared with it.

    ExportError: it is no exported folder, or a file is missing, changed or not listed.
    """
    if not is_exported(folder):
        raise ExportError(f"{folder}: {FILE} is missing; `whilst export RUN --to {folder}` writes such a folder")
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA or found["kind"] not in get_args(Kind):
            raise ValueError(f"it is not of schema {SCHEMA}")
        files = {str(name): File(int(of["size"]), str(of["sha256"])) for name, of in found["files"].items()}
        exported = Exported(folder, found["kind"], files, str(found["version"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{folder / FILE}: {error!r}; it was edited, or another version wrote it") from error
    there = _files(folder)
    there.pop(FILE)
    wrong = [f"{name} is missing" for name in files if name not in there]
    wrong += [f"{name} is not listed" for name in there if name not in files]
    found_now = fingerprints(folder, [name for name in there if name in files])
    wrong += [f"{name} was changed" for name, now in found_now.items() if File(*now) != files[name]]
    if wrong:
        raise ExportError(f"{folder}: not what was exported: {'; '.join(wrong)}; export it again with --overwrite")
    return exported


def _files(folder: Path) -> dict[str, Path]:
    """Files by name, without hidden folders such as .cache, which loaders leave."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if not name.startswith(".")}


def _check_private(folder: Path, private: tuple[str, ...]) -> None:
    for name, path in _files(folder).items():
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8", errors="replace")
            for one in private:
                if one in text:
                    raise ExportError(
                        f"{name} would hold {one!r}, a path of this machine; have the recipe say relative paths or ids"
                    )
