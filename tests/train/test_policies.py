"""Sampling: the right distribution, each stream by its own generator; and policies that do not depend on the batch."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.streams import timeline
from tests.train.test_episodes import clips, policy_model, renderer_of
from train.perturb import perturbed
from train.policies import Limits, StreamPolicy, Task, ViewStore
from whilst.backbones.base import Backbone, BackboneError, ban_vision_tokens
from whilst.runtime import StreamBatch

__all__ = ["policy_model"]  # a fixture

LIMITS = Limits(thought_tokens=4, answer_tokens=3)
PACKED = "recurrent_packed-text_memory"


def tasks(rollouts: int = 3, **changes: Any) -> list[Task]:
    made = []
    for s, name in enumerate(("a", "b")):
        sample, shown = timeline(name), None
        shown = clips(sample, seed=s)
        made += [Task(sample, shown, (3, s, r), rollout=r, **changes) for r in range(rollouts)]
    return made


def test_an_episode_does_not_depend_on_its_batch(policy_model: Backbone) -> None:
    renderer = renderer_of(policy_model, PACKED)
    together = StreamPolicy(policy_model, renderer, thinks=True, batch=64).rollout(tasks(), LIMITS)
    alone = StreamPolicy(policy_model, renderer, thinks=True, batch=1).rollout(tasks(), LIMITS)
    other = StreamPolicy(policy_model, renderer, thinks=True, batch=4).rollout(tasks()[::-1], LIMITS)[::-1]
    for a, b, c in zip(together, alone, other, strict=True):
        assert [t.ids for t in a.turns] == [t.ids for t in b.turns] == [t.ids for t in c.turns]
        assert np.allclose(
            [x for t in a.turns for x in t.logprobs], [x for t in b.turns for x in t.logprobs], atol=1e-5
        )
    assert len({tuple(t.ids for t in e.turns) for e in together}) == len(together)  # rollouts differ


def test_turns_are_in_order_and_within_their_limits(policy_model: Backbone) -> None:
    renderer = renderer_of(policy_model, PACKED)
    (episode, *_) = StreamPolicy(policy_model, renderer, thinks=True).rollout(tasks(), LIMITS)
    told = [(t.role, t.segment, t.time, t.query) for t in episode.turns]
    assert told == [
        ("thought", 0, 1.0, None),
        ("answer", 0, 1.0, "q"),
        ("thought", 1, 2.5, None),
        ("answer", 1, 2.5, "standing"),
        ("thought", 2, 3.0, None),
        ("answer", 2, 3.0, "standing"),
        ("thought", 3, 4.0, None),
        ("answer", 3, 4.0, "standing"),
        ("answer", 3, 4.0, "last"),
    ]
    for turn in episode.turns:
        limit = LIMITS.thought_tokens if turn.role == "thought" else LIMITS.answer_tokens
        assert turn.tokens <= limit and (turn.finished or turn.tokens == limit)
        assert len(turn.logprobs) == turn.tokens and max(turn.logprobs) <= 0
    silent = StreamPolicy(policy_model, renderer, thinks=False).rollout(tasks(1), LIMITS)
    assert not any(e.thoughts for e in silent)


def test_no_memory_changes_answers_alone(policy_model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = renderer_of(policy_model, PACKED)
    lengths: list[int] = []
    ask = StreamBatch.ask

    def watched(self: StreamBatch, queries: Any, limit: int) -> Any:
        lengths.append(sum(memory.tokens for memory in self.memories))
        return ask(self, queries, limit)

    monkeypatch.setattr(StreamBatch, "ask", watched)
    policy = StreamPolicy(policy_model, renderer, thinks=True)
    whole = policy.rollout(tasks(1), LIMITS)
    assert lengths[-1] > 0
    lengths.clear()
    without = policy.rollout([perturbed(task, "no_memory") for task in tasks(1)], LIMITS)
    assert set(lengths) == {0}
    for a, b in zip(whole, without, strict=True):
        assert b.perturbation == "no_memory"
        # the memory comes back after each query: a first thought is drawn before any, so it is the same
        assert a.turns[0] == b.turns[0] and len(a.turns) == len(b.turns)


def test_frames_are_encoded_once_for_all_rollouts(policy_model: Backbone) -> None:
    renderer = renderer_of(policy_model, PACKED)
    policy = StreamPolicy(policy_model, renderer, thinks=True, batch=2)
    policy.rollout(tasks(rollouts=5), LIMITS)
    assert policy.store.encoded == 8  # two samples of four segments
    policy.sync()
    policy.rollout(tasks(rollouts=1), LIMITS)
    assert policy.store.encoded == 16  # the weights may have changed
    store = ViewStore(policy_model)
    shown = tasks(1)[0].clips
    first, again = store.views(shown), store.views(shown)
    assert all(a is b for a, b in zip(first, again, strict=True))


def test_banned_tokens_have_no_probability(checkpoint: Any) -> None:
    from whilst.backbones.base import load

    backbone = load(checkpoint)
    saved = set(backbone.model.state_dict())
    ban_vision_tokens(backbone.model, backbone.banned)
    ban_vision_tokens(backbone.model, backbone.banned)
    hidden = torch.randn(3, backbone.model.config.get_text_config().hidden_size)
    chance = backbone.logits(hidden).softmax(-1)
    assert not chance[:, list(backbone.banned)].any() and torch.allclose(chance.sum(-1), torch.ones(3))
    assert set(backbone.model.state_dict()) == saved
    assert "lm_head.bias" not in dict(backbone.model.named_parameters())
    head = backbone.model.get_output_embeddings()
    del head._buffers["bias"]
    head.register_parameter("bias", torch.nn.Parameter(torch.zeros(len(head.weight))))
    with pytest.raises(BackboneError, match="trained bias"):
        ban_vision_tokens(backbone.model, backbone.banned)
