"""Samples as a dataset that others can load: `whilst export runs/demo/samples --to runs/demo/exported-samples`.

A folder that `whilst synth` wrote keeps its card, yields, rejections and sources; its shards are there as Parquet.
A file or folder of samples without a card becomes `data/<split>-*.parquet` with a card that says what is known. Videos
are no part of it: their paths stay as they are, relative to the row's file.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import yaml  # type: ignore[import-untyped]

from data_pipeline.engine.card import _size, _table
from data_pipeline.engine.shards import read_shard, writing
from whilst import __version__
from whilst.exported import Exported, ExportError, read_exported
from whilst.exported import writing as exporting
from whilst.sample import SCHEMA

CARD = "README.md"
BESIDE = ("rejected.jsonl", "yields.json", "words.txt", "recipe.yaml")
SHARDS = (".parquet", ".jsonl")


def export_samples(path: Path, out: Path, *, license: str | None = None, overwrite: bool = False) -> Exported:
    """Write the exported folder `out` of samples: a folder that `whilst synth` wrote, or shards.

    ExportError: there are no samples at `path`, or a video has an absolute path, which names this machine.
    """
    made = path.is_dir() and (path / CARD).is_file() and (path / "data").is_dir()
    shards = _shards(path / "data" if made else path)
    if not shards:
        raise ExportError(f"{path}: neither a training run nor samples (.parquet or .jsonl)")
    home = str(Path.home()) + "/"
    with exporting(out, "dataset", overwrite=overwrite, private=(str(path.resolve()), home)) as part:
        (part / "data").mkdir()
        counts: dict[str, int] = {}
        for name, shard in _named(shards):
            split = name.split("-")[0]
            counts[split] = counts.get(split, 0) + _write(shard, part / "data" / f"{name}.parquet")
        if made:
            text = (path / CARD).read_text(encoding="utf-8")
            (part / CARD).write_text(_of_parquet(text, license), encoding="utf-8")
            for beside in BESIDE:
                if (path / beside).is_file():
                    shutil.copyfile(path / beside, part / beside)
            if (path / "sources").is_dir():
                shutil.copytree(path / "sources", part / "sources")
        else:
            (part / CARD).write_text(_card(path.stem, counts, license), encoding="utf-8")
    return read_exported(out)


def _shards(path: Path) -> list[Path]:
    """The shards of a file or folder, Parquet where both kinds of one are there."""
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    found = {file.stem: file for kind in reversed(SHARDS) for file in files if file.suffix == kind}
    left_out = ("rejected", "sources", "graphs")
    return [file for stem, file in sorted(found.items()) if stem not in left_out]


def _named(shards: list[Path]) -> Iterator[tuple[str, Path]]:
    """Shards with their names in the dataset, SPLIT-00000-of-00001; a file with another name is a split by itself."""
    for shard in shards:
        _, dash, rest = shard.stem.partition("-")
        numbered = dash and rest.replace("-of-", "").isdigit()
        yield shard.stem if numbered else f"{shard.stem.replace('-', '_')}-00000-of-00001", shard


def _write(shard: Path, target: Path) -> int:
    """A shard as Parquet; returns its number of samples, each of which was read and checked."""
    with writing(("parquet",), (target,)) as writer:
        for sample in read_shard(shard):
            if Path(sample.video.path).is_absolute():
                raise ExportError(
                    f"{shard}: sample {sample.id}: video.path {sample.video.path!r} names a place on this machine; "
                    f"write the samples with paths relative to their file"
                )
            writer.add(sample)
    return int(pq.read_metadata(target).num_rows)


def _of_parquet(card: str, license: str | None) -> str:
    """A card of `whilst synth` for shards that are Parquet now."""
    _, header, body = card.split("---\n", 2)
    read = yaml.safe_load(header)
    for config in read.get("configs") or ():
        for files in config["data_files"]:
            files["path"] = files["path"].removesuffix(".jsonl").removesuffix(".parquet") + ".parquet"
    if license is not None:
        read.pop("license_name", None)
        read["license"] = license
    return f"---\n{yaml.safe_dump(read, sort_keys=False, allow_unicode=True)}---\n{body}"


def _card(name: str, counts: dict[str, int], license: str | None) -> str:
    """The card of samples that came without one."""
    header = {
        "pretty_name": name,
        "license": license or "unknown",
        "task_categories": ["video-text-to-text"],
        "tags": ["streaming-video", "whilst"],
        "size_categories": [_size(sum(counts.values()))],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in counts],
            }
        ],
    }
    return (
        "\n\n".join(
            [
                f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
                f"# {name}",
                f"Streaming video samples, exported by whilst {__version__}. How they were made is not recorded: they "
                "came without a card.",
                f"One row is one sample, schema `{SCHEMA}`: `video`, `events` and `meta` are JSON texts; `video.path` "
                "is relative to the folder that the samples lay in. `whilst.sample.read_samples` reads the rows. The "
                "videos themselves are not part of the dataset.",
                _table(("split", "samples"), counts.items()),
            ]
        )
        + "\n"
    )
