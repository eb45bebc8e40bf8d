"""How a video becomes a graph: every threshold of the road, in one place, readable from YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_pipeline.source import SynthError

# What a describer may call an entity. `text` is what is written over the picture, such as subtitles.
KINDS = ("person", "animal", "object", "container", "scene", "activity", "screen", "colour", "cell", "text")


@dataclass(frozen=True)
class ClipSettings:
    """How the video is cut and what of a clip is shown.

    segmenter: `shots` (a cut where the picture changes by more than `threshold` grey levels), `token_budget` (`budget`
    visual tokens at `tokens_per_frame`) or `fixed` (`seconds`). Only causal ones, so that a clip never depends on what
    follows. A shot is cut again after `most_seconds`. `fps` is what the video is read at.

    The describer sees `window` clips, the last of them new, and of each `frames` frames, evenly spread, whose longer
    side is at most `pixels`. JPEG is smaller, PNG keeps every pixel.
    """

    segmenter: Literal["shots", "token_budget", "fixed"] = "shots"
    fps: float = 2.0
    threshold: float = 20.0
    most_seconds: float = 10.0
    budget: int = 4096
    tokens_per_frame: float = 128.0
    seconds: float = 4.0
    window: int = 3
    frames: int = 4
    pixels: int = 448
    image: Literal["jpeg", "png"] = "jpeg"

    def __post_init__(self) -> None:
        for name in ("fps", "threshold", "most_seconds", "budget", "tokens_per_frame", "seconds"):
            _require(getattr(self, name) > 0, f"clips.{name}", getattr(self, name), "above 0")
        for name in ("window", "frames", "pixels"):
            _require(getattr(self, name) >= 1, f"clips.{name}", getattr(self, name), "at least 1")


@dataclass(frozen=True)
class LinkSettings:
    """When two names mean one entity.

    registry: how many known entities, those seen last, the describer is told of. An inexact name (a part of a known
    one, or one of like meaning) links only to what was seen in the last `recent` clips, before the current one.
    embedder: folder of a sentence encoder that `transformers.AutoModel` reads; names of like meaning link when their
    cosine reaches `threshold` and beats the next best by `margin`. None: no such links.
    votes: an entity that goes by another one's exact name in so many clips is that one.
    """

    registry: int = 64
    recent: int = 8
    embedder: str | None = None
    threshold: float = 0.65
    margin: float = 0.08
    votes: int = 2

    def __post_init__(self) -> None:
        for name in ("registry", "recent", "votes"):
            _require(getattr(self, name) >= 1, f"link.{name}", getattr(self, name), "at least 1")
        for name in ("threshold", "margin"):
            _require(0 < getattr(self, name) <= 1, f"link.{name}", getattr(self, name), "in (0, 1]")


@dataclass(frozen=True)
class RefineSettings:
    """What is no part of the scene, and what was said already.

    noise: words that make an entity an overlay on the picture. A name has at most `name_words` words, a clause at most
    `text_words`. `relations`: the only ones allowed; empty: any. `slack` (seconds): how far a time may lie outside the
    window, by rounding, and how far apart two reports of one moment may be. `overlap`: reports of one triple that
    share this part of their joint time are one.
    """

    noise: tuple[str, ...] = (
        "subtitle",
        "subtitles",
        "caption",
        "captions",
        "watermark",
        "overlay",
        "timestamp",
        "credits",
        "banner",
        "ticker",
    )
    name_words: int = 8
    text_words: int = 40
    relations: tuple[str, ...] = ()
    slack: float = 0.5
    overlap: float = 0.5

    def __post_init__(self) -> None:
        for name in ("name_words", "text_words"):
            _require(getattr(self, name) >= 1, f"refine.{name}", getattr(self, name), "at least 1")
        _require(self.slack >= 0, "refine.slack", self.slack, "seconds, 0 or more")
        _require(0 < self.overlap <= 1, "refine.overlap", self.overlap, "in (0, 1]")


@dataclass(frozen=True)
class ShapeLimits:
    """Which graphs are worth having (VST's prompt forbids hub-and-spoke graphs and requires object-object edges).

    edges: the least number; hub_share: the largest part of all edges that one entity may touch; object_share: the
    least part of them that lies between two things, without a person or animal.
    """

    edges: int = 4
    hub_share: float = 0.8
    object_share: float = 0.1

    def __post_init__(self) -> None:
        _require(self.edges >= 0, "shape.edges", self.edges, "0 or more")
        for name in ("hub_share", "object_share"):
            _require(0 <= getattr(self, name) <= 1, f"shape.{name}", getattr(self, name), "in [0, 1]")


@dataclass(frozen=True)
class ExtractSettings:
    """All of the road. `failed_clips`: how many clips of a video may stay without a description before the video is
    rejected; each is counted. `statistics`: folder for one JSON file a video; None: they stand in Source.meta alone."""

    clips: ClipSettings = field(default_factory=ClipSettings)
    link: LinkSettings = field(default_factory=LinkSettings)
    refine: RefineSettings = field(default_factory=RefineSettings)
    shape: ShapeLimits = field(default_factory=ShapeLimits)
    failed_clips: int = 0
    statistics: str | None = None

    def __post_init__(self) -> None:
        _require(self.failed_clips >= 0, "failed_clips", self.failed_clips, "0 or more")


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise SynthError(f"extract.{name}: {value!r}: must be {wanted}")
