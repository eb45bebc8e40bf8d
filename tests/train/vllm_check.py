"""Whilst and vLLM give the same log-probs for the same tokens: run by tests/train/test_vllm_policy.py, with the
interpreter of an environment that has vLLM (WHILST_VLLM_PYTHON), once a family.

    python tests/train/vllm_check.py qwen3_vl          # colocated
    python tests/train/vllm_check.py qwen3_vl server   # `vllm serve` on this machine; no weight sync without CUDA

Prints one line of JSON: the largest gap between log-probs of sampled tokens (nats) in each case. In float32, so that a
gap is an error and not rounding.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from accelerate import Accelerator

from tests.streams import frames, timeline
from train.policies import Limits, Task
from train.vllm_policy import Prompt, Sampled, VLLMPolicy, VLLMSettings
from train.vllm_weights import Server, check_server, connect
from whilst.backbones.base import Backbone, add_lora, load
from whilst.backbones.tiny import build_tiny
from whilst.chunks import Numbering, Role, TurnFormat
from whilst.clips import SegmentClip
from whilst.episode import Episode
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.runtime import encode_clips
from whilst.visibility import GENERATED, RECEIVED

WORDS = ("in-1", "in-2", "out-1", "red-circle", "blue-square", "none", "now", "unknown", "which", "tell-when", ".", "?")
SETTINGS = VLLMSettings(max_model_len=1024, max_num_seqs=16, dtype="float32", enforce_eager=True)
# of 40 x 56 pixels, so that frames are resized; a segment of one frame; a memory that overflows
CONFIG = RenderConfig(layout="recurrent", memory_tokens=90, format=TurnFormat(segment="Time={start:.1f}\n"))


def tasks(no_memory: bool = False) -> list[Task]:
    made = []
    for i in range(4):
        sample = replace(timeline(f"s{i}"), memory="in-1 none .\n" if i % 2 else "")
        rng = np.random.default_rng(i)
        clips = []
        for segment in sample.segments():
            n = round((segment.end - segment.start) * 2)
            times = tuple(segment.start + k / 2 for k in range(n))
            clips.append(SegmentClip(segment, frames(rng, n, 40, 56), times, 2.0))
        made.append(Task(sample, tuple(clips), (7, i), rollout=i, no_memory=no_memory and i == 0))
    return made


@torch.no_grad()
def logprobs(
    backbone: Backbone, renderer: Renderer, prompt: Prompt, ids: Sequence[int], temperature: float
) -> np.ndarray:
    """Log-probs (n,) of sampled ids after a prompt, by one causal forward of Whilst."""
    numbering = Numbering(renderer.scheme())
    said = renderer.tokens(ids, Role.THOUGHT)
    stamps = numbering.stamp(prompt.chunk, RECEIVED), numbering.stamp(said, GENERATED)
    tokens = torch.tensor([*prompt.ids, *ids])
    visual = torch.cat([torch.from_numpy(prompt.chunk.roles == Role.VISION), torch.zeros(len(ids), dtype=torch.bool)])
    views = encode_clips(backbone, [(c.segment, c.images, c.times) for c in [prompt.clip] if c], 2.0)
    hidden = backbone.hidden(
        tokens[None],
        torch.from_numpy(np.concatenate([s["positions"] for s in stamps], axis=1))[:, None],
        torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()[None, None],
        visual[None],
        views[0].features if views else None,
    )
    logits = backbone.logits(hidden[0, len(prompt.chunk) - 1 : -1]).float() / temperature
    logits[:, list(backbone.banned)] = -torch.inf
    scores = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
    return np.asarray(scores)


class Watched:
    """An engine whose prompts and replies are kept."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.seen: list[tuple[Prompt, Sampled]] = []
        self.sync, self.awake, self.shared = engine.sync, engine.awake, engine.shared

    def generate(self, prompts: Sequence[Prompt], sampling: Sequence[Any]) -> list[Sampled]:
        replies: list[Sampled] = self.engine.generate(prompts, sampling)
        self.seen += zip(prompts, replies, strict=True)
        return replies


def said(episodes: Sequence[Episode]) -> list[tuple[int, ...]]:
    return [turn.ids for episode in episodes for turn in episode.turns]


class Check:
    def __init__(self, backbone: Backbone, renderer: Renderer, policy: VLLMPolicy) -> None:
        self.backbone, self.renderer, self.policy = backbone, renderer, policy
        self.watched = Watched(policy.engine)
        policy.engine = self.watched
        self.gaps: dict[str, float] = {}
        self.tokens = 0

    def run(self, name: str, temperature: float = 1.0, **options: bool) -> list[Episode]:
        """Roll out and keep the largest gap of all sampled tokens under `name`."""
        self.watched.seen.clear()
        episodes = self.policy.rollout(tasks(**options), Limits(8, 6, temperature))
        gap = 0.0
        for prompt, reply in self.watched.seen:
            ours = logprobs(self.backbone, self.renderer, prompt, reply.ids, temperature)
            gap = max(gap, float(np.abs(ours - np.array(reply.logprobs)).max()))
            self.tokens += len(reply.ids)
        self.gaps[name] = round(gap, 7)
        return episodes


def jitter(model: Any, seed: int, size: float) -> None:
    """Move every weight, of the tower too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def colocated(check: Check) -> None:
    backbone, policy, run = check.backbone, check.policy, check.run
    policy.sync()
    first = run("start")
    assert said(first) == said(run("again")), "same seeds, other tokens"
    run("temperature", 0.7, no_memory=True)
    jitter(backbone.model, 0, 0.02)
    run("moved, not synced")
    policy.sync()
    run("moved, synced")
    with torch.no_grad():  # the banned tokens become the likeliest of all; the boundary token likely
        head = backbone.model.get_output_embeddings().weight
        head[list(backbone.banned)] *= 50
        head[check.renderer.boundary] *= 4
    policy.sync()
    episodes = run("banned tokens likely")
    assert any(turn.finished for e in episodes for turn in e.turns), "no turn ended with the boundary token"
    add_lora(backbone, rank=4, alpha=8, dropout=0.0, targets=["q_proj", "v_proj", "down_proj"])
    backbone.model.eval()
    jitter(SimpleNamespace(parameters=lambda: [p for p in backbone.model.parameters() if p.requires_grad]), 1, 0.1)
    policy.engine.engine.generation.model = backbone.model  # type: ignore[attr-defined]
    run("adapters, not synced")
    policy.sync()
    run("adapters, synced")


def serving(path: Path, check: Callable[[Any], None]) -> None:
    from trl.generation.vllm_client import VLLMClient

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `vllm serve` itself asks for the metadata of a package named vllm, which vllm-cpu is not
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(path), "--port", str(port)]
    command += ["--dtype", "float32", "--max-model-len", "1024", "--enforce-eager", "--enable-scale-out"]
    command += ["--no-mm-device-do-normalize", "--logprobs-mode", "processed_logprobs", "--host", "127.0.0.1"]
    command += ["--limit-mm-per-prompt", '{"image": 99, "video": 1}']
    server = subprocess.Popen(command, env=os.environ | {"VLLM_SERVER_DEV_MODE": "1"}, start_new_session=True)
    try:
        check(VLLMClient(base_url=f"http://127.0.0.1:{port}", connection_timeout=300))
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # with its workers; a server that is still starting ignores SIGTERM
        server.wait()


def main(family: str, mode: str = "colocate") -> None:
    with tempfile.TemporaryDirectory() as folder:
        # heads of 32: vLLM's CPU kernels have none of 16
        path = build_tiny(family, Path(folder, family), WORDS, layers=2, hidden=128)  # type: ignore[arg-type]
        backbone = load(path)
        backbone.model.eval()
        renderer = Renderer(backbone.tokenizer, backbone.spec, CONFIG)
        if mode == "colocate":
            policy = connect(backbone, renderer, SETTINGS, Accelerator(cpu=True), thinks=True)
            check = Check(backbone, renderer, policy)
            colocated(check)
            gaps, tokens = check.gaps, check.tokens
        else:

            def served(client: Any) -> None:
                nonlocal gaps, tokens
                check_server(client.get_server_info(), SETTINGS)
                engine = Server(SimpleNamespace(vllm_client=client), renderer)
                policy = VLLMPolicy(engine, renderer, backbone.banned, SETTINGS, thinks=True)
                policy.synced = True  # the server has read the same file
                check = Check(backbone, renderer, policy)
                check.run("start")
                check.run("temperature", 0.7, no_memory=True)
                gaps, tokens = check.gaps, check.tokens

            gaps, tokens = {}, 0
            serving(path, served)
    print(json.dumps({"family": family, "mode": mode, "tokens": tokens, "gaps": gaps}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
