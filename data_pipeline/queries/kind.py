"""What a kind of query consists of: what may be asked at a moment, what is replied, and which replies would be wrong.

A kind has subkinds. Each proposes slots (what the question names, as JSON), answers them from what is known when it
speaks, and names wrong answers of the same type for multiple choice. The answer depends on the ask and on what is known
alone, so the same function plans, replies, and later checks what was replied.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from data_pipeline.graph import Edge, Graph
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.clauses import same
from data_pipeline.queries.known import View, asked_at, known_at, view_of
from data_pipeline.source import draw
from whilst.sample import JSON

UNKNOWN = "not known yet"  # the reply to what cannot be told so far

Slots = dict[str, JSON]


@dataclass(frozen=True)
class Moment:
    """When something may be asked, and what may be looked at for it.

    `graph` is the whole graph: only standing queries look at it. `time` is when it is asked, `since` the start of the
    current segment, `slack` how long a standing query may be replied to once it is due, `decisions` when it may be
    (all in seconds). `subkinds` weighs subkinds within a kind, 1 if left out. `hops` and `spread` are what an evidence
    chain has at least (edges, seconds).
    """

    graph: Graph
    time: float
    since: float
    slack: float
    decisions: Sequence[float]
    seed: int
    source_id: str
    turn: int = 0  # counts the asks of one time
    subkinds: Mapping[str, float] | None = None
    hops: int = 2
    spread: float = 0.0

    @cached_property
    def known(self) -> View:
        """What is known now."""
        return known_at(self.graph, self.time)

    def rng(self, purpose: str) -> random.Random:
        """Chance for one purpose at this moment."""
        return draw(self.seed, self.source_id, purpose, self.time, self.turn)


def _no_wrong(ask: Ask, view: View) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Subkind:
    """`propose(moment)` gives slots, best in a drawn order; those without an answer are passed over.

    `answer(ask, view)` is the one reply that is right, or None. `wrong(ask, view)` are other texts of its type.
    `past`: all evidence must lie before the current segment, which alone then cannot answer. `standing`: asked before
    it can be answered; `answer` then only looks at what became known after `ask.time`. `closed`: the wrong answers are
    all there is to choose from, so "not known yet" would be out of place among them.
    """

    propose: Callable[[Moment], Iterator[Slots]]
    answer: Callable[[Ask, View], Reply | None]
    formats: tuple[str, ...] = ("open",)
    wrong: Callable[[Ask, View], Iterable[str]] = _no_wrong
    past: bool = False
    standing: bool = False
    closed: bool = False


@dataclass(frozen=True)
class Kind:
    """One kind of query; see `KINDS` in kinds.py."""

    name: str
    subkinds: Mapping[str, Subkind]

    def propose(self, moment: Moment) -> Iterator[Ask]:
        """What can be asked of this kind at this moment and has a reply, lazily; ids and formats are set later.

        Looks at `moment.graph.as_of(moment.time)` alone, except for standing queries.
        """
        for name in self._drawn(moment):
            subkind = self.subkinds[name]
            for slots in subkind.propose(moment):
                ask = Ask("", self.name, name, moment.time, slots, subkind.formats[0])
                if subkind.standing:
                    reply = subkind.answer(ask, view_of(moment.graph))
                    ask = _until(ask, reply, moment)
                    if ask.until is not None:
                        yield ask
                else:
                    reply = subkind.answer(ask, moment.known)
                    if reply is not None and not (subkind.past and _touches(reply, moment)):
                        yield ask

    def reply(self, ask: Ask, known: Graph) -> Reply | None:
        """What can be replied to `ask` by whoever knows `known`, a graph as of the moment of speaking; None: silence.

        Raises:
            ValueError: for a subkind that this kind does not have.
        """
        subkind = self._subkind(ask)
        return subkind.answer(ask, view_of(known) if subkind.standing else asked_at(known, ask.time))

    def wrong(self, ask: Ask, known: Graph) -> list[str]:
        """Texts of the answer's type that are no right answer, as of the ask's time."""
        return list(self._subkind(ask).wrong(ask, asked_at(known, ask.time)))

    def _subkind(self, ask: Ask) -> Subkind:
        if ask.subkind not in self.subkinds:
            known = ", ".join(self.subkinds)
            raise ValueError(f"ask {ask.id!r}: {self.name} has no subkind {ask.subkind!r}; it has {known}")
        return self.subkinds[ask.subkind]

    def _drawn(self, moment: Moment) -> list[str]:
        """The subkinds, each place in the order drawn by weight."""
        weights = {name: (moment.subkinds or {}).get(name, 1.0) for name in self.subkinds}
        rng = moment.rng(f"subkind of {self.name}")
        marks = {name: rng.random() ** (1.0 / weight) for name, weight in weights.items() if weight > 0}
        return sorted(marks, key=lambda name: -marks[name])


def _until(ask: Ask, reply: Reply | None, moment: Moment) -> Ask:
    """The ask with the last moment of its window, where something can be decided in that; else as it was."""
    if reply is None:
        return ask
    until = min(reply.knowable_at + moment.slack, moment.graph.duration)
    reachable = any(reply.knowable_at <= time <= until for time in moment.decisions)
    return Ask(ask.id, ask.kind, ask.subkind, ask.time, ask.slots, ask.format, until=until) if reachable else ask


def _touches(reply: Reply, moment: Moment) -> bool:
    """Whether some of the evidence lies in the current segment, or is only known since then."""
    return reply.knowable_at > moment.since or any(end > moment.since for _, end in reply.evidence)


# ---- What subkinds share.


def rest_on(text: str, *edges: Edge, knowable_at: float | None = None) -> Reply:
    """A reply that rests on edges; known as soon as all of them are, or at `knowable_at` where that is given."""
    at = max(edge.knowable_at for edge in edges) if knowable_at is None else knowable_at
    spans = tuple(dict.fromkeys((edge.start, edge.end) for edge in edges))
    return Reply(text, spans, tuple(edge.id for edge in edges), at)


def shuffled(items: Iterable[Slots], rng: random.Random) -> Iterator[Slots]:
    """Slots in a drawn order; the same set of them gives the same order."""
    found = list(items)
    rng.shuffle(found)
    return iter(found)


def text_slot(ask: Ask, name: str) -> str:
    """A slot that is text."""
    value = ask.slots[name]
    if not isinstance(value, str):
        raise ValueError(f"ask {ask.id!r}: slot {name!r} must be text, not {value!r}")
    return value


def int_slot(ask: Ask, name: str) -> int:
    """A slot that is a whole number."""
    value = ask.slots[name]
    if not isinstance(value, int):
        raise ValueError(f"ask {ask.id!r}: slot {name!r} must be a whole number, not {value!r}")
    return value


def names_like(ask: Ask, view: View) -> list[str]:
    """The names of all known nodes of the kind that is asked for (slot `of`), but for those that the question names."""
    said = same(" ".join(str(ask.slots[name]) for name in ("predicate", "stem", "route") if name in ask.slots))
    names = view.names.get(text_slot(ask, "of"), [])
    return [name for name in names if not re.search(rf"(?<!\w){re.escape(same(name))}(?!\w)", said)]


def many(view: View, kind: str) -> bool:
    """Whether two or more things of this kind are known, so that asking which is worth it."""
    return len(view.names.get(kind, ())) > 1


def texts_like(ask: Ask, view: View) -> list[str]:
    """The clauses of all known events of the level that is asked for (slot `level`)."""
    return list(dict.fromkeys(edge.text for edge in view.at_level.get(int_slot(ask, "level"), ())))


def grain(view: View, level: int) -> str:
    """How a question begins that tells levels of detail apart; empty where there is only one."""
    if len(view.levels) < 2:
        return ""
    words = {view.levels[0]: "on the whole", view.levels[-1]: "in detail"}
    return f"{words.get(level, f'at level {level}')}, "
