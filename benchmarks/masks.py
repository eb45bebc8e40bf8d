"""Building the streaming mask of one split row (everything received, then everything generated).

Claim: at 7k tokens the dense mask is built at least 100 times faster than row by row in Python.

Baseline: the builder of the Speak-While-Watching and TaYS releases, re-implemented from its description: a dense
float32 mask (1, 1, L, L) of 0 and the most negative number, one Python list a row. The row-shift rule, as they have it:

    allowed(q, k) = k <= q and not (q is generated and k is received and unit[k] > unit[q + 1])

It is spared work: it is given the units that those releases first search for in the token ids, and its lists are put
together from runs, not decided key by key. (The TaYS builder itself was measured at 0.43 s for 2,382 tokens and 12.8 s
for 7,324, on another machine.) At 30k it builds one row in 32, evenly spread, and its time is multiplied.

Also measured: the same predicate broadcast over L x L, and torch's `create_block_mask` (both not at 30k). At 2k tokens
the masks are compared: they must be equal.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask
from transformers import AutoTokenizer

from benchmarks._measure import last_line, one_thread, paired_ratio, table, take_turns
from benchmarks._streams import FPS, checkpoint, stream
from whilst.backbones.base import load_spec
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.visibility import GENERATED, Rule, Tokens, block_mask, dense_mask

RULE = Rule("row_shift")
TARGET = 100.0
SEGMENT = 2.0  # seconds; four frames of 192 x 192 pixels are 2 x 144 visual tokens
PIXELS = 192
THOUGHT = (20, 40)  # words
BLOCK = 128


def tokens_of(segments: int) -> Tokens:
    """Metadata (L,) of a rendered split row: `segments` segments with a thought each, a query and its answer."""
    with checkpoint("qwen3_vl") as folder:
        spec = load_spec(folder)
        config = RenderConfig(layout="split", rule=RULE.name, scheme="group_decoupled", queries="kept")
        renderer = Renderer(AutoTokenizer.from_pretrained(folder), spec, config)
        sample = stream("video", segments, thought=THOUGHT, answer=20, seconds=SEGMENT)
        frames = round(SEGMENT * FPS)
        shapes = [
            spec.shape([s.start + i / FPS for i in range(frames)], PIXELS, PIXELS, FPS) for s in sample.segments()
        ]
        (row,) = renderer.rows(sample, shapes)
    return Tokens.of(row.meta)


def row_by_row(streams: list[int], unit: list[int], every: int = 1) -> torch.Tensor:
    """The baseline: additive float32 (1, 1, L, L); with `every`, only one row in so many: (1, 1, L / every, L)."""
    L = len(unit)
    shut = torch.finfo(torch.float32).min
    received = L - sum(streams)  # received tokens come first, in the order of their units
    ends: dict[int, int] = {}  # unit -> received tokens up to its end
    for slot in range(received):
        ends[unit[slot]] = slot + 1
    rows = range(0, L, every)
    mask = torch.zeros(1, 1, len(rows), L)
    for i, q in enumerate(rows):
        if q < received:
            row = [0.0] * (q + 1) + [shut] * (L - q - 1)
        else:
            seen = ends[unit[min(q + 1, L - 1)]]
            row = [0.0] * seen + [shut] * (received - seen) + [0.0] * (q + 1 - received) + [shut] * (L - q - 1)
        mask[0, 0, i] = torch.tensor(row)
    return mask


def broadcast(tokens: Tokens) -> torch.Tensor:
    """The predicate over all pairs at once, (L, L)."""
    return RULE.allowed(tokens[:, None], tokens[None, :])


def torch_block_mask(tokens: Tokens) -> Any:
    """A BlockMask of the same predicate by torch's own builder."""
    L = len(tokens.index)
    return create_block_mask(
        lambda b, h, q, k: RULE.allowed(tokens[q], tokens[k]), None, None, L, L, device="cpu", BLOCK_SIZE=BLOCK
    )


def spread(mask: Any, L: int) -> torch.Tensor:
    """A BlockMask as the dense (L, L) that the kernel applies: full blocks whole, partial ones by their mask_mod."""
    n = mask.kv_indices.shape[-1]

    def blocks(counts: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        listed = torch.zeros(n, n, dtype=torch.bool)
        for i in range(n):
            listed[i, indices[0, 0, i, : counts[0, 0, i]].long()] = True
        return listed.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:L, :L]

    slots = torch.arange(L)
    inside = mask.mask_mod(torch.zeros((), dtype=torch.long), None, slots[:, None], slots[None, :])
    full = blocks(mask.full_kv_num_blocks, mask.full_kv_indices)
    return full | (blocks(mask.kv_num_blocks, mask.kv_indices) & inside)


def check_equal(tokens: Tokens, every: int = 1) -> None:
    """All builders give one mask; of the baseline every `every`-th row is compared."""
    L = len(tokens.index)
    ours = dense_mask(RULE, tokens)
    theirs = row_by_row(tokens.stream.tolist(), tokens.unit.tolist(), every)[0, 0]
    assert torch.equal(ours[::every], theirs == 0), "the row-by-row mask differs from ours"
    assert torch.equal(ours, broadcast(tokens)), "the dense mask differs from its predicate"
    assert torch.equal(ours, spread(block_mask(RULE, tokens[None], BLOCK), L)), "the BlockMask differs from the mask"


def measure(segments: int, repeats: int, every: int, others: bool) -> dict[str, Any]:
    """Median CPU seconds of each builder for a row of `segments` segments, and the ratios to the baseline."""
    tokens = tokens_of(segments)
    streams, units = tokens.stream.tolist(), tokens.unit.tolist()
    runs: dict[str, Callable[[], object]] = {
        "row_by_row": lambda: row_by_row(streams, units, every),
        "dense": lambda: dense_mask(RULE, tokens),
        "block": lambda: block_mask(RULE, tokens[None], BLOCK),
    }
    if others:
        runs |= {"broadcast": lambda: broadcast(tokens), "create_block_mask": lambda: torch_block_mask(tokens)}
    seconds = take_turns(runs, repeats)
    seconds["row_by_row"] = [s * every for s in seconds["row_by_row"]]
    return {
        "tokens": len(tokens.index),
        "generated": int((tokens.stream == GENERATED).sum()),
        "rows_built_by_baseline": f"1/{every}",
        "seconds": {name: median(times) for name, times in seconds.items()},
        "ratio_dense": paired_ratio(seconds["row_by_row"], seconds["dense"]),
        "ratio_block": paired_ratio(seconds["row_by_row"], seconds["block"]),
    }


def main(
    sizes: tuple[tuple[int, int, int, bool], ...] = ((6, 5, 1, True), (21, 3, 1, True), (88, 3, 32, False)),
) -> str:
    """Compare and measure; `sizes` are (segments, repeats, every, others), the claim is about the second."""
    one_thread()
    check_equal(tokens_of(sizes[0][0]))
    results = [measure(*size) for size in sizes]
    names = list(results[0]["seconds"])
    print(
        table(
            ["tokens", *names, "dense: times faster", "block: times faster"],
            [
                [r["tokens"], *(r["seconds"].get(n, "-") for n in names), r["ratio_dense"], r["ratio_block"]]
                for r in results
            ],
        )
    )
    ratio = results[1]["ratio_dense"]
    details = {"unit": "CPU seconds", "rule": RULE.name, "sizes": results}
    return last_line("mask construction at 7k tokens, times faster", ratio, TARGET, ratio >= TARGET, details)


if __name__ == "__main__":
    print(main())
