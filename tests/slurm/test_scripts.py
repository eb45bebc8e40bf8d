"""The scripts of every topology: what they ask Slurm for, that bash and shellcheck accept them, and what they do with a
server, under stand-ins for srun and scontrol."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from evaluation.recipe import EvalRecipe, Reading
from evaluation.tasks import for_tasks, phases
from rewards.mix import RewardTerm
from slurm import render, report
from slurm.chain import spread
from slurm.checks import LaunchError, seconds_of
from slurm.local import command
from slurm.ports import COUNT, FIRST, free_ports
from slurm.render import PREEMPTED, Phase, Script, export_script, option, scripts
from slurm.submit import Submitted, Work, prepare, sbatch, submit, told
from train import stopping
from train.grpo_recipe import EpisodeData, GRPORecipe
from train.rollouts import RolloutSettings
from train.sft import DataSettings, SFTRecipe
from train.stage import ModelSettings, OptimSettings
from train.vllm_policy import VLLMSettings
from whilst.cli import app
from whilst.hardware import Launch
from whilst.tiny import TinyRecipe

ROOT = Path(__file__).parents[2]
SERVER = VLLMSettings(mode="server", max_model_len=4096, tensor_parallel=2, timeout=60.0)
MODULES = "module load cuda/12\nsource 'my env/bin/activate'"


def sft(output: Path, **launch: Any) -> SFTRecipe:
    return SFTRecipe(
        name="vst-sft",
        stage="sft",
        output=str(output),
        model=ModelSettings("m"),
        data=DataSettings("d", fps=2.0),
        optim=OptimSettings(steps=2),
        launch=Launch(**launch),
    )


def grpo(output: Path, policy: str = "vllm", vllm: VLLMSettings = SERVER, **launch: Any) -> GRPORecipe:
    return GRPORecipe(
        name="vst-rl",
        stage="grpo",
        output=str(output),
        model=ModelSettings("m"),
        data=EpisodeData("d"),
        rollout=RolloutSettings(groups=4, rollouts=4),
        rewards=(RewardTerm("accuracy"),),
        optim=OptimSettings(steps=2),
        policy=policy,  # type: ignore[arg-type]
        vllm=vllm,
        launch=Launch(**launch),
    )


def evaluation(output: Path, **changes: Any) -> EvalRecipe:
    given: dict[str, Any] = {"samples": "s", "arms": {"a": "a"}, "devices": ("cuda:0", "cuda:1"), "jobs": 2} | changes
    return EvalRecipe(name="bench", stage="eval", output=str(output), **given)


def head(script: Script) -> dict[str, str]:
    """What a script asks Slurm for."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script.text, re.MULTILINE)
    assert len(dict(found)) == len(found), "an option twice"
    return dict(found)


# ---- What they ask for.


def test_sft_asks_for_a_task_a_rank_and_for_a_warning(tmp_path: Path) -> None:
    recipe = sft(tmp_path, nodes=4, cpus_per_rank=12, partition="gpu", sbatch={"constraint": "h100 & ib"})
    (script,) = scripts(recipe)
    asked = head(script)
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"], asked["cpus-per-task"]) == (
        "4",
        "8",
        "8",
        "12",
    )
    assert asked["signal"] == "USR1@300"  # no B: it is for the ranks
    assert asked["dependency"] == "singleton"  # also of those who submit it again by hand
    assert asked["constraint"] == '"h100 & ib"' and asked["partition"] == "gpu" and "requeue" in asked
    assert asked["open-mode"] == "append" and asked["output"] == f"{tmp_path}/launch/logs/job_%j.log"
    assert "srun --nodes=4 --ntasks=32 --ntasks-per-node=8" in script.text
    assert "--kill-on-bad-exit=1 --wait=600 " in script.text and "WORLD_SIZE=32 LOCAL_WORLD_SIZE=8" in script.text
    assert "yaml" not in script.text.replace("launch/recipe.yaml", "").replace("YAML", "")  # nothing is looked up in it
    assert "torchrun" not in script.text and "<<'WHILST'" in script.text


def test_a_server_is_one_more_node_with_the_options_that_training_needs(tmp_path: Path) -> None:
    (script,) = scripts(grpo(tmp_path, nodes=2, server_nodes=1))
    assert head(script)["nodes"] == "3" and "srun --nodes=2 --ntasks=16" in script.text
    served = "vllm serve m --enable-scale-out --logprobs-mode processed_logprobs --max-model-len 4096"
    assert (
        served in script.text and "--tensor-parallel-size 2" in script.text and "VLLM_SERVER_DEV_MODE=1" in script.text
    )
    assert (
        '/health" 60.0' in script.text and 'vllm.host="$WHILST_SERVER" vllm.port="$WHILST_SERVER_PORT"' in script.text
    )
    for recipe in (grpo(tmp_path, vllm=VLLMSettings()), grpo(tmp_path, policy="transformers")):
        (script,) = scripts(recipe)
        assert head(script)["nodes"] == "1" and "vllm" not in script.text


def test_arrays_leave_out_what_is_done_and_spread_an_evaluation(tmp_path: Path) -> None:
    recipe = for_tasks(evaluation(tmp_path, readers={"r": Reading("a", "a")}, launch=Launch(tasks=4)), 4)
    assert phases(recipe) == {"prepare": 1, "predict": 8, "read": 8, "score": 1}
    given = [Phase("prepare", 1, (0,)), Phase("predict", 8, (1, 5, 6)), Phase("read", 8, ()), Phase("score", 1, (0,))]
    made = scripts(recipe, given)
    assert [one.name for one in made] == ["prepare", "predict", "score", "report"]
    asked = head(made[1])  # pieces 1 and 5 are of task 1, piece 6 of task 2
    assert asked["array"] == "1,2" and asked["gpus-per-node"] == "2" and asked["nodes"] == "1"
    assert asked["cpus-per-task"] == "16" and "OMP_NUM_THREADS=8" in made[1].text  # of two processes
    assert '--phase predict --task "$SLURM_ARRAY_TASK_ID" --tasks 4' in made[1].text
    assert "gpus-per-node" not in head(made[3]) and made[3].after == "any"
    with pytest.raises(LaunchError, match="at most 1000"):
        scripts(evaluation(tmp_path, launch=Launch(tasks=1001)), given)


def test_a_chain_needs_each_job_and_leaves_none_behind(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "e", launch=Launch(tasks=2))
    sent: list[list[str]] = []

    def send(arguments: Sequence[str]) -> str:
        sent.append([one.rsplit("/", 1)[-1] for one in arguments])
        return str(40 + len(sent))

    work = [Work(first, (Phase("predict", 2, (0, 1)), Phase("score", 1, (0,)))), Work(sft(tmp_path / "s"))]
    made = submit(prepare(work, tmp_path / "out"), send)
    only = "--kill-on-invalid-dep=yes"
    assert sent == [
        ["predict.sbatch"],
        ["--dependency=afterok:41", only, "score.sbatch"],
        ["--dependency=afterany:41:42", only, "report.sbatch", "predict=41:2", "score=42:1"],
        ["--dependency=afterok:43,singleton", only, "sft.sbatch"],
        ["--dependency=afterok:44", only, "export.sbatch"],
    ]
    assert "predict: job 41" in told(made)[0] and told(made)[2].endswith("logs/predict/41_%a.log")
    assert isinstance(made[0], Submitted) and (tmp_path / "s" / "launch" / "recipe.yaml").is_file()
    with pytest.raises(LaunchError, match="two recipes of the chain write to"):
        prepare([Work(sft(tmp_path / "s")), Work(sft(tmp_path / "s"))])


def test_an_export_is_one_process_however_many_nodes_have_trained(tmp_path: Path) -> None:
    asked = head(export_script(grpo(tmp_path, nodes=4, server_nodes=1, sbatch={"gres": "gpu:8"}), tmp_path / "out"))
    assert (asked["nodes"], asked["ntasks-per-node"]) == ("1", "1")
    assert not {"gpus-per-node", "gres", "dependency"} & set(asked)


def test_gres_stands_in_the_place_of_gpus_per_node(tmp_path: Path) -> None:
    (script,) = scripts(sft(tmp_path, sbatch={"gres": "gpu:h100:8,nvme:1"}))
    assert head(script)["gres"] == "gpu:h100:8,nvme:1" and "gpus-per-node" not in head(script)
    for wrong in ("gpu:4", "gpu:h100", "nvme:1"):
        with pytest.raises(LaunchError, match="write gpu:8, or gpu:TYPE:8"):
            scripts(sft(tmp_path, sbatch={"gres": wrong}))


# ---- What does not go together.


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (lambda p: grpo(p, server_nodes=1, policy="transformers"), "only grpo with policy: vllm and vllm.mode: server"),
        (lambda p: sft(p, server_nodes=1), "launch.server_nodes 1: only grpo"),
        (lambda p: grpo(p, server_nodes=2), "server_nodes: 1"),
        (lambda p: grpo(p), "nothing serves on the nodes"),
        (lambda p: grpo(p, server_nodes=1, gpus_per_node=1), "the serving node has 1 GPUs"),
        (lambda p: sft(p, tasks=2), "only synth and eval run as arrays"),
        (lambda p: sft(p, ranks_per_node=9), "a rank has a GPU of its own"),
        (lambda p: sft(p, time="5:00"), "told to stop as it starts"),
        (lambda p: sft(p, time="soon"), "write it as HH:MM:SS"),
        (lambda p: sft(p, setup="true\nWHILST\nfalse"), "launch.setup: a line is 'WHILST'"),
        (lambda p: sft(p, sbatch={"signal": "B:USR1"}), "launch.sbatch.signal: follows from other keys"),
        (lambda p: sft(p, sbatch={"gpus-per-task": "1"}), "launch.sbatch.gpus-per-task: follows from other keys"),
        (lambda p: sft(p, sbatch={"C": "x"}), "no long option"),
        (lambda p: sft(p, partition="a\nb"), "line break"),
        (lambda p: evaluation(p, launch=Launch(nodes=2)), "launch.tasks: 2"),
        (lambda p: evaluation(p, launch=Launch(gpus_per_node=1)), "more than launch.gpus_per_node 1"),
        (
            lambda p: TinyRecipe(name="t", stage="tiny", output=str(p), family="qwen3_vl", launch=Launch(nodes=2)),
            "tiny is one process on one node",
        ),
    ],
)
def test_wrong_combinations_are_named(recipe: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=message):
        scripts(recipe(tmp_path))


def test_times_are_read_as_slurm_does() -> None:
    times = {"90": 5400, "10:30": 630, "1:00:00": 3600, "2-12": 216000, "1-00:30": 88200, "1-01:01:01": 90061}
    assert {time: seconds_of(time) for time in times} == times
    assert seconds_of("UNLIMITED") > 10**9
    assert option("exclusive", "") == "#SBATCH --exclusive"
    assert option("comment", 'a "b" \\') == '#SBATCH --comment="a \\"b\\" \\\\"'
    assert PREEMPTED == stopping.PREEMPTED


# ---- Shell.


def every(output: Path) -> list[Script]:
    many = [Phase("predict", 4, (0, 1, 2, 3))]
    tiny = TinyRecipe(name="t", stage="tiny", output=str(output), family="qwen3_vl", launch=Launch(setup=MODULES))
    return [
        *scripts(sft(output, setup=MODULES)),
        *scripts(sft(output, nodes=3)),
        *scripts(grpo(output, nodes=2, server_nodes=1, setup=MODULES)),
        *scripts(evaluation(output, launch=Launch(tasks=2, setup=MODULES)), many),
        *scripts(tiny),
    ]


@pytest.mark.parametrize("output", ["run", "it's a 'run' of 50% $HOME `x`"])
def test_bash_and_shellcheck_accept_every_script(output: str, tmp_path: Path) -> None:
    checked = []
    for number, script in enumerate(every(tmp_path / output)):
        file = tmp_path / f"{number}.sh"
        file.write_text(script.text)
        # What is between heredoc marks is another program, which shellcheck does not look into.
        inner = re.findall(r"<<'WHILST'[^\n]*\n(.*?)\nWHILST\n", script.text, re.DOTALL)
        assert len(inner) == script.text.count("<<'WHILST'")
        checked += [file, *(tmp_path / f"{number}-{i}.sh" for i in range(len(inner)))]
        for i, text in enumerate(inner):
            (tmp_path / f"{number}-{i}.sh").write_text(f"#!/usr/bin/env bash\n{text}\n")
    for file in checked:
        done = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), file.read_text()
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    # 1091: files that `setup` sources are not here; 2016: paths with a $ in single quotes are meant
    done = subprocess.run(["shellcheck", "-e", "SC1091,SC2016", *map(str, checked)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_setup_that_reads_its_input_does_not_read_the_script(tmp_path: Path) -> None:
    """bash reads a rank's script from its input: what is eaten of it would be missing, and the rank end well."""
    (script,) = scripts(sft(tmp_path, gpus_per_node=1, setup="# ours\ncat >/dev/null"))
    (rank,) = re.findall(r"<<'WHILST'[^\n]*\n(.*?)\nWHILST\n", script.text, re.DOTALL)
    rank = rank.replace(f"{sys.executable} -m whilst.cli", "echo trained")
    environment = os.environ | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "WHILST_ATTEMPT": str(tmp_path)}
    done = subprocess.run(["bash", "-s"], input=rank, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("trained sft"), done.stdout


def test_a_job_inherits_nothing_of_the_job_it_is_launched_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun refuses to start where it finds SLURM_MEM_PER_CPU of another job beside its own SLURM_MEM_PER_NODE."""
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$SLURM_MEM_PER_CPU:$SLURM_CONF:$SLURM_TIME_FORMAT:$HOME"\n')
    fake.chmod(0o755)
    for name, value in {"PATH": f"{fake.parent}:{os.environ['PATH']}", "HOME": "h", "SLURM_CONF": "c"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "4")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "t")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert sbatch(["x"]) == "4:c:t:h"  # outside of jobs these are the user's own
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert sbatch(["x"]) == ":c::h"


FAKES = {
    # srun for one task here: its options, then the command; the program comes on stdin as from Slurm
    "srun": """
out=/dev/stdout
while [ "${1#--}" != "$1" ]; do case $1 in --output=*) out=${1#--output=} ;; esac; shift; done
out=${out//%t/0}; out=${out//%%/%}
[ "$out" = /dev/stdout ] || exec >>"$out" 2>&1
export SLURM_PROCID=0 SLURM_LOCALID=0
exec "$@"
""",
    "scontrol": """
echo "$*" >>"$FAKE/scontrol.log"
case $2 in
hostnames) printf 'n1\\nn2\\n' ;;
node) echo "NodeName=$3 Arch=x NodeAddr=127.0.0.1 NodeHostName=h" ;;
esac
""",
    # a server that is ready after a second, dies before or after, never gets ready, or does not end
    "vllm": """
echo $$ >"$FAKE/vllm.pid"; echo "$*" >"$FAKE/vllm.args"
[ "$FAKE_VLLM" != dies ] || { echo 'out of memory'; exit 3; }
[ "$FAKE_VLLM" != never ] || exec sleep 600
[ "$FAKE_VLLM" != stuck ] || trap '' TERM
exec "$FAKE_PYTHON" "$FAKE/server.py" "${@: -1}"
""",
    # the training
    "train": """
echo "$*" >"$FAKE/train.args"; echo $$ >"$FAKE/train.pid"
case $FAKE_TRAIN in
ends) exit 0 ;;
fails) echo 'a bug'; exit 1 ;;
follows) echo 1 >"$WHILST_ATTEMPT/failed-5"; echo 'a bug' >"$WHILST_ATTEMPT/rank_5.log"; sleep 0.1; echo gone; exit 1 ;;
starts) exec sleep 600 ;;
waits) trap 'exit 75' USR1 TERM; while :; do sleep 0.1; done ;;
esac
""",
}
SERVES = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.monotonic() > ready else 503)
        self.end_headers()
    def log_message(self, *args): pass
ready = time.monotonic() + 1
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""


class Job:
    """A rendered server script that runs with stand-ins."""

    def __init__(self, folder: Path, vllm: str, train: str, timeout: float = 60.0) -> None:
        self.folder = folder
        fakes = folder / "bin"
        fakes.mkdir(parents=True)
        (folder / "server.py").write_text(SERVES)
        for name, text in FAKES.items():
            (fakes / name).write_text(f"#!/usr/bin/env bash\n{text}")
            (fakes / name).chmod(0o755)
        recipe = grpo(folder / "run", vllm=replace(SERVER, timeout=timeout), server_nodes=1, ranks_per_node=1)
        ((_, (script,)),) = prepare([Work(recipe)])
        # The program under test is the script: the training in it is another.
        text = script.text.replace(f"{sys.executable} -m whilst.cli", "train")
        assert text != script.text
        script.file.write_text(text)
        environment = os.environ | {
            "PATH": f"{fakes}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FAKE": str(folder),
            "FAKE_PYTHON": sys.executable,
            "FAKE_VLLM": vllm,
            "FAKE_TRAIN": train,
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "n[1-2]",
        }
        self.process = subprocess.Popen(
            ["bash", str(script.file)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def pid(self, name: str) -> int:
        """The process of a stand-in, when it has begun."""
        file, end = self.folder / f"{name}.pid", time.monotonic() + 120
        while not (file.exists() and file.read_text().strip()):
            assert time.monotonic() < end and self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.05)
        return int(file.read_text())

    def ended(self) -> tuple[int, str]:
        """Code and output; no process of the job may be left."""
        try:
            out, end = self.process.communicate(timeout=300)[0], time.monotonic() + 60
            while self._left():
                assert time.monotonic() < end, f"left behind: {self._left()}\n{out}"
                time.sleep(0.05)
            return self.process.returncode, out
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _left(self) -> list[str]:
        """Processes of the job, less those that have ended and that nobody has asked about."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):
                name, _, rest = (entry / "stat").read_text().rpartition(")")
                state, _, group, *_ = rest.split()
                if int(group) == self.process.pid and state != "Z":
                    found.append(name)
        return found


def test_training_begins_when_the_server_answers_and_the_server_ends_with_it(tmp_path: Path) -> None:
    code, out = Job(tmp_path, "serves", "ends").ended()
    assert code == 0 and "finished" in out, out
    port = (tmp_path / "vllm.args").read_text().split()[-1]
    said = (tmp_path / "train.args").read_text()
    assert f"vllm.host=127.0.0.1 vllm.port={port} vllm.group_port=" in said and said.startswith("grpo ")
    assert out.index("vLLM answers") < out.index("finished")


@pytest.mark.parametrize(
    ("vllm", "timeout", "message"),
    [("dies", 60.0, "ended before it was ready"), ("never", 1.0, "was not ready within 1 s")],
)
def test_without_a_server_nothing_is_trained(vllm: str, timeout: float, message: str, tmp_path: Path) -> None:
    code, out = Job(tmp_path, vllm, "ends", timeout).ended()
    assert code == 1 and message in out and not (tmp_path / "train.args").exists(), out
    assert vllm == "never" or "out of memory" in out


def test_a_server_that_dies_ends_the_training(tmp_path: Path) -> None:
    job = Job(tmp_path, "serves", "waits")
    job.pid("train")
    os.kill(job.pid("vllm"), signal.SIGKILL)
    code, out = job.ended()
    assert code == 1 and "ended during training" in out, out


@pytest.mark.parametrize(("train", "first"), [("fails", 0), ("follows", 5)])
def test_the_rank_that_failed_first_is_named_and_takes_the_server_with_it(
    train: str, first: int, tmp_path: Path
) -> None:
    code, out = Job(tmp_path, "serves", train).ended()
    assert code == 1 and f"rank {first} with code 1" in out and "a bug" in out, out
    assert "requeue" not in (tmp_path / "scontrol.log").read_text()


def test_a_server_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "GRACE", 1)
    code, out = Job(tmp_path, "stuck", "ends").ended()
    assert code == 0 and "did not within 1 s: killed" in out, out


@pytest.mark.parametrize(("number", "requeues"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
@pytest.mark.parametrize("train", ["waits", "starts"])
def test_usr1_is_followed_by_a_requeue_and_term_is_not(train: str, number: int, requeues: bool, tmp_path: Path) -> None:
    """Also where it comes before training catches it."""
    job = Job(tmp_path, "serves", train)
    rank = Path(f"/proc/{job.pid('train')}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(rank), number)  # the shell of the rank, as Slurm does with cgroups: it passes the signal on
    if requeues:  # Slurm would end the shell then
        calls, end = tmp_path / "scontrol.log", time.monotonic() + 120
        while "requeue" not in calls.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        job.process.terminate()
    code, out = job.ended()
    assert ("requeue" in (tmp_path / "scontrol.log").read_text()) == requeues
    assert ("saved; requeued" in out) == requeues and code in ((PREEMPTED, -signal.SIGTERM, 143) if requeues else (75,))


# ---- What the scripts call.


def test_ports_follow_from_the_job_and_skip_what_is_taken() -> None:
    (port,) = free_ports(os.getpid())
    assert FIRST <= port < FIRST + COUNT
    with socket.socket() as taken:
        taken.bind(("", port))
        taken.listen()
        found = free_ports(port - FIRST, 2)
        assert port not in found and len(set(found)) == 2


def test_the_report_names_tasks_and_their_last_words(tmp_path: Path) -> None:
    (tmp_path / "logs" / "publish").mkdir(parents=True)
    (tmp_path / "logs" / "publish" / "42_1.log").write_text("begun\nerror: disk full\n")
    arrays = report.arrays_of(["gather=41:1", "publish=42:4"])
    found = report.missing(["publish 5 train-00005-of-00008\n", "publish 6 x\n", "finish 0 all\n"], tmp_path, arrays)
    assert [one.get("job") for one in found] == ["42_1", "42_2", None]
    text = report.told(found, tmp_path)
    assert "42_1.log: error: disk full" in text and "it wrote nothing" in text and "(none was submitted)" in text
    assert report.told([], tmp_path) == "nothing is missing"


# ---- The command.


def test_a_dry_run_writes_everything_and_submits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no sbatch
    quick = ROOT / "recipes" / "quickstart" / "sft.yaml"
    line = ["launch", str(quick), "seed=7", "--nodes", "2", "--gpus-per-node", "4", "--time", "01:00:00", "--dry-run"]
    done = CliRunner().invoke(app, [*line, "--partition", "p"], catch_exceptions=False)
    assert done.exit_code == 0 and "quickstart-sft sft: not submitted" in done.output
    saved = yaml.safe_load(Path("runs/quickstart/sft/launch/recipe.yaml").read_text())
    assert saved["seed"] == 7 and saved["launch"]["nodes"] == 2 and "extends" not in saved
    script = Path("runs/quickstart/sft/launch/sft.sbatch")
    assert os.access(script, os.X_OK) and "#SBATCH --partition=p\n" in script.read_text()
    done = CliRunner().invoke(app, [item for item in line if item != "--dry-run"])
    assert done.exit_code == 2 and "sbatch is not here" in done.output


def test_keys_and_options_of_a_chain_are_of_the_recipes_that_they_name() -> None:
    """Nodes are of all that train, other options of all; a key is of one recipe, and wins over an option."""
    chain = [(Path(f"r/{name}.yaml"), stage) for name, stage in (("data", "synth"), ("cold", "sft"), ("warm", "sft"))]
    options = {"nodes": 4, "gpus_per_node": None, "time": "1:00:00", "partition": None}
    every, trains = ['launch.time="1:00:00"'], ["launch.nodes=4", 'launch.time="1:00:00"']
    assert spread(chain, (), options) == [every, trains, trains]
    found = spread(chain, ["synth:seed=1", "warm:launch.time=2:00:00", "2:notes=a:b=c"], options)
    assert found == [[*every, "seed=1"], [*trains, "notes=a:b=c"], [*trains, "launch.time=2:00:00"]]
    assert spread(chain[:1], ["seed=1", "data:seed=2"], {"nodes": 2}) == [["launch.nodes=2", "seed=1", "seed=2"]]
    with pytest.raises(LaunchError, match="'seed=1': several recipes .* synth:seed=1 or cold:seed=1 or warm:seed=1$"):
        spread(chain, ["seed=1"], {})
    with pytest.raises(LaunchError, match="'sft:seed=1': several recipes"):
        spread(chain, ["sft:seed=1"], {})
    with pytest.raises(LaunchError, match="'rl:seed=1': no recipe of this launch is called 'rl'; write synth:seed=1"):
        spread(chain, ["rl:seed=1"], {})
    same = [(Path("a/sft.yaml"), "sft"), (Path("b/sft.yaml"), "sft")]
    with pytest.raises(LaunchError, match="write 1:seed=1 or 2:seed=1$"):
        spread(same, ["seed=1"], {})
    with pytest.raises(LaunchError, match="--nodes: nothing in this chain trains"):
        spread([chain[0], (Path("eval.yaml"), "eval")], (), {"nodes": 2})


def test_a_chain_is_launched_with_what_each_recipe_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ROOT / "recipes" / "quickstart"
    line = ["launch", str(quick / "world.yaml"), "--then", str(quick / "sft.yaml"), "--nodes", "2", "--dry-run"]
    line += ["--time", "01:00:00"]
    done = CliRunner().invoke(app, [*line, "sft:seed=7", "world:launch.time=00:10:00"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    asked = {}
    for name in ("world", "sft"):
        saved = yaml.safe_load(Path(f"runs/quickstart/{name}/launch/recipe.yaml").read_text())
        asked[name] = (saved["seed"], saved["launch"]["nodes"], saved["launch"]["time"])
    assert asked == {"world": (0, 1, "00:10:00"), "sft": (7, 2, "01:00:00")}
    done = CliRunner().invoke(app, [*line, "seed=7"])
    assert done.exit_code == 2 and "write world:seed=7 or sft:seed=7" in " ".join(done.output.split())


def test_one_machine_needs_no_slurm(tmp_path: Path) -> None:
    argv = command(sft(tmp_path, gpus_per_node=4), "torchrun")
    assert argv[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]
    assert argv[-2:] == ["sft", str(tmp_path / "launch" / "recipe.yaml")]
    argv = command(sft(tmp_path, gpus_per_node=4), "accelerate")
    settings = yaml.safe_load(Path(argv[argv.index("--config_file") + 1]).read_text())
    assert settings["num_processes"] == 4 and settings["distributed_type"] == "MULTI_GPU" and not settings["use_cpu"]
    with pytest.raises(LaunchError, match="on CPU use --local torchrun"):
        command(sft(tmp_path, gpus_per_node=0, ranks_per_node=2), "accelerate")
    with pytest.raises(LaunchError, match="this machine alone"):
        command(sft(tmp_path, nodes=2), "torchrun")
