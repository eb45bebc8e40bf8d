"""Small runs of the synth stage, in this process or in one that can be killed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import yaml

from data_pipeline.source import write_sources
from data_pipeline.synth import SynthRecipe
from tests.data_pipeline.worlds import world_sources
from whilst.recipe import load_recipe

ROOT = Path(__file__).parents[2]

# What a process of its own does: say that it is about to begin, and run a recipe. Where there is a file `gate`, its
# workers do nothing until it is gone.
PROGRAM = """
import os, sys, time
from data_pipeline.synth import SynthRecipe, run
from whilst.recipe import load_recipe

if __name__ == "__main__":
    recipe = load_recipe(sys.argv[1], SynthRecipe, sys.argv[2:])
    print("ready", flush=True)
    run(recipe)
while __name__ != "__main__" and os.path.exists("gate"):
    time.sleep(0.01)
"""


def write_world(path: Path, n: int) -> None:
    """A file of `n` sources."""
    write_sources(world_sources(n), path)


def write_recipe(folder: Path, n: int = 12, **changes: object) -> Path:
    """folder/recipe.yaml for `n` worlds in folder/world.sources.jsonl; paths are absolute, the output folder/run."""
    world = folder / "world.sources.jsonl"
    if not world.exists():
        write_world(world, n)
    recipe = {
        "name": "small",
        "stage": "synth",
        "output": str(folder / "run"),
        "inputs": {"train": {"sources": [str(world)], "shards": 3}},
        "builder": {"world": {}},
    } | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def small(folder: Path, *overrides: str, n: int = 12, **changes: object) -> SynthRecipe:
    """The recipe that `write_recipe` writes."""
    return load_recipe(write_recipe(folder, n, **changes), SynthRecipe, overrides)


def start(folder: Path, recipe: str, *overrides: str) -> subprocess.Popen[str]:
    """Run a recipe in a process (and group) of its own whose working folder is `folder`; it says `ready` first."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = folder / "program.py"  # a file: worker processes that are spawned read it again
    program.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, str(program), recipe, *overrides],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers(pid: int) -> list[int]:
    """The worker processes of a process; not the one that only tracks its resources."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def fingerprints(folder: Path, *without: str) -> dict[str, str]:
    """sha256 of every file below a folder, by its path in it, less the top-level names `without`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in without
    }
