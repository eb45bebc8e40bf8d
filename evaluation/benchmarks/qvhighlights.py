"""QVHighlights: the windows in which a sentence is shown (moment retrieval), and the clips of it that stand out
(highlight detection). jayleicn/moment_detr; data CC BY-NC-SA 4.0.

    annotations   {qid, query, duration, vid, relevant_windows: [[82, 150]], relevant_clip_ids: [41, ...],
                  saliency_scores: [[1, 1, 2], ...]}, a line each; clips of 2 s, three raters, scores 0 to 4
    predictions   {qid, vid, pred_relevant_windows: [[start, end, score], ...], pred_saliency_scores: [one a clip]}

As a stream: all sentences about a clip are put at its end, and the reply is windows in words ("12-30; 44-60", the
surest first). Highlights need a score of every clip, which no reply gives: they are judged in prediction files alone.

`metrics` reproduces `standalone_eval/eval.py` number for number: R1 at IoU t: the first window has IoU >= t with the
best of the right ones; mAP at IoU t: average precision of at most 10 windows, and the mean over t = 0.5, ..., 0.95;
short, middle and long keep the right windows of (0, 10], (10, 30], (30, 150] s alone. HL-mAP: average precision of the
clips' scores, mean over raters; HL-Hit1: the highest clip is positive for one rater; positive from 2, 3 or 4 on.
There a sentence without windows leaves the mean of mAP. Strictly, every sentence of the annotations stands in every
mean: what has no prediction, no window, a broken one (not start < end in seconds) or not one score a clip earns 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import Benchmark, BenchmarkError, Given, Rejected, Total, Verdict, only
from evaluation.benchmarks.reading import (
    LIST,
    NUMBER,
    SEGMENTS,
    TEXT,
    Ask,
    Types,
    asked_once,
    item_of,
    load_lines,
    problem,
    stand_in,
    stream,
)
from evaluation.benchmarks.strict import shown, unread
from whilst.sample import JSON, Query, Sample

NAME = "qvhighlights"
CLIP_SECONDS, RATERS = 2, 3
MOST_WINDOWS = 10
IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
LENGTHS = {"short": (0, 10), "middle": (10, 30), "long": (30, 150), "full": (0, 150)}
LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}

Window = Sequence[float]  # start, end (s), and of a prediction its score
Row = Mapping[str, Any]

_NEEDED: Types = {"qid": int, "query": TEXT, "duration": NUMBER, "vid": TEXT}
_LABELS: Types = {"relevant_windows": LIST, "relevant_clip_ids": LIST, "saliency_scores": LIST}
_SPOKEN = re.compile(r"(\d+(?:\.\d+)?)\s*(?:-|–|to)\s*(\d+(?:\.\d+)?)")


# ---- Annotations -> samples.


def read(annotations: Path, videos: str = "", segment_seconds: float | None = None) -> Iterator[Sample | Rejected]:
    """One sample a clip, with all its sentences at its end."""
    by_clip: dict[str, list[Ask]] = {}
    ends: dict[str, float] = {}
    for row in _annotations(annotations):
        if isinstance(row, Rejected):
            yield row
            continue
        id, end = str(row["qid"]), float(row["duration"])
        if ends.setdefault(row["vid"], end) != end:
            yield Rejected(id, f"duration: {end} s, but {ends[row['vid']]} s in another row of {row['vid']}")
            continue
        windows = tuple((float(start), min(float(stop), end)) for start, stop in row["relevant_windows"])
        told = "; ".join(f"{start:g}-{stop:g}" for start, stop in windows)
        query = Query(id, end, prompts.moments(row["query"]), "moment", evidence=windows)
        item: dict[str, JSON] = {"windows": [list(window) for window in windows], "duration": end}
        by_clip.setdefault(row["vid"], []).append(asked_once(query, told, item))
    for vid, asks in by_clip.items():
        path = str(Path(videos, f"{vid}.mp4")) if videos else f"{vid}.mp4"
        yield from stream(NAME, vid, path, asks, segment_seconds=segment_seconds, end=ends[vid])


def _annotations(path: Path) -> Iterator[Row | Rejected]:
    for number, row in load_lines(path):
        if not isinstance(row, dict):
            raise BenchmarkError(f"{path}:{number}: must be an object; name a QVHighlights release file")
        reason = problem(row, _NEEDED) or problem(row, _LABELS) or _label_problem(row)
        yield Rejected(str(row.get("qid", f"line {number}")), reason) if reason else row


def _label_problem(row: Row) -> str:
    if not row["relevant_windows"] or not all(_is_window(window) for window in row["relevant_windows"]):
        return "relevant_windows: must be windows [start, end] in seconds, one or more"
    if len(row["relevant_clip_ids"]) != len(row["saliency_scores"]):
        return "saliency_scores: as many as relevant_clip_ids are needed"
    clips = int(row["duration"] / CLIP_SECONDS)
    if not all(isinstance(clip, int) and 0 <= clip < clips for clip in row["relevant_clip_ids"]):
        return f"relevant_clip_ids: must be numbers of the {clips} clips"
    if not all(isinstance(scores, list) and len(scores) == RATERS for scores in row["saliency_scores"]):
        return f"saliency_scores: must be {RATERS} scores a clip"
    return ""


def _is_window(window: Any) -> bool:
    return (
        isinstance(window, (list, tuple))
        and len(window) >= 2
        and all(isinstance(time, (int, float)) and not isinstance(time, bool) for time in window)
        and bool(0 <= window[0] < window[1] < np.inf)
    )


def count_queries(annotations: Path) -> int:
    """Sentences: lines of the file."""
    return len(load_lines(annotations))


# ---- Overlap and average precision.


def overlaps(window: Window, others: np.ndarray) -> np.ndarray:
    """IoU (n,) of a window with others (n, 2)."""
    common = np.clip(np.minimum(window[1], others[:, 1]) - np.maximum(window[0], others[:, 0]), 0, None)
    lengths = (window[1] - window[0]) + (others[:, 1] - others[:, 0])
    return common / (lengths - common)


def average_precisions(windows: Sequence[Window], gold: Sequence[Window]) -> np.ndarray:
    """Interpolated average precision at each of IOUS, of windows [start, end, score]; each right window is found once,
    by the surest of those that overlap it enough."""
    if not windows:
        return np.zeros(len(IOUS))
    right = np.array([window[:2] for window in gold], dtype=float)
    sure = sorted(windows, key=lambda window: -window[2])
    with np.errstate(divide="ignore", invalid="ignore"):
        ious = [overlaps(window, right) for window in sure]
    orders = [found.argsort()[::-1] for found in ious]
    most = max(found.max() for found in ious)
    return np.array([_precision_at(iou, ious, orders, len(gold)) if iou <= most else 0.0 for iou in IOUS])


def _precision_at(least: float, ious: Sequence[np.ndarray], orders: Sequence[np.ndarray], count: int) -> float:
    taken: set[int] = set()
    hits = np.zeros(len(ious))
    for i, (found, order) in enumerate(zip(ious, orders, strict=True)):
        for j in order:
            if found[j] < least:
                break
            if int(j) not in taken:
                taken.add(int(j))
                hits[i] = 1
                break
    recall = np.cumsum(hits) / count
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(np.sum((recall[steps] - recall[steps - 1]) * precision[steps]))


def first_overlap(windows: Sequence[Window], gold: Sequence[Window]) -> float:
    """IoU of the first window with the right one that it overlaps most."""
    return float(np.max(overlaps(windows[0], np.array([window[:2] for window in gold], dtype=float))))


def score_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Average precision of clips by score (n,): mean over the recall steps of the best precision from there on. Clips
    of one score come together."""
    if positive.all() or not positive.any():
        return float(positive.all())
    order = np.argsort(scores, kind="mergesort")[::-1]
    ranked, hits = scores[order], positive[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    found = np.cumsum(hits)[ends]
    # from the whole list down to nothing, as scikit-learn gives the curve; recall in single precision, as published
    precision = np.append((found / (ends + 1))[::-1], 1.0)
    recall = np.append((found / found[-1])[::-1], 0.0).astype(np.float32)
    return float(np.mean(np.maximum.accumulate(precision)[np.flatnonzero(np.diff(recall))]))


def rated(row: Row) -> np.ndarray:
    """Scores (clips, raters) of all clips of a row; 0 where a clip is not relevant."""
    scores = np.zeros((int(row["duration"] / CLIP_SECONDS), RATERS))
    if row["relevant_clip_ids"]:
        scores[np.array(row["relevant_clip_ids"])] = np.array(row["saliency_scores"])
    return scores


# ---- One sentence -> credits by metric.


def moment_credits(windows: Sequence[Window], gold: Sequence[Window]) -> Iterator[tuple[str, float]]:
    """(metric, credit) of predicted windows, in each range of lengths that has right ones; without windows, 0."""
    for name, (low, high) in LENGTHS.items():
        right = gold if name == "full" else [window for window in gold if low < window[1] - window[0] <= high]
        if not right:
            continue
        precisions = average_precisions(windows[:MOST_WINDOWS], right)
        first = first_overlap(windows, right) if windows else -1.0
        yield f"MR-{name}-mAP", float(np.mean(precisions))
        for iou, precision in zip(IOUS, precisions, strict=True):
            yield f"MR-{name}-mAP@{iou}", float(precision)
            yield f"MR-{name}-R1@{iou}", float(first >= iou)


def highlight_credits(scores: Sequence[float], row: Row) -> Iterator[tuple[str, float]]:
    """(metric, credit) of predicted scores of clips. Scores too many are left out, missing ones are 0."""
    levels = rated(row)
    padded = np.zeros(len(levels))
    padded[: len(scores)] = np.array(scores, dtype=float)[: len(levels)]
    best = int(np.argmax(scores)) if len(scores) else -1
    for name, least in LEVELS.items():
        positive = levels >= least
        yield f"HL-{name}-mAP", float(np.mean([score_precision(positive[:, k], padded) for k in range(RATERS)]))
        yield f"HL-{name}-Hit1", float(0 <= best < len(levels) and positive[best].any())


# ---- Prediction files.


def _predictions(path: Path) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for number, row in load_lines(path):
        where = f"{path}:{number}"
        if not isinstance(row, dict) or not isinstance(row.get("qid"), int):
            raise BenchmarkError(f"{where}: qid: must be a number; name a prediction file of QVHighlights")
        if row["qid"] in found:
            raise BenchmarkError(f"{where}: qid: {row['qid']} has a row above; keep one")
        for name in ("pred_relevant_windows", "pred_saliency_scores"):
            if not isinstance(row.get(name, []), list):
                raise BenchmarkError(f"{where}: {name}: must be a list")
        found[row["qid"]] = row
    if not found:
        raise BenchmarkError(f"{path}: holds no predictions")
    return found


def results(annotations: Path, file: Path) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts of a prediction file: by the published rules over its rows, and strictly over the annotations. A task is
    a metric, and its mean credit is that metric."""
    predictions = _predictions(file)
    rows: dict[int, Row] = {}
    for row in _annotations(annotations):
        if isinstance(row, Rejected):
            raise BenchmarkError(f"{annotations}: {row.id}: {row.reason}")
        rows[row["qid"]] = row
    if unknown := sorted(predictions.keys() - rows.keys()):
        raise BenchmarkError(f"{file}: qid: {unknown[0]} is not in {annotations}; name the right file")
    highlights = any("pred_saliency_scores" in row for row in predictions.values())
    judged: tuple[list[Verdict], list[Verdict]] = ([], [])
    for qid, row in rows.items():
        found = predictions.get(qid)
        gold = row["relevant_windows"]
        said = list((found or {}).get("pred_relevant_windows", []))
        scores = list((found or {}).get("pred_saliency_scores", []))
        if said and not all(isinstance(one, list) and len(one) == 3 for one in said):
            raise BenchmarkError(f"{file}: qid {qid}: pred_relevant_windows: must be [start, end, score]")
        if not said and "pred_relevant_windows" in (found or {}):
            raise BenchmarkError(
                f"{file}: qid {qid}: pred_relevant_windows: is empty, on which the published scorer fails too"
            )
        moments = [*moment_credits(said, gold)]
        highlighted = [*highlight_credits(scores or [0.0], row)] if highlights else []
        judged[0].extend(_verdicts(row, [*(moments if said else ()), *(highlighted if scores else ())], ""))
        broken = not all(_is_window(window) for window in said)
        reason = (
            "not in the results" if found is None else "no window" if not said else "a broken window" if broken else ""
        )
        judged[1].extend(_verdicts(row, _nothing(moments) if reason else moments, reason))
        whole = len(scores) == len(rated(row))
        judged[1].extend(
            _verdicts(row, highlighted, "") if whole else _verdicts(row, _nothing(highlighted), "not one score a clip")
        )
    return judged


def _nothing(credits: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(metric, 0.0) for metric, _ in credits]


def _verdicts(row: Row, credits: Iterable[tuple[str, float]], reason: str) -> list[Verdict]:
    query = Query(str(row["qid"]), 0.0, row["query"], "moment")
    return _credited(stand_in(NAME, f"{row['vid']}.mp4", query, {}), query, credits, reason, "")


def _credited(
    sample: Sample, query: Query, credits: Iterable[tuple[str, float]], reason: str, reply: str
) -> list[Verdict]:
    return [
        Verdict(sample.video.path, sample.id, query.id, task, credit, reply, reason or _why(credit))
        for task, credit in credits
    ]


def _why(credit: float) -> str:
    return "" if credit == 1 else "partly right" if credit > 0 else "wrong"


def metrics(official: Iterable[Verdict]) -> dict[str, Any]:
    """The published metrics file of official verdicts (`results`): percent, two digits, under the published names."""
    values: dict[str, list[float]] = {}
    for verdict in official:
        values.setdefault(verdict.task, []).append(verdict.credit)

    def of(task: str) -> float:
        return float(f"{100 * np.mean(values[task]):.2f}")

    found: dict[str, Any] = {}
    for name in LENGTHS:
        if f"MR-{name}-mAP" in values:
            at = {str(iou): of(f"MR-{name}-mAP@{iou}") for iou in IOUS}
            found[name] = {
                "MR-mAP": at | {"average": of(f"MR-{name}-mAP")},
                "MR-R1": {str(iou): of(f"MR-{name}-R1@{iou}") for iou in IOUS},
            }
    brief = {}
    if "full" in found:
        brief = {f"MR-full-R1@{iou}": found["full"]["MR-R1"][str(iou)] for iou in (0.5, 0.7)}
        brief |= {f"MR-full-mAP@{iou}": found["full"]["MR-mAP"][str(iou)] for iou in (0.5, 0.75)}
        brief |= {f"MR-{name}-mAP": found[name]["MR-mAP"]["average"] for name in LENGTHS if name in found}
    for name in LEVELS:
        if f"HL-{name}-mAP" in values:
            found[f"HL-min-{name}"] = {"HL-mAP": of(f"HL-{name}-mAP"), "HL-Hit1": of(f"HL-{name}-Hit1")}
            brief |= {f"HL-min-{name}-{one}": found[f"HL-min-{name}"][f"HL-{one}"] for one in ("mAP", "Hit1")}
    return {"brief": brief, **found}


# ---- Replies in words.


def spoken(text: str) -> list[Window] | None:
    """Windows of a reply such as "12-30; 44-60" (s may follow the numbers), the surest first; None for other texts."""
    windows: list[Window] = []
    for part in re.split(r"[;,\n]", text.strip().removesuffix(".")):
        found = _SPOKEN.fullmatch(re.sub(r"(?<=\d)\s*s(?:econds)?\b", "", part.strip()))
        if found is None or not float(found[1]) < float(found[2]):
            return None
        windows.append((float(found[1]), float(found[2]), -float(len(windows))))
    return windows


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """R1 and mAP of the windows that are told; no highlights."""
    gold = item_of(sample, query)["windows"]
    reason = unread(given)
    windows = None if reason else spoken(shown(given))
    if windows is None and not reason:
        reason = "no windows"
    return _credited(sample, query, moment_credits(windows or [], gold), reason, shown(given))


_METRICS = {
    "MR-full-mAP": "mean over IoU 0.5 to 0.95 and sentences of the average precision of at most 10 windows",
    "MR-full-R1@0.5": "share of sentences whose first window has IoU >= 0.5 with a right one",
    "MR-full-R1@0.7": "share of sentences whose first window has IoU >= 0.7 with a right one",
    "MR-full-mAP@0.5": "mean over sentences of the average precision at IoU 0.5",
    "MR-full-mAP@0.75": "mean over sentences of the average precision at IoU 0.75",
    "MR-short-mAP": "MR-full-mAP of the right windows of at most 10 s, over sentences that have one",
    "MR-middle-mAP": "MR-full-mAP of the right windows of 10 to 30 s, over sentences that have one",
    "MR-long-mAP": "MR-full-mAP of the right windows above 30 s, over sentences that have one",
    **{
        f"HL-{name}-{one}": f"mean over sentences of {what}; a clip is positive from score {least} on"
        for name, least in LEVELS.items()
        for one, what in (
            ("mAP", "the average precision of the clips' scores, and over raters"),
            ("Hit1", "whether the highest clip is positive for a rater"),
        )
    },
}

BENCHMARK = Benchmark(
    name=NAME,
    source="jayleicn/moment_detr, data/highlight_val_release.jsonl",
    licence="data CC BY-NC-SA 4.0, code MIT",
    tested_on="real files",
    track="asked",
    read=read,
    strict=strict,
    official=None,  # published for prediction files alone: see `results`
    totals={name: Total(definition, only([name])) for name, definition in _METRICS.items()},
    options={"segment_seconds": SEGMENTS},
    results=results,
    count=count_queries,
    contains=("QVHighlights val", "YouTube"),
)
