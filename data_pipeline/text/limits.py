"""How much an endpoint may be asked: how many requests at once and a minute, and how many in all.

    meter = Meter(Budget(requests=1000))
    with Gate(concurrency=8, requests_per_minute=300).request():
        meter.start()
        ...
        meter.count(Usage(prompt_tokens=210, completion_tokens=35))

Limits hold within one process. Where several processes share an endpoint, each gets its part: `share`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

from data_pipeline.source import SynthError


class BudgetError(SynthError):
    """The budget is used up. What was answered is in the cache, so a run that is started again goes on from there."""


@dataclass(frozen=True)
class Budget:
    """What a run may spend; None is no limit.

    `requests` counts every HTTP request, retries too, and is never passed. `tokens` (of prompts and completions, as the
    server counts them) is checked before each request, so requests that are under way may pass it by what they use.
    """

    requests: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give at least 1, or leave it out for no limit")


@dataclass(frozen=True)
class Usage:
    """What was spent. `requests` counts retries too, `retries` those that repeat a failed one; `rejected` the tasks
    that ended without an acceptable reply."""

    requests: int = 0
    retries: int = 0
    cache_hits: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Usage)})


class Meter:
    """Counts usage against a budget; safe to use from several threads."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._usage, self._lock = budget, Usage(), threading.Lock()

    @property
    def usage(self) -> Usage:
        """What was spent up to now."""
        return self._usage

    def start(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            BudgetError: it would go beyond the budget; it is not counted.
        """
        with self._lock:
            spent = {
                "requests": self._usage.requests,
                "tokens": self._usage.prompt_tokens + self._usage.completion_tokens,
            }
            for name, value in spent.items():
                limit = getattr(self._budget, name)
                if limit is not None and value >= limit:
                    raise BudgetError(
                        f"budget.{name}: {value} of {limit} used up; raise it, run again: what was answered is cached"
                    )
            self._usage += Usage(requests=1)

    def count(self, usage: Usage) -> None:
        """Add what else was spent."""
        with self._lock:
            self._usage += usage


class Gate:
    """Lets through at most `concurrency` requests at once and, evenly spaced, `requests_per_minute` (None: any)."""

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._places = threading.BoundedSemaphore(concurrency)
        self._gap = 60.0 / requests_per_minute if requests_per_minute is not None else 0.0
        self._clock, self._sleep = clock, sleep
        self._next, self._lock = clock(), threading.Lock()

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request; waits for a place first, then for its turn, so that turns are not saved up for a burst."""
        with self._places:
            with self._lock:
                now = self._clock()
                turn = max(now, self._next)
                self._next = turn + self._gap
            if turn > now:
                self._sleep(turn - now)
            yield


def share(budget: Budget, workers: int) -> Budget:
    """The part of a budget that each of several processes may spend; the parts add up to no more than the whole.

    Raises:
        ValueError: less than one request or token a process.
    """
    parts = {
        name: None if (whole := getattr(budget, name)) is None else whole // workers for name in ("requests", "tokens")
    }
    return replace(budget, **parts)
