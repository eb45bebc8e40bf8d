"""How long a query waits for its whole answer: thinking ahead of it, against thinking after it, at equal thoughts.

Claim: at 16 segments, thinking ahead answers at least 15.7 times sooner. 15.7 is what VST (arXiv 2603.12262) reports
for its 7B model over Video-R1 on Video-Holmes (0.56 s against 8.80 s); that clock runs in the last call alone and
compares two models. Here everything is enclosed, and the two ways are the same model that writes the same tokens.

The stream. Text memory (layout recurrent), a thought of 24 tokens about each segment but the last, as in VST: the query
arrives together with the last segment, which is read with it. The clock starts when both have arrived: nothing of them
is encoded or read. It stops at the last token of the answer. So both ways encode the last clip, read memory, clip and
query, and write the answer within the time. Thinking after the query also reads every earlier clip and writes every
thought within it; those clips were encoded before, as they came, which is the best that way can do.

Not enclosed: decoding and preprocessing of frames (there are no files here), and what watching costs while nothing is
asked. The table has the total too: both ways do the same work, one of them earlier. Further rows: `after, encodes too`
adds the encoding of all earlier clips to the time (the sum of what was measured before it); `ahead, waits` has a
thought about the last segment as well and, on one worker, the answer waits for it, against thinking after with that
thought.

Checked in the same run: thoughts, answer, tokens and cache entries are equal. Measured by the ledger
(evaluation/ledger.py) in CPU seconds on one thread; ways take turns, and a ratio is the median over the turns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks._measure import last_line, one_thread, paired_ratio, table
from benchmarks._streams import FPS, checkpoint, clips, stream
from evaluation.ledger import Ledger, Order, QueryCost, measure
from whilst.backbones.base import load
from whilst.backbones.tiny import Family
from whilst.checkpoint import Checkpoint, Contract
from whilst.clips import SegmentClip
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.sample import Sample, Thought

TARGET, AT = 15.7, 16  # times, at so many segments
SEGMENTS = (4, 8, 16, 32)
THOUGHT, ANSWER = 24, 8  # tokens, the answer's with its boundary token
HEIGHT, WIDTH = 64, 256  # 64 visual tokens a segment
FAMILY: Family = "qwen3_vl"
SIZES = {
    "hidden": 384,
    "layers": 4,
    "heads": 6,
    "kv_heads": 3,
    "head_dim": 64,
    "intermediate": 1152,
    "vision_depth": 4,
    "vision_hidden": 256,
    "vision_heads": 4,
    "vision_intermediate": 768,
}
CONFIG = RenderConfig(layout="recurrent")


def watched(arm: Checkpoint, sample: Sample, shown: Sequence[SegmentClip], order: Order, waits: bool) -> Ledger:
    """One run of a way. waits: the last segment is thought about too."""
    thoughts = [event.text for event in sample.events if isinstance(event, Thought)]
    last = len(shown) if waits else len(shown) - 1
    return measure(
        arm,
        sample,
        shown,
        order=order,
        thoughts=thoughts,
        think_about=lambda segment: segment < last,
        answer_tokens=ANSWER,
        clock=time.process_time,
    )


def check_equal(ahead: Ledger, after: Ledger) -> None:
    """Raise unless both ways wrote the same and gave the same answer from a cache of the same size."""
    for name in ("text", "answer_tokens", "kv_tokens", "visual_tokens"):
        one, other = (getattr(ledger.queries[0], name) for ledger in (ahead, after))
        if one != other:
            raise AssertionError(f"{name} of the two ways differ: {one!r} ahead, {other!r} after")
    if ahead.thoughts != after.thoughts:
        raise AssertionError(f"thoughts differ: {ahead.thoughts} ahead, {after.thoughts} after")
    (one_cost,), (other_cost,) = ahead.queries, after.queries
    written = [cost.thought_tokens_before + cost.thought_tokens_after for cost in (one_cost, other_cost)]
    if written[0] != written[1] or other_cost.thought_tokens_before:
        raise AssertionError(f"thought tokens differ, or some were written before the query: {written}")


def measure_segments(arm: Checkpoint, segments: int, repeats: int, waits: bool = False) -> dict[str, Any]:
    """Time both ways on one stream, in turns."""
    sample = stream("a", segments, thought=(THOUGHT, THOUGHT), answer=ANSWER)
    shown = clips(sample, HEIGHT, WIDTH)
    ledgers: dict[Order, list[Ledger]] = {"ahead": [], "after": []}
    for turn in range(repeats + 1):  # the first turn warms up: it is checked, not counted
        for order in ("ahead", "after") if turn % 2 == 0 else ("after", "ahead"):
            ledgers[order].append(watched(arm, sample, shown, order, waits))
        check_equal(ledgers["ahead"][-1], ledgers["after"][-1])
    counted = {order: of_order[1:] for order, of_order in ledgers.items()}
    costs: dict[str, list[QueryCost]] = {order: [x.queries[0] for x in found] for order, found in counted.items()}
    complete = {order: [cost.complete for cost in of_order] for order, of_order in costs.items()}
    before = [
        sum(a.seconds for a in x.actions if a.kind == "encode" and a.segment < segments - 1) for x in counted["after"]
    ]
    encodes_too = [seconds + more for seconds, more in zip(complete["after"], before, strict=True)]
    total = {order: [sum(a.seconds for a in x.actions) for x in found] for order, found in counted.items()}
    return {
        "segments": segments,
        "waits": waits,
        "thought_tokens": costs["after"][0].thought_tokens_after,
        "answer_tokens": costs["after"][0].answer_tokens,
        "kv_tokens": costs["after"][0].kv_tokens,
        "answered": {order: median(values) for order, values in complete.items()},
        "first_token": {order: median([cost.first_token for cost in of]) for order, of in costs.items()},
        "total": {order: median(values) for order, values in total.items()},
        "ratio": paired_ratio(complete["after"], complete["ahead"]),
        "ratio_first_token": paired_ratio(
            [cost.first_token for cost in costs["after"]], [cost.first_token for cost in costs["ahead"]]
        ),
        "ratio_total": paired_ratio(total["after"], total["ahead"]),
        "after_encodes_too": median(encodes_too),
        "ratio_after_encodes_too": paired_ratio(encodes_too, complete["ahead"]),
    }


def main(segments: Sequence[int] = SEGMENTS, repeats: int = 3, at: int = AT) -> str:
    """Measure each length, and the one of the claim with an answer that waits for the last thought as well."""
    one_thread()
    with checkpoint(FAMILY, **SIZES) as folder:
        backbone = load(folder)
    backbone.model.eval()
    arm = Checkpoint(backbone, Renderer(backbone.tokenizer, backbone.spec, CONFIG), Contract("", FPS, True, CONFIG))
    results = [measure_segments(arm, n, repeats) for n in segments]
    waiting = measure_segments(arm, at, repeats, waits=True)
    claimed = next(r for r in results if r["segments"] == at)
    lines: list[list[object]] = []
    for r in [*results, waiting]:
        way = "ahead, waits" if r["waits"] else "ahead"
        for order, name, ratio in (("ahead", way, 1.0), ("after", "after", r["ratio"])):
            answered, first, total = r["answered"][order], r["first_token"][order], r["total"][order]
            lines.append([r["segments"], name, r["thought_tokens"], first, answered, ratio, total])
        if r is claimed:
            more = r["after_encodes_too"]
            lines.append(
                [
                    at,
                    "after, encodes too",
                    r["thought_tokens"],
                    "-",
                    more,
                    r["ratio_after_encodes_too"],
                    r["total"]["after"],
                ]
            )
    print(table(["segments", "thinks", "thought tokens", "first token s", "answered s", "times", "total s"], lines))
    details = {"unit": "CPU seconds", "family": FAMILY, "settings": [*results, waiting]}
    return last_line(
        f"answer latency at {at} segments, all enclosed, thinking after over ahead",
        claimed["ratio"],
        TARGET,
        claimed["ratio"] >= TARGET,
        details,
    )


if __name__ == "__main__":
    print(main())
