"""What a describer is shown and what it says: one clip at a time, with the clips before it and the entities so far.

    describer(View(...)) -> Description(summary, mentions, triples, same)

A describer is a model behind an endpoint (`vision.py`) or, in tests, a noisy oracle. What it says is not believed:
`link.py` decides who is who, `refine.py` what is new and well-formed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from data_pipeline.extract.settings import KINDS
from data_pipeline.graph import KINDS as EDGE_KINDS
from data_pipeline.text.task import TextRejected
from whilst.segmenters import Clip


@dataclass(frozen=True)
class Known:
    """An entity of the registry, as the describer is told of it. `last_seen` is in seconds."""

    id: str
    kind: str
    name: str
    aliases: tuple[str, ...]
    last_seen: float


@dataclass(frozen=True)
class View:
    """All that may be looked at when clip number `clip` of a video has arrived: `clips` are the last of the window,
    oldest first, the new one at the end; times are seconds from the start of what is watched."""

    video: str
    clip: int
    clips: tuple[Clip, ...]
    known: tuple[Known, ...]

    @property
    def start(self) -> float:
        """Where the window begins, in seconds."""
        return self.clips[0].start

    @property
    def end(self) -> float:
        """Now: where the new clip ends, in seconds."""
        return self.clips[-1].end


@dataclass(frozen=True)
class Mention:
    """An entity as it is called in one clip. `same_as` is the id of the known entity that it is said to be."""

    name: str
    kind: str
    same_as: str | None = None


@dataclass(frozen=True)
class Triple:
    """`head` `relation` `tail` in [start, end) s, entities by the name of their mention; `text` says it as a clause."""

    head: str
    relation: str
    tail: str
    start: float
    end: float
    kind: str
    text: str


@dataclass(frozen=True)
class Description:
    """`same`: pairs of ids of known entities that turn out to be one."""

    summary: str
    mentions: tuple[Mention, ...]
    triples: tuple[Triple, ...]
    same: tuple[tuple[str, str], ...] = ()


class Describer(Protocol):
    """Describes a clip. Must depend on the view alone: then the graph at t depends on the video up to t alone."""

    def __call__(self, view: View) -> Description:
        """Raises TextRejected when no acceptable description came."""
        ...


def schema(relations: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON schema of a description; `relations`: the only ones allowed, if any are given."""
    text: dict[str, Any] = {"type": "string", "minLength": 1}
    mention = {"name": text, "kind": _one_of(KINDS), "same_as": {"type": ["string", "null"]}}
    triple = {
        "head": text,
        "relation": _one_of(relations) if relations else text,
        "tail": text,
        "start": {"type": "number", "minimum": 0},
        "end": {"type": "number", "minimum": 0},
        "kind": _one_of(EDGE_KINDS),
        "text": text,
    }
    pair = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
    return _object(
        {
            "summary": {"type": "string"},
            "entities": {"type": "array", "items": _object(mention)},
            "triples": {"type": "array", "items": _object(triple)},
            "same": {"type": "array", "items": pair},
        }
    )


def parse(record: Mapping[str, Any]) -> Description:
    """The description in a JSON object of this `schema`.

    Raises:
        TextRejected: a field is missing, unknown or of the wrong type. Other rules are `refine`'s, triple by triple.
    """
    try:
        if unknown := set(record) - {"summary", "entities", "triples", "same"}:
            raise TypeError(f"unknown field {sorted(unknown)[0]!r}")
        mentions = tuple(Mention(**entity) for entity in record["entities"])
        triples = tuple(
            Triple(**triple | {"start": _seconds(triple["start"]), "end": _seconds(triple["end"])})
            for triple in record["triples"]
        )
        same = tuple((str(a), str(b)) for a, b in record["same"])
        description = Description(_text(record["summary"]), mentions, triples, same)
    except (KeyError, TypeError, ValueError) as error:
        raise TextRejected("not a description", f"a field is missing, unknown or of the wrong type: {error}") from error
    for mention in mentions:
        _check(mention.kind in KINDS, f"kind of entity {mention.name!r} is {mention.kind!r}")
        _check(isinstance(mention.name, str), f"name of an entity is {mention.name!r}")
        _check(mention.same_as is None or isinstance(mention.same_as, str), f"same_as is {mention.same_as!r}")
    for triple in triples:
        for name in ("head", "relation", "tail", "text"):
            _check(isinstance(getattr(triple, name), str), f"{name} of a triple is {getattr(triple, name)!r}")
        _check(triple.kind in EDGE_KINDS, f"kind of triple {triple.text!r} is {triple.kind!r}")
    return description


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _one_of(names: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise TypeError(f"{value!r} is no time in seconds")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise TextRejected("not a description", problem)
