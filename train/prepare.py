"""A training set before its first step: which rows it has, and which samples it leaves out.

Every sample is decoded and rendered once, its rows are measured, and what cannot be used is counted with its reason.
Ranks share this work (train/shares.py) and keep what they found in the run's folder: a part a rank, written whole every
minute, and at the end `prepared.json`. An attempt that ended early is gone on with, on any number of ranks, and a
resumed run measures nothing. Neither frames nor rows of a whole data set have to fit into memory: `Rows` makes them
again when they are asked for, and keeps the last ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from socket import gethostname
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from train.rows import NO_LIMITS, UNUSABLE, DataError, Item, Limits, Rejected, Thoughts, render_items, with_thoughts
from train.shares import Told, shares
from train.together import from_rank_0, together
from whilst.files import write_whole
from whilst.render import Renderer, TokenRow
from whilst.sample import Sample, to_record

SCHEMA = "whilst.prepared/2"
SAVE = 60.0  # seconds of a rank's work that a kill may cost
CUT = 64  # samples whose files are looked at as one piece
BEFORE = "before.json"  # the part of earlier attempts


@dataclass(frozen=True)
class Found:
    """What a sample gives: the tokens of each of its rows, or why none. counts: what was to be counted in them."""

    lengths: tuple[int, ...]
    reason: str = ""
    counts: tuple[int, ...] = ()


class Rows:
    """Rows by number, decoded and rendered when asked for; the last used stay, up to `keep_megabytes`. One process."""

    def __init__(
        self,
        samples: Sequence[Sample],
        renderer: Renderer,
        fps: float,
        thoughts: Thoughts,
        keep_megabytes: float,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self.samples, self.renderer, self.fps, self.thoughts = samples, renderer, fps, thoughts
        self.limits = limits
        self.most, self.used = int(keep_megabytes * 1e6), 0  # bytes
        self.samples_digest = ""  # when they are measured, and that is kept
        self.places: list[tuple[int, int]] = []  # (sample, which of its rows)
        self.lengths: list[int] = []
        self._kept: OrderedDict[int, tuple[list[Item], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> Item:
        """DataError: its sample could be read when training was prepared, and now cannot."""
        sample, part = self.places[row]
        try:
            items = self.of_sample(sample)
        except UNUSABLE as error:
            raise DataError(
                f"sample {self.samples[sample].id}: it was fine when this run was prepared, and now it is not: {error}"
            ) from error
        if len(items) <= part or len(items[part].row) != self.lengths[row]:
            raise DataError(
                f"sample {self.samples[sample].id}: its rows have changed since this run was prepared; do not change "
                f"videos under a run, or remove prepared.json of its folder"
            )
        return items[part]

    def of_sample(self, sample: int) -> list[Item]:
        if sample in self._kept:
            self._kept.move_to_end(sample)
            return self._kept[sample][0]
        told = with_thoughts(self.samples[sample], self.thoughts)
        items = render_items(told, self.renderer, self.fps, self.limits)
        size = _bytes(items)
        if size <= self.most:
            self._kept[sample] = items, size
            self.used += size
        while self.used > self.most:
            self.used -= self._kept.popitem(last=False)[1][1]
        return items

    @property
    def digest(self) -> str:
        """Of the samples and of how long their rows are: with another one, the numbers of rows mean other data."""
        return digest([self.samples_digest, self.lengths])

    def place(self, found: Sequence[Found]) -> None:
        """Number the rows of all samples."""
        for sample, one in enumerate(found):
            self.places += [(sample, part) for part in range(len(one.lengths))]
            self.lengths += one.lengths


def measure(
    rows: Rows,
    keep: Path | None = None,
    count: Callable[[TokenRow], Sequence[int]] | None = None,
    counted: Sequence[str] = (),
) -> list[Found]:
    """What each sample gives, of all ranks; `rows` then has its numbers. keep: a file that remembers it, in a run's
    folder. counted: names of what `count` counts, so that counts of other things are not taken for them.

    Raises:
        DataError: another rank failed, or does not see the run's folder.
        Interrupted: a rank was asked to stop; what is measured is kept beside `keep`.
    """
    rank = PartialState().process_index
    key = _key(rows, counted, keep) if keep is not None else ""
    with together(DataError):
        known = _known(keep, key) if keep is not None and rank == 0 else {}
    found: dict[int, Found] = from_rank_0(known)
    # longest first: the last pieces are short, and no rank is left alone with a long one
    todo = sorted(set(range(len(rows.samples))) - found.keys(), key=lambda i: (-_seconds(rows.samples[i]), i))
    if todo:
        told = Told("samples measured", [_seconds(rows.samples[i]) for i in todo], keep)
        own: dict[int, Found] = {}
        with shares(len(todo), DataError, told) as pieces:
            part, saved = _part(keep, rank) if keep is not None else None, time.monotonic()
            try:
                for piece in pieces:
                    own[todo[piece]] = _found(rows, todo[piece], count)
                    if part is not None and time.monotonic() - saved >= SAVE:
                        _write(part, key, own)
                        saved = time.monotonic()
            finally:
                if part is not None and own:
                    _write(part, key, own)
        found |= {sample: one for others in gather_object([own]) for sample, one in others.items()}
    if keep is not None and rank == 0 and _parts(keep).is_dir():
        _write(keep, key, found)
        shutil.rmtree(_parts(keep))
    listed = [found[sample] for sample in range(len(rows.samples))]
    rows.place(listed)
    return listed


def rejected(rows: Rows, found: Sequence[Found]) -> list[Rejected]:
    return [Rejected(s.id, one.reason) for s, one in zip(rows.samples, found, strict=True) if one.reason]


def _found(rows: Rows, sample: int, count: Callable[[TokenRow], Sequence[int]] | None) -> Found:
    try:
        made = [item.row for item in rows.of_sample(sample)]
    except UNUSABLE as error:
        return Found((), str(error))
    counts = [count(row) for row in made] if count is not None else []
    return Found(tuple(len(row) for row in made), "", tuple(map(sum, zip(*counts, strict=True))))


def _seconds(sample: Sample) -> float:
    """Of video that it shows; what it takes to decode. Above 0: each takes some time."""
    segments = sample.segments()
    return 0.1 + (segments[-1].end - segments[0].start if segments else 0.0)


# ---- What is kept: prepared.json, and before it is there, a part a rank.


def _key(rows: Rows, counted: Sequence[str], keep: Path) -> str:
    """A digest of all that decides what samples give: their events, their files, and how they are rendered. Ranks share
    it, since it asks the file system for every image of videos that are folders."""
    cuts = [rows.samples[first : first + CUT] for first in range(0, len(rows.samples), CUT)]
    told, own = Told("parts of the samples whose files were looked at", [1.0] * len(cuts), keep), dict[int, list[str]]()
    files = lru_cache(maxsize=CUT)(_files)  # samples of one video follow each other
    with shares(len(cuts), DataError, told) as pieces:
        for piece in pieces:
            records = [[to_record(sample), files(Path(sample.video.path))] for sample in cuts[piece]]
            own[piece] = [digest(records), samples_digest(cuts[piece])]
    whole = {piece: both for part in gather_object([own]) for piece, both in part.items()}
    rows.samples_digest = digest([whole[piece][1] for piece in sorted(whole)])
    digests = {piece: both[0] for piece, both in whole.items()}
    settings = [asdict(rows.renderer.config), asdict(rows.renderer.spec), rows.fps, rows.thoughts, list(counted)]
    settings.append(asdict(rows.limits))
    return digest([SCHEMA, settings, sorted(rows.renderer.vocabulary.items()), sorted(digests.items())])


def samples_digest(samples: Sequence[Sample]) -> str:
    """Of what samples say, wherever their videos lie: a folder that was moved holds the same data."""
    named = (replace(s, video=replace(s.video, path=Path(s.video.path).name)) for s in samples)
    return digest([to_record(sample) for sample in named])


def digest(of: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(of, sort_keys=True, default=str).encode()).hexdigest()


def _files(video: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a video, or of all that lies in a folder of images."""
    if video.is_dir():
        with os.scandir(video) as entries:  # of a link that leads nowhere, the link
            found = [(entry.name, entry.stat(follow_symlinks=entry.is_file())) for entry in entries]
        return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)
    return [(video.name, video.stat().st_size, video.stat().st_mtime_ns)] if video.is_file() else []


def _parts(keep: Path) -> Path:
    return keep.with_name(f".{keep.stem}")


def _known(keep: Path, key: str) -> dict[int, Found]:
    """What is kept under this key: all, or what attempts that ended early have left. Their parts become one, and parts
    of other keys go."""
    known, folder = _read(keep, key), _parts(keep)
    if known:
        shutil.rmtree(folder, ignore_errors=True)
        return known
    folder.mkdir(parents=True, exist_ok=True)
    files = list(folder.iterdir())
    known = {sample: one for file in files if file.suffix == ".json" for sample, one in _read(file, key).items()}
    _write(folder / BEFORE, key, known)
    for file in files:
        if file.name != BEFORE:
            file.unlink()
    return known


def _part(keep: Path, rank: int) -> Path:
    """The file of what this rank measures."""
    if not _parts(keep).is_dir():
        raise DataError(
            f"{_parts(keep)}: {gethostname()} does not see what rank 0 wrote there; a run's output must lie in a "
            f"folder that all nodes share (NFS, Lustre, ...)"
        )
    return _parts(keep) / f"{rank}.json"


def _write(file: Path, key: str, found: Mapping[int, Found]) -> None:
    listed = {sample: [one.lengths, one.reason, one.counts] for sample, one in sorted(found.items())}
    write_whole(file, json.dumps({"schema": SCHEMA, "key": key, "samples": listed}) + "\n")


def _read(file: Path, key: str) -> dict[int, Found]:
    """Nothing where it is not there, or of another key."""
    if not file.is_file():
        return {}
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: it was damaged ({error}); remove it, and its samples are measured again") from error
    if kept.get("schema") != SCHEMA or kept.get("key") != key:
        return {}
    return {int(i): Found(tuple(lengths), reason, tuple(of)) for i, (lengths, reason, of) in kept["samples"].items()}


def _bytes(items: Sequence[Item]) -> int:
    """Of the arrays that clips are cut from, and of the rows."""
    images = [clip.images for item in items for clip in item.clips]
    owners = [one if one.base is None else one.base for one in images]
    rows = [item.row for item in items]
    arrays = [a for r in rows for a in (r.input_ids, r.labels, r.loss_weight, r.roles, r.visual_index, r.positions)]
    arrays += [array for row in rows for array in row.meta.values()]
    return sum({id(owner): owner.nbytes for owner in (*owners, *arrays)}.values())
