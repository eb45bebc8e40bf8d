"""A describer that knows the true graph and tells it as a vision-language model would: with other names, twice, with
subtitles, with wrong times. It remembers what each name meant, so that linking can be scored."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from data_pipeline.extract.describe import Description, Mention, Triple, View
from data_pipeline.extract.names import normal
from data_pipeline.extract.road import Extraction
from data_pipeline.graph import Edge, Graph
from data_pipeline.source import draw
from data_pipeline.world.graph import BOX, STAR
from data_pipeline.world.simulate import SCREEN
from whilst.segmenters import Clip
from whilst.video import Frames

VERBS = {
    "in": ("goes into", "is going into", "enters"),
    "out": ("comes out of", "is coming out of"),
    "touch": ("touches", "is touching"),
    "hide": ("hides", "is hiding"),
    "change": ("turns into", "changes into"),
    "move": ("moves to", "is moving to"),
    "shows": ("is",),
}
COLOURS = {
    "red": "crimson",
    "green": "emerald",
    "blue": "navy",
    "yellow": "golden",
    "purple": "violet",
    "cyan": "turquoise",
    "orange": "amber",
    "pink": "rosy",
}
SHAPES = {
    "circle": "disc",
    "square": "quadrate",
    "triangle": "three-sided shape",
    "diamond": "rhombus",
    "cross": "plus",
}
OTHERS = {BOX: ("cardboard box", "container"), STAR: ("star shape",), SCREEN: ("grey screen", "panel")}


@dataclass(frozen=True)
class Noise:
    """Chances, and `jitter` in seconds.

    `format`: a name with an article, capitals or fillers; `synonym`: another word for it; `vague`: less than the name;
    `same_as`: a known entity is named by its id, `wrong`: by a wrong one; `same`: a split is noticed; `missed`: an edge
    is left out; `again`: an edge of an earlier clip of the window is told again; `doubled`: an edge is told twice;
    `outside`: its time is far off; `overlay`, `pronoun`: such an entity appears in a triple.
    """

    format: float = 0.25
    synonym: float = 0.1
    vague: float = 0.08
    same_as: float = 0.6
    wrong: float = 0.02
    same: float = 0.3
    missed: float = 0.05
    again: float = 0.4
    doubled: float = 0.1
    outside: float = 0.02
    overlay: float = 0.2
    pronoun: float = 0.05
    jitter: float = 0.1


QUIET = Noise(*[0.0] * 13)
NAMES_ALONE = Noise(same_as=0.0, wrong=0.0, same=0.0)  # all is left to the linking


@dataclass
class Oracle:
    """`meant[clip, normal name]` is the true entity; `noise` may be any."""

    truth: Graph
    noise: Noise = QUIET
    seed: int = 0
    meant: dict[tuple[int, str], str] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)  # what a name meant at first
    calls: int = 0

    def __call__(self, view: View) -> Description:
        self.calls += 1
        rng = draw(self.seed, view.video, "oracle", view.clip)
        told = Told(self, view, rng)
        new = view.clips[-1].start
        for edge in self.truth.edges:
            if edge.start >= view.end or edge.end <= view.start:
                continue
            if edge.end > new and rng.random() >= self.noise.missed:
                told.tell(edge)
                if rng.random() < self.noise.doubled:
                    told.tell(edge)
            elif edge.end <= new and rng.random() < self.noise.again:
                told.tell(edge)
        told.clutter()
        return Description("what is seen", tuple(told.mentions.values()), tuple(told.triples), told.same())


@dataclass
class Told:
    """One description in the making; a clip calls an entity by one name."""

    oracle: Oracle
    view: View
    rng: random.Random
    mentions: dict[str, Mention] = field(default_factory=dict)
    triples: list[Triple] = field(default_factory=list)

    def tell(self, edge: Edge) -> None:
        """Add a triple, its times a little off, but not before the window or after the clip."""
        noise, rng, view = self.oracle.noise, self.rng, self.view
        if min(edge.end, view.end) <= max(edge.start, view.start):
            return
        head, tail = self.mention(edge.head), self.mention(edge.tail)
        start = min(max(edge.start, view.start) + rng.uniform(-1, 1) * noise.jitter, view.end - 0.2)
        end = edge.end + rng.uniform(-1, 1) * noise.jitter if edge.end < view.end else view.end
        if rng.random() < noise.outside:
            end += 30.0
        relation = rng.choice(VERBS[edge.relation]) if noise.format else VERBS[edge.relation][0]
        text = f"The {head} {relation} the {tail}."
        self.triples.append(Triple(head, relation, tail, round(max(0.0, start), 2), round(end, 2), edge.kind, text))

    def mention(self, entity: str) -> str:
        """What this clip calls an entity."""
        if entity not in self.mentions:
            node = self.oracle.truth.by_id[entity]
            name = self.name(entity, node.name)
            while normal(name) in {normal(mention.name) for mention in self.mentions.values()}:
                name = node.name  # a model that lists two things gives them two names
            kind = "object" if node.kind == "star" else node.kind
            self.mentions[entity] = Mention(name, kind, self.same_as(entity))
            self.oracle.meant[self.view.clip, normal(name)] = entity
            self.oracle.first.setdefault(normal(name), entity)
        return self.mentions[entity].name

    def name(self, entity: str, name: str) -> str:
        noise, chance = self.oracle.noise, self.rng.random()
        colour, _, shape = entity.partition("-")
        if chance < noise.format:
            full = f"{colour}-coloured {shape}" if shape in SHAPES else name
            return self.rng.choice((f"the {name}", name.title(), full, f"this {name}"))
        chance -= noise.format
        if chance < noise.synonym:
            if shape in SHAPES:
                return self.rng.choice((f"{COLOURS[colour]} {shape}", f"{colour} {SHAPES[shape]}"))
            return self.rng.choice(OTHERS.get(entity, (name,)))
        chance -= noise.synonym
        return shape if chance < noise.vague and shape in SHAPES else name

    def same_as(self, entity: str) -> str | None:
        noise, known = self.oracle.noise, self.view.known
        if known and self.rng.random() < noise.wrong:
            return self.rng.choice(known).id
        if self.rng.random() < noise.same_as:
            return next((one.id for one in known if self.oracle.first.get(one.name) == entity), None)
        return None

    def same(self) -> tuple[tuple[str, str], ...]:
        """Known entities that are one, as far as it is noticed."""
        pairs: list[tuple[str, str]] = []
        firsts: dict[str | None, str] = {}
        for one in self.view.known:
            entity = self.oracle.first.get(one.name)
            if entity in firsts and self.rng.random() < self.oracle.noise.same:
                pairs.append((firsts[entity], one.id))
            firsts.setdefault(entity, one.id)
        return tuple(pairs)

    def clutter(self) -> None:
        """A subtitle and a pronoun, each in a triple."""
        start, end = round(self.view.clips[-1].start, 2), self.view.end
        if self.rng.random() < self.oracle.noise.overlay:
            name, kind = self.rng.choice((("subtitle 'watch closely'", "text"), ("channel watermark", "object")))
            self.mentions[name] = Mention(name, kind)
            box = self.mention(BOX) if BOX in self.oracle.truth.by_id else self.mention(STAR)
            text = f"the {name} is above the {box}"
            self.triples.append(Triple(name, "is above", box, start, end, "state", text))
        if self.mentions and self.rng.random() < self.oracle.noise.pronoun:
            other = next(iter(self.mentions.values())).name
            self.mentions["it"] = Mention("it", "object")
            self.triples.append(Triple("it", "is near", other, start, end, "state", f"it is near the {other}"))


def assigned(oracle: Oracle, extraction: Extraction) -> list[tuple[str, str]]:
    """(true entity, found entity) of every mention that was linked and means something true."""
    pairs = []
    for link in extraction.links:
        meant = oracle.meant.get((link.clip, normal(link.name)))
        if link.entity is not None and meant is not None:
            pairs.append((meant, link.entity))
    return pairs


def in_words(truth: Graph) -> Graph:
    """The true graph with the relations that a description uses."""
    return replace(truth, edges=tuple(replace(edge, relation=VERBS[edge.relation][0]) for edge in truth.edges))


def majority(extraction: Extraction, pairs: list[tuple[str, str]]) -> Mapping[str, str]:
    """The true entity that most mentions of each found one mean; entities that were merged mean the same."""
    votes: dict[str, dict[str, int]] = {}
    for meant, entity in pairs:
        votes.setdefault(entity, {}).setdefault(meant, 0)
        votes[entity][meant] += 1
    best = {entity: max(sorted(counts), key=lambda name: counts[name]) for entity, counts in votes.items()}
    return {id: best.get(extraction.registry.now(id).id, "") for id in extraction.registry.entities}


def clip_of(start: float, end: float, frames: int = 4) -> Clip:
    """A clip of seeded noise, 60 x 100 pixels."""
    times = start + np.arange(frames) * (end - start) / frames
    pixels = np.random.default_rng(0).integers(0, 255, (frames, 60, 100, 3), dtype=np.uint8)
    return Clip(start, end, Frames(pixels, times))
