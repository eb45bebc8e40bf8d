"""The jobs of a run, and how each is done. A job whose manifest is valid has been done, and is not done again.

gather: an input into shards of sources. extract: the same for videos, a job a shard. publish: a shard of sources into a
shard of samples. finish: what is written once. Where a guesser must first have seen all samples, `build` and `merge`
come before `publish`: build keeps unfiltered samples and what the guesser learns of them, merge puts that together.
export: the samples of a shard in foreign layouts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.engine import finish, inputs
from data_pipeline.engine.build import Outcome, build, in_order, outcome_from_json
from data_pipeline.engine.decisive import base_key
from data_pipeline.engine.export import export_shard
from data_pipeline.engine.files import Manifest, committing, digest, read_manifest, write_manifest
from data_pipeline.engine.publish import Published, filtered, write_shard
from data_pipeline.engine.recipe import SynthRecipe
from data_pipeline.engine.shards import read_shard
from data_pipeline.engine.tally import yield_json
from data_pipeline.engine.tools import Tools
from data_pipeline.filters.guess import Guesser
from data_pipeline.source import Source, SynthError, scan_sources
from whilst.files import fingerprint
from whilst.sample import SampleError, json_lines


@dataclass(frozen=True)
class Job:
    """One piece of work. `shard` is None for a job on a whole split, `split` empty for one on the whole run."""

    step: str
    split: str = ""
    shard: int | None = None

    @property
    def manifest(self) -> str:
        """Its manifest, relative to the run's folder."""
        shard = "" if self.shard is None else f"-{self.shard:05d}"
        return f"state/{self.step}/{self.split or 'all'}{shard}.manifest.json"


def phases(recipe: SynthRecipe) -> list[list[Job]]:
    """All jobs. Those of one phase may run in any order or at once; a phase needs all before it."""
    every = [(split, shard) for split, given in recipe.inputs.items() for shard in range(given.shards)]
    gather = [Job("gather", split) for split, given in recipe.inputs.items() if given.extract is None]
    gather += [Job("extract", split, shard) for split, shard in every if recipe.inputs[split].extract is not None]
    first = [[Job("build", *one) for one in every], [Job("merge")]] if _two_passes(recipe) else []
    last = [[Job("export", *one) for one in every]] if recipe.exports else []
    return [gather, *first, [Job("publish", *one) for one in every], *last, [Job("finish")]]


def perform(recipe: SynthRecipe, job: Job, tools: Tools) -> Manifest:
    """Do a job, unless it has been done; its manifest.

    Raises:
        SynthError: a job before it is not done, or the run's folder holds another run.
        OSError: something could not be written; the job is not done then.
    """
    folder = Path(recipe.output)
    key = _key(recipe, job, folder)
    done = read_manifest(folder, job.manifest, key)
    if done is not None:
        return done
    return _WORK[job.step](recipe, job, key, tools)


def is_done(recipe: SynthRecipe, job: Job) -> bool:
    """Whether a job's manifest is there and valid, and those of all jobs whose files it reads.

    Raises:
        SynthError: it was made by another run.
    """
    folder = Path(recipe.output)
    if not all((folder / one.manifest).is_file() for one in (job, *_needed(recipe, job))):
        return False
    return read_manifest(folder, job.manifest, _key(recipe, job, folder)) is not None


def _two_passes(recipe: SynthRecipe) -> bool:
    return recipe.filters.guesser is not None and recipe.filters.guesser.mode == "statistics"


def _key(recipe: SynthRecipe, job: Job, folder: Path) -> str:
    """A digest of all that decides what a job makes: the recipe, the program's version, the job and what it reads."""
    if job.step in ("gather", "extract"):
        reads: Any = inputs.stamps(recipe.inputs[job.split])
    else:
        reads = [_seal(folder, one) for one in _needed(recipe, job)]
    return digest([base_key(recipe), job.step, job.split, job.shard, reads])


def _needed(recipe: SynthRecipe, job: Job) -> list[Job]:
    """The jobs whose files a job reads."""
    steps: dict[str, list[str]] = {
        "gather": [],
        "extract": [],
        "build": ["gather", "extract"],
        "merge": ["build"],
        "publish": ["gather", "extract", "build", "merge"],
        "export": ["publish"],
        "finish": ["gather", "extract", "publish", "export"],
    }
    return [
        one
        for phase in phases(recipe)
        for one in phase
        if one.step in steps[job.step]
        and (not job.split or not one.split or one.split == job.split)
        and (job.shard is None or one.shard is None or one.shard == job.shard)
    ]


def _seal(folder: Path, job: Job) -> str:
    """The fingerprint of another job's manifest, which names the fingerprints of its files."""
    path = folder / job.manifest
    if not path.is_file():
        raise SynthError(f"{path}: not there, so the step before is not finished; run the recipe again")
    return fingerprint(path)[1]


# ---- Names of files, relative to the run's folder.


def _stem(recipe: SynthRecipe, job: Job) -> str:
    assert job.shard is not None
    return inputs.stem(job.split, job.shard, recipe.inputs[job.split].shards)


def source_file(recipe: SynthRecipe, split: str, shard: int) -> str:
    """The sources of a shard."""
    return f"sources/{inputs.stem(split, shard, recipe.inputs[split].shards)}.jsonl"


# ---- Work.


def _gather(recipe: SynthRecipe, job: Job, key: str, tools: Tools) -> Manifest:
    given, folder = recipe.inputs[job.split], Path(recipe.output)
    shards = range(given.shards) if job.shard is None else [job.shard]
    found = inputs.gathered(given) if job.shard is None else tools.extracted(job.split, job.shard)
    names = [source_file(recipe, job.split, shard) for shard in shards]
    rejected = job.manifest.replace(".manifest.json", ".rejected.jsonl")
    with committing(folder, [*names, rejected]) as parts:
        tally, counts = inputs.deal(found, parts[:-1], parts[-1], folder / "sources")
    tally.check(f"input {job.split}")
    if not tally.sources.taken:
        raise SynthError(f"inputs.{job.split}: holds no record; correct its paths")
    figures = {"tally": tally.to_json(), "sources": counts}
    return write_manifest(folder, job.manifest, key, [*names, rejected], figures)


def _build(recipe: SynthRecipe, job: Job, key: str, tools: Tools) -> Manifest:
    """The first of two passes: samples as they are before the filters, and the statistics of the guesser."""
    folder, stem = Path(recipe.output), _stem(recipe, job)
    names = [f"state/build/{stem}.jsonl", f"state/build/{stem}.guesses.json"]
    assert recipe.filters.guesser is not None
    guesser = Guesser(recipe.filters.guesser, recipe.seed)
    with committing(folder, names) as [outcomes, guesses]:
        with open(outcomes, "w", encoding="utf-8", newline="\n") as file:
            for source, outcome in _built(recipe, job, tools):
                for sample in outcome.samples:
                    guesser.learn(sample, source)
                file.write(json.dumps(outcome.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
        _dump(guesser, guesses)
    return write_manifest(folder, job.manifest, key, names, {})


def _merge(recipe: SynthRecipe, job: Job, key: str, tools: Tools) -> Manifest:
    folder, name = Path(recipe.output), "state/merge/guesses.json"
    assert recipe.filters.guesser is not None
    merged = Guesser(recipe.filters.guesser, recipe.seed)
    for one in _needed(recipe, job):
        merged.merge(_loaded(folder / f"state/build/{_stem(recipe, one)}.guesses.json", recipe))
    with committing(folder, [name]) as [part]:
        _dump(merged, part)
    return write_manifest(folder, job.manifest, key, [name], {})


def _publish(recipe: SynthRecipe, job: Job, key: str, tools: Tools) -> Manifest:
    folder, stem = Path(recipe.output), _stem(recipe, job)
    shards = [f"data/{stem}.{name}" for name in recipe.formats]
    beside = [f"state/publish/{stem}.{name}" for name in ("rejected.jsonl", "words.txt", "ids.txt")]
    guesser = _loaded(folder / "state/merge/guesses.json", recipe) if _two_passes(recipe) else tools.guesser
    outcomes = _kept(recipe, job) if _two_passes(recipe) else _built(recipe, job, tools)

    def publish(one: tuple[Source, Outcome]) -> Published:
        return filtered(*one, lambda sample, source: tools.apply(sample, source, guesser))

    with committing(folder, [*shards, *beside]) as parts:
        published = in_order(publish, outcomes, tools.threads)
        tally = write_shard(published, recipe.formats, parts[: len(shards)], *parts[len(shards) :])
    tally.check(f"shard {stem}")
    return write_manifest(folder, job.manifest, key, [*shards, *beside], {"tally": tally.to_json()})


def _built(recipe: SynthRecipe, job: Job, tools: Tools) -> Iterator[tuple[Source, Outcome]]:
    chosen = recipe.builder

    def work(source: Source) -> tuple[Source, Outcome]:
        return source, build(source, chosen.builder, chosen.settings, tools.write, recipe.seed)

    return in_order(work, _sources(recipe, job), tools.threads)


def _kept(recipe: SynthRecipe, job: Job) -> Iterator[tuple[Source, Outcome]]:
    """What the first pass has kept, with the sources."""
    path = Path(recipe.output) / f"state/build/{_stem(recipe, job)}.jsonl"
    for source, (line, record) in zip(_sources(recipe, job), json_lines(path), strict=True):
        if isinstance(record, SampleError):
            raise SynthError(f"{path}:{line}: {record}")
        assert isinstance(record, dict)
        yield source, outcome_from_json(record)


def _sources(recipe: SynthRecipe, job: Job) -> Iterator[Source]:
    assert job.shard is not None
    return scan_sources(Path(recipe.output) / source_file(recipe, job.split, job.shard))


def _dump(guesser: Guesser, path: Path) -> None:
    path.write_text(json.dumps(guesser.to_json(), ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def _loaded(path: Path, recipe: SynthRecipe) -> Guesser:
    assert recipe.filters.guesser is not None
    return Guesser.from_json(json.loads(path.read_text(encoding="utf-8")), recipe.filters.guesser, recipe.seed)


def _export(recipe: SynthRecipe, job: Job, key: str, tools: Tools) -> Manifest:
    folder, stem = Path(recipe.output), _stem(recipe, job)
    shard = folder / f"data/{stem}.{recipe.formats[0]}"
    # Read without the readers of whilst.sample: those make video paths absolute.
    samples = list(read_shard(shard))
    files, counts, name = [], {}, f"state/export/{stem}.rejected.jsonl"
    with committing(folder, [name]) as [part], open(part, "w", encoding="utf-8", newline="\n") as file:
        for export in recipe.exports:
            target = folder / "exports" / export.layout
            made, counted, rejected = export_shard(samples, export, folder / "data", target, stem)
            files += [path.relative_to(folder).as_posix() for path in made]
            counts[export.layout] = yield_json(counted)
            file.writelines(json.dumps(inputs.rejection("export", one), ensure_ascii=False) + "\n" for one in rejected)
        file.flush()
    return write_manifest(folder, job.manifest, key, [*files, name], {"exports": counts})


def _finish(recipe: SynthRecipe, job: Job, key: str, tools: Tools) -> Manifest:
    folder = Path(recipe.output)
    done: list[tuple[str, Manifest]] = []
    for one in _needed(recipe, job):
        found = read_manifest(folder, one.manifest, _key(recipe, one, folder))
        if found is None:
            raise SynthError(f"{folder / one.manifest}: its files are not as it says; run the recipe again")
        done.append((one.split, found))
    names = finish.finish(recipe, done)
    return write_manifest(folder, job.manifest, key, names, {})


_WORK = {
    "gather": _gather,
    "extract": _gather,
    "build": _build,
    "merge": _merge,
    "publish": _publish,
    "export": _export,
    "finish": _finish,
}
