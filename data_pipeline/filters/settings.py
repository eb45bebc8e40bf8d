"""Which filters a run uses, and how strict they are. Leave a filter out with `false` or, where it has settings, `null`.

filters:
  repetition: {share: 0.3}
  guesser: {confidence: 0.8}
  benchmarks: [{layout: ovo_bench, path: lists/ovo_bench_new.json}]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Length:
    """Most words (separated by white space) of one text. An answer may give its reasons."""

    thought: int = 80
    question: int = 80
    answer: int = 120
    option: int = 40

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name}: {value!r}: a text has at least one word; give a whole number above 0")


@dataclass(frozen=True)
class Repetition:
    """`share`: most of a thought's n-grams (of `n` words) that may have stood in it before, 0 to 1.

    `similarity`: from which likeness on (0 to 1, of word sequences) two successive thoughts say the same.
    """

    n: int = 4
    share: float = 0.4
    similarity: float = 0.9

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n: {self.n!r}: an n-gram has at least one word; give a whole number above 0")
        _share("share", self.share)
        _share("similarity", self.similarity)


@dataclass(frozen=True)
class GuessSettings:
    """A query is removed when its answer can be guessed from text alone, with at least this `confidence` (0 to 1).

    mode `statistics`: the guesser knows how the questions of `support` other videos or more were answered; it keeps at
    most `keys` texts and `videos` videos for each, whatever the size of the run.
    mode `endpoint`: a language model answers `tries` times without the video; `confidence` is the share that is right.
    """

    mode: Literal["statistics", "endpoint"] = "statistics"
    confidence: float = 0.9
    support: int = 20
    keys: int = 20_000
    videos: int = 48
    tries: int = 3

    def __post_init__(self) -> None:
        _share("confidence", self.confidence)
        for name in ("support", "keys", "videos", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r}: give a whole number above 0")
        if self.videos <= self.support:
            raise ValueError(
                f"videos: {self.videos}: must be more than support, {self.support}, or nothing is ever sure"
            )


@dataclass(frozen=True)
class BenchmarkFile:
    """An annotation file of a benchmark: its videos are kept out. `layout` is a key of `decontamination.LAYOUTS`."""

    layout: str
    path: str


@dataclass(frozen=True)
class FilterSettings:
    """Every filter; the modules of their names say what they look at."""

    format: bool = True
    consistency: bool = True
    leakage: bool = True
    thoughts: bool = True
    grounding: bool = True
    seconds: bool = True
    length: Length | None = field(default_factory=Length)
    repetition: Repetition | None = field(default_factory=Repetition)
    guesser: GuessSettings | None = None
    benchmarks: tuple[BenchmarkFile, ...] = ()


def _share(name: str, value: float) -> None:
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{name}: {value!r}: must be above 0 and at most 1")
