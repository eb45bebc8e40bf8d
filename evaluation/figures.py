"""The numbers of a report, read from its mapping: figures by arm and kind, differences, the headline.

Whatever shows a report (page, terminal) takes its numbers from here, so all of them say the same. A figure that the
mapping does not have is None, and is shown as missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BASELINE_ARM = "answers_only"  # the arm that controls are measured against, unless the report says "baseline_arm"
CONTROL_ARM = "thinking"  # the arm that controls are run on, unless the report says "control_arm"
HEADLINE_KIND = "backward"
MISSING = "missing"


class ReportError(ValueError):
    """A report that cannot be written or shown. The message names the field and the fix."""


@dataclass(frozen=True)
class Figure:
    """An accuracy over n queries, or a share of n segments, with its 95% interval; shares between 0 and 1."""

    n: int
    accuracy: float
    low: float
    high: float
    videos: int | None = None

    @property
    def interval(self) -> str:
        """Such as [68.0, 74.5], in percent."""
        return f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"

    @property
    def size(self) -> str:
        return size(self.n, self.videos)

    def overlaps(self, other: Figure) -> bool:
        return self.low <= other.high and other.low <= self.high


Results = Mapping[str, Figure]  # by kind of query


@dataclass(frozen=True)
class Gain:
    """A difference of accuracies over the same n queries, with its 95% interval; between -1 and 1."""

    n: int
    gain: float
    low: float
    high: float
    videos: int | None = None
    p: float | None = None  # of the sign-flip test over videos

    @property
    def interval(self) -> str:
        """Such as [+1.5, +8.0], in points."""
        return f"[{points(self.low)}, {points(self.high)}]"

    @property
    def size(self) -> str:
        return size(self.n, self.videos)


def size(n: int, videos: int | None) -> str:
    """Such as "n = 600, 300 videos": what an interval rests on."""
    return f"n = {n}" if videos is None else f"n = {n}, {videos} video{'s' if videos != 1 else ''}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, always with its sign."""
    shown = f"{100 * difference:+.1f}"
    return "0.0" if float(shown) == 0 else shown.replace("-", "\N{MINUS SIGN}")


def check_json(value: Any, name: str = "report") -> None:
    """Raise ReportError at the first value that JSON cannot hold, with its dotted name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ReportError(f"{name}: the key {key!r} is no text; JSON keys are texts")
            check_json(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_json(item, f"{name}[{i}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ReportError(f"{name}: {value} is no JSON number; leave the field out or give null")
    elif value is not None and not isinstance(value, str | int):
        raise ReportError(f"{name}: {type(value).__name__} {value!r} is no JSON value; use plain Python values")


def results(group: Any, name: str, value: str = "accuracy") -> dict[str, Results]:
    """Figures of a group of the report ({arm: {kind: {"n", value, "ci_low", "ci_high"}}}), by arm and kind.

    A null arm has no figures. Raises ReportError for a figure that is incomplete or contradicts itself.
    """
    return {
        arm: {
            kind: Figure(*_checked(figure, f"{name}.{arm}.{kind}", value, lowest=0))
            for kind, figure in (by_kind or {}).items()
            if figure is not None
        }
        for arm, by_kind in (group or {}).items()
    }


def gains(report: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Gain]]]:
    """The baseline and the gains by kind of each name in report.gains ({name: {"baseline": ..., kind: {...}}})."""
    found = {}
    for name, by_kind in (report.get("gains") or {}).items():
        if not isinstance(by_kind, Mapping) or "baseline" not in by_kind:
            raise ReportError(f"report.gains.{name}: a gain needs its baseline's name beside its figures")
        where = f"report.gains.{name}"
        found[name] = (str(by_kind["baseline"]), gains_of(by_kind, where))
    return found


def gains_of(by_kind: Mapping[str, Any], name: str) -> dict[str, Gain]:
    """Gains by kind of a group of the report."""
    return {
        kind: Gain(*_checked(found, f"{name}.{kind}", "gain", -1), found.get("p"))
        for kind, found in by_kind.items()
        if kind != "baseline"
    }


def deltas(report: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Gain]]]:
    """By arm and control, what the control takes away: the arm minus the control by kind (report.control_deltas)."""
    return {
        arm: {name: gains_of(by_kind, f"report.control_deltas.{arm}.{name}") for name, by_kind in of_arm.items()}
        for arm, of_arm in (report.get("control_deltas") or {}).items()
    }


def _checked(figure: Any, name: str, value: str, lowest: int) -> tuple[int, float, float, float, int | None]:
    fields = ("n", value, "ci_low", "ci_high")
    absent = [f for f in fields if not isinstance(figure, Mapping) or not isinstance(figure.get(f), int | float)]
    if absent:
        raise ReportError(f"{name}: a figure needs the numbers {', '.join(fields)}; {', '.join(absent)} is missing")
    n, (middle, low, high) = int(figure["n"]), (float(figure[f]) for f in fields[1:])
    if n < 1 or not lowest <= low <= middle <= high <= 1:
        raise ReportError(f"{name}: {dict(figure)} must have n >= 1 and {lowest} <= ci_low <= {value} <= ci_high <= 1")
    return n, middle, low, high, figure.get("videos")


def kinds(groups: Sequence[Iterable[str]]) -> tuple[list[str], list[str]]:
    """Kinds of query that any of the groups has, and the finer ones ("backward/count"): headline first, "all" last."""
    every = {kind for group in groups for kind in group}
    order = sorted(every, key=lambda kind: (kind == "all", kind.split("/")[0] != HEADLINE_KIND, kind))
    return [kind for kind in order if "/" not in kind], [kind for kind in order if "/" in kind]


def control_arm(report: Mapping[str, Any]) -> str:
    return str(report.get("control_arm") or CONTROL_ARM)


def kv_arm(report: Mapping[str, Any]) -> str | None:
    return report.get("kv_arm")


def baseline_arm(report: Mapping[str, Any]) -> str:
    return str(report.get("baseline_arm") or BASELINE_ARM)


def difference(figure: Figure | None, other: Figure | None) -> float | None:
    """figure - other, as a share; None where one is missing."""
    return figure.accuracy - other.accuracy if figure and other else None


def headline(report: Mapping[str, Any]) -> str:
    """What thinking does for questions about the past, in one sentence, and one more for each gain; off the figures."""
    return " ".join([_headline(report), *_gained(report)])


def _headline(report: Mapping[str, Any]) -> str:
    arms = results(report.get("arms"), "report.arms")
    names = (control_arm(report), baseline_arm(report))
    found = [(name, arms.get(name, {}).get(HEADLINE_KIND)) for name in names]
    lacking = [name for name, figure in found if figure is None]
    if lacking:
        return f"No headline: {' and '.join(lacking)} has no figure for {HEADLINE_KIND} queries in this report."
    (_, arm), (_, base) = found
    assert arm and base
    verdict = "overlap, so this may be chance" if arm.overlaps(base) else "do not overlap"
    return (
        f"{names[0]} answers {percent(arm.accuracy)} {arm.interval} of {arm.n} {HEADLINE_KIND} queries right, "
        f"{names[1]} {percent(base.accuracy)} {base.interval} of {base.n}: "
        f"{points(arm.accuracy - base.accuracy)} points; the 95% intervals {verdict}."
    )


def _gained(report: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} against {baseline}: {points(by_kind[HEADLINE_KIND].gain)} points {by_kind[HEADLINE_KIND].interval}."
        for name, (baseline, by_kind) in gains(report).items()
        if HEADLINE_KIND in by_kind
    ]


def facts(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Any JSON value as (dotted name, text) pairs; lists of plain values stay in one line."""
    if isinstance(value, Mapping) and value:
        return [pair for key, item in value.items() for pair in facts(item, f"{name}.{key}" if name else key)]
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        return [pair for i, item in enumerate(value) for pair in facts(item, f"{name}[{i}]")]
    if isinstance(value, list | tuple):
        return [(name, ", ".join(_plain(item) for item in value) or "none")]
    return [(name, _plain(value))]


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, Mapping):
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)[1:-1] or "(empty)" if isinstance(value, str) else str(value)
