"""A shard of samples in the layouts of VST, TWW and StreamingVLM, for their own loaders (see whilst/foreign)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from data_pipeline.engine.recipe import Export
from data_pipeline.queries.choice import listed, own_words
from data_pipeline.source import Rejected, Yield
from whilst.foreign import write_text_stream, write_tww, write_vst
from whilst.sample import Event, Query, Sample, SampleError, Silence, Thought


def export_shard(
    samples: Sequence[Sample], export: Export, data: Path, target: Path, stem: str
) -> tuple[list[Path], Yield, list[Rejected]]:
    """Write the samples of a shard below `target`: <stem>.jsonl with its seek index, or a folder <stem> of TWW files.

    `data` is the folder that the samples' video paths are relative to. Returns the files, and what could not be said.

    Raises:
        OSError: something cannot be written.
    """
    write = partial(write_text_stream, seconds=export.seconds, first_seconds=export.seconds)
    writers: dict[str, Callable[[Iterable[Sample], Path], None]] = {
        "vst": write_vst,
        "tww": write_tww,
        "text_stream": write,
    }
    target.mkdir(parents=True, exist_ok=True)
    folder = target / stem if export.layout == "tww" else target
    counted, rejected, said = Yield(), [], []
    for stale in target.glob(f".{stem}.*.scratch"):  # what an earlier, killed attempt left
        shutil.rmtree(stale)
    with TemporaryDirectory(dir=target, prefix=f".{stem}.", suffix=".scratch") as scratch:
        for number, sample in enumerate(samples):
            counted.taken += 1
            plain = _plain(sample, export, data, folder)
            try:
                writers[export.layout]([plain], Path(scratch) / f"{number}.jsonl")
            except SampleError as error:
                counted.reject("cannot be said")
                rejected.append(
                    Rejected(
                        sample.id,
                        f"{export.layout} cannot say it",
                        str(error).split(": ", 1)[-1].removesuffix("; nothing was written"),
                    )
                )
            else:
                counted.made += 1
                said.append(plain)
        name = stem if export.layout == "tww" else f"{stem}.jsonl"
        whole = Path(scratch) / "whole"
        whole.mkdir()
        writers[export.layout](said, whole / name)
        return list(_move(whole, target, stem)), counted, rejected


def _move(whole: Path, target: Path, stem: str) -> Iterator[Path]:
    """Put finished files in place of what an earlier attempt may have left."""
    if (target / stem).is_dir():
        shutil.rmtree(target / stem)
    for path in sorted(whole.rglob("*")):
        if path.is_file():
            final = target / path.relative_to(whole)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, final)
            yield final


def _plain(sample: Sample, export: Export, data: Path, folder: Path) -> Sample:
    """What a foreign layout has a place for."""
    path = Path(os.path.relpath(data / sample.video.path, folder)).as_posix()
    events = [found for event in sample.events if (found := _event(event, export)) is not None]
    if export.layout == "text_stream":  # which has the answer of a moment come before its words
        events.sort(key=lambda event: (event.time, isinstance(event, (Thought, Silence))))
    return Sample(sample.id, replace(sample.video, path=path), tuple(events), sample.memory)


def _event(event: Event, export: Export) -> Event | None:
    if isinstance(event, Query):
        return Query(event.id, event.time, own_words(event) + listed(event.options or ()))
    if isinstance(event, Silence) and (event.query is not None or export.layout == "tww"):
        return None
    return None if isinstance(event, Thought) and export.layout == "tww" else event
