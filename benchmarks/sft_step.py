"""One SFT step with our streaming mask, collator and positions, against the stock model on the same rows.

Claim: a step takes at most 1.10 times as long as with the stock model and a plain causal mask.

Baseline: transformers' own class with `sdpa`, as it comes: a collator that pads, a 2-D attention mask, token types from
which the model works out its M-RoPE positions, and plain causal attention. Same checkpoint, same tokens, same pixels
(cut by the same function in both collators), same head and loss on the same labels, same AdamW. Rows are rendered
beforehand in both; each clip stands once in a row, so both encode the same clips.

The ratio is that of the slowest setting of shape `batch`: rows of unequal length, padded, as in training. Without
padding stock passes no mask, and its kernel skips half of the attention; no rule but plain causal can do so on a CPU.
That is shape `one row` in the table, and attention is a far larger part of a tiny model's work than of a real one's. On
a GPU, FlexAttention's block mask skips what is not seen.

Checked in the same run: with rule `causal` and positions handed to both, both losses are the same (1e-4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, PreTrainedModel

from benchmarks._measure import last_line, one_thread, paired_ratio, table, take_turns
from benchmarks._streams import checkpoint, clips, stream
from train.collate import Collator, patchify_clips
from train.rows import Item
from whilst.backbones.base import VIDEO_PAD, Backbone, load
from whilst.backbones.tiny import Family
from whilst.clips import shapes
from whilst.render import IGNORE, Renderer
from whilst.render_config import RenderConfig
from whilst.visibility import Rule

TARGET = 1.10
TOLERANCE = 1e-4
PIXELS = (64, 64)  # two frames a segment: 4 x 4 visual tokens
THOUGHT, ANSWER = (4, 12), 4  # words
CONFIGS = (
    # queries are kept, so that the rows can also be run as plain causal ones, which know no branches
    RenderConfig(layout="split", rule="unit", scheme="group_decoupled", queries="kept"),
    RenderConfig(layout="interleaved", rule="visual_window", rule_params={"budget": 64}, queries="kept"),
)
VIDEO = 2  # token type of a video pad in transformers


@dataclass(frozen=True)
class Shape:
    """A batch: one row for each of `segments`, which says how many segments it has."""

    name: str
    segments: tuple[int, ...]


SHAPES = (Shape("batch", (4, 5, 5, 6, 6, 7, 8, 9)), Shape("one row", (32,)))


def render(backbone: Backbone, config: RenderConfig, shape: Shape) -> list[Item]:
    """The rows of a batch with their clips."""
    renderer = Renderer(backbone.tokenizer, backbone.spec, config)
    items = []
    for i, segments in enumerate(shape.segments):
        sample = stream(f"video-{i}", segments, thought=THOUGHT, answer=ANSWER, seed=i)
        shown = clips(sample, *PIXELS, seed=i)
        (row,) = renderer.rows(sample, shapes(shown, backbone.spec))
        items.append(Item(row, tuple(shown[clip] for clip in row.clips)))
    return items


def stock_collate(backbone: Backbone, items: Sequence[Item]) -> dict[str, Any]:
    """Rows padded to one length, as a collator for the stock model does it."""
    tokenizer = backbone.tokenizer
    pad = torch.nn.utils.rnn.pad_sequence
    ids = [torch.from_numpy(item.row.input_ids) for item in items]
    labels = [torch.from_numpy(item.row.labels) for item in items]
    input_ids = pad(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    return {
        "input_ids": input_ids,
        "labels": pad(labels, batch_first=True, padding_value=IGNORE),
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "mm_token_type_ids": (input_ids == tokenizer.convert_tokens_to_ids(VIDEO_PAD)).int() * VIDEO,
        "pixel_values_videos": patchify_clips(backbone.spec, [clip for item in items for clip in item.clips]),
        "video_grid_thw": torch.tensor([grid for item in items for grid in item.row.grids]),
    }


def loss_of(model: PreTrainedModel, batch: dict[str, Any]) -> torch.Tensor:
    """Mean loss over the labels; logits are made for them alone. Ours and stock differ in what `batch` holds."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "loss_weight")}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state
    labels = batch["labels"][:, 1:]
    learned = labels != IGNORE
    return cross_entropy(model.get_output_embeddings()(hidden[:, :-1][learned]), labels[learned])


def stepper(model: PreTrainedModel, collate: Callable[[], dict[str, Any]]) -> Callable[[], None]:
    """One whole training step: collate, forward, backward, clip, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        loss = loss_of(model, collate())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def check_equal(backbone: Backbone, stock: PreTrainedModel, items: Sequence[Item]) -> float:
    """Difference of the losses where both must compute the same: rule `causal`, and our positions handed to both."""
    plain = Collator(backbone.spec, Rule("causal"), backbone.backend, backbone.tokenizer.pad_token_id)
    batch, theirs = plain([[item] for item in items]), stock_collate(backbone, items)
    for name in ("input_ids", "labels", "pixel_values_videos", "video_grid_thw"):
        assert torch.equal(batch[name], theirs[name]), f"the two collators differ in {name}"
    with torch.no_grad():
        ours = loss_of(backbone.model, batch)
        gap = float((ours - loss_of(stock, theirs | {"position_ids": batch["position_ids"]})).abs())
    assert gap <= TOLERANCE, f"with the same mask and positions the losses differ by {gap}"
    return gap


def measure(
    backbone: Backbone, stock: PreTrainedModel, config: RenderConfig, shape: Shape, repeats: int
) -> dict[str, Any]:
    """Compare and time one setting."""
    items = render(backbone, config, shape)
    stock.load_state_dict(backbone.model.state_dict())  # the steps of an earlier setting have moved them apart
    gap = check_equal(backbone, stock, items)
    collator = Collator(backbone.spec, config.check(), backbone.backend, backbone.tokenizer.pad_token_id)
    runs = {
        "ours": stepper(backbone.model, lambda: collator([[item] for item in items])),
        "stock": stepper(stock, lambda: stock_collate(backbone, items)),
    }
    for run in runs.values():
        run()
    seconds = take_turns(runs, repeats)
    lengths = [len(item.row) for item in items]
    return {
        "family": backbone.spec.family,
        "rule": f"{config.layout}/{config.rule}",
        "shape": shape.name,
        "rows": len(lengths),
        "tokens": [min(lengths), max(lengths)],
        "seconds": {name: median(times) for name, times in seconds.items()},
        "ratio": paired_ratio(seconds["ours"], seconds["stock"]),
        "loss_difference_causal": gap,
    }


def main(
    families: Sequence[Family] = ("qwen3_vl", "qwen2_5_vl"), shapes: Sequence[Shape] = SHAPES, repeats: int = 11
) -> str:
    """Compare and measure; the claim is about the slowest setting of the first shape."""
    one_thread()
    results = []
    for family in families:
        with checkpoint(family) as folder:
            backbone = load(folder)
            stock = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        backbone.model.train()
        stock.train()
        for shape in shapes:
            results += [measure(backbone, stock, config, shape, repeats) for config in CONFIGS]
    columns = ("family", "rule", "shape", "rows", "tokens")
    print(
        table(
            [*columns, "ours s", "stock s", "ours / stock"],
            [[*(r[c] for c in columns), *r["seconds"].values(), r["ratio"]] for r in results],
        )
    )
    ratio = max(r["ratio"] for r in results if r["shape"] == shapes[0].name)
    return last_line(
        "SFT step, time ours / stock", ratio, TARGET, ratio <= TARGET, {"unit": "CPU seconds", "settings": results}
    )


if __name__ == "__main__":
    print(main())
