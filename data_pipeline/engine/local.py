"""The local runner: the jobs of a phase, by this process or by several."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

from data_pipeline.engine.jobs import Job, perform
from data_pipeline.engine.recipe import SynthRecipe
from data_pipeline.engine.tools import Tools
from data_pipeline.source import SynthError


def run_local(recipe: SynthRecipe, phases: list[list[Job]], advance: Callable[[int], None]) -> None:
    """Do all jobs, phase by phase; `advance(1)` after each.

    Raises:
        SynthError: a worker was killed; or another run is at work in the same folder.
        Exception: whatever a job raises. Jobs under way are finished first, so that a resumed run need not redo them.
    """
    with holding(Path(recipe.output), fcntl.LOCK_EX):
        if recipe.workers == 1:
            tools = Tools(recipe)
            for job in (job for phase in phases for job in phase):
                perform(recipe, job, tools)
                advance(1)
            return
        # Spawned, not forked: this process has threads, of Arrow and of the progress bar.
        with ProcessPoolExecutor(recipe.workers, get_context("spawn"), _begin, (recipe,)) as pool:
            for phase in phases:
                try:
                    for done in as_completed([pool.submit(_work, job) for job in phase]):
                        done.result()
                        advance(1)
                except BrokenProcessPool as error:
                    raise SynthError(
                        "a worker process was killed, as the system does when memory runs out; use fewer workers or "
                        "more shards, and run the recipe again: finished shards stay"
                    ) from error
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            # Nothing is left to do. Asked to end, workers would take turns at a queue, and wait for ever for one that
            # was killed in its turn.
            for worker in list((pool._processes or {}).values()):
                worker.kill()


@contextmanager
def holding(folder: Path, lock: int) -> Iterator[None]:
    """Only one local run at a time in a folder (fcntl.LOCK_EX), or tasks of arrays beside each other (fcntl.LOCK_SH).
    The lock goes with the process that holds it, however that ends."""
    path = folder / "state" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, lock | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SynthError(f"{folder}: another run is at work here; wait for it, or end it") from error
        yield


# ---- In a worker process.

_mine: tuple[SynthRecipe, Tools]


def _begin(recipe: SynthRecipe) -> None:
    global _mine
    _mine = recipe, Tools(recipe)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent is killed would go on alone, beside the workers of the resumed run."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(job: Job) -> None:
    recipe, tools = _mine
    perform(recipe, job, tools)
