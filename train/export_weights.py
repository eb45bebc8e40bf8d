"""The tensors of a trained run: put together from its files or the shards of its ranks, written, and compared again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

from train.sharding import MODEL_SHARDS, consolidate
from train.stage import LoraSettings
from whilst.backbones.base import VISION_TOKENS, Backbone, add_lora
from whilst.checkpoint import Contract
from whilst.exported import ExportError

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Source:
    """What is exported of a run. weights: the run's folder or a checkpoint's. step: None for the final model."""

    run: Path
    weights: Path
    step: int | None
    contract: Contract
    recipe: Mapping[str, Any]

    @property
    def adapter(self) -> bool:
        return (self.weights / ADAPTER).is_file() or (self.recipe.get("model") or {}).get("lora") is not None


def trained_model(source: Source, dtype: torch.dtype) -> Any:
    """The stock model with the trained weights, adapters merged in float32, then rounded to dtype."""
    # beside shards, which are exact, a file would hold what the forward used: rounded
    sharded = (source.weights / "latest").is_file() or (source.weights / MODEL_SHARDS).is_dir()
    if not sharded and not source.adapter:
        return load_whole(source.weights, dtype)
    model = load_whole(source.contract.base, torch.float32)
    if (source.weights / ADAPTER_WEIGHTS).is_file():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(source.weights)).merge_and_unload(safe_merge=True)
    else:
        model = _from_shards(source, model)
        if source.adapter:
            model = model.merge_and_unload(safe_merge=True)
    return model.to(dtype)


def _from_shards(source: Source, model: Any) -> Any:
    """The model that was trained, its tensors put together from the shards of the ranks (ZeRO-3, FSDP2)."""
    if source.adapter:
        model = _with_lora(source, model)
    tensors = consolidate(source.weights)
    there = model.state_dict()
    tied = {name for name in there if name.endswith("lm_head.weight") and model.config.tie_word_embeddings}
    frozen = {name for name in there if source.adapter and "lora_" not in name and "modules_to_save" not in name}
    missing, unknown = set(there) - set(tensors) - tied - frozen, set(tensors) - set(there)
    if missing or unknown:
        raise ExportError(
            f"{source.weights}: its shards are not of this model: {_some(missing)} missing, {_some(unknown)} unknown"
        )
    model.load_state_dict(tensors, strict=False)
    return model


def _with_lora(source: Source, model: Any) -> Any:
    """The PEFT model as the run's recipe made it."""
    said: dict[str, Any] = source.recipe["model"]["lora"]
    settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    lora = LoraSettings(**settings)
    wrapped = Backbone(model, None, None, None)  # type: ignore[arg-type]
    add_lora(wrapped, lora.rank, lora.alpha, lora.dropout, lora.targets, lora.full)
    return wrapped.model


def load_whole(folder: str | Path, dtype: torch.dtype) -> Any:
    """A stock model all of whose weights are in the folder: none made up, none left over."""
    loader: Any = AutoModelForImageTextToText
    model, told = loader.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told[what]:
            raise ExportError(f"{folder}: its weights are not of this model: {what}: {_some(told[what])}")
    return model


def untie(model: Any) -> None:
    """A head that was trained apart from the embeddings it was tied to is written, and said to be, apart."""
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if (
        model.config.tie_word_embeddings
        and head.data_ptr() != embeddings.data_ptr()
        and not torch.equal(head, embeddings)
    ):
        model.config.tie_word_embeddings = False
        model.config.text_config.tie_word_embeddings = False


def generation(model: Any, part: Path) -> GenerationConfig:
    """The model's own, with every vision token suppressed: a sampled one would be a visual token without pixels."""
    found: GenerationConfig = model.generation_config
    known = AutoTokenizer.from_pretrained(part).get_vocab()
    suppressed = {known[token] for token in VISION_TOKENS if token in known}
    found.suppress_tokens = sorted(suppressed | set(found.suppress_tokens or ()))
    return found


def check_weights(folder: Path, model: Any, dtype: torch.dtype) -> int:
    """The number of parameters of a written model, after all of it was compared with `model`.

    ExportError: a tensor that is there twice or not at all, of another shape, type or value, or not finite.
    """
    files = sorted(folder.glob("model*.safetensors"))
    where: dict[str, str] = {}
    for name, tensor in _tensors(files):
        if not torch.isfinite(tensor).all():
            raise ExportError(f"{folder / where.get(name, '')}: {name} holds NaN or infinity: the training broke down")
    for file in files:
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118
                if name in where:
                    raise ExportError(f"{name} is in {where[name]} and in {file.name}")
                where[name] = file.name
    index = folder / "model.safetensors.index.json"
    if index.is_file() and json.loads(index.read_text(encoding="utf-8"))["weight_map"] != where:
        raise ExportError(f"{index.name} does not list the tensors that its shards hold")
    read = load_whole(folder, dtype).state_dict()
    trained = model.state_dict()
    if set(read) != set(trained):
        raise ExportError(f"written tensors are not the model's: {_some(set(read) ^ set(trained))}")
    for name, tensor in trained.items():
        if read[name].dtype != tensor.dtype or not torch.equal(read[name], tensor):
            raise ExportError(f"{name} is not read back as it was written")
    return sum(parameter.numel() for parameter in model.parameters())


def write_adapter(source: Source, base: str, part: Path, dtype: torch.dtype) -> int:
    """The adapter by itself, on a base of the Hub; returns its number of parameters."""
    if (source.weights / ADAPTER_WEIGHTS).is_file():
        tensors = dict(_tensors([source.weights / ADAPTER_WEIGHTS]))
        config = json.loads((source.weights / ADAPTER).read_text(encoding="utf-8"))
    else:
        from peft import get_peft_model_state_dict

        model = _from_shards(source, load_whole(source.contract.base, torch.float32))
        tensors = get_peft_model_state_dict(model)
        model.peft_config["default"].save_pretrained(part)
        config = json.loads((part / ADAPTER).read_text(encoding="utf-8"))
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ExportError(f"{source.weights}: {name} holds NaN or infinity: the training broke down")
    written = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    save_file(written, part / ADAPTER_WEIGHTS, {"format": "pt"})
    read = dict(_tensors([part / ADAPTER_WEIGHTS]))
    if set(read) != set(written) or not all(torch.equal(read[name], written[name]) for name in written):
        raise ExportError(f"{ADAPTER_WEIGHTS} is not read back as it was written")
    config["base_model_name_or_path"] = base
    (part / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return sum(tensor.numel() for tensor in written.values())


def _tensors(files: Iterable[Path]) -> Iterable[tuple[str, torch.Tensor]]:
    """The tensors of safetensors files, one at a time."""
    for file in files:
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118
                yield name, shard.get_tensor(name)


def _some(names: Iterable[str]) -> str:
    listed = sorted(map(str, names))
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return (", ".join(listed[:3]) or "none") + more
