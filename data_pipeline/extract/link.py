"""Who is who: every mention of a clip becomes an entity of the registry, an old one or a new one.

Causal: what is decided at clip k is decided with clips <= k, and nothing that was said earlier is rewritten. An entity
keeps the name under which it was first met; a later name is an alias from then on. Two entities that turn out to be one
stay two nodes up to that moment; then an edge `same_as` says so, and from there on the older one stands for both.

How a mention is linked, in this order; each step needs kinds that can be one and names that do not exclude each other:

    same_as   the describer says so (it sees the pixels)
    name      the normal form is a name or an alias of a known entity
    part      one name is a part of the other (`cup`, `white cup`), for exactly one entity seen lately
    meaning   an encoder finds one entity seen lately clearly nearest (only with `LinkSettings.embedder`)
    new       none of these: an entity of its own

VST (section 2.3 of its paper) has a registry of known entities but does not say how names are linked; these rules are
Whilst's own. `score.linking` measures them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from data_pipeline.extract.describe import Known, Mention
from data_pipeline.extract.names import PRONOUNS, alike, exclude, normal, part, words
from data_pipeline.extract.settings import LinkSettings, RefineSettings
from data_pipeline.graph import Edge
from data_pipeline.source import Yield

Similar: TypeAlias = Callable[[str, str], float]  # cosine of two names, in [-1, 1]


@dataclass
class Entity:
    """`names` maps the normal form of each of its names to (name as written, clip, second when it became known)."""

    id: str
    kind: str
    name: str
    first_clip: int
    last_clip: int
    last_seen: float
    names: dict[str, tuple[str, int, float]] = field(default_factory=dict)
    is_now: str | None = None  # id of the older entity that it turned out to be

    @property
    def said(self) -> frozenset[str]:
        """Every word of every name."""
        return frozenset(word for name in self.names for word in name.split())


@dataclass(frozen=True)
class Link:
    """What became of a mention: `entity` is None where it was rejected, `how` is the step or the reason."""

    clip: int
    name: str
    entity: str | None
    how: str


@dataclass
class Registry:
    """The entities of a video so far. `hows` counts links by step, `mentions` and `merges` what was asked and done."""

    entities: dict[str, Entity] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    mentions: Yield = field(default_factory=Yield)
    merges: Yield = field(default_factory=Yield)
    hows: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # claims of the describer that were not believed
    together: set[frozenset[str]] = field(default_factory=set)  # pairs mentioned as two in one clip: never one
    votes: Counter[frozenset[str]] = field(default_factory=Counter)

    def now(self, id: str) -> Entity:
        """The entity that stands for `id` at present."""
        entity = self.entities[id]
        while entity.is_now is not None:
            entity = self.entities[entity.is_now]
        return entity

    def standing(self) -> list[Entity]:
        """The entities that stand for themselves, in order of first sight."""
        return [entity for entity in self.entities.values() if entity.is_now is None]

    def known(self, most: int) -> tuple[Known, ...]:
        """What a describer is told: the `most` entities that were seen last, in order of first sight."""
        latest = sorted(self.standing(), key=lambda entity: entity.last_seen)[-most:]
        chosen = {entity.id for entity in latest}
        return tuple(
            Known(e.id, e.kind, e.name, tuple(written for written, _, _ in e.names.values())[1:], e.last_seen)
            for e in self.standing()
            if e.id in chosen
        )


def link(
    mentions: Sequence[Mention],
    registry: Registry,
    *,
    clip: int,
    end: float,
    settings: LinkSettings,
    refine: RefineSettings,
    similar: Similar | None,
) -> dict[str, str]:
    """Entity ids by the normal name of every mention that was accepted; the registry learns what is new.

    `clip` is the number of the clip, `end` (seconds) its end: what is learnt here is known from then on. What is surer
    is linked first, so that a vague name finds out which entities are taken in this clip.
    """
    found: dict[str, str] = {}
    waiting: list[Mention] = []
    registry.mentions.taken += len(mentions)
    before = {entity.id: entity.last_clip for entity in registry.standing()}
    for mention in sorted(mentions, key=lambda mention: mention.same_as is None):
        name = normal(mention.name)
        reason = _reason_against(mention, refine)
        if reason is None and name in found:
            reason = "named twice"
        if reason is not None:
            _reject(registry, mention, clip, reason)
        elif (sure := _surely(mention, registry, found, before, clip, settings)) is not None:
            found[name] = _accept(registry, mention, *sure, clip, end)
        else:
            waiting.append(mention)
    for mention in waiting:
        name = normal(mention.name)
        if name in found:
            _reject(registry, mention, clip, "named twice")
            continue
        lately = _lately(mention, registry, found, before, clip, settings)
        vague = [entity for entity in lately if name in entity.names or _says_more(entity, name)]
        close = vague or [e for e in lately if any(part(words(known), words(name)) for known in e.names)]
        if len(close) == 1:
            found[name] = _accept(registry, mention, close[0], "part", clip, end)
        elif len(vague) > 1:
            # Any of them may be meant. A new entity would gather what belongs to several.
            _reject(registry, mention, clip, "could be several")
        elif similar is not None and (near := _nearest(name, lately, similar, settings)) is not None:
            found[name] = _accept(registry, mention, near, "meaning", clip, end)
        else:
            found[name] = _accept(registry, mention, None, "new", clip, end)
    present = sorted(set(found.values()))
    registry.together |= {frozenset((a, b)) for a in present for b in present if a < b}
    return found


def merge(pairs: Iterable[tuple[str, str]], registry: Registry, *, clip: int, end: float) -> list[Edge]:
    """Make one of each pair of entities that may be one; returns the edges that say so, known from `end` (seconds) on.

    Asked for by the describer (`same`), and by votes of its own: an entity that has `same_as` of one and the exact name
    of another. Not believed where kinds or names exclude each other, or where both were mentioned in one clip, as the
    two ends of every triple are.
    """
    said: list[Edge] = []
    for first, second in pairs:
        registry.merges.taken += 1
        if first not in registry.entities or second not in registry.entities:
            registry.merges.reject("no such entity")
            continue
        old, young = sorted((registry.now(first), registry.now(second)), key=lambda e: (e.first_clip, int(e.id[1:])))
        if reason := _reason_against_merge(old, young, registry.together):
            registry.merges.reject(reason)
            continue
        registry.merges.made += 1
        text = f"the {normal(young.name)} is the {normal(old.name)}"
        said.append(Edge(f"s{clip}-{len(said)}", young.id, "same_as", old.id, end, end, "point", end, text))
        for name, (written, _, _) in young.names.items():
            old.names.setdefault(name, (written, clip, end))
        old.last_clip, old.last_seen = max(old.last_clip, young.last_clip), max(old.last_seen, young.last_seen)
        young.is_now = old.id
        # Whoever was seen beside the young one was seen beside the old one.
        registry.together |= {frozenset((old.id, *pair - {young.id})) for pair in registry.together if young.id in pair}
    return said


def voted(registry: Registry, votes: int) -> list[tuple[str, str]]:
    """Pairs that have reached so many votes and stand apart, each once: the vote is used up."""
    ripe = [pair for pair, count in registry.votes.items() if count >= votes]
    for pair in ripe:
        del registry.votes[pair]
    return [(a, b) for a, b in map(sorted, ripe) if registry.now(a) is not registry.now(b)]


def _reason_against(mention: Mention, refine: RefineSettings) -> str | None:
    """Why a mention is no entity of the scene."""
    said = words(mention.name)
    if not said:
        return "no name"
    if len(said) == 1 and said[0] in PRONOUNS:
        return "pronoun"
    if mention.kind == "text" or set(said) & set(refine.noise):
        return "subtitle or overlay"
    return "name too long" if len(said) > refine.name_words else None


def _lately(
    mention: Mention,
    registry: Registry,
    found: dict[str, str],
    before: dict[str, int],
    clip: int,
    settings: LinkSettings,
) -> list[Entity]:
    """The entities that it may be, of those seen in the clips just before and not yet found in this one."""
    taken = set(found.values())
    return [
        registry.entities[id]
        for id, last in before.items()
        if id not in taken and clip - last <= settings.recent and _may_be(mention, registry.entities[id])
    ]


def _says_more(entity: Entity, name: str) -> bool:
    return any(part(words(name), words(known)) for known in entity.names)


def _surely(
    mention: Mention,
    registry: Registry,
    found: dict[str, str],
    before: dict[str, int],
    clip: int,
    settings: LinkSettings,
) -> tuple[Entity, str] | None:
    """By what the describer says, else by the exact name, unless that is a part of another entity's name too."""
    name, taken = normal(mention.name), set(found.values())
    owners = [e for e in registry.standing() if name in e.names and e.id not in taken and alike(mention.kind, e.kind)]
    # Two entities of one name: the one seen last is meant.
    owner = max(owners, key=lambda entity: (entity.last_seen, entity.id)) if owners else None
    rivals = [e for e in _lately(mention, registry, found, before, clip, settings) if _says_more(e, name)]
    if any(rival is not owner for rival in rivals):
        owner = None
    if mention.same_as is not None:
        if mention.same_as not in registry.entities:
            registry.refused["same_as no known entity"] += 1
        else:
            entity = registry.now(mention.same_as)
            if entity.id in taken:
                registry.refused["same_as taken by another mention"] += 1
            elif not _may_be(mention, entity):
                registry.refused["same_as of another sort"] += 1
            elif owner is not None and owner is not entity and not set(name.split()) & entity.said:
                registry.refused["same_as against the name"] += 1
            else:
                if owner is not None and owner is not entity:
                    registry.votes[frozenset((owner.id, entity.id))] += 1
                return entity, "same_as"
    return None if owner is None else (owner, "name")


def _may_be(mention: Mention, entity: Entity) -> bool:
    return alike(mention.kind, entity.kind) and not exclude(frozenset(words(mention.name)), entity.said)


def _nearest(name: str, entities: list[Entity], similar: Similar, settings: LinkSettings) -> Entity | None:
    """The entity whose nearest name is near enough and clearly nearer than any other entity's."""
    scored = sorted(((max(similar(name, k) for k in e.names), i) for i, e in enumerate(entities)), reverse=True)
    if not scored or scored[0][0] < settings.threshold:
        return None
    if len(scored) > 1 and scored[0][0] - scored[1][0] < settings.margin:
        return None
    return entities[scored[0][1]]


def _accept(registry: Registry, mention: Mention, entity: Entity | None, how: str, clip: int, end: float) -> str:
    if entity is None:
        id = f"n{len(registry.entities)}"
        entity = registry.entities[id] = Entity(id, mention.kind, normal(mention.name), clip, clip, end)
    if how == "new" or not any(normal(mention.name) in other.names for other in registry.standing()):
        # A name that is another entity's stays that one's alone, whatever a description says once.
        entity.names.setdefault(normal(mention.name), (mention.name.strip(), clip, end))
    entity.last_clip, entity.last_seen = clip, end
    registry.mentions.made += 1
    registry.hows[how] += 1
    registry.links.append(Link(clip, mention.name, entity.id, how))
    return entity.id


def _reject(registry: Registry, mention: Mention, clip: int, reason: str) -> None:
    registry.mentions.reject(reason)
    registry.links.append(Link(clip, mention.name, None, reason))


def _reason_against_merge(old: Entity, young: Entity, apart: set[frozenset[str]]) -> str | None:
    if old is young:
        return "one already"
    if not alike(old.kind, young.kind):
        return "kinds exclude each other"
    if exclude(old.said, young.said):
        return "names exclude each other"
    return "seen as two" if frozenset((old.id, young.id)) in apart else None
