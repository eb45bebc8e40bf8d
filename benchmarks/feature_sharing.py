"""Frames as features in rollouts of G = 8: every clip through the frozen vision tower once, or once a rollout.

Claim: where the 8 rollouts of a sample share its features, the tower takes at most a sixth of the time.

Baseline: the same policy on the same tasks with the same seeds, but no two rollouts share a clip, as where each rollout
sends its frames to the engine by itself. It still encodes all of its clips in one batch and each of them once, however
many turns show it, so what is compared is sharing over the group alone. The text of every episode must be the same and
log-probs differ by at most 1e-4 in both.

Timed are the encoding alone (frames to features: cutting into patches, tower, merger) and whole rollouts, of a thought
a segment and one answer. How much of a rollout the encoding is depends on the size of the tower, of clips and of texts:
a visual token costs this tower 0.6 times what it costs this language model, as in benchmarks/grpo_update.py. With clips
of 16 tokens the encoding is a few hundredths of a rollout, so whole rollouts are hardly faster; no claim is made of
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from benchmarks._measure import last_line, one_thread, paired_ratio, table, take_turns
from benchmarks._streams import checkpoint, clips
from benchmarks.grpo_update import FAMILY, SIZES, timeline
from train.policies import Limits, StreamPolicy, Task, ViewStore
from whilst.backbones.base import Backbone, load
from whilst.episode import Episode
from whilst.render import Renderer
from whilst.render_config import RenderConfig

TARGET = 6.0
TOLERANCE = 1e-4  # of log-probs: a batch of other clips may round differently
PIXELS = (64, 64)  # two frames a segment: 4 x 4 visual tokens
LIMITS = Limits(thought_tokens=24, answer_tokens=8)
CONFIG = RenderConfig(layout="recurrent_packed", rule="text_memory")


def tasks(samples: int, rollouts: int, segments: int) -> list[Task]:
    """`rollouts` tasks of each sample, which share its clips."""
    made = []
    for i in range(samples):
        sample = timeline(f"video-{i}", segments)
        shown = tuple(clips(sample, *PIXELS, seed=i))
        made += [Task(sample, shown, (0, i, r), rollout=r) for r in range(rollouts)]
    return made


def apart(shared: Sequence[Task]) -> list[Task]:
    """The same tasks, each with clips of its own."""
    return [replace(task, clips=tuple(map(replace, task.clips))) for task in shared]


def check_equal(ours: Sequence[Episode], theirs: Sequence[Episode]) -> float:
    """Largest difference of log-probs; the tokens must be the same."""
    gap = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine.turns, other.turns, strict=True):
            assert a.ids == b.ids, f"rollout {mine.rollout} of {mine.sample.id} says something else"
            gap = max([gap, *(abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True))])
    assert gap <= TOLERANCE, f"log-probs differ by {gap}"
    return gap


def measure(backbone: Backbone, samples: int, rollouts: int, segments: int, repeats: int) -> dict[str, Any]:
    """Compare and time encoding and whole rollouts, shared and apart."""
    shared = tasks(samples, rollouts, segments)
    ways = {"shared": shared, "apart": apart(shared)}
    renderer = Renderer(backbone.tokenizer, backbone.spec, CONFIG)
    policy = StreamPolicy(backbone, renderer, thinks=True, batch=len(shared))

    def encode(of: Sequence[Task]) -> int:
        store = ViewStore(backbone)
        store.views(list({id(clip): clip for task in of for clip in task.clips}.values()))
        return store.encoded

    def play(of: Sequence[Task]) -> list[Episode]:
        policy.sync()
        return policy.rollout(of, LIMITS)

    gap = check_equal(play(ways["shared"]), play(ways["apart"]))
    runs = {
        f"{what}/{name}": partial(work, of)
        for what, work in (("encode", encode), ("rollout", play))
        for name, of in ways.items()
    }
    seconds = take_turns(runs, repeats)
    return {
        "family": backbone.spec.family,
        "samples": samples,
        "rollouts": rollouts,
        "segments": segments,
        "clips": {name: encode(of) for name, of in ways.items()},
        "seconds": {name: median(times) for name, times in seconds.items()},
        "encode_ratio": paired_ratio(seconds["encode/apart"], seconds["encode/shared"]),
        "rollout_ratio": paired_ratio(seconds["rollout/apart"], seconds["rollout/shared"]),
        "log_prob_difference": gap,
    }


def main(samples: int = 4, rollouts: int = 8, segments: int = 4, repeats: int = 5) -> str:
    """Compare and measure."""
    one_thread()
    with checkpoint(FAMILY, **SIZES) as folder:
        backbone = load(folder)
    found = measure(backbone, samples, rollouts, segments, repeats)
    columns = ["features", "clips encoded", "encoding s", "rollouts s"]
    seconds = found["seconds"]
    lines = [[n, found["clips"][n], seconds[f"encode/{n}"], seconds[f"rollout/{n}"]] for n in ("shared", "apart")]
    print(table(columns, [*lines, ["apart / shared", "", found["encode_ratio"], found["rollout_ratio"]]]))
    ratio = found["encode_ratio"]
    details = {"unit": "CPU seconds", **found}
    return last_line(
        f"features shared by {rollouts} rollouts, encoding times faster", ratio, TARGET, ratio >= TARGET, details
    )


if __name__ == "__main__":
    print(main())
