"""A training set before its first step: which rows it has, and which samples it leaves out.

Every sample is decoded and rendered once, its rows are measured, and what cannot be used is counted with its reason.
Ranks share this work and tell each other what they found; `prepared.json` in the run's folder keeps it, so that a
resumed run does not do it again. Neither frames nor rows of a whole data set have to fit into memory: `Rows` makes them
again when they are asked for, and keeps the last ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from train.rows import UNUSABLE, DataError, Item, Rejected, Thoughts, render_items, with_thoughts
from train.together import from_rank_0, together
from whilst.files import write_whole
from whilst.progress import progress
from whilst.render import Renderer, TokenRow
from whilst.sample import Sample, to_record

SCHEMA = "whilst.prepared/1"


@dataclass(frozen=True)
class Found:
    """What a sample gives: the tokens of each of its rows, or why none. counts: what was to be counted in them."""

    lengths: tuple[int, ...]
    reason: str = ""
    counts: tuple[int, ...] = ()


class Rows:
    """Rows by number, decoded and rendered when asked for; the last used stay, up to `keep_megabytes`. One process."""

    def __init__(
        self, samples: Sequence[Sample], renderer: Renderer, fps: float, thoughts: Thoughts, keep_megabytes: float
    ) -> None:
        self.samples, self.renderer, self.fps, self.thoughts = samples, renderer, fps, thoughts
        self.most, self.used = int(keep_megabytes * 1e6), 0  # bytes
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
        items = render_items(with_thoughts(self.samples[sample], self.thoughts), self.renderer, self.fps)
        size = _bytes(items)
        if size <= self.most:
            self._kept[sample] = items, size
            self.used += size
        while self.used > self.most:
            self.used -= self._kept.popitem(last=False)[1][1]
        return items

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
    """What each sample gives, of all ranks; `rows` then has its numbers. keep: a file that remembers it. counted: names
    of what `count` counts, so that counts of other things are not taken for them.

    Raises:
        DataError: another rank failed.
    """
    state = PartialState()
    key = _key(rows, counted) if keep is not None and state.is_main_process else ""
    found = from_rank_0(_read(keep, key) if key and keep is not None else None)
    if found is None:
        own = range(state.process_index, len(rows.samples), state.num_processes)
        told = []
        with together(DataError), progress("decode and render", len(own)) as advance:
            for sample in own:
                told.append((sample, _found(rows, sample, count)))
                advance(1)
        found = [one for _, one in sorted(gather_object(told), key=lambda pair: pair[0])]
        if keep is not None and state.is_main_process:
            listed = [[one.lengths, one.reason, one.counts] for one in found]
            write_whole(keep, json.dumps({"schema": SCHEMA, "key": key, "samples": listed}) + "\n")
    rows.place(found)
    return found


def rejected(rows: Rows, found: Sequence[Found]) -> list[Rejected]:
    return [Rejected(s.id, one.reason) for s, one in zip(rows.samples, found, strict=True) if one.reason]


def _found(rows: Rows, sample: int, count: Callable[[TokenRow], Sequence[int]] | None) -> Found:
    try:
        made = [item.row for item in rows.of_sample(sample)]
    except UNUSABLE as error:
        return Found((), str(error))
    counts = [count(row) for row in made] if count is not None else []
    return Found(tuple(len(row) for row in made), "", tuple(map(sum, zip(*counts, strict=True))))


def _key(rows: Rows, counted: Sequence[str]) -> str:
    """A digest of all that decides what samples give: their events, their files, and how they are rendered."""
    digest = hashlib.sha256()
    settings = [asdict(rows.renderer.config), asdict(rows.renderer.spec), rows.fps, rows.thoughts, SCHEMA]
    settings.append(list(counted))
    digest.update(json.dumps([settings, sorted(rows.renderer.vocabulary.items())], default=str).encode())
    for sample in rows.samples:
        digest.update(json.dumps(to_record(sample), sort_keys=True).encode())
        file = Path(sample.video.path)
        if file.is_file():
            digest.update(f"{file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _read(file: Path, key: str) -> list[Found] | None:
    if not file.is_file():
        return None
    kept = json.loads(file.read_text(encoding="utf-8"))
    if kept.get("schema") != SCHEMA or kept.get("key") != key:
        return None
    return [Found(tuple(lengths), reason, tuple(counts)) for lengths, reason, counts in kept["samples"]]


def _bytes(items: Sequence[Item]) -> int:
    """Of the arrays that clips are cut from, and of the rows."""
    images = [clip.images for item in items for clip in item.clips]
    owners = [one if one.base is None else one.base for one in images]
    rows = [item.row for item in items]
    arrays = [a for r in rows for a in (r.input_ids, r.labels, r.loss_weight, r.roles, r.visual_index, r.positions)]
    arrays += [array for row in rows for array in row.meta.values()]
    return sum({id(owner): owner.nbytes for owner in (*owners, *arrays)}.values())
