"""Rollouts by the `transformers` policy: 64 episodes in step, against one after the other.

Claim: 64 episodes in step make at least 4 times as many tokens a second, and they are the same tokens.

Baseline: the same policy with batch 1, on the same tasks with the same seeds. Both have the frames of all samples
encoded beforehand, outside the time, and both have their key-value caches. Episodes have a thought a segment and an
answer; turns end at different moments, so streams in step wait for each other, which is part of what is measured.

Tokens are those that are sampled, by CPU time on one thread: most of what is gained is that a forward of one token a
stream reads the weights once for all. Checked in the same run: every token is the same, and log-probs differ by at most
1e-4. (A token whose draw falls between two roundings would differ; with these seeds none does.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks._measure import last_line, one_thread, paired_ratio, table, take_turns
from benchmarks._streams import checkpoint
from benchmarks.feature_sharing import check_equal, tasks
from benchmarks.grpo_update import FAMILY, SIZES
from train.policies import Limits, StreamPolicy, Task
from whilst.backbones.base import Backbone, load
from whilst.render import Renderer
from whilst.render_config import RenderConfig

TARGET = 4.0
LIMITS = Limits(thought_tokens=24, answer_tokens=8)
ENDS = 1 / 16  # probability, about, that a turn ends at a token
CONFIGS = (
    RenderConfig(layout="recurrent_packed", rule="text_memory"),
    RenderConfig(layout="interleaved", rule="visual_window", rule_params={"budget": 64}),
)


def let_turns_end(backbone: Backbone) -> None:
    """An untrained model hardly ever samples the boundary token; make it do so with a probability of about ENDS."""
    head = backbone.model.get_output_embeddings()
    bias = torch.zeros(head.out_features)
    bias[backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")] = float(np.log(ENDS * head.out_features))
    head.register_parameter("bias", torch.nn.Parameter(bias, requires_grad=False))


def measure(backbone: Backbone, config: RenderConfig, of: Sequence[Task], repeats: int) -> dict[str, Any]:
    """Compare and time one layout."""
    renderer = Renderer(backbone.tokenizer, backbone.spec, config)
    policies = {
        name: StreamPolicy(backbone, renderer, thinks=True, batch=batch)
        for name, batch in (("in_step", len(of)), ("one_by_one", 1))
    }
    made = {name: policy.rollout(of, LIMITS) for name, policy in policies.items()}  # encodes the frames, for good
    gap = check_equal(made["in_step"], made["one_by_one"])
    tokens = sum(episode.tokens for episode in made["in_step"])
    seconds = take_turns({name: partial(policy.rollout, of, LIMITS) for name, policy in policies.items()}, repeats)
    turns = [turn for episode in made["in_step"] for turn in episode.turns]
    return {
        "rule": f"{config.layout}/{config.rule}",
        "episodes": len(of),
        "tokens": tokens,
        "finished": float(np.mean([turn.finished for turn in turns])),
        "seconds": {name: median(times) for name, times in seconds.items()},
        "tokens_per_second": {name: tokens / median(times) for name, times in seconds.items()},
        "ratio": paired_ratio(seconds["one_by_one"], seconds["in_step"]),
        "log_prob_difference": gap,
    }


def main(
    configs: Sequence[RenderConfig] = CONFIGS, samples: int = 8, rollouts: int = 8, segments: int = 2, repeats: int = 3
) -> str:
    """Compare and measure; the claim is about the layout that gains least."""
    one_thread()
    with checkpoint(FAMILY, **SIZES) as folder:
        backbone = load(folder)
    let_turns_end(backbone)
    of = tasks(samples, rollouts, segments)
    results = [measure(backbone, config, of, repeats) for config in configs]
    lines = [
        [r["rule"], name, r["tokens"], r["finished"], r["seconds"][name], r["tokens_per_second"][name]]
        for r in results
        for name in ("in_step", "one_by_one")
    ]
    print(table(["rule", "episodes", "tokens", "turns that end", "s", "tokens / s"], lines))
    ratio = min(r["ratio"] for r in results)
    details = {"unit": "CPU seconds", "family": FAMILY, "settings": results}
    return last_line(
        f"rollout, tokens a second of {len(of)} episodes in step over one by one",
        ratio,
        TARGET,
        ratio >= TARGET,
        details,
    )


if __name__ == "__main__":
    print(main())
