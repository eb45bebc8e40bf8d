"""What a world may hold: objects, events and their weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

SEGMENT_SECONDS = 1.0
FPS = 2.0  # two frames a segment: before and after
CELL = 16  # pixels: one visual token of a backbone with patches of 8 that are merged by 2

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 25, 25),
    "green": (20, 170, 40),
    "blue": (25, 60, 235),
    "yellow": (245, 220, 20),
    "purple": (150, 30, 190),
    "cyan": (20, 210, 225),
    "orange": (255, 135, 10),
    "pink": (255, 140, 190),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
EVENTS = ("enter", "leave", "idle", "move", "touch", "hide", "change")

# The relation of an event in the graph.
RELATIONS = {
    "enter": "in",
    "leave": "out",
    "move": "move",
    "touch": "touch",
    "hide": "hide",
    "change": "change",
}


class WorldError(ValueError):
    """A world that cannot be built as configured. The message names the field and the fix."""


@dataclass(frozen=True)
class WorldConfig:
    """`segments` is (least, most) a video; weights need not add up to one; `splits` are shares of all world states."""

    segments: tuple[int, int] = (4, 7)
    grid: int = 3
    colours: tuple[str, ...] = ("red", "green", "blue", "yellow")
    shapes: tuple[str, ...] = ("circle", "square")
    star_colours: tuple[str, ...] = ("red", "green", "blue", "yellow")
    events: Mapping[str, float] = field(default_factory=lambda: {"enter": 0.45, "leave": 0.4, "idle": 0.15})
    splits: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1})
    seed: int = 0

    def __post_init__(self) -> None:
        least, most = self.segments
        _require(1 <= least <= most, "segments", self.segments, "(least, most) with 1 <= least <= most")
        _require(self.grid >= 3, "grid", self.grid, "at least 3 cells a side")
        for name in ("colours", "star_colours", "shapes"):
            _require(len(getattr(self, name)) > 0, name, getattr(self, name), "one or more names")
        _check_names("colours", self.colours, tuple(COLOURS))
        _check_names("star_colours", self.star_colours, tuple(COLOURS))
        _check_names("shapes", self.shapes, SHAPES)
        _check_weights("events", self.events, EVENTS)
        _check_weights("splits", self.splits, tuple(self.splits))

    @property
    def objects(self) -> tuple[str, ...]:
        """All objects, each one word such as `red-circle`."""
        return tuple(f"{colour}-{shape}" for colour in self.colours for shape in self.shapes)

    @property
    def box(self) -> int:
        """The cell of the box; cells count along rows from the top left."""
        return (self.grid // 2) * self.grid + self.grid // 2

    @property
    def outside(self) -> tuple[int, ...]:
        """All other cells."""
        return tuple(cell for cell in range(self.grid**2) if cell != self.box)


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise WorldError(f"world.{name}: {value!r}: must be {wanted}")


def _check_names(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        _require(value in known, name, value, f"one of {', '.join(known)}")
    _require(len(set(values)) == len(values), name, values, "names, none of them twice")


def _check_weights(name: str, weights: Mapping[str, float], known: tuple[str, ...]) -> None:
    for key, weight in weights.items():
        _require(key in known, name, key, f"one of {', '.join(known)}")
        _require(weight >= 0, f"{name}.{key}", weight, "a weight >= 0")
    _require(sum(weights.values()) > 0, name, dict(weights), "weights of which one is above 0")
