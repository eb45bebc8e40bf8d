"""Training runs on several ranks that begin at once: one process imports everything, and forks each rank (gloo).

    def test_it(forks: Zygote):  # the session's one, tests/train/conftest.py
        ranks = forks.start(recipe, ranks=2, faults=[Fault(0, signal.SIGKILL, event=40)])
        finished = ranks.wait()

Importing torch, transformers and trl costs ten seconds or more a process; forking nothing. The zygote itself never
computes: a thread pool, or a generator, that exists when it forks would not in its children.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT = 300.0  # seconds that ranks may take, on a machine that is shared
LEFT = 1000  # exit code of a rank that was killed because another had failed
IMPORTED = ("train.sft", "train.grpo", "tests.train.grpo_runs", "deepspeed", "wandb")
LISTENED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Fault:
    """A signal that a rank sends itself, at one moment of these. event: its n-th access, from 1, to a file of the run's
    folder; step: when it begins with so many updates done; path: when it touches a file whose path has this in it.
    Signal 0, of the moments with a file: an ArithmeticError takes the place of the access."""

    rank: int
    signal: int
    event: int | None = None
    step: int | None = None
    path: str | None = None


@dataclass(frozen=True)
class Finished:
    """How a rank ended: its exit code (below 0: killed by that signal), and all that it wrote."""

    code: int
    output: str

    @property
    def events(self) -> int:
        """Accesses to files of the run's folder; 0 of a rank that was killed."""
        told = [line for line in self.output.splitlines() if line.startswith("events ")]
        return int(told[-1].split()[1]) if told else 0


# --- in the test ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """Ranks that run."""

    zygote: Zygote
    pids: tuple[int, ...]
    logs: tuple[Path, ...]
    store: Any = field(repr=False)  # ranks meet in it

    def send(self, rank: int, number: int) -> None:
        """Signal a rank; nothing where it has ended. A pid is its own until `wait`."""
        os.kill(self.pids[rank], number)

    def wait(self, timeout: float = TIMEOUT, grace: float | None = None) -> list[Finished]:
        """How each ended. grace: seconds after which the others are killed when one has failed, as a launcher does it;
        without it, each must end by itself."""
        codes = self.zygote.ask({"wait": self.pids, "timeout": timeout, "grace": grace})["codes"]
        texts = [log.read_text(errors="replace") for log in self.logs]
        if None in codes:
            raise AssertionError(f"a rank hangs, codes {codes}:\n" + "\n".join(text[-3000:] for text in texts))
        return [Finished(code, text) for code, text in zip(codes, texts, strict=True)]


class Zygote:
    """The process that forks, seen from a test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": str(ROOT),
            "ACCELERATE_TORCH_DEVICE": "cpu",  # torch.load knows no "cpu:0", which ranks would ask for when they resume
            "DS_ACCELERATOR": "cpu",
        }
        self.log = (folder / "zygote.log").open("w")
        command = [sys.executable, str(Path(__file__))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=self.log, text=True
        )

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the zygote ended: " + (self.folder / "zygote.log").read_text()[-3000:]
        return dict(json.loads(line))

    def wait_until_ready(self) -> None:
        """For who measures time: everything is imported now."""
        self.ask({"wait": [], "timeout": 0.0})

    def start(
        self, recipe: Any, *, ranks: int = 1, faults: Sequence[Fault] = (), env: Mapping[str, str | None] | None = None
    ) -> Ranks:
        """Run a recipe's stage (sft, grpo) on `ranks` forked processes. env: more variables for all of them; None: away
        with it."""
        from whilst.recipe import save_resolved

        file = self.folder / f"{self.started + 1}.yaml"
        save_resolved(recipe, file)
        wanted = [asdict(fault) for fault in faults]
        return self.call(__name__, recipe.stage, str(file), recipe.output, wanted, ranks=ranks, env=env)

    def call(self, module: str, *args: Any, ranks: int = 1, env: Mapping[str, str | None] | None = None) -> Ranks:
        """Run a module's `main(*args)`, which takes what JSON holds, on forked processes as `start` does."""
        from torch.distributed import TCPStore

        self.started += 1
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # here, on a free port
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        logs = tuple(self.folder / f"{self.started}-rank{rank}.log" for rank in range(ranks))
        order = {
            "module": module,
            "args": args,
            "logs": [str(log) for log in logs],
            "env": (meeting if ranks > 1 else {}) | dict(env or {}),
        }
        return Ranks(self, tuple(self.ask(order)["pids"]), logs, store)

    def end(self) -> None:
        """Also kills what it has forked and is still there."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
        self.log.close()


@contextmanager
def zygote(folder: Path) -> Iterator[Zygote]:
    made = Zygote(folder)
    try:
        yield made
    finally:
        made.end()


# --- in the zygote ----------------------------------------------------------------------------------------------------


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print while they are imported must not answer
    for name in IMPORTED:
        importlib.import_module(name)
    # Arrow's allocator keeps a thread, which it stops and starts around forks; no other may be there
    threads = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
    assert len([name for name in threads if not name.startswith("jemalloc")]) == 1, threads
    alive: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer: dict[str, Any] = {"codes": _wait(order["wait"], order["timeout"], order.get("grace"))}
            alive -= set(order["wait"])
        else:
            pids = [_fork(order, rank) for rank in range(len(order["logs"]))]
            alive |= set(pids)
            answer = {"pids": pids}
        print(json.dumps(answer), file=answers, flush=True)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)  # freeing all that is imported takes seconds


def _wait(pids: Sequence[int], timeout: float, grace: float | None) -> list[int | None]:
    """Exit codes; None for a rank that had not ended and is killed now."""
    codes: dict[int, int | None] = {}
    left: set[int] = set()
    end, failed = time.monotonic() + timeout, math.inf
    while len(codes) < len(pids) and time.monotonic() < end:
        for pid in pids:
            if pid not in codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    codes[pid] = LEFT if pid in left else os.waitstatus_to_exitcode(status)
                    if codes[pid] and grace is not None:
                        failed = min(failed, time.monotonic() + grace)
                elif time.monotonic() > failed and pid not in left:
                    left.add(pid)
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    for pid in pids:
        if pid not in codes:
            codes[pid] = None
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return [codes[pid] for pid in pids]


def _fork(order: Mapping[str, Any], rank: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(order["logs"][rank], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(log, number)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        _call(order, rank)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # whatever the other ranks do: tearing down a broken process group may abort or wait


def _call(order: Mapping[str, Any], rank: int) -> None:
    import torch

    ranks = str(len(order["logs"]))
    if ranks != "1":
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        os.environ.update(own)
    for name, value in order["env"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    torch.set_num_threads(1)
    importlib.import_module(order["module"]).main(*order["args"])
    wandb = sys.modules["wandb"]
    if wandb.run is not None:  # whose own end the end of a fork would leave out
        wandb.finish()


def main(stage: str, path: str, output: str, faults: Sequence[Mapping[str, Any]]) -> None:
    """What a rank of `Zygote.start` does."""
    from rewards.registry import REWARDS
    from tests.train.grpo_runs import TEST_REWARDS
    from train import grpo, sft
    from whilst.recipe import load_recipe

    REWARDS.update(TEST_REWARDS)
    rank = int(os.environ.get("RANK", "0"))
    counted = _arm([Fault(**fault) for fault in faults if fault["rank"] == rank], output)
    if stage == "sft":
        sft.run(load_recipe(path, sft.SFTRecipe))
    else:
        grpo.run(load_recipe(path, grpo.GRPORecipe))
    print("events", counted[0])


def _arm(faults: Sequence[Fault], output: str) -> list[int]:
    """Sends the faults' signals at their moments; returns the count of events so far, in a list."""
    from transformers.trainer_callback import CallbackHandler

    counted = [0]
    touched: set[str] = set()

    def listen(event: str, args: tuple[Any, ...]) -> None:
        if event not in LISTENED or not isinstance(args[0], str | os.PathLike):
            return
        path = os.fspath(args[0])
        if not str(path).startswith(output):
            return
        counted[0] += 1
        for fault in faults:
            first = fault.path is not None and fault.path in str(path) and fault.path not in touched
            if fault.event == counted[0] or first:
                touched.add(fault.path or "")
                if not fault.signal:
                    raise ArithmeticError("nobody foresaw this")
                os.kill(os.getpid(), fault.signal)

    begin = CallbackHandler.on_step_begin

    def step(self: Any, args: Any, state: Any, control: Any) -> Any:
        for fault in faults:
            if fault.step == state.global_step:
                os.kill(os.getpid(), fault.signal)
        return begin(self, args, state, control)

    CallbackHandler.on_step_begin = step  # type: ignore[method-assign]
    sys.addaudithook(listen)
    return counted


if __name__ == "__main__":
    serve()
