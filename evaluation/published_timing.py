"""Published scorers of timing that are no matching of pooled streams: PAUC, ESTP-F1, OVO-Timing, StreamingBench.

Each reproduces its benchmark's arithmetic on plain data; what was read where is said in the docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.proactive import Emission, Figure, Fit, ProactiveError, Window, match_in_order
from rewards.standing import Gold
from rewards.timing import Pauc


def judged_points(scores: Mapping[float, float], related_end: float) -> list[tuple[float, float]]:
    """(time, score) of judged replies as ProactiveVideoQA counts them: after the end of what the answer is about, a
    reply that scores less than the last one before it is passed over (the earlier, better one still stands)."""
    points = sorted(scores.items())
    before = [score for time, score in points if time <= related_end]
    bar = before[-1] if before else 0.0
    return [(time, score) for time, score in points if time <= related_end or score >= bar or len(points) == 1]


def pauc(
    points: Sequence[tuple[float, float]], start: float, end: float, omega: float = 0.5, most: float = 2.0
) -> float:
    """PAUC of one answer of ProactiveVideoQA, 0 to 1: area under the score curve of replies in `[start, end]` s.

    points: (time, judged score 0 to `most`) of the replies; the curve is 0.5 of 2 until the first, and
    `rewards.timing.Pauc` computes its area. omega: delays count (1 - omega) as much; at 1 the last score alone counts.
    Silence is worth 0.25; a window without length that has a reply is worth 0, as published.
    """
    if not 0 <= omega <= 1 or end < start or any(not start <= t <= end or not 0 <= s <= most for t, s in points):
        raise ProactiveError(
            f"pauc: omega {omega} or a reply is outside its range: times [{start}, {end}], scores 0..{most}"
        )
    curve = Pauc("ignored", most=most, before=0.25 * most)
    if not points:
        return curve.before / most
    if end == start:
        return 0.0
    nearer = [(start + (time - start) * (1 - omega), score) for time, score in sorted(points)]
    return curve.area(Gold("", start, end), nearer)


def on_time(trigger: float | None, gold: float, tolerance: float = 2.0) -> bool:
    """StreamingBench's proactive task: the first trigger (s; None: none came) is at most 2 s from the gold time."""
    return trigger is not None and abs(trigger - gold) <= tolerance


def estp_f1(scores: Sequence[float], windows: int, responses: int) -> Figure:
    """ESTP-F1: scores (0 to 1) of the responses matched to a window [start - 1 s, end + 2 s], e.g. by `match_optimal`
    with Fit(1, 2); windows, responses: how many there are of both. From a secondary source: see the definition."""
    if len(scores) > min(windows, responses) or any(not 0 <= score <= 1 for score in scores):
        raise ProactiveError(
            f"estp_f1: {len(scores)} scores for {windows} windows and {responses} responses; 0..1, one to one"
        )
    return Figure(
        2 * sum(scores) / (windows + responses) if windows + responses else None,
        "2 x sum of soft scores of matched responses / (windows + responses): the F1 of sum/responses and sum/windows; "
        "windows [start - 1 s, end + 2 s]; one to one is ours, the benchmark's own code was not seen",
    )


def ovo_timing_golds(row: Mapping[str, object]) -> list[float]:
    """When a forward item of OVO-Bench wants a reply (s): at the clue of CRR, 2 s after each start of REC and SSR."""
    if row["task"] == "CRR":
        return [float(row["clue_time"])]  # type: ignore[arg-type]
    starts = row["start_times"] if row["task"] == "REC" else row["start_time"]
    return [float(start) + 2.0 for start in starts]  # type: ignore[attr-defined]


def ovo_timing(items: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> dict[str, Figure]:
    """OVO-Timing of items (task, gold times, times of responses), both in seconds and in their own order.

    By task: F1 of the mean recall and the mean precision over items (not the mean of F1s), +-2 s, each gold taking the
    first response left that fits; an item without responses has precision 0. "average": mean over the tasks present.
    """
    means: dict[str, tuple[list[float], list[float]]] = {}
    for task, golds, times in items:
        said = [Emission(time, "now") for time in times]
        matched = len(match_in_order(said, [Window(gold, gold) for gold in golds], Fit(2.0, 2.0)))
        recalls, precisions = means.setdefault(task, ([], []))
        recalls.append(matched / len(golds) if golds else 0.0)
        precisions.append(matched / len(times) if times else 0.0)
    out = {}
    for task, (recalls, precisions) in means.items():
        recall, precision = sum(recalls) / len(recalls), sum(precisions) / len(precisions)
        f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        out[task] = Figure(
            f1, f"F1 of mean recall {recall:.4f} and mean precision {precision:.4f} over {len(recalls)} items, +-2 s"
        )
    out["average"] = Figure(
        sum(figure.value or 0.0 for figure in out.values()) / len(out) if out else None,
        f"mean F1 over tasks ({', '.join(out) or 'none'}), +-2 s",
    )
    return out
