"""Each benchmark at tiny sizes: it runs, its checks hold and can fail, and its last line is what docs are made from.
Nothing here looks at how long anything took."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import (
    feature_sharing,
    grpo_update,
    long_stream,
    masks,
    parallel,
    rollout,
    sessions,
    sft_step,
    split_onepass,
    synth,
)
from benchmarks._measure import last_line, paired_ratio, table, take_turns
from benchmarks._streams import clips, stream
from train.episodes import Judged, TurnRow
from whilst.episode import Episode, Turn
from whilst.render import Renderer
from whilst.visibility import Rule, Tokens, dense_mask

UPDATE = grpo_update.Shape(grpo_update.AT, grpo_update.CLAIM, samples=1, rollouts=2, parts=2)
SMALL = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32, "intermediate": 96} | {
    f"vision_{name}": size for name, size in {"depth": 1, "hidden": 48, "heads": 4, "intermediate": 96}.items()
}
CORES: dict[str, Callable[[], str]] = {
    "feature_sharing": partial(feature_sharing.main, 1, 2, 2, 1),
    "grpo_update": partial(grpo_update.main, [(UPDATE, 2)]),
    "long_stream": partial(long_stream.main, 0.04),
    "masks": partial(masks.main, ((1, 1, 1, True), (2, 1, 4, False))),
    "sft_step": partial(sft_step.main, ("qwen3_vl",), (sft_step.Shape("batch", (1, 2)),), 1),
    "synth": partial(synth.main, (20, 40), 1, 10),
    "parallel": partial(parallel.main, parallel.SIZES | SMALL | {"initializer_range": 0.1}, 2, 1.0, 64, 1),
    "rollout": partial(rollout.main, rollout.CONFIGS[:1], 1, 3, 2, 1),
    "sessions": partial(sessions.main, 2, 4, 1),
    "split_onepass": partial(split_onepass.main, ((2, 1), (3, 1))),
}


@pytest.mark.parametrize("name", CORES)
def test_the_last_line_is_what_docs_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(CORES[name]())
    assert list(found) == ["name", "ratio", "target", "holds", "details"]
    assert isinstance(found["holds"], bool) and found["ratio"] > 0 and found["target"] > 0
    lines = capsys.readouterr().out.splitlines()[-3:]  # a table: a header and at least two rows
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1


def test_the_second_family_takes_a_step() -> None:
    found = json.loads(sft_step.main(("qwen2_5_vl",), (sft_step.Shape("batch", (1, 2)),), 1))
    assert {s["rule"] for s in found["details"]["settings"]} == {"split/unit", "interleaved/visual_window"}
    assert all(s["loss_difference_causal"] <= sft_step.TOLERANCE for s in found["details"]["settings"])


# --- masks ---


def test_masks_of_all_builders_are_equal() -> None:
    tokens = masks.tokens_of(2)
    assert len(tokens.index) > 4 * masks.BLOCK  # full, partial and empty blocks
    masks.check_equal(tokens)
    masks.check_equal(tokens, every=7)
    block = masks.block_mask(masks.RULE, tokens[None], masks.BLOCK)
    assert torch.equal(masks.torch_block_mask(tokens).to_dense(), block.to_dense())


def test_the_row_by_row_mask_is_additive_float32_and_follows_the_row_shift() -> None:
    stream_of, unit = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1]
    mask = masks.row_by_row(stream_of, unit)
    assert mask.shape == (1, 1, 8, 8) and mask.dtype == torch.float32
    shown = ["".join(".1"[int(value == 0)] for value in row) for row in mask[0, 0]]
    # the last token of the first generated unit (row 5) already sees the second received unit
    assert shown == ["1.......", "11......", "111.....", "1111....", "11..1...", "111111..", "1111111.", "11111111"]


def test_a_wrong_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(rule: Rule, tokens: Tokens) -> torch.Tensor:
        mask = dense_mask(rule, tokens)
        mask[-200, 0] = ~mask[-200, 0]
        return mask

    monkeypatch.setattr(masks, "dense_mask", leaky)
    with pytest.raises(AssertionError, match="differs from ours"):
        masks.check_equal(masks.tokens_of(1))


# --- SFT step and split rows ---


def test_a_different_loss_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock model under another rule than the one it has: the two no longer do the same work."""
    monkeypatch.setattr(sft_step, "Rule", lambda name: Rule("sink_window", {"sink": 1, "window": 4}))
    with pytest.raises(AssertionError, match="the losses differ"):
        CORES["sft_step"]()


def test_prefixes_under_another_rule_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain causal prefixes, as the released evaluation has them: old thoughts see later segments."""
    calls = iter(range(100))

    def build(backend: str, rule: Rule, tokens: Tokens) -> torch.Tensor:
        first = next(calls) == 0  # the row of the one pass; what follows are the prefixes
        return dense_mask(rule if first else Rule("causal"), tokens)[:, None]

    monkeypatch.setattr(split_onepass, "build_mask", build)
    with pytest.raises(AssertionError, match="losses differ"):
        split_onepass.main(((3, 1),))


# --- GRPO ---


def test_an_update_costs_what_its_way_says() -> None:
    """Two rollouts of a sample of 8 clips, each of 64 patches: ours encodes 8 clips; the baseline 16 for the rollout,
    16 for the old log-probs and 16 for the update. Its tokens go through the model twice."""
    shape = replace(UPDATE, ways=grpo_update.ALL)
    (result,) = json.loads(grpo_update.main([(shape, 1)]))["details"]["sizes"]
    ways = result["ways"]
    assert {name: way["rows"] for name, way in ways.items()} == {
        "recurrent_packed": 2,
        "vst_style": 16,
        "recurrent": 16,
        "in_context": 2,
        "in_context_apart": 16,
    }
    assert {name: way["patches"] // 64 for name, way in ways.items()} == {name: 8 for name in ways} | {"vst_style": 48}
    assert ways["vst_style"]["tokens"] == 2 * ways["recurrent"]["tokens"] > 3 * ways["recurrent_packed"]["tokens"]
    assert max(result["gradient_difference"].values()) <= grpo_update.TOLERANCE
    assert all(way["megabytes"] > 0 for way in ways.values())


def test_another_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed rows under the plain causal rule: turns see the clips and thoughts of earlier ones."""
    rows = grpo_update.turn_rows

    def causal(judged: Judged, renderer: Renderer) -> list[TurnRow]:
        made = rows(judged, renderer)
        renderer.rule = Rule("causal")
        return made

    monkeypatch.setattr(grpo_update, "turn_rows", causal)
    with pytest.raises(AssertionError, match="gradients of vst_style and recurrent_packed differ"):
        grpo_update.main([(UPDATE, 1)])


def test_rollouts_that_say_something_else_are_noticed() -> None:
    task = feature_sharing.tasks(1, 1, 2)[0]
    turn = Turn("answer", 2.0, 1, "q", "a", (1, 2), True, (-1.0, -1.0, -1.0))

    def episode(turn: Turn) -> Episode:
        return Episode(task.sample, (turn,))

    assert feature_sharing.check_equal([episode(turn)], [episode(turn)]) == 0
    with pytest.raises(AssertionError, match="says something else"):
        feature_sharing.check_equal([episode(turn)], [episode(replace(turn, ids=(1, 3)))])
    with pytest.raises(AssertionError, match="log-probs differ"):
        feature_sharing.check_equal([episode(turn)], [episode(replace(turn, logprobs=(-1.0, -1.0, -1.1)))])


def test_tasks_apart_share_no_clip() -> None:
    shared = feature_sharing.tasks(1, 3, 2)
    assert len({id(clip) for task in shared for clip in task.clips}) == 2
    assert len({id(clip) for task in feature_sharing.apart(shared) for clip in task.clips}) == 6


# --- what they share ---


def test_streams_are_the_same_every_time_and_differ_by_seed() -> None:
    sample = stream("a", 3, thought=(2, 4), answer=2)
    assert sample == stream("a", 3, thought=(2, 4), answer=2) != stream("a", 3, thought=(2, 4), answer=2, seed=1)
    first, again = clips(sample, 32, 48), clips(sample, 32, 48)
    assert [clip.images.shape for clip in first] == [(2, 32, 48, 3)] * 3
    assert all((a.images == b.images).all() for a, b in zip(first, again, strict=True))


def test_runs_take_turns() -> None:
    order: list[str] = []
    seconds = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_the_median_within_the_turns() -> None:
    assert paired_ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_table_and_last_line() -> None:
    assert table(["a", "bb"], [["x", 0.12345]]) == "a     bb\nx  0.123"
    assert json.loads(last_line("n", 1.23456, 2.0, False, {"x": [0.000123456, {"y": 3}]})) == {
        "name": "n",
        "ratio": 1.235,
        "target": 2.0,
        "holds": False,
        "details": {"x": [0.0001235, {"y": 3}]},
    }
