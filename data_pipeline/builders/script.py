"""What a builder consists of: a plan, which may know the whole video, and a telling, which may not.

    scripts = builder.plan(source, settings, write, seed)         # which samples, and what is asked in each, and when
    sample = builder.tell(source, script, settings, write, seed)  # thoughts and replies

`tell` reads `source.graph.as_of(t)` for everything that is said at t. So if all that comes after t is cut or changed,
`tell` says the same up to t for the same script: `whilst doctor causality` checks just that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.queries.ask import Ask
from data_pipeline.source import Rejected, Source, Yield
from data_pipeline.text.task import Write
from whilst.sample import JSON, Sample, Segment


@dataclass(frozen=True)
class Script:
    """One sample to be told: its id, the segments it watches, what is asked, and the words of every ask by its id."""

    id: str
    segments: tuple[Segment, ...]
    asks: tuple[Ask, ...] = ()
    questions: Mapping[str, str] = field(default_factory=dict, hash=False)
    extra: Mapping[str, JSON] = field(default_factory=dict, hash=False)  # what only this builder knows of


@dataclass
class Plan:
    """Every source gives at least one script or one rejection; `queries.taken` counts every ask that was tried, `made`
    those that stand in a script."""

    scripts: list[Script] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    queries: Yield = field(default_factory=Yield)
    statistics: Counter[str] = field(default_factory=Counter)  # such as "hops 3"


@dataclass(frozen=True)
class Builder:
    """A builder: its settings' dataclass (frozen), `plan` and `tell` as the module says.

    `tell` returns a Sample that `whilst.sample.validate` accepts, or raises TextRejected. Told from a source of which
    something was cut away, a query may stay without an answer.
    """

    settings: type[Any]
    plan: Callable[[Source, Any, Write, int], Plan]
    tell: Callable[[Source, Script, Any, Write, int], Sample]
