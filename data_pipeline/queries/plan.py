"""Planning what is asked of a source, and when; and what can be replied at each moment.

    asks, counted = plan_asks(source, times, {"backward": 1.0, "forward": 1.0}, {"open": 1.0, "choice": 1.0}, seed=0)
    for ask in asks:
        question = write(question_task(ask, source.id))
        said = replies(ask, source.graph, decision_times)   # [(10.0, None), (12.0, Reply(...))]

A kind is drawn by its weight for each time, first and for itself: what the video offers does not change the mix of
kinds that is tried, only what comes of it, and that is counted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.graph import Graph
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.choice import options
from data_pipeline.queries.clauses import same
from data_pipeline.queries.formats import FORMATS
from data_pipeline.queries.kind import Moment
from data_pipeline.queries.kinds import KINDS
from data_pipeline.queries.known import View, beside, known_at, view_of
from data_pipeline.source import Source, SynthError, Yield, draw
from data_pipeline.text.task import Task
from whilst.sample import JSON, Segment


@dataclass(frozen=True)
class AskSettings:
    """How queries are put. Times are seconds.

    `subkinds` weighs the subkinds of a kind (1 if left out, 0 for never). `slack` is how long a standing query may
    still be replied to once its answer is known; null: as long as the longest segment. `options` is how many a multiple
    choice has, `least_options` how many at the least; `unknown_share` of them offer "not known yet" where it is wrong.
    `hops` and `spread` are what a chain of a multi-hop query has at least. `tries` is how many asks of the drawn kind
    are tried at one time.
    """

    subkinds: Mapping[str, float] | None = None
    slack: float | None = None
    options: int = 4
    least_options: int = 2
    unknown_share: float = 0.25
    hops: int = 2
    spread: float = 0.0
    tries: int = 16

    def __post_init__(self) -> None:
        known = {name for kind in KINDS.values() for name in kind.subkinds}
        _check_weights("subkinds", self.subkinds or {}, known, needed=False)
        for name, holds, wanted in (
            ("slack", self.slack is None or self.slack >= 0, "seconds >= 0, or null"),
            ("least_options", 2 <= self.least_options <= self.options, "at least 2 and at most options"),
            ("unknown_share", 0 <= self.unknown_share <= 1, "a share from 0 to 1"),
            ("hops", self.hops >= 2, "at least 2"),
            ("spread", self.spread >= 0, "seconds >= 0"),
            ("tries", self.tries >= 1, "at least 1"),
        ):
            if not holds:
                raise SynthError(f"asks.{name}: {getattr(self, name)!r}: must be {wanted}")


def plan_asks(
    source: Source,
    times: Sequence[float],
    weights: Mapping[str, float],
    formats: Mapping[str, float],
    seed: int,
    *,
    settings: AskSettings | None = None,
    segments: Sequence[Segment] | None = None,
    decisions: Sequence[float] | None = None,
    prefix: str = "q",
) -> tuple[list[Ask], Yield]:
    """At most one ask for each of `times` (seconds), in their order, with ids `q0`, `q1`, ... by `prefix`.

    `weights` are those of kinds, `formats` those of formats; a subkind of which no format has a weight is not asked.
    `segments` are what arrives (those of the source if left out): evidence of queries about the past lies before the
    last one that has arrived. `decisions` are the times at which a standing query may be replied to (the segments' ends
    if left out); at most one is open at a time. Ask when all up to the ask's time has been received, such as at the end
    of a segment: what is known at that time is what the reply is worked out from.

    Rejected, as counted: "no <kind> query at this time", "too few distractors", "a standing query is open".

    Raises:
        SynthError: for an unknown kind, format or subkind, weights without one above 0, or a time outside the video.
    """
    _check_weights("weights", weights, set(KINDS))
    _check_weights("formats", formats, set(FORMATS))
    settings = settings or AskSettings()
    for time in times:
        if not 0.0 <= time <= source.graph.duration:
            raise SynthError(
                f"asks of {source.id}: time {time} s is outside [0, {source.graph.duration}] s; correct it"
            )
    pieces = source.segments if segments is None else segments
    decided = [piece.end for piece in pieces] if decisions is None else decisions
    planner = _Planner(source, pieces, decided, weights, formats, seed, settings, prefix)
    for time in times:
        planner.ask(time)
    planner.counted.check(f"asks of {source.id}")
    return planner.asks, planner.counted


class _Planner:
    """What has been planned so far."""

    def __init__(
        self,
        source: Source,
        segments: Sequence[Segment],
        decisions: Sequence[float],
        weights: Mapping[str, float],
        formats: Mapping[str, float],
        seed: int,
        settings: AskSettings,
        prefix: str,
    ) -> None:
        self.source, self.segments, self.decisions = source, segments, decisions
        self.weights, self.formats, self.seed, self.settings, self.prefix = weights, formats, seed, settings, prefix
        longest = max((piece.end - piece.start for piece in segments), default=0.0)
        self.slack = longest if settings.slack is None else settings.slack
        self.asks: list[Ask] = []
        self.counted = Yield()
        self.letter: int | None = None

    def ask(self, time: float) -> None:
        """Plan one ask, or count why not."""
        turn = self.counted.taken
        self.counted.taken += 1
        if self.letter is None:  # keyed by time too: a builder may plan sample by sample, one ask at a time
            self.letter = draw(self.seed, self.source.id, "letter", time).randrange(self.settings.options)
        kinds = sorted(self.weights)
        rng = draw(self.seed, self.source.id, "ask", time, turn)
        kind = rng.choices(kinds, [self.weights[name] for name in kinds])[0]
        if kind == "forward" and any(one.until is not None and one.time <= time <= one.until for one in self.asks):
            self.counted.reject("a standing query is open")
            return
        reason = f"no {kind} query at this time"
        for ask in self._proposed(kind, time, turn):
            if ask is None:
                reason = "too few distractors"
            elif self._open_beside(ask):
                reason = "a standing query is open"
            else:
                self.asks.append(replace(ask, id=f"{self.prefix}{len(self.asks)}"))
                self.counted.made += 1
                return
        self.counted.reject(reason)

    def _open_beside(self, ask: Ask) -> bool:
        """Whether this would stand open beside another standing one."""
        if ask.until is None:
            return False
        others = [(one.time, one.until) for one in self.asks if one.until is not None]
        return any(ask.time <= until and time <= ask.until for time, until in others)

    def _proposed(self, kind: str, time: float, turn: int) -> Iterator[Ask | None]:
        """New asks of this kind with format and options; None for one with too few distractors."""
        since = max((piece.start for piece in self.segments if piece.end <= time), default=0.0)
        moment = Moment(
            self.source.graph,
            time,
            since,
            self.slack,
            self.decisions,
            self.seed,
            self.source.id,
            turn,
            self.settings.subkinds,
            self.settings.hops,
            self.settings.spread,
        )
        earlier = {_key(one) for one in self.asks if one.time == time}
        tried = 0
        for ask in KINDS[kind].propose(moment):
            names = [name for name in KINDS[kind].subkinds[ask.subkind].formats if self.formats.get(name, 0.0) > 0]
            if not names or _key(ask) in earlier:
                continue
            tried += 1
            if tried > self.settings.tries:
                return
            drawn = moment.rng(f"format {tried}").choices(names, [self.formats[name] for name in names])[0]
            ask = replace(ask, format=drawn)
            yield self._with_options(ask, moment) if drawn == "choice" else ask

    def _with_options(self, ask: Ask, moment: Moment) -> Ask | None:
        """The ask with its options, the answer at the next letter."""
        known, settings, letter = moment.known.graph, self.settings, self.letter
        assert letter is not None
        reply = KINDS[ask.kind].reply(ask, known)
        assert reply is not None  # what has no reply is not proposed
        closed = KINDS[ask.kind].subkinds[ask.subkind].closed
        found = options(
            reply.text,
            _apart(KINDS[ask.kind].wrong(ask, known), reply, moment.known),
            moment.known,
            moment.rng(f"options of {ask.subkind}"),
            position=letter + sum(one.format == "choice" for one in self.asks),
            count=settings.options,
            least=settings.least_options,
            unknown_share=0.0 if closed else settings.unknown_share,
        )
        return None if found is None else replace(ask, options=found)


def _apart(wrong: Sequence[str], reply: Reply, view: View) -> list[str]:
    """The wrong answers without clauses of what happens at the time of the right one: they may tell of the same."""
    right = [edge for edge in view.by_text.get(same(reply.text), ()) if edge.id in reply.edges]
    return [
        text
        for text in wrong
        if not any(beside(one, other) for one in right for other in view.by_text.get(same(text), ()))
    ]


def _key(ask: Ask) -> tuple[str, str, str]:
    return ask.kind, ask.subkind, repr(sorted(ask.slots.items()))


def _check_weights(name: str, weights: Mapping[str, float], known: set[str], needed: bool = True) -> None:
    for key, weight in weights.items():
        if key not in known:
            raise SynthError(f"asks.{name}: {key!r} is not known; choose from {', '.join(sorted(known))}")
        if not weight >= 0:
            raise SynthError(f"asks.{name}.{key}: {weight!r}: must be a weight >= 0")
    if needed and not sum(weights.values()) > 0:
        raise SynthError(f"asks.{name}: {dict(weights)!r}: needs one weight above 0")


# ---- Replies.


def replies(ask: Ask, graph: Graph, decision_times: Sequence[float]) -> list[tuple[float, Reply | None]]:
    """What can be said at each of the decision times (seconds, in order) from the ask's on, up to the first Reply.

    None is silence. A standing ask is first decided on after its own time, and given up after `until`; so there was no
    reply where the last entry is None, or where there is none: then the ask is to be rejected. At time t only
    `graph.as_of(t)` is looked at.

    Raises:
        ValueError: for a kind or subkind that does not exist.
    """
    if ask.kind not in KINDS:
        raise ValueError(f"ask {ask.id!r}: kind {ask.kind!r} is not known; the kinds are {', '.join(KINDS)}")
    said: list[tuple[float, Reply | None]] = []
    before = ask.time
    known_times = view_of(graph).known_times
    for time in decision_times:
        if time < ask.time or (ask.until is not None and time == ask.time):
            continue
        if ask.until is not None and time > ask.until:
            break
        # Where nothing new is known, nothing new can be said: large graphs are not cut for each of many silences.
        quiet = ask.until is not None and bisect_right(known_times, before) == bisect_right(known_times, time)
        reply = None if quiet else KINDS[ask.kind].reply(ask, known_at(graph, time).graph)
        said.append((time, reply))
        if reply is not None:
            break
        before = time
    return said


def window(ask: Ask, reply: Reply) -> tuple[float, float] | None:
    """The times (seconds) in which a reply to a standing ask is valid; None for an ask that is replied to at once."""
    return None if ask.until is None else (reply.knowable_at, ask.until)


def question_task(ask: Ask, source_id: str) -> Task:
    """The text step that puts an ask into words: facts are its slots, kind, subkind, format and options."""
    options: list[str] | None = None if ask.options is None else list(ask.options)
    facts: dict[str, JSON] = {"kind": ask.kind, "subkind": ask.subkind, "format": ask.format, "options": options}
    return Task("question", facts | dict(ask.slots), key=f"{source_id}/{ask.id}/{ask.time}")


def meta(ask: Ask) -> dict[str, Any]:
    """What Sample.meta["asks"] keeps of an ask, as JSON."""
    return {
        "kind": ask.kind,
        "subkind": ask.subkind,
        "format": ask.format,
        "slots": dict(ask.slots),
        "until": ask.until,
    }


def from_meta(id: str, time: float, options: tuple[str, ...] | None, record: Mapping[str, Any]) -> Ask:
    """The ask of a query in a Sample: its id, time (seconds from the start of the source) and options, and its meta."""
    return Ask(id, record["kind"], record["subkind"], time, record["slots"], record["format"], options, record["until"])
