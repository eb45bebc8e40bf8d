"""Speaking at the right time: emissions matched to windows, and figures of that, each with its definition.

Everything here works on plain data: what was said and when, (time, text), and when there was something to say,
(start, end, text), of one stream of a known length. Three tracks are kept apart by type and never pooled: `Push` (the
model spoke of itself), `Poll` (it was asked again and again), and teacher forcing (evaluation.live_metrics). One
`Tally` a stream keeps the counts: pooled figures, figures by video and intervals over videos sum the same numbers.

    tallies = [tally(stream, Fit(early=3, late=3)) for stream in streams]
    for name, figure in figures(tallies).items(): print(name, figure.value, figure.definition)

Published scorers of another form (PAUC, ESTP-F1, OVO-Timing, StreamingBench): evaluation/published_timing.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, TypeVar

import numpy as np

from rewards.parsing import normal

Track = Literal["push", "poll", "teacher_forced"]


class ProactiveError(ValueError):
    """Streams, windows or scores that cannot be scored as asked; names them and the fix."""


class Emission(NamedTuple):
    """Something said at a time (s)."""

    time: float
    text: str


class Window(NamedTuple):
    """When there is something to say, `[start, end]` s (a point where both are one), and what.

    half_open: `end` is not part of it; the next window begins there.
    """

    start: float
    end: float
    text: str = ""
    half_open: bool = False


class Pair(NamedTuple):
    """Emission and window (by index) that belong together; offset = emission - window's start, in seconds."""

    emission: int
    window: int
    offset: float


@dataclass(frozen=True)
class Stream:
    """One stream `[start, end]` s of a video; use `Push` or `Poll`.

    moments: when the model could speak (s): when it was asked (poll), when a frame or segment had arrived (push).
    """

    video: str
    start: float
    end: float
    windows: tuple[Window, ...]
    emissions: tuple[Emission, ...]
    moments: tuple[float, ...] = ()

    track: ClassVar[Track]

    def __post_init__(self) -> None:
        if not hasattr(self, "track"):
            raise ProactiveError(f"{self.video}: say how it was made to speak: Push(...) or Poll(...)")
        if not self.end > self.start:
            raise ProactiveError(f"{self.video}: the stream [{self.start}, {self.end}] s has no length")
        for window in self.windows:
            if not self.start <= window.start <= window.end <= self.end:
                raise ProactiveError(
                    f"{self.video}: window {window[:2]} is not inside the stream [{self.start}, {self.end}] s"
                )
        for emission in self.emissions:
            if not self.start <= emission.time <= self.end or not emission.text.strip():
                raise ProactiveError(f"{self.video}: {emission!r} is silent or outside [{self.start}, {self.end}] s")
        object.__setattr__(self, "emissions", tuple(sorted(self.emissions, key=lambda said: said.time)))
        object.__setattr__(self, "windows", tuple(sorted(self.windows, key=lambda window: window[:2])))


@dataclass(frozen=True)
class Push(Stream):
    """The model decided by itself when to speak (autonomous)."""

    track: ClassVar[Track] = "push"


@dataclass(frozen=True)
class Poll(Stream):
    """The model was asked at every one of `moments`; it was silent at those without an emission."""

    track: ClassVar[Track] = "poll"


# ---- Which emission may answer which window, and which does.


@dataclass(frozen=True)
class Fit:
    """How far outside a window an emission still answers it: `early` s before its start, `late` s after its end.

    Fit() is the strict window, Fit(3, 3) on points the +-3 s of OmniPro, Fit(1, 2) the window of ESTP.
    """

    early: float = 0.0
    late: float = 0.0

    def __post_init__(self) -> None:
        if not (self.early >= 0 and self.late >= 0):
            raise ProactiveError(f"tolerances must be 0 s or more, not early {self.early} and late {self.late}")

    def holds(self, window: Window, time: float) -> bool:
        """Whether an emission at `time` (s) may answer the window."""
        inside = window.start - self.early <= time <= window.end + self.late
        return inside and not (window.half_open and time == window.end + self.late and window.end > window.start)

    def span(self, window: Window) -> tuple[float, float]:
        """The span (s) in which it may be answered."""
        return window.start - self.early, window.end + self.late

    def __str__(self) -> str:
        return f"[start - {self.early:g} s, end + {self.late:g} s]"


Matcher = Callable[[Sequence[Emission], Sequence[Window], Fit], list[Pair]]


def _pairs(emissions: Sequence[Emission], windows: Sequence[Window], fit: Fit) -> list[Pair]:
    return [
        Pair(i, j, emission.time - window.start)
        for i, emission in enumerate(emissions)
        for j, window in enumerate(windows)
        if fit.holds(window, emission.time)
    ]


def match_nearest(emissions: Sequence[Emission], windows: Sequence[Window], fit: Fit) -> list[Pair]:
    """Again and again the nearest pair of those left, by |offset| (then by index): the matching of OmniPro.

    One to one, but neither the largest nor the nearest in sum: a near pair may take what two pairs needed.
    """
    taken: tuple[set[int], set[int]] = (set(), set())
    chosen = []
    for pair in sorted(_pairs(emissions, windows, fit), key=lambda p: (abs(p.offset), p.emission, p.window)):
        if pair.emission not in taken[0] and pair.window not in taken[1]:
            chosen.append(pair)
            taken[0].add(pair.emission)
            taken[1].add(pair.window)
    return sorted(chosen)


def match_in_order(emissions: Sequence[Emission], windows: Sequence[Window], fit: Fit) -> list[Pair]:
    """Each window in turn takes the earliest emission left that fits: the matching of OVO-Timing."""
    left = list(range(len(emissions)))
    chosen = []
    for j, window in enumerate(windows):
        first = next((i for i in left if fit.holds(window, emissions[i].time)), None)
        if first is not None:
            left.remove(first)
            chosen.append(Pair(first, j, emissions[first].time - window.start))
    return sorted(chosen)


def match_optimal(emissions: Sequence[Emission], windows: Sequence[Window], fit: Fit) -> list[Pair]:
    """The largest one-to-one matching, and of those the one with the least sum of |offset|.

    By cheapest augmenting paths (Bellman-Ford): each adds one pair, and the sum stays least for its number of pairs.
    """
    offsets = {(pair.emission, pair.window): pair.offset for pair in _pairs(emissions, windows, fit)}
    partner: dict[int, int] = {}  # window: emission
    while True:
        held = {i: j for j, i in partner.items()}
        cost = {i: 0.0 for i, _ in offsets if i not in held}  # cheapest way to leave emission i free for a new window
        by: dict[int, int] = {}  # window: the emission that would take it
        reach: dict[int, float] = {}
        changed = True
        while changed:
            changed = False
            for (i, j), offset in offsets.items():
                if i not in cost or partner.get(j) == i or cost[i] + abs(offset) >= reach.get(j, math.inf) - 1e-9:
                    continue
                reach[j], by[j], changed = cost[i] + abs(offset), i, True
                if j in partner:
                    cost[partner[j]] = reach[j] - abs(offsets[partner[j], j])
        free = [j for j in reach if j not in partner]
        if not free:
            return sorted(Pair(i, j, offsets[i, j]) for j, i in partner.items())
        window: int | None = min(free, key=lambda j: (reach[j], j))
        while window is not None:  # hand windows on along the path
            emission = by[window]
            given_up = held.get(emission)
            partner[window] = emission
            held[emission] = window
            window = given_up


def trigger_windows(times: Sequence[float], seconds: float, end: float, texts: Sequence[str] = ()) -> list[Window]:
    """Windows `[t_i, min(t_i + seconds, t_i+1))` of point triggers, which end where the next begins (TRACE)."""
    ordered = sorted(zip(times, texts or [""] * len(times), strict=True), key=lambda pair: pair[0])
    ends = [
        min(time + seconds, later)
        for (time, _), later in zip(ordered, [*(t for t, _ in ordered[1:]), end], strict=True)
    ]
    return [Window(time, stop, text, half_open=True) for (time, text), stop in zip(ordered, ends, strict=True)]


def merge_emissions(emissions: Iterable[Emission], gap: float = 2.0) -> list[Emission]:
    """Emissions at most `gap` s after the one before as one, at the time of the first: pieces of one utterance.

    As OmniPro: gaps are between neighbours, so that a run of pieces of any length is one, and `gap` itself still merges
    (at 1 frame a second, a model that speaks at every second tick has said one thing).
    """
    merged: list[Emission] = []
    last = -math.inf
    for emission in sorted(emissions, key=lambda said: said.time):
        if merged and emission.time - last <= gap:
            merged[-1] = Emission(merged[-1].time, f"{merged[-1].text} {emission.text}")
        else:
            merged.append(Emission(*emission))
        last = emission.time
    return merged


# ---- Counts of one stream, and figures of many.


@dataclass(frozen=True)
class Tally:
    """Counts of one stream. right: matched emissions that also say it; None where content was not judged.

    outside: emissions that fit no window; repeated: those that fit one but were not matched, as another was;
    duplicates: texts said again more often than windows ask for; quiet: seconds of stream outside all windows;
    moments and silent: how often it could speak, and how often it did not; offsets: of the matched pairs (s).
    """

    video: str
    track: Track
    fit: Fit
    emissions: int
    windows: int
    matched: int
    right: int | None
    outside: int
    repeated: int
    duplicates: int
    quiet: float
    moments: int
    silent: int
    offsets: tuple[float, ...]


def tally(
    stream: Stream,
    fit: Fit,
    *,
    match: Matcher = match_optimal,
    says: Callable[[Emission, Window], bool] | None = None,
    merge: float | None = None,
) -> Tally:
    """Counts of one stream. says: whether an emission says what its window asks for (the content gate, applied to the
    pairs that were matched by time); merge: see `merge_emissions`; None: every emission counts by itself."""
    emissions = list(stream.emissions) if merge is None else merge_emissions(stream.emissions, merge)
    pairs = match(emissions, stream.windows, fit)
    fitting = sum(any(fit.holds(window, said.time) for window in stream.windows) for said in emissions)
    spoken = {said.time for said in stream.emissions}
    return Tally(
        video=stream.video,
        track=stream.track,
        fit=fit,
        emissions=len(emissions),
        windows=len(stream.windows),
        matched=len(pairs),
        right=None if says is None else sum(says(emissions[p.emission], stream.windows[p.window]) for p in pairs),
        outside=len(emissions) - fitting,
        repeated=fitting - len(pairs),
        duplicates=duplicates([said.text for said in emissions], [window.text for window in stream.windows]),
        quiet=quiet_seconds(stream, fit),
        moments=len(stream.moments),
        silent=sum(moment not in spoken for moment in stream.moments),
        offsets=tuple(pair.offset for pair in pairs),
    )


def duplicates(said: Sequence[str], wanted: Sequence[str]) -> int:
    """How many texts say again what was said, but for `parsing.normal`; a text may be said as often as it is wanted,
    and once in any case (the count of rewards.timing.Duplicates)."""
    often = Counter(normal(text) for text in wanted if text)
    return sum(max(0, n - max(1, often[text])) for text, n in Counter(map(normal, said)).items())


def quiet_seconds(stream: Stream, fit: Fit) -> float:
    """Seconds of the stream outside every window (with its tolerances): where whatever is said is a false alarm."""
    covered, until = 0.0, stream.start
    for start, end in sorted(fit.span(window) for window in stream.windows):
        start, end = max(start, until), min(end, stream.end)
        if end > start:
            covered += end - start
            until = end
    return stream.end - stream.start - covered


@dataclass(frozen=True)
class Figure:
    """A figure and what it is. value None: it is not defined here (the definition says of what). low, high: its 95%
    interval where the definition names one."""

    value: float | None
    definition: str
    low: float | None = None
    high: float | None = None


def figures(tallies: Sequence[Tally]) -> dict[str, Figure]:
    """Pooled figures of streams of one track, matched with one tolerance.

    Raises ProactiveError where tracks or tolerances are mixed: they measure different things.
    """
    kinds = {(one.track, one.fit) for one in tallies}
    if len(kinds) != 1:
        found = ", ".join(sorted(f"{track} {fit}" for track, fit in kinds)) or "nothing"
        raise ProactiveError(f"figures are of one track and one tolerance, not of {found}; score them apart")
    (track, fit) = kinds.pop()
    total = {
        name: sum(getattr(one, name) for one in tallies)
        for name in (
            "emissions",
            "windows",
            "matched",
            "outside",
            "repeated",
            "duplicates",
            "quiet",
            "moments",
            "silent",
        )
    }
    said, asked, found = total["emissions"], total["windows"], total["matched"]
    where = f"track {track}, window {fit}, summed over {len(tallies)} streams"
    out = _rates("time", found, said, asked, f"matched one to one by time alone; {where}")
    if all(one.right is not None for one in tallies):
        right = sum(one.right or 0 for one in tallies)
        out |= _rates("content", right, said, asked, f"matched by time and also right in content; {where}")
        out["content_accuracy"] = Figure(
            _share(right, found),
            f"share of the pairs matched by time that are right in content; none matched: undefined; {where}",
        )
    offsets = [offset for one in tallies for offset in one.offsets]
    out["time_difference"] = Figure(
        _mean([abs(offset) for offset in offsets]), f"mean |emission - window's start| in s over matched pairs; {where}"
    )
    out["delay"] = Figure(
        _mean(offsets), f"mean emission - window's start in s over matched pairs, early is less than 0; {where}"
    )
    out["duplicates"] = Figure(
        _share(total["duplicates"], said),
        f"share of emissions whose text was said before, beyond what windows ask for; {where}",
    )
    out["redundancy"] = Figure(
        _share(total["repeated"], asked),
        f"emissions inside a window that another emission answers, per window; {where}",
    )
    out["intrusions"] = Figure(_share(total["outside"], asked), f"emissions that fit no window, per window; {where}")
    out["false_alarms_per_quiet_hour"] = alarms_per_hour(int(total["outside"]), total["quiet"], where)
    out["silence"] = Figure(
        _share(total["silent"], total["moments"]),
        f"share of the moments at which it could speak that it let pass; {where}",
    )
    return out


def figures_by_video(tallies: Sequence[Tally]) -> dict[str, dict[str, Figure]]:
    """`figures` of each video; streams of one video are not independent, so intervals are drawn over videos."""
    videos: dict[str, list[Tally]] = {}
    for one in tallies:
        videos.setdefault(one.video, []).append(one)
    return {video: figures(of_video) for video, of_video in videos.items()}


def _rates(kind: str, right: float, said: float, asked: float, how: str) -> dict[str, Figure]:
    """precision, recall and F1; nothing said and nothing to say: F1 is undefined, not 0."""
    return {
        f"{kind}_precision": Figure(_share(right, said), f"emissions that are right / all emissions; right: {how}"),
        f"{kind}_recall": Figure(_share(right, asked), f"windows that are answered / all windows; answered: {how}"),
        f"{kind}_f1": Figure(_share(2 * right, said + asked), f"2 x right / (emissions + windows); right: {how}"),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def alarms_per_hour(alarms: int, quiet: float, where: str = "") -> Figure:
    """False alarms per hour of quiet stream (`quiet` in seconds), with the exact (Garwood) 95% Poisson interval.

    The interval takes alarms as independent of each other; of a model that chatters in bursts it says too much.
    """
    definition = (
        f"emissions outside all windows / hours of stream outside all windows, exact 95% Poisson interval; {where}"
    )
    if quiet <= 0:
        return Figure(None, definition.replace("; ", "; undefined: no quiet time; ", 1))
    hours = quiet / 3600
    low, high = poisson_interval(alarms)
    return Figure(alarms / hours, definition, low / hours, high / hours)


def poisson_interval(count: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a Poisson mean of which `count` events were seen (Garwood 1936)."""
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else _mean_where(lambda mean: 1 - _poisson_cdf(count - 1, mean) >= tail, count)
    return low, _mean_where(lambda mean: _poisson_cdf(count, mean) <= tail, count)


def _mean_where(reached: Callable[[float], bool], count: int) -> float:
    """The least mean at which a condition that stays true once it is true holds, by bisection."""
    low, high = 0.0, 2.0 * count + 20.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _poisson_cdf(count: int, mean: float) -> float:
    if mean <= 0:
        return 1.0
    k = np.arange(count + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    return float(np.exp(k * math.log(mean) - mean - factorials).sum())


# ---- Controls: streams with other emissions. What a metric gives them says what it rewards.

S = TypeVar("S", bound=Stream)


def always_silent(stream: S) -> S:
    """The same stream with nothing said."""
    return replace(stream, emissions=())


def always_speaking(stream: S, text: str = "now") -> S:
    """The same stream with something said at every moment at which the model could speak."""
    return replace(stream, emissions=tuple(Emission(moment, text) for moment in stream.moments))


def constant_time(stream: S, time: float, text: str = "now") -> S:
    """The same stream with one emission, always at the same time (s, or the stream's end if that is before)."""
    return replace(stream, emissions=(Emission(min(max(time, stream.start), stream.end), text),))
