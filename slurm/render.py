"""The Slurm scripts of a recipe, one template a topology (templates/): a pure function of the recipe.

train           sft and grpo; vLLM, if any, inside the ranks: one task a rank on every node
grpo_server     grpo with one more node, which serves vLLM
array, report   synth and eval: an array a phase, and a job that tells what is missing
one             world, tiny and the export at the end of a chain: one process

Whatever a script needs stands in it: nothing is read from YAML by the shell.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from slurm.checks import ARRAYS, TRAINING, LaunchError, check, gpus_of, processes_of
from whilst.hardware import Launch

PREEMPTED = 75  # the exit code of a training that has saved and stopped: EX_TEMPFAIL, as in train.stopping
GRACE = 30  # seconds in which Slurm ends a shell whose job it requeues
WAIT = 600  # seconds that a rank may take longer than the first one that ended well: rank 0 still uploads its W&B run
BARE = re.compile(r"[\w@:,./%+=\[\]-]+")


@dataclass(frozen=True)
class Phase:
    """A part of synth or eval whose `pieces` may be done at once. todo: the numbers of those that are not done yet."""

    name: str
    pieces: int
    todo: tuple[int, ...]

    def tasks(self, most: int) -> int:
        """Tasks of its array: piece i is of task i modulo this, so the number must not depend on what is done."""
        return min(most, self.pieces)


@dataclass(frozen=True)
class Script:
    """One sbatch script. after: of the jobs before it, it needs the last to end well (ok), or all of its own recipe's
    to end (any). arguments: `phase=JOB:TASKS` of the arrays before it, where it asks for them. logs: the pattern of its
    own log file, in which Slurm fills %j, %A and %a."""

    name: str
    text: str
    file: Path
    logs: Path
    after: str = "ok"
    phase: str = ""
    tasks: int = 0


def folder_of(recipe: Any) -> Path:
    """Where scripts, logs and the resolved recipe of a launch are: beside the run, as an absolute path."""
    return Path(os.path.abspath(recipe.output), "launch")


def scripts(recipe: Any, phases: Sequence[Phase] = ()) -> list[Script]:
    """The scripts of a recipe, in the order in which they are submitted. phases: of synth and eval.

    LaunchError: the recipe asks for what its stage cannot use, or what cannot be written into a script.
    """
    check(recipe)
    if recipe.stage in ARRAYS:
        return _arrays(recipe, phases)
    return [_training(recipe) if recipe.stage in TRAINING else _one(recipe, recipe.stage, _command(recipe))]


def export_script(recipe: Any, to: Path) -> Script:
    """The job that exports what `recipe` has trained."""
    if recipe.stage not in TRAINING:
        raise LaunchError(f"--export-to: the chain ends in {recipe.name}, a {recipe.stage} recipe; it has no training")
    command = shlex.join([*_whilst(), "export", os.path.abspath(recipe.output), "--to", os.path.abspath(to)])
    return _one(recipe, "export", command)


# ---- Scripts.


def _arrays(recipe: Any, phases: Sequence[Phase]) -> list[Script]:
    launch, made = recipe.launch, list[Script]()
    for phase in phases:
        tasks = phase.tasks(launch.tasks)
        numbers = sorted({piece % tasks for piece in phase.todo})
        if not numbers:
            continue
        logs = Path("logs", phase.name, "%A_%a.log")
        cpus = launch.cpus_per_rank * processes_of(recipe)
        options = _options(recipe, phase.name, logs, ["array", ",".join(map(str, numbers))], nodes=1, cpus=cpus)
        made.append(
            _script(
                recipe,
                "array",
                phase.name,
                logs,
                options=options,
                what=f"{recipe.name}: {phase.name}, {len(phase.todo)} of {phase.pieces} pieces, {len(numbers)} tasks.",
                phase=phase.name,
                tasks=tasks,
                threads=launch.cpus_per_rank,
                command=_command(recipe),
            )
        )
    logs = Path("logs", "report_%j.log")
    options = _options(recipe, "report", logs, nodes=1, cpus=1, gpus=0)
    what = f"{recipe.name}: what its arrays have left undone."
    values: dict[str, Any] = {"options": options, "what": what, "command": _command(recipe)}
    return [*made, _script(recipe, "report", "report", logs, after="any", **values)]


def _training(recipe: Any) -> Script:
    launch: Launch = recipe.launch
    per_node = launch.ranks // launch.nodes
    logs = Path("logs", "job_%j.log")
    values: dict[str, Any] = {
        "what": f"{recipe.name}: {recipe.stage} on {launch.nodes} nodes of {per_node} ranks.",
        "options": _options(
            recipe,
            recipe.stage,
            logs,
            ["signal", f"USR1@{launch.signal_seconds}"],
            ["dependency", "singleton"],  # never two trainings in one folder, also where this is submitted by hand
            nodes=launch.nodes + launch.server_nodes,
            per_node=per_node,
        ),
        "nodes": launch.nodes,
        "ranks": launch.ranks,
        "ranks_per_node": per_node,
        "cpus_per_rank": launch.cpus_per_rank,
        "preempted": PREEMPTED,
        "grace": GRACE,
        "wait": WAIT,
        "signal_seconds": launch.signal_seconds,
        "command": _command(recipe),
    }
    if not launch.server_nodes:
        return _script(recipe, "train", recipe.stage, logs, **values)
    values["what"] = f"{values['what'][:-1]}; one more serves vLLM."
    for key, name in (("host", "SERVER"), ("port", "SERVER_PORT"), ("group_port", "GROUP_PORT")):
        values["command"] += f' vllm.{key}="$WHILST_{name}"'  # known when the job runs
    values |= {"serve": shlex.join(serve(recipe)), "timeout": recipe.vllm.timeout}
    values["bin"] = str(Path(sys.executable).parent)
    return _script(recipe, "grpo_server", recipe.stage, logs, **values)


def _one(recipe: Any, name: str, command: str) -> Script:
    logs = Path("logs", f"{name}_%j.log")
    options = _options(recipe, name, logs, nodes=1, gpus=0)
    what = f"{recipe.name}: {name}."
    return _script(
        recipe, "one", name, logs, options=options, what=what, command=command, threads=recipe.launch.cpus_per_rank
    )


def serve(recipe: Any) -> list[str]:
    """The command of the vLLM server, without its address (train/vllm_weights.py says why it has these options)."""
    vllm = recipe.vllm
    return [
        *("vllm", "serve", _path(recipe.model.path), "--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
        *("--max-model-len", str(vllm.max_model_len), "--max-num-seqs", str(vllm.max_num_seqs), "--dtype", vllm.dtype),
        *("--tensor-parallel-size", str(vllm.tensor_parallel)),
        *("--weight-transfer-config", json.dumps({"backend": "nccl"})),
        *("--limit-mm-per-prompt", json.dumps({"image": 999, "video": 1}), "--no-mm-device-do-normalize"),
        *(["--enforce-eager"] if vllm.enforce_eager else []),
    ]


def _path(checkpoint: str) -> str:
    """A folder as an absolute path; a name on the Hub as it is."""
    return os.path.abspath(checkpoint) if os.path.isdir(checkpoint) else checkpoint


def _whilst() -> list[str]:
    """The program that launches is the one that runs: the same Python, the same code."""
    return [sys.executable, "-m", "whilst.cli"]


def _command(recipe: Any) -> str:
    return shlex.join([*_whilst(), recipe.stage, str(folder_of(recipe) / "recipe.yaml")])


def _script(
    recipe: Any,
    template: str,
    name: str,
    logs: Path,
    *,
    after: str = "ok",
    phase: str = "",
    tasks: int = 0,
    **values: Any,
) -> Script:
    folder = folder_of(recipe)
    setup = recipe.launch.setup.strip("\n")
    if setup:
        # Modules and environments of clusters read variables that are not set. What reads its input must not get the
        # rest of the script, which bash reads from there: that would look as if all had been done.
        setup = f"set +u\n{{\n:\n{setup}\n}} </dev/null\nset -u\n"
    text = (
        _environment()
        .get_template(f"{template}.sbatch.jinja")
        .render(folder=str(folder), python=sys.executable, setup=setup, phase=phase, tasks=tasks, **values)
    )
    text = re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"
    return Script(name, text, folder / f"{name}.sbatch", folder / logs, after, phase, tasks)


def _environment() -> Environment:
    # `{#` is bash's length of an array
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,  # of included parts
        comment_start_string="<#",
        comment_end_string="#>",
    )
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    return environment


# ---- The head of a script.


def _options(
    recipe: Any,
    name: str,
    logs: Path,
    *further: Sequence[str],
    nodes: int,
    per_node: int = 1,
    cpus: int | None = None,
    gpus: int | None = None,
) -> list[str]:
    launch: Launch = recipe.launch
    folder = folder_of(recipe)
    gpus = gpus_of(recipe) if gpus is None else gpus
    given: list[tuple[str, str | None]] = [
        ("job-name", job_name(recipe, name)),
        ("chdir", os.getcwd()),
        ("output", f"{_no_pattern(folder)}/{logs}"),
        ("open-mode", "append"),
        ("nodes", str(nodes)),
        ("ntasks-per-node", str(per_node)),
        ("cpus-per-task", str(cpus or launch.cpus_per_rank)),
        ("gpus-per-node", str(gpus) if gpus and "gres" not in launch.sbatch else None),
        ("mem", launch.memory),
        ("time", launch.time),
        ("partition", launch.partition),
        ("account", launch.account),
        ("qos", launch.qos),
        *((one, value) for one, value in further),
    ]
    lines = [option(one, value) for one, value in given if value is not None]
    lines.append("#SBATCH --requeue")
    own = {one: str(value) for one, value in launch.sbatch.items() if one != "gres" or gpus or "gpu" not in str(value)}
    return lines + [option(one, value) for one, value in own.items()]


def job_name(recipe: Any, name: str) -> str:
    """A name that is the output's own: launched twice, the second job waits for the first (Slurm's singleton)."""
    return f"{recipe.name}-{name}-{sha256(str(folder_of(recipe)).encode()).hexdigest()[:6]}"


def option(name: str, value: str) -> str:
    """A line of a script's head; "" is an option without a value. sbatch reads quotes and backslashes as a shell does.

    LaunchError: a line break, which no such line can hold.
    """
    if "\n" in value:
        raise LaunchError(f"{name}: {value!r} has a line break, which an #SBATCH line cannot hold")
    if not value:
        return f"#SBATCH --{name}"
    if not BARE.fullmatch(value):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{name}={value}"


def _no_pattern(path: Path) -> str:
    """A path in which Slurm fills nothing in."""
    return str(path).replace("%", "%%")
