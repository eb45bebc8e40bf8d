"""Kill -9 at random moments, resume, and compare every byte with a run that nobody disturbed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from subprocess import Popen

import pytest

from data_pipeline.synth import SynthRecipe, begin, run
from tests.data_pipeline.runs import fingerprints, start, workers, write_recipe, write_world
from whilst.recipe import load_recipe

KILLS = 20
CHANGES: dict[str, object] = {
    "output": "run",  # relative to the working folder, as the input is: the same bytes in any folder
    "inputs": {"train": {"sources": ["../world.sources.jsonl"], "shards": 6}},
    # A guesser that never is sure enough to reject: two passes and a merge between them.
    "filters": {"guesser": {"confidence": 1.0, "support": 3}},
    "formats": ["parquet", "jsonl"],
    "exports": [{"layout": "tww"}],
    "workers": 2,
}


def folder_of(base: Path, name: str) -> Path:
    folder = base / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_recipe(folder, **CHANGES)
    return folder


def finish(folder: Path) -> None:
    """Go on until the end, in this process: it need not start, nor its workers."""
    with contextlib.chdir(folder):
        begin(load_recipe("recipe.yaml", SynthRecipe))  # what was killed may not have noted down its workers
        run(load_recipe("recipe.yaml", SynthRecipe, ["workers=1"]))


def kill(process: Popen[str], victim: str) -> None:
    """Kill the process; `group`: with its workers; `worker`: one of those alone, if it has any."""
    if victim == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif victim == "worker" and (found := workers(process.pid)):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(found[-1], signal.SIGKILL)
    else:
        process.kill()


def reached(folder: Path) -> str:
    """The last step of which a manifest is there."""
    steps = [path.parent.name for path in (folder / "run" / "state").glob("*/*.manifest.json")]
    order = ["gather", "build", "merge", "publish", "export", "finish"]
    return max(steps, key=order.index, default="nothing")


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_gives_the_same_bytes(tmp_path: Path) -> None:
    seed = int(os.environ.get("WHILST_KILL_SEED", random.SystemRandom().randrange(10**6)))
    rng = random.Random(seed)
    print(f"seed {seed} (set WHILST_KILL_SEED to repeat)")
    write_world(tmp_path / "world.sources.jsonl", 48)
    undisturbed = folder_of(tmp_path, "undisturbed")
    process = start(undisturbed, "recipe.yaml")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.communicate(timeout=300)
    assert process.returncode == 0
    seconds = time.monotonic() - began
    wanted = fingerprints(undisturbed / "run")
    assert any(name.startswith("exports/") for name in wanted) and "yields.json" in wanted

    killed: Counter[str] = Counter()
    finished = 0
    folder = folder_of(tmp_path, "killed")
    while killed.total() < KILLS:
        process = start(folder, "recipe.yaml")
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        victim = rng.choice(["parent", "group", "worker"])
        time.sleep(rng.uniform(0.0, seconds))
        if process.poll() is None:
            kill(process, victim)
        process.communicate(timeout=300)
        if process.returncode != 0:  # else it had finished, or that worker had no more to do
            killed[f"{victim} after {reached(folder)}"] += 1
            if killed.total() < KILLS and rng.random() < 0.5:
                continue  # and killed once more while it resumes
            finish(folder)
        assert fingerprints(folder / "run") == wanted
        finished += 1
        folder = folder_of(tmp_path, "killed")
    print(f"{dict(killed)}; {finished} finished runs compared, {len(wanted)} files each, {seconds:.1f} s undisturbed")
