"""A real Slurm of two nodes on this machine, for as long as a `with` lasts: its own munged, slurmctld and two slurmd.

    with cluster() as slurm:
        slurm.run("sbatch", "--parsable", "job.sbatch")

Ports are free ones, and everything lies in one short folder below /tmp. Only one cluster is there at a time, whoever
starts it (a lock). Daemons run as children that die with this process; whatever else carries the cluster's
configuration in its environment (job steps, their processes) is ended at the end.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from slurm.ports import free_ports

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
LOCK = Path("/tmp/whilst-slurm-tests.lock")
UP = 60.0  # seconds for daemons to come up, on a machine that is shared
PR_SET_PDEATHSIG = 1
OVER = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "DEADLINE", "BOOT_FAIL"}

CONF = """\
ClusterName=whilst
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
SlurmdDebug=debug2
ReturnToService=2
KillWait=10
SlurmdTimeout=300
MessageTimeout=60
MinJobAge=3600
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; "" where there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)"
    return "" if os.getuid() == 0 else "a private Slurm needs root"


@dataclass(frozen=True)
class Cluster:
    """A Slurm that is up. environment: with which its commands find it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """The output of one of its commands."""
        done = subprocess.run(command, env=self.environment, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def jobs(self, number: str) -> list[dict[str, str]]:
        """What scontrol knows of a job; of an array, each of its tasks."""
        lines = self.run("scontrol", "show", "job", number, "--oneliner").splitlines()
        return [dict(item.split("=", 1) for item in line.split() if "=" in item) for line in lines]

    def job(self, number: str) -> dict[str, str]:
        """What scontrol knows of a job that is no array."""
        (only,) = self.jobs(number)
        return only

    def states(self, number: str) -> str:
        """The states of a job's tasks, each once."""
        return " ".join(sorted({job["JobState"] for job in self.jobs(number)}))

    def wait(self, what: Callable[[], object], seconds: float, told: Callable[[], str] = lambda: "") -> None:
        """Wait until `what` is true; the test fails after `seconds`, with what `told` says."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"not so within {seconds} s\n{told()}\n{self.logs()}"
            time.sleep(0.2)

    def ended(self, *numbers: str) -> bool:
        """Whether these jobs have ended for good. Not asked of squeue, which lists no job that is just requeued."""
        return all(set(self.states(number).split()) <= OVER for number in numbers)

    def logs(self) -> str:
        return "\n".join(f"{file.name}:\n{file.read_text()[-1500:]}" for file in self.folder.glob("*.log"))


def _dies_with_us() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def cluster(cpus: int = 4) -> Iterator[Cluster]:
    """Two nodes, n1 and n2, of `cpus` CPUs each, none of them real."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(tempfile.mkdtemp(prefix="wsl", dir="/tmp"))
        folder.chmod(0o755)
        daemons: list[subprocess.Popen[bytes]] = []
        environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        here = Cluster(folder, environment)
        try:
            _start(here, daemons, cpus)
            yield here
        finally:
            _end(here, daemons)
            shutil.rmtree(folder)


def _start(here: Cluster, daemons: list[subprocess.Popen[bytes]], cpus: int) -> None:
    folder = here.folder
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    ports = free_ports(os.getpid() % 10000, 3)  # below those that the kernel gives to whoever asks meanwhile
    conf = CONF.format(host=socket.gethostname().partition(".")[0], folder=folder, ports=ports, cpus=cpus)
    (folder / "slurm.conf").write_text(conf)
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("key-file", "socket", "pid-file", "log-file")]
    munge += [f"--seed-file={folder}/munge.seed", "--num-threads=2", "--force", "--foreground"]
    _daemon(here, daemons, ["munged", *munge])
    here.wait((folder / "munge.socket").exists, UP)
    for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
        _daemon(here, daemons, command)

    def idle() -> bool:
        told = subprocess.run(["sinfo", "-h", "-o", "%D %T"], env=here.environment, capture_output=True, text=True)
        return told.stdout.strip() == "2 idle"

    here.wait(idle, UP)


def _daemon(here: Cluster, daemons: list[subprocess.Popen[bytes]], command: Sequence[str]) -> None:
    with (here.folder / f"{Path(command[0]).name}{command[-1][-2:]}.out").open("wb") as out:
        daemons.append(
            subprocess.Popen(
                command,
                env=here.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_dies_with_us,
            )
        )


def _end(here: Cluster, daemons: Sequence[subprocess.Popen[bytes]]) -> None:
    for daemon in reversed(daemons):
        daemon.terminate()  # slurmctld has a child of its own, which it ends
    for daemon in reversed(daemons):
        try:
            daemon.wait(10.0)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    while left := here_running(here):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def here_running(here: Cluster) -> list[int]:
    """Processes that carry the cluster's configuration: its daemons, job steps, and what they have started."""
    mark, found = f"SLURM_CONF={here.folder}/slurm.conf".encode(), []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                status = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if status != "Z":
                    found.append(int(entry.name))
    return found
