"""One GRPO update over 64 episodes (8 rollouts of 8 samples) of 4, 8 and 16 turns.

Claim: at 8 turns with clips of 16 visual tokens, `recurrent_packed` takes at most a third of the time of a loop as
VST-RL has it, and gives the same gradient.

Baseline `vst_style`, after what is published of VST-RL (arXiv 2603.12262 and its code): one plain causal row a turn,
with the text memory and the turn's clip; the frozen tower encodes the clip of every row for the rollout, for a pass
that computes log-probs under the old weights, and for the update, nothing shared by rollouts. It gets what a tuned loop
would have: rows sorted by length, so that little is padded, and no mask, so that the attention kernel skips half. Ours
encodes each clip once, for rollouts and update. Where one update is made of a generation, the log-probs that the update
computes are the old ones, so ours has no pass for them. Of the rollout only the encoding is counted (the episodes are
random words), and there is no KL: its pass over a reference would come on top in both, and lower the ratio.

What the ratio depends on: the text memory is what is packed, so the more visual tokens a clip has, the lower it is.
Clips of 64 are in the table. With thousands, as in VST-RL, what stays is 4 + 3v against 3 + v / 8, for a tower and
merger that cost v times the language model's forward a visual token: about 1.7 to 2.2 for Qwen2.5-VL (v of 0.4 for 7B,
0.9 for 3B; 0.6 here). Against that, attention is a larger part of so small a model than of a real one (a tenth here),
and on a CPU the packed row's mask skips none of it.

The other rows of the table say where the time goes: `recurrent`, our loop with one row a turn; `in_context` (KV memory,
another model: its turns see the stream so far), the stream in one row; `in_context_apart`, one row a turn, each with
all that came before it (train.episodes.one_turn_a_row). They are timed once.

Every way makes the same number of micro-batches of about as many tokens each. Checked in the same run: the gradients of
`recurrent_packed`, `recurrent` and `vst_style` are equal, and so are those of the `in_context` pair (relative 1e-4).
Every update is made in a fork of this process, which has trained nothing before, so that the growth of its peak
resident memory is that of the update alone. Tokens are those that go through the language model, padding included, in
all passes.
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks._measure import last_line, one_thread, paired_ratio, table
from benchmarks._streams import WORDS, checkpoint, clips
from rewards.mix import Mixed
from train.collate import Collator
from train.episodes import Judged, TurnRow, one_turn_a_row, split_rows, turn_rows
from train.minimal_grpo import Settings, Tokens, log_probs, objective
from train.policies import ViewStore
from train.rows import Item
from whilst.attention import set_backend
from whilst.backbones.base import Backbone, freeze_vision, load
from whilst.backbones.tiny import Family
from whilst.episode import Episode, Turn
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Event, Query, Sample, Segment, Video

TARGET, AT = 3.0, 8  # times, at so many turns
CLAIM = ("recurrent_packed", "vst_style")
ALL = (*CLAIM, "recurrent", "in_context", "in_context_apart")
TOLERANCE = 1e-4
SECONDS, HEIGHT = 1.0, 64  # of a clip: two frames, so 4 visual tokens for every 16 pixels of width
THOUGHT, ANSWER = (20, 30), 4  # tokens
FAMILY: Family = "qwen3_vl"
SIZES = {
    "hidden": 160,
    "layers": 2,
    "heads": 1,
    "kv_heads": 1,
    "head_dim": 32,
    "intermediate": 832,
    "vision_depth": 2,
    "vision_hidden": 64,
    "vision_heads": 2,
    "vision_intermediate": 160,
}
PACKED = RenderConfig(layout="recurrent_packed", rule="text_memory")
RECURRENT = RenderConfig(layout="recurrent")
IN_CONTEXT = RenderConfig(layout="interleaved", rule="visual_window", rule_params={"budget": 64})


@dataclass(frozen=True)
class Shape:
    """What one update takes: `samples` times `rollouts` episodes of `turns` turns, in `parts` micro-batches.

    ways: those that are measured. clip: visual tokens of a clip.
    """

    turns: int
    ways: tuple[str, ...]
    clip: int = 16
    samples: int = 8
    rollouts: int = 8
    parts: int = 16


def episodes(shape: Shape, backbone: Backbone, seed: int = 0) -> list[Judged]:
    """Random episodes: a thought on every clip but the last, which a query is answered about. A sample's rollouts share
    its clips."""
    rng = random.Random(seed)

    def turn(role: str, n: int, segment: int) -> Turn:
        text = " ".join(rng.choices(WORDS, k=n))
        ids = tuple(backbone.tokenizer.encode(text, add_special_tokens=False))
        time, query = (segment + 1) * SECONDS, None if role == "thought" else "q"
        return Turn(role, time, segment, query, text, ids, True, (0.0,) * (len(ids) + 1))  # type: ignore[arg-type]

    made = []
    for i in range(shape.samples):
        sample = timeline(f"video-{i}", shape.turns)
        shown = tuple(clips(sample, HEIGHT, 4 * shape.clip, seed=i))
        for r in range(shape.rollouts):
            said = [turn("thought", rng.randint(*THOUGHT), k) for k in range(shape.turns - 1)]
            said.append(turn("answer", ANSWER, shape.turns - 1))
            made.append(Judged(Episode(sample, tuple(said), r), Mixed(0.0, {}), rng.gauss(0, 1), shown))
    return made


def timeline(name: str, turns: int) -> Sample:
    """`turns` segments, and a query after the last."""
    events: list[Event] = [Segment(k * SECONDS, (k + 1) * SECONDS) for k in range(turns)]
    end = turns * SECONDS
    question = " ".join(WORDS[:8])
    return Sample(name, Video(f"{name}.mp4"), (*events, Query("q", end, question), Answer(end, WORDS[0], "q")))


@dataclass(frozen=True)
class Way:
    """How the update is made: its rows, and how they go through the model."""

    rows: list[TurnRow]
    renderer: Renderer
    as_vst: bool = False


def ways(backbone: Backbone, shape: Shape) -> dict[str, Way]:
    """The ways to make the update."""
    judged = episodes(shape, backbone)

    def rows(config: RenderConfig) -> Way:
        renderer = Renderer(backbone.tokenizer, backbone.spec, config)
        return Way([row for one in judged for row in turn_rows(one, renderer)], renderer)

    def unshared(row: TurnRow) -> TurnRow:
        return replace(row, item=Item(row.item.row, tuple(map(replace, row.item.clips))))  # clips are told by identity

    recurrent, stream = rows(RECURRENT), rows(IN_CONTEXT)
    apart = [turn for row in stream.rows for turn in one_turn_a_row(row, backbone.spec)]
    found = {
        "recurrent_packed": rows(PACKED),
        "vst_style": replace(recurrent, rows=list(map(unshared, recurrent.rows)), as_vst=True),
        "recurrent": recurrent,
        "in_context": stream,
        "in_context_apart": replace(stream, rows=apart),
    }
    return {name: found[name] for name in shape.ways}


def update(backbone: Backbone, way: Way, parts: int) -> None:
    """Add the gradient of the token-mean clipped loss over all rows to the parameters'."""
    collator = Collator(backbone.spec, way.renderer.rule, backbone.backend, backbone.tokenizer.pad_token_id)
    batches = [part for part in split_rows(way.rows, parts) if part]
    settings, total = Settings(), sum(len(row.turns) for row in way.rows)

    def logps(rows: Sequence[TurnRow]) -> torch.Tensor:
        return log_probs(backbone, rows, without_mask if way.as_vst else collator, settings.temperature)

    def without_mask(packs: Sequence[Sequence[Item]]) -> dict[str, Any]:
        return collator(packs) | {"attention_mask": None}

    store = ViewStore(backbone)
    for rows in batches:  # what the rollouts encoded
        store.views(list({id(clip): clip for row in rows for clip in row.item.clips}.values()))
        if way.as_vst:
            store.clear()
    if way.as_vst:
        backbone.model.set_attn_implementation({"text_config": "sdpa", "vision_config": "sdpa"})
        with torch.no_grad():
            old = [logps(rows) for rows in batches]
    else:
        set_backend(backbone.model, "whilst_sdpa")
        collator.encoded = lambda clips: [view.features for view in store.views(clips)]
    for i, rows in enumerate(batches):
        now = logps(rows)
        advantage = torch.tensor([one.advantage for row in rows if (one := row.judged) for _ in row.turns])
        before = old[i] if way.as_vst else now.detach()
        tokens = Tokens(before, advantage, torch.full_like(advantage, 1 / total))
        objective(now, tokens, None, settings).backward()  # type: ignore[no-untyped-call]


# --- what an update takes ---------------------------------------------------------------------------------------------


@contextmanager
def counted(backbone: Backbone) -> Iterator[dict[str, int]]:
    """Counts what goes through the language model (tokens, padding included) and through the tower (patches)."""
    counts = {"tokens": 0, "patches": 0}

    def read(module: Any, args: Any, kwargs: Any) -> None:
        counts["tokens"] += kwargs["inputs_embeds"].shape[:2].numel()

    def looked(module: Any, args: Any, kwargs: Any) -> None:
        counts["patches"] += len(args[0])

    hooks = [
        backbone.core.language_model.register_forward_pre_hook(read, with_kwargs=True),
        backbone.core.visual.register_forward_pre_hook(looked, with_kwargs=True),
    ]
    yield counts
    for hook in hooks:
        hook.remove()


@dataclass(frozen=True)
class Cost:
    """Of one update: CPU seconds, tokens and patches, growth of peak memory (bytes), and its gradient."""

    seconds: float
    counts: Mapping[str, int]
    memory: int
    gradient: np.ndarray


def cost(backbone: Backbone, way: Way, parts: int) -> Cost:
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    with counted(backbone) as counts:
        started = time.process_time()
        update(backbone, way, parts)
        seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gradients = [p.grad.flatten() for p in backbone.model.parameters() if p.grad is not None]
    return Cost(seconds, counts, peak - before, torch.cat(gradients).numpy())


def in_a_fork(work: Callable[[], Cost]) -> Cost:
    """Work in a copy of this process: what it allocates and trains is gone afterwards."""
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(work()))
    process.start()
    sender.close()
    found: Cost = receiver.recv()
    process.join()
    return found


def check_equal(costs: Mapping[str, Cost]) -> dict[str, float]:
    """Relative differences of gradients that must be the same."""
    gaps = {}
    for name, of in (
        ("recurrent_packed", "recurrent"),
        ("vst_style", "recurrent_packed"),
        ("in_context_apart", "in_context"),
    ):
        if name not in costs or of not in costs:
            continue
        ours, theirs = costs[name].gradient, costs[of].gradient
        gaps[f"{name}/{of}"] = gap = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
        assert gap <= TOLERANCE, f"gradients of {name} and {of} differ by {gap} of their norm"
    return gaps


def measure(backbone: Backbone, shape: Shape, repeats: int) -> dict[str, Any]:
    """Compare and time the ways at one shape; the two of the claim in `repeats` turns, the others once."""
    every = ways(backbone, shape)
    costs: dict[str, list[Cost]] = {name: [] for name in every}
    for turn in range(repeats):
        names = [name for name in every if turn == 0 or name in CLAIM]
        for name in names if turn % 2 == 0 else names[::-1]:
            costs[name].append(in_a_fork(partial(cost, backbone, every[name], shape.parts)))
    gaps = check_equal({name: found[0] for name, found in costs.items()})
    seconds = {name: [one.seconds for one in found] for name, found in costs.items()}
    return {
        "turns": shape.turns,
        "clip": shape.clip,
        "episodes": shape.samples * shape.rollouts,
        "gradient_difference": gaps,
        "ways": {
            name: {
                "rows": len(way.rows),
                **costs[name][0].counts,
                "megabytes": median(one.memory for one in costs[name]) / 1e6,
                "seconds": median(seconds[name]),
                "vst_style_over": paired_ratio(seconds["vst_style"][: len(seconds[name])], seconds[name]),
            }
            for name, way in every.items()
        },
    }


RUNS = (
    (Shape(4, ALL), 1),
    (Shape(AT, ALL), 3),
    (Shape(16, (*CLAIM, "in_context")), 1),
    (Shape(AT, CLAIM, clip=64), 1),
)


def main(runs: Sequence[tuple[Shape, int]] = RUNS) -> str:
    """Compare and measure; `runs` are (shape, repeats), the claim is about the first with 8 turns."""
    one_thread()
    with checkpoint(FAMILY, **SIZES) as folder:
        backbone = load(folder)
    freeze_vision(backbone, "tower+merger")
    results = [measure(backbone, *run) for run in runs]
    worst = max(gap for result in results for gap in result["gradient_difference"].values())
    print(f"gradients that must be equal differ by at most {worst:.2g} of their norm")
    columns = ("rows", "tokens", "patches", "megabytes", "seconds", "vst_style_over")
    header = ["turns", "clip", "way", "rows", "tokens", "patches", "MB", "s", "vst_style / this"]
    lines = [[r["turns"], r["clip"], name, *(w[c] for c in columns)] for r in results for name, w in r["ways"].items()]
    print(table(header, lines))
    ratio = next(r["ways"]["recurrent_packed"]["vst_style_over"] for r in results if r["turns"] == AT)
    details = {"unit": "CPU seconds", "family": FAMILY, "sizes": results}
    return last_line(f"GRPO update at {AT} turns, times faster than VST-style", ratio, TARGET, ratio >= TARGET, details)


if __name__ == "__main__":
    print(main())
