"""Long work that ranks share: each takes the next piece that nobody has taken, so that all end at about the same time.

A collective gives up after its time limit (Trainer's ddp_timeout, 1800 s), however well those do that it waits for.
Here nothing waits in one: ranks meet in the store in which their process group met. It holds a count of pieces that are
taken and one outcome, of the first rank that knew it. A rank that dies without a word is noticed by what has started
it, which ends the others (srun --kill-on-bad-exit, torchrun).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import PartialState
from torch.distributed import HashStore, PrefixStore, Store
from torch.distributed.distributed_c10d import _get_default_store

from train.stopping import Interrupted, asked
from whilst.runs import age, read_run, write_run

LOOK = 0.5  # seconds between two looks at how the others are, at most
FAREWELL = 60.0  # seconds in which the others learn that a rank has failed, before the store goes with rank 0
NONE_LEFT = 1 << 40  # added to the count of pieces taken: who asks for one finds that all are
DONE, STOPPED = "done", "stopped"

TELL = 30.0  # seconds between two lines that say how far all are

_meetings = itertools.count()


@dataclass(frozen=True)
class Meeting:
    """Where ranks meet. The store may be in the process of rank 0, which therefore leaves last."""

    store: Store
    rank: int
    ranks: int


def meeting() -> Meeting:
    """A place of its own for each work, as long as all ranks do the same works in the same order."""
    state = PartialState()
    if state.num_processes == 1:
        return Meeting(HashStore(), 0, 1)
    store = PrefixStore(f"whilst/shares/{next(_meetings)}", _get_default_store())
    return Meeting(store, state.process_index, state.num_processes)


@contextmanager
def shares(
    pieces: int, error: type[ValueError], told: Callable[[int], None] = lambda taken: None, at: Meeting | None = None
) -> Iterator[Iterator[int]]:
    """Yields the numbers, below `pieces`, of what this rank is to do; take all. Then it waits for the slowest.

    told: called on rank 0 with how many are taken, before each of its pieces and whilst it waits.

    Raises:
        error: another rank failed; it says which, and why. Ranks learn it between two pieces.
        Interrupted: a rank was asked to stop. What the pieces gave is the caller's to keep.
    """
    at = at or meeting()
    store, taken = at.store, 0

    def end(outcome: str) -> None:
        store.compare_set("outcome", "", outcome)  # does nothing where there is one
        store.add("taken", NONE_LEFT)

    def take() -> Iterator[int]:
        nonlocal taken
        while True:
            if asked():
                end(STOPPED)
            taken = store.add("taken", 1)
            if taken > pieces:
                return
            if at.rank == 0:
                told(taken - 1)
            yield taken - 1

    try:
        yield take()
    except BaseException as failed:
        outcome = f"rank {at.rank} failed: {type(failed).__name__}: {failed}"
        end(outcome)
        _leave(at, outcome)
        raise
    if store.add("done", 1) == at.ranks:
        end(DONE)
    pause = 0.01
    while not store.check(["outcome"]):
        if asked():
            end(STOPPED)
        if at.rank == 0:
            told(min(pieces, store.add("taken", 0)))
        time.sleep(pause)
        pause = min(LOOK, 1.5 * pause)
    outcome = store.get("outcome").decode()
    if outcome == DONE:
        return
    _leave(at, outcome)
    raise Interrupted if outcome == STOPPED else error(outcome)


class Told:
    """Says how far all ranks are, every TELL seconds, and that the run is not lost (run.json). weights: of pieces."""

    def __init__(self, what: str, weights: Sequence[float], keep: Path | None) -> None:
        self.what, self.keep = what, keep
        self.sums = [0.0, *itertools.accumulate(weights)]
        self.began = self.last = time.monotonic()

    def __call__(self, taken: int) -> None:
        now = time.monotonic()
        if now - self.last < TELL:
            return
        self.last = now
        done, all_of_it = self.sums[taken], self.sums[-1]
        left = f"; about {age((now - self.began) * (all_of_it / done - 1))} to go" if done else ""
        print(f"{self.what}: {taken} of {len(self.sums) - 1}{left}", flush=True)
        run = read_run(self.keep.parent) if self.keep is not None else None
        if self.keep is not None and run is not None:
            write_run(self.keep.parent, replace(run, updated=time.time()))


def _leave(at: Meeting, outcome: str) -> None:
    """Say that the outcome is known here. Where they were stopped, ranks end together, since srun kills those that are
    a minute later than the first. Where one has failed, only rank 0 waits, and not for long."""
    if outcome == STOPPED:
        _all(at, "known", math.inf)
    if at.rank == 0:
        _all(at, "gone", math.inf if outcome == STOPPED else FAREWELL)
    else:
        at.store.add("gone", 1)


def _all(at: Meeting, what: str, seconds: float) -> None:
    """Wait until every rank has said this."""
    said, end = at.store.add(what, 1), time.monotonic() + seconds
    while said < at.ranks and time.monotonic() < end:
        time.sleep(LOOK)
        said = at.store.add(what, 0)
