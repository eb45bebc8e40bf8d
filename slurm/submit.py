"""Write the scripts of recipes beside their runs, and submit them one after the other."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.checks import TRAINING, LaunchError
from slurm.render import Phase, Script, export_script, folder_of, scripts
from whilst.files import write_whole
from whilst.recipe import save_resolved


@dataclass(frozen=True)
class Work:
    """A recipe to launch. phases: of synth and eval, with what is not done yet."""

    recipe: Any
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True)
class Submitted:
    """A job, or (job "") a script that was only written."""

    recipe: str
    script: Script
    job: str
    dependency: str


Sbatch = Callable[[Sequence[str]], str]


def prepare(work: Sequence[Work], export_to: Path | None = None) -> list[tuple[Work, list[Script]]]:
    """All scripts of a chain, written with the resolved recipes; nothing is submitted.

    LaunchError: a recipe that cannot be launched, or two that write to one folder.
    """
    rendered = [(one, scripts(one.recipe, one.phases)) for one in work]
    folders = [folder_of(one.recipe) for one in work]
    if len(set(folders)) != len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise LaunchError(f"output: two recipes of the chain write to {twice.parent}; give each its own")
    if export_to is not None:
        last = next((pair for pair in reversed(rendered) if pair[0].recipe.stage in TRAINING), rendered[-1])
        rendered[-1][1].append(export_script(last[0].recipe, export_to))
    for one, made in rendered:
        save_resolved(one.recipe, folder_of(one.recipe) / "recipe.yaml")
        for script in made:
            script.logs.parent.mkdir(parents=True, exist_ok=True)
            write_whole(script.file, script.text)
            script.file.chmod(0o755)
    return rendered


def sbatch(arguments: Sequence[str]) -> str:
    """Submit, and return the job's number. LaunchError: sbatch is not here, or refuses; says why."""
    try:
        done = subprocess.run(["sbatch", "--parsable", *arguments], env=_outside(), capture_output=True, text=True)
    except FileNotFoundError:
        raise LaunchError(
            "sbatch is not here: launch from a login node of the cluster; --dry-run writes the scripts all the same, "
            "and --local torchrun trains on this machine"
        ) from None
    if done.returncode:
        raise LaunchError(f"sbatch {arguments[-1]}: {' '.join((done.stderr or done.stdout).split())}")
    return done.stdout.strip().partition(";")[0]


def _outside() -> dict[str, str]:
    """The environment without what Slurm says of the job that this is launched from, if it is (salloc): new jobs would
    inherit it, and srun in them take memory, binding and tasks of another job for its own."""
    inside = "SLURM_JOB_ID" in os.environ
    return {k: v for k, v in os.environ.items() if not (inside and k.startswith("SLURM_")) or k == "SLURM_CONF"}


def submit(rendered: Sequence[tuple[Work, Sequence[Script]]], send: Sbatch = sbatch) -> list[Submitted]:
    """Submit a chain: every job begins when those before it have ended well, and none is left behind when one fails.

    LaunchError: sbatch refuses one; those before it are then cancelled, so that nothing runs of half a chain, as they
    are when this is interrupted.
    """
    made: list[Submitted] = []
    last = ""
    try:
        for one, its in rendered:
            arrays: list[Submitted] = []
            for script in its:
                conditions = [f"afterok:{last}"] if last else []
                if script.after == "any":
                    conditions = [":".join(["afterany", *(array.job for array in arrays)])] if arrays else conditions
                if one.recipe.stage in TRAINING and script.name == one.recipe.stage:
                    conditions.append("singleton")  # never two trainings in one folder
                dependency = ",".join(conditions)
                arguments = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
                told = [f"{a.script.phase}={a.job}:{a.script.tasks}" for a in arrays] if script.after == "any" else []
                last = send([*arguments, str(script.file), *told])
                made.append(Submitted(one.recipe.name, script, last, dependency))
                if script.phase:
                    arrays.append(made[-1])
    except BaseException:
        if made:
            subprocess.run(["scancel", *(one.job for one in made)], check=False)
        raise
    return made


def told(made: Sequence[Submitted]) -> list[str]:
    """What was submitted: a line a job, then its script and its log."""
    lines = []
    for one in made:
        where = f"job {one.job}" if one.job else "not submitted"
        after = f", after {one.dependency}" if one.dependency else ""
        log = re.sub("%[jA]", one.job, str(one.script.logs)) if one.job else str(one.script.logs)
        lines += [f"{one.recipe} {one.script.name}: {where}{after}", f"  script {_short(one.script.file)}"]
        lines.append(f"  log    {_short(Path(log))}")
    return lines


def only_written(rendered: Sequence[tuple[Work, Sequence[Script]]]) -> list[Submitted]:
    """What a dry run tells of."""
    return [Submitted(one.recipe.name, script, "", "") for one, its in rendered for script in its]


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
