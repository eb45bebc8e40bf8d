"""Predictions that are kept: made once, read again, and never mixed up.

    <output>/predictions/<job>/manifest.json       all that decides the predictions of the job
                               block-00000.jsonl   one line a sample: its episodes, or why there is none

A block is what is watched in step. It is written when it is done, as a whole (a temporary file, then a rename), so a
run that is killed goes on behind its last block, and what it writes is bitwise what it would have written at once.
Every line has a checksum. A block with a line that is torn, changed, missing or another sample's is predicted again. So
is a block with a sample that failed: it may have been mended since. A manifest that differs throws all of it away.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import whilst
from evaluation.predict import Episode, EvaluationError, Reply
from whilst.checkpoint import CONTRACT, read_contract
from whilst.sample import Sample, to_record

MANIFEST = "manifest.json"
# Of a checkpoint folder: what is no weight, tokenizer or setting of the model does not decide what it says.
MODEL_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.txt", "*.model", CONTRACT)
NOT_OF_THE_MODEL = ("trainer_state.json", "training_args.bin", "optimizer.bin", "scheduler.bin")
SOURCES = (
    "whilst/**/*.py",
    "rewards/queries.py",
    *(f"evaluation/{name}.py" for name in ("predict", "predictions", "jobs", "controls", "constants", "rereading")),
)
ENDS = 1 << 16  # bytes at either end of a video that tell it from another one


@dataclass(frozen=True)
class Predicted:
    """What a job made of a sample: its episodes (several under some controls), or why there is none (failure)."""

    sample: str
    episodes: tuple[Episode, ...] = ()
    failure: str = ""
    left_out: tuple[tuple[str, str], ...] = ()  # queries that a control does not cover, and why


def folder_of(output: str | Path, job: str) -> Path:
    """Where the predictions of a job are kept; names of jobs may hold any sign."""
    return Path(output, "predictions", quote(job.replace("/", "@"), safe="@ +=,"))


# ---- Blocks: which samples are watched in step.


def blocks_of(samples: Sequence[Sample], batch: int) -> list[list[int]]:
    """Indices of samples, block by block: about `batch` each, whole videos, taken by turns within a block.

    A video is in one block only (unless it alone has more than `batch` samples), so blocks can be spread over
    processes by video, and neighbours in a block are of different videos wherever it has several. A last block with
    a single video joins the one before.
    """
    by_video: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        by_video.setdefault(sample.video.path, []).append(i)
    parts = [which[s : s + batch] for which in by_video.values() for s in range(0, len(which), batch)]
    blocks: list[list[list[int]]] = []
    for part in parts:
        if not blocks or sum(map(len, blocks[-1])) + len(part) > batch:
            blocks.append([])
        blocks[-1].append(part)
    if batch > 1 and len(blocks) > 1 and len(blocks[-1]) == 1 and len(blocks[-1][0]) < batch:
        (alone,) = blocks.pop()
        blocks[-1].append(alone)
    return [_by_turns(block) for block in blocks]


def _by_turns(parts: Sequence[Sequence[int]]) -> list[int]:
    return [part[turn] for turn in range(max(map(len, parts))) for part in parts if turn < len(part)]


def check_ids(samples: Sequence[Sample]) -> None:
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise EvaluationError(f"samples: the id {sample.id!r} is there twice; give each sample its own")
        seen.add(sample.id)


# ---- Files.


def block_file(folder: Path, index: int) -> Path:
    return folder / f"block-{index:05d}.jsonl"


def write_block(folder: Path, index: int, made: Sequence[Predicted]) -> None:
    """Write a block as a whole or not at all."""
    lines = []
    for one in made:
        body = json.dumps(asdict(one), ensure_ascii=False, allow_nan=False)
        lines.append(f"{_short(body.encode())} {body}\n")
    write_whole(block_file(folder, index), "".join(lines))


def read_block(folder: Path, index: int, ids: Sequence[str]) -> tuple[list[Predicted] | None, str]:
    """The predictions of the samples `ids`, in their order; or None and why they cannot be used ("": not there yet)."""
    file = block_file(folder, index)
    if not file.exists():
        return None, ""
    found = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
        checksum, _, body = line.partition(b" ")
        if checksum.decode("ascii", "replace") != _short(body):
            return None, f"{file}: line {number} is torn or was changed; its block is predicted again"
        found.append(_from_record(json.loads(body)))
    if [one.sample for one in found] != list(ids):
        return None, f"{file}: it does not hold the {len(ids)} samples of its block; it is predicted again"
    return found, ""


def _from_record(record: Mapping[str, Any]) -> Predicted:
    episodes = tuple(
        Episode(
            e["sample"],
            [(time, text, finished) for time, text, finished in e["thoughts"]],
            [Reply(**reply) for reply in e["replies"]],
            e["thought_tokens"],
            e["answer_tokens"],
        )
        for e in record["episodes"]
    )
    left_out = tuple((query, reason) for query, reason in record["left_out"])
    return Predicted(record["sample"], episodes, record["failure"], left_out)


def write_whole(file: Path, text: str) -> None:
    """Write a file so that a reader finds all of it or what was there before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    name = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with name.open("w", encoding="utf-8", newline="") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(name, file)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def open_folder(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Make a job's folder ready for this manifest. Returns why what was there cannot be used, or ""."""
    file = folder / MANIFEST
    why = ""
    if file.exists():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            before, why = None, "its manifest cannot be read"
        if before is not None:
            changed = differences(_decides(before), _decides(manifest))
            why = "; ".join(changed)
    elif folder.exists() and any(folder.glob("block-*.jsonl")):
        why = "there is no manifest"
    if why:
        for stale in folder.glob("block-*.jsonl"):
            stale.unlink()
    if why or not file.exists():
        write_whole(file, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return f"{folder}: predictions are made anew: {why}" if why else ""


def is_open(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a job's folder is ready for this manifest, as `open_folder` makes it."""
    file = folder / MANIFEST
    return file.exists() and not differences(_decides(json.loads(file.read_text(encoding="utf-8"))), _decides(manifest))


def _decides(manifest: Mapping[str, Any]) -> Any:
    """The commit is told, not compared: the hash of the sources says more, and a commit may touch other files."""
    return {key: value for key, value in manifest.items() if key != "commit"}


def differences(before: Any, after: Any, name: str = "") -> list[str]:
    """What differs between two JSON values, one text each: "settings.batch: 64 -> 32"."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = dict.fromkeys([*before, *after])
        return [d for k in keys for d in differences(before.get(k), after.get(k), f"{name}.{k}" if name else str(k))]
    return [] if before == after else [f"{name}: {json.dumps(before)} -> {json.dumps(after)}"]


# ---- The manifest.


def manifest_of(
    path: str,
    samples: Sequence[Sample],
    settings: Mapping[str, Any],
    *,
    device: str,
    thoughts_of: Mapping[str, Any] | None,
    commit: str | None,
) -> dict[str, Any]:
    """All that decides what the checkpoint at `path` says of the samples. Same manifest, same predictions.

    settings: the part of the recipe that decides predictions, the control among it. thoughts_of: the manifest of the
    job whose thoughts are given, where some are.
    """
    return {
        "schema": "whilst.predictions/1",
        "model": model_hash(path),
        "samples": samples_hash(samples),
        "videos": videos_hash(tuple(sample.video.path for sample in samples)),
        "settings": json.loads(json.dumps(settings)),
        "thoughts_of": _short(json.dumps(_decides(thoughts_of), sort_keys=True).encode()) if thoughts_of else None,
        "device": device.partition(":")[0],
        "code": {"version": whilst.__version__, "sources": sources_hash()},
        "libraries": {name: version(name) for name in ("torch", "transformers")},
        "commit": commit,
    }


def model_hash(path: str) -> dict[str, str]:
    """Hashes of a checkpoint folder: weights and all that goes with them, the contract, and an adapter's base."""
    stamp = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in model_files(path))
    return dict(_model_hash(path, stamp))


@cache
def _model_hash(path: str, stamp: tuple[tuple[str, int, int], ...]) -> tuple[tuple[str, str], ...]:
    contract = Path(path, CONTRACT)
    found = {
        "weights and config": files_hash([Path(name) for name, _, _ in stamp if Path(name) != contract], Path(path)),
        CONTRACT: _short(contract.read_bytes()),
    }
    if Path(path, "adapter_config.json").exists():
        base = read_contract(path).base
        files = model_files(base) if Path(base).is_dir() else []
        found["base"] = files_hash(files, Path(base)) if files else base
    return tuple(found.items())


def model_files(path: str | Path) -> list[Path]:
    """What decides what the model in a folder says."""
    found = {file for pattern in MODEL_FILES for file in Path(path).glob(pattern)}
    return sorted(file for file in found if file.name not in NOT_OF_THE_MODEL)


def samples_hash(samples: Iterable[Sample]) -> str:
    """Of the samples as they are asked: ids, videos by name (wherever they lie), events, memory, meta."""
    digest = hashlib.sha256()
    for sample in samples:
        record = to_record(sample)
        record["video"]["path"] = Path(sample.video.path).name
        digest.update(json.dumps(record, sort_keys=True, ensure_ascii=False, default=dict).encode() + b"\n")
    return digest.hexdigest()[:16]


def videos_hash(paths: Sequence[str]) -> str:
    """Of the files behind the samples: size and both ends of each; folders of images by names and sizes."""
    digest = hashlib.sha256()
    for name in dict.fromkeys(paths):
        path = Path(name)
        if path.is_dir():
            inside = sorted((file.name, file.stat().st_size) for file in path.iterdir())
            digest.update(repr(inside).encode())
        elif path.is_file():
            size = path.stat().st_size
            with path.open("rb") as file:
                digest.update(str(size).encode() + file.read(ENDS))
                file.seek(max(0, size - ENDS))
                digest.update(file.read(ENDS))
        else:
            digest.update(b"absent")
    return digest.hexdigest()[:16]


@cache
def sources_hash() -> str:
    """Of the code that decides predictions. Taken once a process: what runs is what was loaded."""
    root = Path(whilst.__file__).parents[1]
    return files_hash(sorted({file for pattern in SOURCES for file in root.glob(pattern)}), root)


def files_hash(files: Sequence[Path], root: Path) -> str:
    """Of names below `root`, and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(root)).encode() + b"\0")
        with file.open("rb") as content:
            while part := content.read(1 << 22):
                digest.update(part)
    return digest.hexdigest()[:16]


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
