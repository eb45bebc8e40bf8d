"""vLLM as an engine of train/vllm_policy.py, in the training process or behind a server, and how weights reach it.

TRL's VLLMGeneration walks the trainer's weights (FSDP and ZeRO-3 gathered; LoRA merged, pushed, unmerged), under the
names that they have in memory, which vLLM's loaders of both families take as they take the saved ones. Here it gets
what it lacks: an engine that is set up for video, prompts with a clip, and an encoder cache that is emptied too.

A server is started on its own GPUs, with as many tokens and the same dtype as the recipe says:

    VLLM_SERVER_DEV_MODE=1 vllm serve <checkpoint> --enable-scale-out --logprobs-mode processed_logprobs \
        --max-model-len <max_model_len> --weight-transfer-config '{"backend": "nccl"}' \
        --limit-mm-per-prompt '{"image": 999, "video": 1}' --no-mm-device-do-normalize
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import BatchFeature
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer.utils import ensure_master_addr_port

from train.policies import Task
from train.vllm_policy import (
    PolicyError,
    Prompt,
    Sampled,
    VLLMPolicy,
    VLLMSettings,
    check_installed,
    check_servable,
    request,
)
from whilst.backbones.base import Backbone
from whilst.chunks import Role
from whilst.render import Renderer

CONCURRENT = 64  # requests that are on their way to a server at a time


class Generation(VLLMGeneration):
    """TRL's connection to vLLM with an engine for video, and (server) a client in every process to generate with."""

    def __init__(self, backbone: Backbone, settings: VLLMSettings, accelerator: Any) -> None:
        self.settings = settings
        super().__init__(
            backbone.model,
            accelerator,
            backbone.tokenizer,
            mode=settings.mode,
            server_host=settings.host,
            server_port=settings.port,
            server_timeout=settings.timeout,
            group_port=settings.group_port,
            tensor_parallel_size=settings.tensor_parallel,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            max_model_length=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            enable_sleep_mode=settings.enable_sleep,
        )

    def _init_vllm(self) -> None:
        if self.mode == "server":
            super()._init_vllm()
            if not self.accelerator.is_main_process:
                url = f"http://{self.server_host}:{self.server_port}"
                self.vllm_client = VLLMClient(base_url=url, connection_timeout=self.server_timeout)
            return
        from vllm import LLM  # type: ignore[import-not-found]

        ranks, size, each = self.accelerator, self.accelerator.num_processes, self.tensor_parallel_size
        if size % each:
            raise ValueError(f"tensor_parallel {each} must divide the number of processes, {size}")
        if each > 1:
            groups = [list(range(first, first + each)) for first in range(0, size, each)]
            self.tp_group, _ = dist.new_subgroups_by_enumeration(groups)
        # vLLM runs inside each training process (external_launcher) and finds the others by these
        os.environ.update(
            RANK=str(ranks.process_index), LOCAL_RANK=str(ranks.local_process_index), WORLD_SIZE=str(size)
        )
        ensure_master_addr_port()
        self.llm = LLM(
            model=self.model.name_or_path,
            dtype=self.settings.dtype,
            tensor_parallel_size=each,
            gpu_memory_utilization=self.gpu_memory_utilization,
            max_model_len=self.max_model_length,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=max(4096, self.settings.max_num_seqs),
            enable_sleep_mode=self.enable_sleep_mode,
            enforce_eager=self.settings.enforce_eager,
            distributed_executor_backend="external_launcher",
            seed=ranks.process_index // each,
            logprobs_mode="processed_logprobs",
            limit_mm_per_prompt={"image": 0, "video": 1},
        )
        if self.enable_sleep_mode:
            self.llm.sleep(level=2)
        self._llm_weights_sleeping = self.enable_sleep_mode
        ranks.wait_for_everyone()


def start(backbone: Backbone, settings: VLLMSettings, accelerator: Any) -> Generation:
    generation = Generation(backbone, settings, accelerator)
    if settings.mode == "server":
        check_server(generation.vllm_client.get_server_info(), settings)
    return generation


def check_server(info: Mapping[str, Any], settings: VLLMSettings) -> None:
    """Raises PolicyError where a server (its VllmConfig as JSON) would read or score other than the trainer does."""
    model = info["model_config"]
    wrong = []
    if model["logprobs_mode"] != "processed_logprobs":
        wrong.append("--logprobs-mode processed_logprobs (it gives log-probs of another distribution)")
    if model["max_model_len"] < settings.max_model_len:
        wrong.append(f"--max-model-len {settings.max_model_len} (it has {model['max_model_len']})")
    if model["multimodal_config"].get("mm_device_do_normalize"):
        wrong.append("--no-mm-device-do-normalize (our patches are normalised; it would do it again)")
    if wrong:
        raise PolicyError(f"the vLLM server at port {settings.port} must be started with {', '.join(wrong)}")


class Colocated:
    """Engine in the training process. generation: a VLLMGeneration, or what stands for one (llm, sync_weights)."""

    def __init__(self, generation: Any, renderer: Renderer) -> None:
        self.generation, self.renderer = generation, renderer

    def sync(self) -> None:
        """vLLM's reload_weights, not TRL's load_weights: the latter fails where kernels have repacked weights (CPU)."""
        generation, llm = self.generation, self.generation.llm
        if generation.enable_sleep_mode:
            torch.cuda.empty_cache()
            llm.wake_up(tags=["weights"])
            generation._llm_weights_sleeping = False
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": generation._iter_named_params()})
        llm.reset_prefix_cache()
        llm.llm_engine.engine_core.reset_encoder_cache()  # what the old vision tower saw

    def awake(self) -> AbstractContextManager[None]:
        return self._awake() if self.generation.enable_sleep_mode else nullcontext()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        if self.generation._llm_weights_sleeping:  # sleep threw them away
            self.sync()
        self.generation.llm.wake_up(tags=["kv_cache"])
        try:
            yield
        finally:
            self.generation.llm.sleep(level=2)
            self.generation._llm_weights_sleeping = True

    def shared(self, tasks: Sequence[Task]) -> tuple[list[Task], slice]:
        """The ranks of a tensor-parallel group must put the same prompts, so each makes the episodes of all."""
        if self.generation.tensor_parallel_size == 1:
            return list(tasks), slice(None)
        group = self.generation.tp_group
        parts: list[list[Task]] = [[] for _ in range(self.generation.tensor_parallel_size)]
        dist.all_gather_object(parts, list(tasks), group=group)
        start = sum(len(part) for part in parts[: dist.get_rank(group)])
        return [task for part in parts for task in part], slice(start, start + len(tasks))

    def generate(self, prompts: Sequence[Prompt], sampling: Sequence[Mapping[str, Any]]) -> list[Sampled]:
        from vllm import SamplingParams  # type: ignore[import-not-found]

        outputs = self.generation.llm.generate(
            [request(self.renderer, prompt) for prompt in prompts],
            [SamplingParams(**params) for params in sampling],
            use_tqdm=False,
        )
        return [read_output(output) for output in outputs]


def read_output(output: Any) -> Sampled:
    """A vllm.RequestOutput with one completion."""
    (said,) = output.outputs
    ids = list(said.token_ids)
    scores = said.logprobs or []
    logprobs = [at[token].logprob for at, token in zip(scores, ids, strict=bool(scores))]
    return Sampled(output.prompt_token_ids, ids, logprobs)


class Server:
    """Engine behind `vllm serve`. Clips are sent as patches, so the server reads our tokens and pixels as they are."""

    def __init__(self, generation: Any, renderer: Renderer) -> None:
        self.generation, self.renderer = generation, renderer

    def sync(self) -> None:
        self.generation.sync_weights()
        if self.generation.accelerator.is_main_process:
            client = self.generation.vllm_client
            client.session.post(f"{client.base_url}/reset_encoder_cache").raise_for_status()
        self.generation.accelerator.wait_for_everyone()

    def awake(self) -> AbstractContextManager[None]:
        return nullcontext()

    def shared(self, tasks: Sequence[Task]) -> tuple[list[Task], slice]:
        return list(tasks), slice(None)

    def generate(self, prompts: Sequence[Prompt], sampling: Sequence[Mapping[str, Any]]) -> list[Sampled]:
        with ThreadPoolExecutor(min(CONCURRENT, len(prompts))) as pool:
            return list(pool.map(self._one, prompts, sampling))

    def _one(self, prompt: Prompt, sampling: Mapping[str, Any]) -> Sampled:
        out = self.generation.vllm_client.generate(
            [prompt.ids], [features(self.renderer, prompt)], generation_kwargs=dict(sampling)
        )
        scores = out["logprobs"]
        return Sampled(out["prompt_ids"][0], out["completion_ids"][0], [s[0] for s in scores[0]] if scores else [])


def features(renderer: Renderer, prompt: Prompt) -> dict[str, Any] | None:
    """The clip of a prompt as vLLM's token-in, token-out endpoint takes it: patches, and where their tokens stand.

    A placeholder there is one run of tokens. Qwen3-VL writes timestamps between the temporal patches of a clip, so each
    patch goes as an image of its own: the same tower, positions and deepstack.
    """
    if prompt.clip is None or prompt.shape is None:
        return None
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import (  # type: ignore[import-not-found]
        encode_mm_kwargs_item,
    )
    from vllm.multimodal.inputs import (  # type: ignore[import-not-found]
        MultiModalFieldConfig,
        MultiModalKwargsItems,
    )

    spec = renderer.spec
    (t, h, w), pixels = prompt.shape.grid, spec.patchify(prompt.clip.images)
    pads = np.flatnonzero(prompt.chunk.roles == Role.VISION)
    if spec.tokens_per_second is None:
        modality, names, grids = "image", ("pixel_values", "image_grid_thw"), [(1, h, w)] * t
    else:
        modality, names, grids = "video", ("pixel_values_videos", "video_grid_thw"), [(t, h, w)]
    grid_thw = torch.tensor(grids)
    data = {names[0]: pixels, names[1]: grid_thw}
    fields = {
        names[0]: MultiModalFieldConfig.flat_from_sizes(modality, grid_thw.prod(-1)),
        names[1]: MultiModalFieldConfig.batched(modality, keep_on_cpu=True),
    }
    if modality == "video":
        data["second_per_grid_ts"] = torch.tensor([spec.temporal_patch / prompt.shape.fps])
        fields["second_per_grid_ts"] = MultiModalFieldConfig.batched(modality, keep_on_cpu=True)
    items = MultiModalKwargsItems.from_hf_inputs(BatchFeature(data), fields)[modality]
    encoded = [encode_mm_kwargs_item(item) for item in items]
    length = len(pads) // len(items)
    return {
        "mm_hashes": {modality: [hashlib.sha256(item.encode()).hexdigest() for item in encoded]},
        "mm_placeholders": {modality: [{"offset": int(p), "length": length} for p in pads[::length]]},
        "kwargs_data": {modality: encoded},
    }


def connect(
    backbone: Backbone, renderer: Renderer, settings: VLLMSettings, accelerator: Any, *, thinks: bool
) -> VLLMPolicy:
    """Start vLLM (colocate) or reach its server. Raises PolicyError where recipe or machine cannot have it."""
    check_servable(renderer)
    check_installed()
    generation = start(backbone, settings, accelerator)
    engine = (Colocated if settings.mode == "colocate" else Server)(generation, renderer)
    return VLLMPolicy(engine, renderer, backbone.banned, settings, thinks=thinks)
