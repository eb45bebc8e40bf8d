"""Rollout == trainer, whatever the layout; and how episodes are cut into rows and micro-batches changes nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from rewards.mix import Mixed
from tests.streams import FPS, clips_of, timeline
from tests.whilst.test_equivalence import CONFIGS
from train.collate import Collator
from train.episodes import (
    Judged,
    TurnRow,
    Weighing,
    advantages,
    blank_row,
    collate_turns,
    has_spread,
    one_turn_a_row,
    pad_turns,
    split_rows,
    turn_rows,
)
from train.policies import Limits, StreamPolicy, Task
from train.rows import DataError
from whilst.backbones.base import Backbone, ban_vision_tokens, load
from whilst.clips import SegmentClip
from whilst.episode import Episode, Turn
from whilst.render import IGNORE, Renderer, RenderError
from whilst.render_config import MemoryCut, RenderConfig
from whilst.sample import Answer, Sample, Silence, Thought

LIMITS = Limits(thought_tokens=5, answer_tokens=3)


@pytest.fixture(scope="module")
def policy_model(checkpoint: Any) -> Backbone:
    """A model of its own: vision tokens banned, and turns that end about as often as they are cut off."""
    backbone = load(checkpoint)
    ban_vision_tokens(backbone.model, backbone.banned)
    with torch.no_grad():
        backbone.model.get_output_embeddings().bias[backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")] = 4.0
    add_fused_lm_head(backbone.model, outputs=("log_probs", "entropy"))
    return backbone


def renderer_of(backbone: Backbone, config: RenderConfig | str) -> Renderer:
    found = CONFIGS[config] if isinstance(config, str) else config
    if found.memory_tokens is not None:  # sampled bytes are longer as text: 5 of them fit, two thoughts often do not
        found = replace(found, memory_tokens=40)
    return Renderer(backbone.tokenizer, backbone.spec, found)


def clips(sample: Sample, seed: int = 0) -> tuple[SegmentClip, ...]:
    return tuple(SegmentClip(segment, images, times, FPS) for segment, images, times in clips_of(sample, seed))


def rolled_out(
    backbone: Backbone, renderer: Renderer, rollouts: int = 4, batch: int = 64, memory: str = ""
) -> list[Judged]:
    """Two samples' groups, with advantages as if scored by their lengths; the first sample starts with `memory`."""
    tasks = []
    for s, name in enumerate(("a", "b")):
        sample = replace(timeline(name), memory="" if s else memory)
        shown = clips(sample, seed=s)
        tasks += [Task(sample, shown, (7, s, r), rollout=r) for r in range(rollouts)]
    episodes = StreamPolicy(backbone, renderer, thinks=True, batch=batch).rollout(tasks, LIMITS)
    signal = advantages([float(e.tokens) for e in episodes], "mean_std")
    return [Judged(e, Mixed(0.0, {}), a, t.clips) for e, a, t in zip(episodes, signal, tasks, strict=True)]


def collator_of(backbone: Backbone, renderer: Renderer) -> Collator:
    return Collator(renderer.spec, renderer.rule, "whilst_sdpa", backbone.tokenizer.pad_token_id)


def logps_of(backbone: Backbone, batch: dict[str, Any]) -> torch.Tensor:
    """What the trainer computes: (n, T)."""
    outputs = backbone.model(**batch["forward"], fused_lm_head=True, use_cache=False)
    shape = batch["completion_mask"].shape
    return torch.zeros(shape.numel()).index_copy(0, batch["slots"], outputs.log_probs[0]).view(shape)


def gradient(
    backbone: Backbone, parts: Sequence[Sequence[TurnRow]], collator: Collator, weighing: Weighing
) -> dict[str, torch.Tensor]:
    """Of sum(weight * advantage * log-prob) over all micro-batches."""
    backbone.model.zero_grad()
    for part in parts:
        batch = collate_turns(part, collator, weighing)
        (batch["completion_mask"] * batch["advantages"] * logps_of(backbone, batch)).sum().backward()
    return {name: p.grad.clone() for name, p in backbone.model.named_parameters() if p.grad is not None}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert a.keys() == b.keys()
    size = max(float(value.abs().max()) for value in a.values())
    assert size > 1e-3
    for name in a:
        assert float((a[name] - b[name]).abs().max()) <= tolerance * size, name


# --- rollout == trainer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_rollout_logprobs_are_the_trainers(policy_model: Backbone, name: str) -> None:
    renderer = renderer_of(policy_model, name)
    judged = rolled_out(policy_model, renderer)
    turns = [turn for one in judged for turn in one.episode.turns]
    if name.endswith("packed-text_memory-capped"):  # FIFO took something away somewhere
        assert any(len(turn_rows(one, renderer)) > 1 for one in judged)
    assert {turn.finished for turn in turns} == {True, False}  # both ways to end a turn are there
    assert any(not turn.ids for turn in turns) and len({turn.ids for turn in turns}) > 10
    rows = [row for one in judged for row in turn_rows(one, renderer)]
    batch = collate_turns(rows, collator_of(policy_model, renderer), Weighing("dapo"))
    assert int(batch["sampled"].sum()) == sum(turn.tokens for turn in turns)
    with torch.no_grad():
        gap = (logps_of(policy_model, batch) - batch["sampling_logps"]).abs()[batch["sampled"]]
    assert float(gap.max()) <= 1e-5


@pytest.mark.parametrize("name", ["interleaved-visual_window-kept", "split-unit-batch-branch", "recurrent-causal"])
def test_rollouts_start_with_text_memory_as_rows_do(policy_model: Backbone, name: str) -> None:
    renderer = renderer_of(policy_model, name)
    renderer = renderer_of(policy_model, replace(renderer.config, memory_cut=MemoryCut(2, 2)))
    judged = rolled_out(policy_model, renderer, memory="in-1 none . out-2 blue-square .")
    rows = [row for one in judged for row in turn_rows(one, renderer)]
    batch = collate_turns(rows, collator_of(policy_model, renderer), Weighing("dapo"))
    with torch.no_grad():
        gap = (logps_of(policy_model, batch) - batch["sampling_logps"]).abs()[batch["sampled"]]
    assert float(gap.max()) <= 1e-5
    judged[0] = replace(judged[0], episode=replace(judged[0].episode, sample=timeline("a")))  # its rows without it
    rows = [row for one in judged[:1] for row in turn_rows(one, renderer)]
    batch = collate_turns(rows, collator_of(policy_model, renderer), Weighing("dapo"))
    with torch.no_grad():
        gap = (logps_of(policy_model, batch) - batch["sampling_logps"]).abs()[batch["sampled"]]
    assert float(gap.max()) > 1e-3


def test_rollout_of_another_rendering_is_noticed(policy_model: Backbone) -> None:
    """The equality above can fail: the same episodes under the causal rule instead of the window."""
    renderer = renderer_of(policy_model, "interleaved-last_segments-branch")
    judged = rolled_out(policy_model, renderer)
    other = Renderer(renderer.tokenizer, renderer.spec, replace(renderer.config, rule="causal", rule_params={}))
    rows = [row for one in judged for row in turn_rows(one, other)]
    batch = collate_turns(rows, collator_of(policy_model, other), Weighing("dapo"))
    with torch.no_grad():
        gap = (logps_of(policy_model, batch) - batch["sampling_logps"]).abs()[batch["sampled"]]
    assert float(gap.max()) > 1e-3


# --- rows and micro-batches are neutral -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dapo", "grpo", "dr_grpo", "gspo", "cispo"])
def test_packed_episodes_give_the_gradient_of_separate_turns(policy_model: Backbone, kind: Any) -> None:
    packed, apart = (
        renderer_of(policy_model, "recurrent_packed-text_memory"),
        renderer_of(policy_model, "recurrent-causal"),
    )
    judged = rolled_out(policy_model, packed)
    weighing = Weighing(kind, most_tokens=60)
    rows = [[row for one in judged for row in turn_rows(one, renderer)] for renderer in (packed, apart)]
    assert len(rows[0]) == len(judged) and len(rows[1]) == sum(len(one.episode.turns) for one in judged)
    together, separate = (
        gradient(policy_model, [of], collator_of(policy_model, renderer), weighing)
        for of, renderer in zip(rows, (packed, apart), strict=True)
    )
    assert_equal(together, separate)


@pytest.mark.parametrize("name", ["interleaved-causal-kept", "interleaved-last_segments-kept"])
def test_turn_rows_equal_one_row_when_the_context_only_grows(policy_model: Backbone, name: str) -> None:
    renderer = renderer_of(policy_model, name)
    judged = rolled_out(policy_model, renderer)
    merged = [row for one in judged for row in turn_rows(one, renderer)]
    apart = [row for one in merged for row in one_turn_a_row(one, renderer.spec)]
    assert len(apart) == sum(len(one.episode.turns) for one in judged) > len(merged) == len(judged)
    collator, weighing = collator_of(policy_model, renderer), Weighing("dapo")
    assert_equal(
        gradient(policy_model, [merged], collator, weighing), gradient(policy_model, [apart], collator, weighing)
    )


@pytest.mark.parametrize("kind", ["dapo", "grpo"])
def test_rows_may_lie_in_any_micro_batch(policy_model: Backbone, kind: Any) -> None:
    renderer = renderer_of(policy_model, "recurrent-causal")
    rows = [row for one in rolled_out(policy_model, renderer) for row in turn_rows(one, renderer)]
    collator, weighing = collator_of(policy_model, renderer), Weighing(kind, most_tokens=60)
    whole = gradient(policy_model, [rows], collator, weighing)
    mixed = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert_equal(whole, gradient(policy_model, split_rows(mixed, 3), collator, weighing))
    # dummy rows and dummy turns add nothing
    blank = blank_row(renderer, FPS)
    backbone = policy_model
    backbone.model.zero_grad()
    batch = collate_turns([*rows, blank], collator, weighing)
    pad_turns(batch, len(batch["names"]) + 5)
    (batch["completion_mask"] * batch["advantages"] * logps_of(backbone, batch)).sum().backward()
    assert_equal(whole, {n: p.grad.clone() for n, p in backbone.model.named_parameters() if p.grad is not None})


def test_a_blank_micro_batch_has_a_gradient_of_zero_for_every_weight(policy_model: Backbone) -> None:
    renderer = renderer_of(policy_model, "recurrent-causal")
    found = gradient_of_blank(policy_model, renderer)
    assert found.keys() == {name for name, p in policy_model.model.named_parameters() if p.requires_grad}
    assert all(not value.any() for value in found.values())


def gradient_of_blank(backbone: Backbone, renderer: Renderer) -> dict[str, torch.Tensor]:
    return gradient(backbone, [[blank_row(renderer, FPS)]], collator_of(backbone, renderer), Weighing("dapo"))


def test_split_rows_balances_and_loses_nothing(policy_model: Backbone) -> None:
    renderer = renderer_of(policy_model, "recurrent-causal")
    rows = [row for one in rolled_out(policy_model, renderer) for row in turn_rows(one, renderer)]
    parts = split_rows(rows, 4)
    assert sorted(id(row) for part in parts for row in part) == sorted(map(id, rows))
    sizes = [sum(len(row) for row in part) for part in parts]
    longest = max(map(len, rows))
    assert max(sizes) - min(sizes) <= 2 * longest
    assert split_rows([], 3) == [[], [], []]


# --- sampled tokens, not texts ----------------------------------------------------------------------------------------


def turn(
    role: Any, time: float, segment: int, text: str, ids: Sequence[int], query: str | None = None, **k: Any
) -> Turn:
    return Turn(role, time, segment, query, text, tuple(ids), k.pop("finished", True), **k)


def test_rows_hold_the_sampled_ids_even_where_the_text_is_encoded_otherwise(backbone: Backbone) -> None:
    renderer = renderer_of(backbone, "recurrent_packed-text_memory")
    word, other = backbone.tokenizer.encode("now"), backbone.tokenizer.encode("n") + backbone.tokenizer.encode("ow")
    assert word != other and backbone.tokenizer.decode(other) == "now"
    sample = replace(timeline(), events=timeline().events[:1])
    episode = Episode(sample, (turn("thought", 1.0, 0, "now", other),))
    (row,) = turn_rows(Judged(episode, Mixed(0.0, {}), 1.0, clips(sample)), renderer)
    learned = row.item.row.labels[row.item.row.labels != IGNORE].tolist()
    assert learned == [*other, renderer.boundary] and row.places.tolist() == list(range(len(other) + 1))


def test_a_turn_that_was_cut_off_has_no_boundary_to_learn(backbone: Backbone) -> None:
    sample = replace(timeline(), events=timeline().events[:1])
    word = backbone.tokenizer.encode("now")
    episode = Episode(sample, (turn("thought", 1.0, 0, "now", word, finished=False),))
    for name, ends in (("recurrent-causal", word), ("interleaved-causal-kept", [*word, None])):
        renderer = renderer_of(backbone, name)
        (row,) = turn_rows(Judged(episode, Mixed(0.0, {}), 1.0, clips(sample)), renderer)
        tokens = row.item.row
        assert tokens.labels[tokens.labels != IGNORE].tolist() == word
        # a growing stream goes on behind the turn: its boundary token is written, without loss
        assert tokens.input_ids[-1] == (renderer.boundary if ends[-1] is None else word[-1])


def test_turns_that_are_not_the_episodes_are_refused(backbone: Backbone) -> None:
    renderer, sample = renderer_of(backbone, "recurrent-causal"), timeline()
    views = [clip.shape(renderer.spec) for clip in clips(sample)]
    said = [e for e in sample.events if isinstance(e, Thought | Answer | Silence)]
    turns = [turn("thought", 0.0, 0, getattr(e, "text", ""), renderer.encode(getattr(e, "text", ""))) for e in said]
    assert renderer.rows(sample, views, turns)
    with pytest.raises(RenderError, match="the sampled turn is None"):
        renderer.rows(sample, views, turns[:-1])
    with pytest.raises(RenderError, match="2 more sampled turns"):
        renderer.rows(sample, views, [*turns, turns[0], turns[0]])
    with pytest.raises(RenderError, match="says 'in-1 red-circle .', but the sampled turn is 'red-circle'"):
        renderer.rows(sample, views, turns[1:])


def test_rows_of_other_tokens_than_were_sampled(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = renderer_of(backbone, "recurrent-causal")
    sample = replace(timeline(), events=timeline().events[:1])
    word = backbone.tokenizer.encode("now")
    judged = Judged(Episode(sample, (turn("thought", 1.0, 0, "now", word),)), Mixed(0.0, {}), 1.0, clips(sample))
    monkeypatch.setattr(Renderer, "sampled", lambda self, turn, role, closed: self.generated("none", role))
    with pytest.raises(DataError, match="sample a: rendered tokens are not those that were sampled"):
        turn_rows(judged, renderer)


# --- advantages and weights -------------------------------------------------------------------------------------------


def test_advantages() -> None:
    assert advantages([1.0, 0.0, 0.0, 1.0], "mean") == [0.5, -0.5, -0.5, 0.5]
    # mean 2, sample standard deviation sqrt((4 + 0 + 4) / 2) = 2
    assert advantages([0.0, 2.0, 4.0], "mean_std") == pytest.approx([-2 / 2.0001, 0.0, 2 / 2.0001])
    assert has_spread([0.0, 0.1]) and not has_spread([0.3, 0.3])


def test_weights_by_loss_type(backbone: Backbone) -> None:
    sample = timeline()
    short = Episode(sample, (turn("thought", 1.0, 0, "a", [1]), turn("answer", 1.0, 0, "b", [2], "q")))  # 2 + 2 tokens
    long = Episode(sample, (turn("thought", 1.0, 0, "abc", [1, 2, 3]),))  # 4 tokens
    cut = Episode(sample, (turn("thought", 1.0, 0, "ab", [1, 2], finished=False),))  # 2 tokens
    episodes = (short, long, cut)

    def loss(weighing: Weighing) -> list[float]:
        """What each episode's tokens add up to, over the divisor."""
        norm = weighing.norm(episodes)
        return [sum(weighing.weight(e, t) * t.tokens for t in e.turns) / norm for e in episodes]

    assert loss(Weighing("dapo")) == pytest.approx([0.4, 0.4, 0.2])  # by tokens
    assert loss(Weighing("grpo", most_tokens=20)) == pytest.approx([1 / 3, 1 / 3, 1 / 3])  # by episodes
    assert loss(Weighing("dr_grpo", most_tokens=20)) == pytest.approx([4 / 60, 4 / 60, 2 / 60])  # 3 episodes of 20
    assert loss(Weighing("dapo", cut_off="mask")) == pytest.approx([0.5, 0.5, 0.0])
    assert loss(Weighing("dapo", roles=("answer",))) == pytest.approx([1.0, 0.0, 0.0])
    assert Weighing("gspo", most_tokens=20).weight(short, short.turns[0]) >= 1  # upstream clamps a turn's sum to 1


def test_lived_sample() -> None:
    sample = timeline()
    turns = (
        turn("thought", 1.0, 0, "x", [1]),
        turn("answer", 1.0, 0, "y", [1], "q"),
        turn("thought", 2.5, 1, "", []),
        turn("answer", 2.5, 1, "", [], "standing"),
        turn("thought", 3.0, 2, "z", [1]),
        turn("answer", 3.0, 2, "now", [1], "standing"),
    )
    lived = Episode(sample, turns).lived()
    told = [(type(e).__name__, getattr(e, "time", None), getattr(e, "text", None)) for e in lived.events]
    assert told == [
        ("Segment", 1.0, None),
        ("Thought", 1.0, "x"),
        ("Query", 1.0, "which in-1 ?"),
        ("Answer", 1.0, "y"),
        ("Segment", 2.5, None),
        ("Silence", 2.5, None),
        ("Query", 2.5, "tell-when out red-circle ?"),
        ("Silence", 2.5, None),
        ("Segment", 3.0, None),
        ("Thought", 3.0, "z"),
        ("Answer", 3.0, "now"),
        ("Segment", 4.0, None),
    ]
