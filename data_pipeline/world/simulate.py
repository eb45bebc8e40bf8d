"""One seeded film as a sequence of scenes, one event each.

The rules that keep the past out of the present: an object goes in at most once and comes out at most once, and is seen
outside the box, or in it, only in the segment of its own event. The star is placed and coloured anew.
"""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from data_pipeline.world.config import WorldConfig, WorldError

SCREEN = "screen"
Placed = tuple[tuple[int, str], ...]  # (cell, sprite) pairs


@dataclass(frozen=True)
class Scene:
    """One segment. `objects` take part in the event, the actor first; `before` and `after` are what its frames show."""

    event: str
    objects: tuple[str, ...]
    before: Placed
    after: Placed
    star: str


@dataclass(frozen=True)
class World:
    """A film; scene k is the segment [k, k + 1) s."""

    scenes: tuple[Scene, ...]

    def state(self) -> str:
        """sha256 of which events happened to which objects in which order: what a film is about, whatever its looks."""
        story = [[scene.event, *scene.objects] for scene in self.scenes]
        return hashlib.sha256(json.dumps(story).encode()).hexdigest()


def split_of(world: World, config: WorldConfig) -> str:
    """The one split that a world's state belongs to, at any seed."""
    point = int(world.state()[:12], 16) / 16**12 * sum(config.splits.values())
    edges = accumulate(config.splits.values())
    return next(split for split, edge in zip(config.splits, edges, strict=True) if point < edge)


def simulate(config: WorldConfig, rng: random.Random) -> World:
    """A world of config.segments scenes; WorldError if no configured event is possible at some point."""
    stage = _Stage(config, rng, fresh=list(config.objects))
    return World(tuple(_scene(stage) for _ in range(rng.randint(*config.segments))))


@dataclass
class _Stage:
    """`fresh` objects have not gone in yet; `inside` ones are in the box; all others are gone for good."""

    config: WorldConfig
    rng: random.Random
    fresh: list[str]
    inside: list[str] = field(default_factory=list)

    def take(self, objects: list[str]) -> str:
        return objects.pop(self.rng.randrange(len(objects)))

    def recolours(self) -> list[tuple[str, str]]:
        """(object, what it may turn into): the same shape, both fresh."""
        return [(a, b) for a in self.fresh for b in self.fresh if a != b and a.split("-")[1] == b.split("-")[1]]


@dataclass(frozen=True)
class _Act:
    """An event with its objects placed, not yet with its star."""

    objects: tuple[str, ...]
    before: Placed
    after: Placed


def _scene(stage: _Stage) -> Scene:
    weights = {event: w for event, w in stage.config.events.items() if w > 0 and _POSSIBLE[event](stage)}
    if not weights:
        raise WorldError(
            f"world.events: none of {', '.join(stage.config.events)} is possible any more: add idle, or more objects"
        )
    event = stage.rng.choices(list(weights), list(weights.values()))[0]
    act = _ACTS[event](stage)
    taken = {cell for cell, _ in act.before + act.after}
    star = stage.rng.choice(stage.config.star_colours)
    cell = stage.rng.choice([cell for cell in stage.config.outside if cell not in taken])
    placed = ((cell, f"{star}-star"),)
    return Scene(event, act.objects, act.before + placed, act.after + placed, f"star-{star}")


def _enter(stage: _Stage) -> _Act:
    x, cell = stage.take(stage.fresh), stage.rng.choice(stage.config.outside)
    stage.inside.append(x)
    return _Act((x,), ((cell, x),), ((stage.config.box, x),))


def _leave(stage: _Stage) -> _Act:
    x, cell = stage.take(stage.inside), stage.rng.choice(stage.config.outside)
    return _Act((x,), ((stage.config.box, x),), ((cell, x),))


def _idle(stage: _Stage) -> _Act:
    return _Act((), (), ())


def _move(stage: _Stage) -> _Act:
    x = stage.rng.choice(stage.fresh)
    a, b = stage.rng.sample(stage.config.outside, 2)
    return _Act((x,), ((a, x),), ((b, x),))


def _touch(stage: _Stage) -> _Act:
    x, y = stage.rng.sample(stage.fresh, 2)
    there = stage.rng.choice(stage.config.outside)
    near = [cell for cell in stage.config.outside if _adjacent(cell, there, stage.config.grid)]
    far = [cell for cell in stage.config.outside if cell != there and cell not in near]
    return _Act((x, y), ((stage.rng.choice(far), x), (there, y)), ((stage.rng.choice(near), x), (there, y)))


def _hide(stage: _Stage) -> _Act:
    x, cell = stage.rng.choice(stage.fresh), stage.rng.choice(stage.config.outside)
    return _Act((x,), ((cell, x),), ((cell, SCREEN),))


def _change(stage: _Stage) -> _Act:
    x, new = stage.rng.choice(stage.recolours())
    cell = stage.rng.choice(stage.config.outside)
    stage.fresh.remove(x)
    stage.fresh.remove(new)
    return _Act((x, new), ((cell, x),), ((cell, new),))


def _adjacent(a: int, b: int, grid: int) -> bool:
    return abs(a // grid - b // grid) + abs(a % grid - b % grid) == 1


_ACTS: dict[str, Callable[[_Stage], _Act]] = {
    "enter": _enter,
    "leave": _leave,
    "idle": _idle,
    "move": _move,
    "touch": _touch,
    "hide": _hide,
    "change": _change,
}
_POSSIBLE: dict[str, Callable[[_Stage], bool]] = {
    "enter": lambda stage: len(stage.fresh) > 0,
    "leave": lambda stage: len(stage.inside) > 0,
    "idle": lambda stage: True,
    "move": lambda stage: len(stage.fresh) > 0,
    "touch": lambda stage: len(stage.fresh) > 1,
    "hide": lambda stage: len(stage.fresh) > 0,
    "change": lambda stage: len(stage.recolours()) > 0,
}
