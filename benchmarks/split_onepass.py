"""Training on a split row in one pass, against encoding each unit's prefix anew.

Claim: with rule `unit`, one forward and backward over one row gives the loss of every unit; at 128 units it takes at
most a thirtieth of the time of one pass a unit.

Baseline: for every unit u, a row of what had been received and generated up to u, with the loss on u alone, and a
forward and backward over it. This is what the evaluation of Speak-While-Watching does (without the backward, and with a
plain causal mask, which lets old answers see later frames; here it has the rule's mask, so that both compute the same).
The prefixes are rendered from the sample cut at u, beforehand; visual features are encoded once and given to both, so
the baseline's encoding each clip again and again is not counted.

Checked in the same run: the loss of every token (1e-4) and the gradient of their sum (relative 1e-3) are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks._measure import last_line, one_thread, paired_ratio, table, take_turns
from benchmarks._streams import checkpoint, clips, stream
from whilst.attention import build_mask
from whilst.backbones.base import Backbone, Features, load
from whilst.clips import shapes
from whilst.render import IGNORE, Renderer, TokenRow
from whilst.render_config import RenderConfig
from whilst.sample import Sample, Thought
from whilst.visibility import Rule, Tokens

TARGET = 30.0
PIXELS = (32, 48)  # two frames a segment: 2 x 3 visual tokens
THOUGHT = (2, 4)  # words
SIZES = {"layers": 2, "heads": 2, "kv_heads": 1}  # of the tiny model: the baseline takes a while
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3


@dataclass(frozen=True)
class Work:
    """A row, its features, and which labels carry the loss: (L,) bool."""

    row: TokenRow
    features: Features
    learned: np.ndarray


def one_pass(renderer: Renderer, sample: Sample, parts: Sequence[Features], height: int, width: int) -> list[Work]:
    """The whole sample in one row."""
    (row,) = renderer.rows(sample, shapes(clips(sample, height, width), renderer.spec))
    return [Work(row, Features.cat(parts), row.labels != IGNORE)]


def prefixes(renderer: Renderer, sample: Sample, parts: Sequence[Features], height: int, width: int) -> list[Work]:
    """One row a unit: the sample cut after that unit's thought, with the loss on that thought."""
    ends = [i + 1 for i, event in enumerate(sample.events) if isinstance(event, Thought)]
    works = []
    for unit, end in enumerate(ends):
        (whole,) = one_pass(renderer, sample.with_events(sample.events[:end]), parts[: unit + 1], height, width)
        works.append(Work(whole.row, whole.features, whole.learned & (whole.row.meta["unit"] == unit)))
    return works


def step(backbone: Backbone, rule: Rule, works: Sequence[Work]) -> torch.Tensor:
    """Forward and backward of each row on its own; the losses of all learned tokens, in order. Gradients add up."""
    losses = []
    for work in works:
        row = work.row
        hidden = backbone.hidden(
            torch.from_numpy(row.input_ids)[None],
            torch.from_numpy(row.positions)[:, None],
            build_mask(backbone.backend, rule, Tokens.of(row.meta)[None]),
            torch.from_numpy(row.visual_index >= 0)[None],
            work.features,
        )[0]
        slots = torch.from_numpy(np.flatnonzero(work.learned))
        loss = cross_entropy(
            backbone.logits(hidden[slots - 1]), torch.from_numpy(row.input_ids)[slots], reduction="none"
        )
        loss.sum().backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    return torch.cat(losses)


def gradient(backbone: Backbone) -> torch.Tensor:
    """All gradients of the language model as one vector, which are then forgotten."""
    found = torch.cat([p.grad.flatten() for p in backbone.model.parameters() if p.grad is not None])
    backbone.model.zero_grad()
    return found


def measure(backbone: Backbone, units: int, repeats: int) -> dict[str, Any]:
    """Compare the two ways at `units` units, then time them."""
    config = RenderConfig(layout="split", rule="unit", scheme="group_decoupled")
    renderer = Renderer(backbone.tokenizer, backbone.spec, config)
    sample = stream("video", units, thought=THOUGHT)
    with torch.no_grad():
        made = clips(sample, *PIXELS)
        pixels = torch.cat([backbone.spec.patchify(clip.images) for clip in made])
        features = backbone.encode(pixels, torch.tensor([shape.grid for shape in shapes(made, backbone.spec)]))
        parts = features.split([backbone.spec.merged(shape).tokens for shape in shapes(made, backbone.spec)])
    ours = one_pass(renderer, sample, parts, *PIXELS)
    theirs = prefixes(renderer, sample, parts, *PIXELS)

    backbone.model.zero_grad()
    losses, gradients = zip(
        *((step(backbone, renderer.rule, works), gradient(backbone)) for works in (ours, theirs)), strict=True
    )
    assert losses[0].shape == losses[1].shape, "the two ways do not learn the same tokens"
    loss_gap = float((losses[0] - losses[1]).abs().max())
    gradient_gap = float((gradients[0] - gradients[1]).norm() / gradients[1].norm())
    assert loss_gap <= LOSS_TOLERANCE, f"per-token losses differ by {loss_gap}"
    assert gradient_gap <= GRADIENT_TOLERANCE, f"gradients differ by {gradient_gap} of their norm"

    def run(works: Sequence[Work]) -> None:
        step(backbone, renderer.rule, works)
        backbone.model.zero_grad()

    seconds = take_turns({"one_pass": lambda: run(ours), "prefixes": lambda: run(theirs)}, repeats)
    return {
        "units": units,
        "tokens": len(ours[0].row),
        "prefix_tokens": sum(len(work.row) for work in theirs),
        "learned": int(losses[0].numel()),
        "seconds": {name: median(times) for name, times in seconds.items()},
        "ratio": paired_ratio(seconds["prefixes"], seconds["one_pass"]),
        "max_loss_difference": loss_gap,
        "relative_gradient_difference": gradient_gap,
    }


def main(sizes: tuple[tuple[int, int], ...] = ((8, 9), (32, 5), (128, 3))) -> str:
    """Compare and measure; `sizes` are (units, repeats), the claim is about the last."""
    one_thread()
    with checkpoint("qwen2_5_vl", **SIZES) as folder:
        backbone = load(folder)
    results = [measure(backbone, *size) for size in sizes]
    columns = ("units", "tokens", "prefix_tokens", "learned")
    print(
        table(
            [*columns, "one pass s", "prefixes s", "times faster", "loss difference"],
            [[*(r[c] for c in columns), *r["seconds"].values(), r["ratio"], r["max_loss_difference"]] for r in results],
        )
    )
    ratio = results[-1]["ratio"]
    details = {"unit": "CPU seconds", "family": "qwen2_5_vl", "sizes": results}
    return last_line(
        f"split row in one pass, times faster at {sizes[-1][0]} units", ratio, TARGET, ratio >= TARGET, details
    )


if __name__ == "__main__":
    print(main())
