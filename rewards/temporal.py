"""Temporal IoU of the spans that a reply names with the gold ones, in seconds.

A query asks for spans if it has no options and either its kind is `grounding` or its first gold answer, as a whole,
reads as spans ("from 12.0 to 15.5 seconds"). Gold are the spans of that answer: it is what the policy is to write, on
its own clock. Where a `grounding` query is answered in other words, gold is its evidence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from rewards.base import Reward, RewardError, Scene, Scored
from rewards.parsing import Place, answer_in, gold_in
from rewards.queries import judged_text
from whilst.episode import Episode
from whilst.sample import Query, Sample

Span: TypeAlias = tuple[float, float]
"""Start and end, seconds; start <= end."""
Spans: TypeAlias = tuple[Span, ...]

Reader = Literal["strict", "time_r1"]

# ---- Reading. ASCII digits only, and each pattern can match in one way alone: reading takes linear time.

_TIME = r"(?:[0-9]{1,3}:)?[0-9]{1,3}:[0-5][0-9](?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?"
_UNIT = r"(?: ?(?:seconds?|secs?|s)\b)?"
_SPAN = re.compile(
    rf"(?:from )?({_TIME}){_UNIT} ?(?:to|-|–|—) ?({_TIME}){_UNIT}"
    rf"|between ({_TIME}){_UNIT} and ({_TIME}){_UNIT}"
    rf"|\[ ?({_TIME}) ?, ?({_TIME}) ?\]{_UNIT}"
)
_NEXT = re.compile(r" ?[,;](?: ?and\b)? ?| and ")
_TIME_R1 = re.compile(r"(?<![0-9])([0-9]+(?:\.[0-9]*)?) (?:to|and) ([0-9]+(?:\.[0-9]*)?)")


def read_spans(text: str) -> Spans | None:
    """The spans that a text is, and nothing else: `12.0 to 15.5`, `12.0-15.5 s`, `[12.0, 15.5]`, `1:05 to 1:10`, `from
    .. to ..`, `between .. and ..`; several with `,`, `;` or `and` between them; `none` or `[]` for no span at all.

    None: words around it, a sign or an exponent, a span that runs backwards, a number too large for a float.
    """
    text = " ".join(text.casefold().split())
    text = text.removesuffix(".")
    if text in ("none", "[]"):
        return ()
    if text.startswith("[[") and text.endswith("]]"):
        text = text[1:-1]
    spans, at = [], 0
    while True:
        found = _SPAN.match(text, at)
        span = found and _span([time for time in found.groups() if time is not None])
        if not found or not span:
            return None
        spans.append(span)
        if found.end() == len(text):
            return tuple(spans)
        following = _NEXT.match(text, found.end())
        if not following:
            return None
        at = following.end()


def read_time_r1(text: str) -> Spans | None:
    """As Time-R1 and VideoChat-R1 read: the last `12.5 to 15` or `12.5 and 15` that stands anywhere in the last
    `<answer>`, whatever is around it. Unlike theirs, a text without the tag is read as a whole."""
    inside = text.rpartition("<answer>")[2].partition("</answer>")[0]
    found = _TIME_R1.findall(inside)
    span = _span(list(found[-1])) if found else None
    return (span,) if span else None


def _span(times: Sequence[str]) -> Span | None:
    start, end = (_seconds(time) for time in times)
    return (start, end) if start <= end < math.inf else None


def _seconds(time: str) -> float:
    seconds = 0.0
    for part in time.split(":"):
        seconds = 60.0 * seconds + float(part)
    return seconds


READERS = {"strict": read_spans, "time_r1": read_time_r1}

# ---- Overlap.


def merged(spans: Sequence[Span]) -> list[Span]:
    """The same time in spans that do not touch, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def iou(reply: Sequence[Span], gold: Sequence[Span], union: Literal["sum", "hull"] = "sum") -> float:
    """Intersection over union of two lists of spans, 0 to 1.

    union: `sum` of both lengths less the intersection, which is the union; or the `hull` from the first start to the
    last end, as in Time-R1 and VideoChat-R1, which is larger for spans with a gap between them. Nothing is met by
    nothing alone. Where the union has no length, both being moments, 1 if they are the same ones and else 0.
    """
    one, other = merged(reply), merged(gold)
    if not one or not other:
        return float(one == other)
    shared, i, j = 0.0, 0, 0
    while i < len(one) and j < len(other):
        shared += max(0.0, min(one[i][1], other[j][1]) - max(one[i][0], other[j][0]))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    if union == "sum":
        total = sum(end - start for start, end in (*one, *other)) - shared
    else:
        total = max(one[-1][1], other[-1][1]) - min(one[0][0], other[0][0])
    return min(1.0, shared / total) if total > 0 else float(one == other)


def closeness(reply: Sequence[Span], gold: Sequence[Span], duration: float) -> float:
    """(1 - |start difference| / duration) * (1 - |end difference| / duration), each not below 0; of the first start
    and the last end where there are several spans; 1 where one of the two has none."""
    if not reply or not gold:
        return 1.0
    starts = abs(min(reply)[0] - min(gold)[0])
    ends = abs(max(end for _, end in reply) - max(end for _, end in gold))
    return max(0.0, 1.0 - starts / duration) * max(0.0, 1.0 - ends / duration)


# ---- The reward.


@dataclass(frozen=True)
class TemporalIoU:
    """Mean temporal IoU over the queries that ask for spans; None for a sample without any.

    formula: `iou` (v1), or `iou_v2` of Time-R1 (arXiv 2503.13377): IoU times `closeness`, whose duration is the length
    of the sample's video. union: see `iou`. several: what several spans mean where one is asked for: `refused` is
    worth 0, `merged` compares all of them. Several gold spans are always compared merged. reader: see `read_spans`,
    `read_time_r1`. answer_in: where in the reply the answer stands. What cannot be read is worth 0, as is a reply
    that is missing or cut off. Parts: iou, and read (the share of replies that could be read).
    """

    formula: Literal["iou", "iou_v2"] = "iou"
    union: Literal["sum", "hull"] = "sum"
    several: Literal["refused", "merged"] = "refused"
    reader: Reader = "strict"
    answer_in: Place = "whole"

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        sample = episode.sample
        scores, ious, read = [], [], []
        for query in sample.queries():
            gold = gold_spans(sample, query, self.answer_in)
            if gold is None:
                continue
            said = judged_text(query, episode.replies_to(query.id))
            spans = None if said is None else self._read(said)
            if spans is None or (self.several == "refused" and len(gold) == 1 < len(spans)):
                overlap = 0.0
            else:
                overlap = iou(spans, gold, self.union)
            factor = closeness(spans or (), gold, duration(sample)) if self.formula == "iou_v2" else 1.0
            scores.append(overlap * factor)
            ious.append(overlap)
            read.append(spans is not None)
        if not scores:
            return None
        count = len(scores)
        return Scored(sum(scores) / count, {"iou": sum(ious) / count, "read": sum(read) / count})

    def _read(self, text: str) -> Spans | None:
        answer = answer_in(text, self.answer_in)
        return None if answer is None else READERS[self.reader](answer)


def gold_spans(sample: Sample, query: Query, place: Place = "whole") -> Spans | None:
    """The spans that a query asks for; None where it asks for none.

    Raises:
        RewardError: a query of kind `grounding` whose answer is no span and which has no evidence.
    """
    if query.options is not None:
        return None
    spans = read_spans(gold_in(sample.answers_to(query.id)[0].text, place))
    if query.kind != "grounding":
        return spans or None  # "none" may answer many a question that asks for no span
    if spans is None and not query.evidence:
        raise RewardError(
            f"tiou: sample {sample.id!r}, query {query.id!r}: the answer of a grounding query must read as spans, or "
            "its evidence hold them; write it as `from 12.0 to 15.5 seconds`"
        )
    return query.evidence if spans is None else spans


def duration(sample: Sample) -> float:
    """Length of the sample's video, seconds: up to its last segment where the video has no end.

    Raises:
        RewardError: neither an end nor a segment.
    """
    end = sample.video.end
    if end is None:
        if not sample.segments():
            raise RewardError(f"tiou: sample {sample.id!r}: video.end: has neither an end nor segments; give it an end")
        end = sample.segments()[-1].end
    return end - sample.video.start


REWARDS: dict[str, type[Reward]] = {"tiou": TemporalIoU}
VARIANTS: dict[str, tuple[str, dict]] = {
    "tiou_v2": ("tiou", {"formula": "iou_v2"}),
    "tiou_hull": ("tiou", {"union": "hull"}),
    # finetune.py of time-r1 7f2b594, iou_timestamp_reward and its v2; the released recipe uses v2
    "tiou_time_r1": ("tiou", {"union": "hull", "reader": "time_r1"}),
    "tiou_v2_time_r1": ("tiou", {"formula": "iou_v2", "union": "hull", "reader": "time_r1"}),
    # grpo_tasks.py of VideoChat-R1 73b2ea9, "glue": lists on both sides, the true union
    "tiou_intervals": ("tiou", {"several": "merged"}),
}
