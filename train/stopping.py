"""Ending a run when its time is up: signals, and the step after which all ranks stop.

USR1 (Slurm's warning before a time limit or a preemption) and TERM ask a run to stop. It ends the step under way, saves
a checkpoint, whatever `save_steps` says, writes `preempted` to run.json and exits with code 75 (EX_TEMPFAIL: try
again). One rank that is asked is enough; after each step the ranks compare notes, so that all stop after the same one.
A second signal changes nothing: a save that has begun ends. What each launcher does with signals: docs/CHECKPOINTS.md.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from train.together import any_rank

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run it again
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Preempted(SystemExit):
    """A run that was asked to stop and has saved what it did: exit code 75. step: updates that are done."""

    def __init__(self, step: int) -> None:
        super().__init__(PREEMPTED)
        self.step = step


class Interrupted(Exception):
    """Work that can be done again was left, because this rank was asked to stop."""


_asked: list[str] = []  # names of the signals that this process got within `catching`
_interruptible: list[bool] = []  # one entry a block of `interruptible` that is open


@contextmanager
def catching() -> Iterator[None]:
    """Within, USR1 and TERM ask the run to stop and do no more; afterwards they do what they did before.

    Outside the main thread Python allows no handlers, and signals stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that was forked off (DataLoader): it ends as it would have
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        name = signal.Signals(number).name
        if not _asked:  # not print: it may be what was interrupted
            os.write(2, f"{name}: stopping after this step; a checkpoint is saved first\n".encode())
        _asked.append(name)

    _asked.clear()
    before = {one: signal.signal(one, note) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        _asked.clear()


def asked() -> bool:
    """Whether this rank was asked to stop."""
    return bool(_asked)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, `check` may leave the work: who opens the block must be able to do it again, to the bit."""
    _interruptible.append(True)
    try:
        yield
    finally:
        _interruptible.pop()


def check() -> None:
    """Between two pieces of long work. Interrupted if this rank was asked to stop, and the work can be left."""
    if _interruptible and _asked:
        raise Interrupted


class Stopping(TrainerCallback):
    """Compares notes after each step. When some rank was asked to stop, all save, and raise Preempted."""

    def __init__(self) -> None:
        self.stops = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if any_rank(asked()):  # while it was being built
            raise Preempted(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < state.max_steps and any_rank(asked()):  # after the last, the final model is saved
            self.stops = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stops:
            raise Preempted(state.global_step)
