"""Frames -> patches -> features -> one forward: equal to the family's own processor and stock model, or an error."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from tests.streams import clips_of, frames, one_pass, rows_of, timeline, views_of
from train.collate import Collator
from train.rows import Item
from whilst.attention import build_mask
from whilst.backbones.base import (
    Backbone,
    BackboneError,
    ClipShape,
    Features,
    VisionSpec,
    add_lora,
    freeze_vision,
    load,
    load_spec,
    pixel_limits,
)
from whilst.clips import SegmentClip
from whilst.positions import Grid
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.runtime import encode_clips
from whilst.visibility import FIELDS, Rule, Tokens

SPEC = VisionSpec("qwen3_vl", patch=8, merge=2, temporal_patch=2, tokens_per_second=None, min_pixels=256)
LM_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


# --- frames and patches -------------------------------------------------------------------------------------------


def theirs(spec: VisionSpec, image: np.ndarray) -> torch.Tensor:
    """Patches of a still image by transformers, which repeats it to fill the temporal patch."""
    processor = Qwen2VLImageProcessorPil(
        patch_size=spec.patch,
        merge_size=spec.merge,
        temporal_patch_size=spec.temporal_patch,
        size={"shortest_edge": spec.min_pixels, "longest_edge": spec.max_pixels},
        image_mean=list(spec.mean),
        image_std=list(spec.std),
    )
    patches: torch.Tensor = processor(images=[Image.fromarray(image)], return_tensors="pt")["pixel_values"]
    return patches


def test_patches_of_a_repeated_frame_are_those_of_the_image_processor(backbone: Backbone) -> None:
    image = frames(np.random.default_rng(0), 1, 48, 80)
    ours = backbone.spec.patchify(np.concatenate([image, image]))
    assert ours.shape == (6 * 10, 3 * 2 * 8 * 8)
    assert float((ours - theirs(backbone.spec, image[0])).abs().max()) <= 1e-6
    assert torch.equal(ours, backbone.spec.patchify(image))  # an odd last frame is repeated


def test_resized_frames_are_those_of_the_image_processor() -> None:
    """Smooth picture: PIL rounds to 8 bits between its two passes, so grey levels may be one apart."""
    y, x = np.mgrid[0:100, 0:150]
    image = np.stack([y * 2, x, 255 - y - x], axis=-1).astype(np.uint8)
    level = 1 / 127.5
    ours = SPEC.patchify(np.stack([image, image]))
    assert float((ours - theirs(SPEC, image)).abs().max()) <= 1.01 * level


def test_patches_keep_place_and_time() -> None:
    """Two different frames of 32 x 48: patches block by block of 2 x 2, in each first colour, then time, then place."""
    rng = np.random.default_rng(1)
    video = frames(rng, 4)
    patches = SPEC.patchify(video)
    scaled = (video.astype(np.float64) / 255 - 0.5) / 0.5
    expected = []
    for t in range(2):
        for block_row in range(2):
            for block_column in range(3):
                for row in (2 * block_row, 2 * block_row + 1):
                    for column in (2 * block_column, 2 * block_column + 1):
                        place = (slice(row * 8, row * 8 + 8), slice(column * 8, column * 8 + 8))
                        expected.append(
                            [scaled[2 * t + frame][(*place, c)].ravel() for c in range(3) for frame in range(2)]
                        )
    assert np.allclose(patches.numpy(), np.array(expected).reshape(48, -1), atol=1e-6)


def test_an_odd_last_frame_is_repeated() -> None:
    video = frames(np.random.default_rng(2), 3)
    assert torch.equal(SPEC.patchify(video), SPEC.patchify(np.concatenate([video, video[-1:]])))
    shape = SPEC.shape([0.0, 0.5, 1.0], 32, 48, 2.0)
    assert shape.grid == (2, 4, 6) and SPEC.merged(shape) == Grid(2, 2, 3)


@pytest.mark.parametrize("limits", [(256, 1 << 40), (65536, 1 << 40), (256, 20000)])
def test_frame_size_is_that_of_the_image_processor(limits: tuple[int, int]) -> None:
    spec = VisionSpec("qwen3_vl", 16, 2, 2, None, min_pixels=limits[0], max_pixels=limits[1])
    for height in range(32, 1200, 91):
        for width in range(32, 1200, 97):
            assert spec.frame_size(height, width) == smart_resize(height, width, 32, *limits)


def test_a_frame_too_long_to_encode() -> None:
    with pytest.raises(BackboneError, match="6432x32 pixels: aspect ratio above 200"):
        SPEC.frame_size(32, 6432)


def test_clips_as_text() -> None:
    shape = ClipShape((2, 4, 6), (9.5, 10.0, 10.5), 2.0)  # the last frame stands alone in its patch
    mark = ["<|vision_start|>", Grid(1, 2, 3), "<|vision_end|>"]
    assert SPEC.clip_parts(shape) == ["<9.8 seconds>", *mark, "<10.5 seconds>", *mark]
    older = VisionSpec("qwen2_5_vl", 8, 2, 2, tokens_per_second=2.0)
    for fps, stride in ((2.0, 2.0), (4.0, 1.0), (1.0, 4.0)):
        parts = older.clip_parts(ClipShape((2, 4, 6), (0.0, 0.5, 1.0), fps))
        assert parts == ["<|vision_start|>", Grid(2, 2, 3, stride), "<|vision_end|>"]


# --- features -----------------------------------------------------------------------------------------------------


def test_clips_are_encoded_alike_alone_and_together(backbone: Backbone) -> None:
    clips = clips_of(timeline())
    together = encode_clips(backbone, clips, 2.0)
    for clip, view in zip(clips, together, strict=True):
        (alone,) = encode_clips(backbone, [clip], 2.0)
        assert alone.shape == view.shape
        parts = zip((view.features.tokens, *view.features.deepstack), _tensors(alone.features), strict=True)
        assert max(float((a - b).abs().max()) for a, b in parts) <= 1e-5
    assert encode_clips(backbone, [], 2.0) == []


def _tensors(features: Features) -> tuple[torch.Tensor, ...]:
    return (features.tokens, *features.deepstack)


def test_features_can_be_cut_and_joined(backbone: Backbone) -> None:
    features = views_of(backbone, timeline())[1].features
    assert len(features.deepstack) == (1 if backbone.family.name == "qwen3_vl" else 0)
    parts = features.split([5, 7])
    assert [len(part.tokens) for part in parts] == [5, 7]
    for whole, joined in zip(_tensors(features), _tensors(Features.cat(parts)), strict=True):
        assert torch.equal(whole, joined)
    for whole, taken in zip(_tensors(features), _tensors(features.take(torch.tensor([3, 3, 0]))), strict=True):
        assert torch.equal(whole[[3, 3, 0]], taken)


# --- one forward --------------------------------------------------------------------------------------------------


def whole_row(backbone: Backbone) -> tuple[Renderer, Any, list[Any]]:
    renderer = Renderer(backbone.tokenizer, backbone.spec, RenderConfig(queries="kept"))
    views = views_of(backbone, timeline())
    (row,) = rows_of(renderer, timeline(), views)
    return renderer, row, views


def batch_of(backbone: Backbone, renderer: Renderer, row: Any) -> dict[str, Any]:
    clips = [SegmentClip(segment, images, times, 2.0) for segment, images, times in clips_of(timeline())]
    batch = Collator(backbone.spec, renderer.rule, "whilst_sdpa", pad_id=0)([[Item(row, tuple(clips))]])
    return {key: value for key, value in batch.items() if key not in ("labels", "loss_weight")}


def test_a_plain_row_is_the_stock_model(checkpoint: Path, backbone: Backbone) -> None:
    """Causal and interleaved: transformers as it comes gives the same hidden states; Qwen3-VL at its own positions."""
    renderer, row, views = whole_row(backbone)
    batch = batch_of(backbone, renderer, row)
    stock = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    inputs: dict[str, Any] = {
        "input_ids": batch["input_ids"],
        "attention_mask": torch.ones_like(batch["input_ids"]),
        "mm_token_type_ids": batch["visual_mask"].int() * 2,
        "pixel_values_videos": batch["pixel_values_videos"],
        "video_grid_thw": batch["video_grid_thw"],
    }
    if backbone.family.name == "qwen2_5_vl":  # its own arithmetic deviates: tests/whilst/test_positions.py
        inputs["position_ids"] = batch["position_ids"]
    with torch.no_grad():
        want = stock.model(**inputs).last_hidden_state[0]
    assert float((one_pass(backbone, renderer, row, views) - want).abs().max()) <= 1e-5


def test_the_routed_forward_is_the_same_forward(backbone: Backbone) -> None:
    renderer, row, views = whole_row(backbone)
    with torch.no_grad():
        logits = backbone.model(**batch_of(backbone, renderer, row), use_cache=False).logits[0]
        want = backbone.logits(one_pass(backbone, renderer, row, views))
    assert float((logits - want).abs().max()) <= 1e-5


def test_without_visual_index_the_stock_forward_runs(backbone: Backbone) -> None:
    ids = torch.arange(5)[None]
    fields = {name: np.zeros((1, 5), np.int32) for name in FIELDS} | {"index": np.arange(5)[None]}
    mask = build_mask("whilst_sdpa", Rule("causal"), Tokens.of(fields))
    positions = torch.arange(5).expand(3, 1, 5)
    with torch.no_grad():
        out = backbone.model.model(input_ids=ids, attention_mask=mask, position_ids=positions)
        want = backbone.hidden(ids, positions, mask)
    assert torch.equal(out.last_hidden_state, want)


def test_placeholders_and_features_must_be_as_many(backbone: Backbone) -> None:
    renderer, row, views = whole_row(backbone)
    ids, positions = torch.from_numpy(row.input_ids)[None], torch.from_numpy(row.positions)[:, None]
    mask = build_mask("whilst_sdpa", renderer.rule, Tokens.of(row.meta)[None])
    visual = torch.from_numpy(row.visual_index >= 0)[None]
    with pytest.raises(BackboneError, match="30 visual placeholders but no features: a video must not be dropped"):
        backbone.hidden(ids, positions, mask, visual, None)
    with pytest.raises(BackboneError, match="30 visual placeholders for 6 features"):
        backbone.hidden(ids, positions, mask, visual, views[0].features)
    with pytest.raises(BackboneError, match="0 visual placeholders for 6 features"):
        backbone.hidden(ids, positions, mask, torch.zeros_like(visual), views[0].features)


def test_gradients_reach_the_tower_and_deepstack(checkpoint: Path, backbone: Backbone) -> None:
    fresh = load(checkpoint)
    renderer, row, _ = whole_row(backbone)
    fresh.model(**batch_of(fresh, renderer, row), use_cache=False).logits.square().mean().backward()
    still = [name for name, p in fresh.model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert still == []


def test_pads_are_never_sampled(backbone: Backbone) -> None:
    names = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|image_pad|>", "<|vision_pad|>")
    assert set(backbone.banned) == {backbone.tokenizer.convert_tokens_to_ids(name) for name in names}


# --- loading ------------------------------------------------------------------------------------------------------


def test_bfloat16(checkpoint: Path, backbone: Backbone) -> None:
    half = load(checkpoint, dtype=torch.bfloat16)
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    renderer, row, views = whole_row(backbone)
    with torch.no_grad():
        logits = half.model(**batch_of(half, renderer, row), use_cache=False).logits[0]
        want = backbone.logits(one_pass(backbone, renderer, row, views))
        streamed = one_pass(half, renderer, row, views_of(half, timeline()))
    assert logits.dtype == streamed.dtype == torch.bfloat16
    assert float(torch.cosine_similarity(logits.float(), want, dim=-1).min()) > 0.99


def copied(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder / "copy"))


def test_a_tokenizer_without_the_vision_tokens(checkpoint: Path, tmp_path: Path) -> None:
    path = copied(checkpoint, tmp_path)
    tokenizer = path / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|video_pad|>", "<|film_pad|>"))
    with pytest.raises(BackboneError, match=r"the tokenizer lacks \['<\|video_pad\|>'\]"):
        load(path)


def test_a_family_without_an_adapter(checkpoint: Path, tmp_path: Path) -> None:
    path = copied(checkpoint, tmp_path)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    for read in (load, load_spec):
        with pytest.raises(BackboneError, match="model type 'llama' has no adapter; known: .*qwen3_vl"):
            read(path)


def test_a_checkpoint_without_its_processor(checkpoint: Path, tmp_path: Path) -> None:
    path = copied(checkpoint, tmp_path)
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(BackboneError, match="preprocessor_config.json is missing"):
        load_spec(path)


def test_pixel_limits(checkpoint: Path, backbone: Backbone) -> None:
    assert load_spec(checkpoint) == backbone.spec
    spec = load_spec(checkpoint, min_pixels=4096, max_pixels=8192)
    assert (spec.min_pixels, spec.max_pixels) == (4096, 8192)
    assert spec.frame_size(16, 16) == (64, 64)
    assert load(checkpoint, max_pixels=1024).spec.frame_size(64, 64) == (32, 32)


def test_pixel_limits_of_older_processors(checkpoint: Path, tmp_path: Path) -> None:
    """Qwen2.5-VL checkpoints name them min_pixels and max_pixels, without a size."""
    path = copied(checkpoint, tmp_path)
    file = path / "preprocessor_config.json"
    settings: dict[str, Any] = json.loads(file.read_text())
    del settings["size"]
    file.write_text(json.dumps(settings | {"min_pixels": 3136, "max_pixels": 12845056}))
    spec = load_spec(path)
    assert (spec.min_pixels, spec.max_pixels) == (3136, 12845056)


# --- what is trained ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parts", "tower", "merger"), [("none", 1, 1), ("tower", 0, 1), ("tower+merger", 0, 0)])
def test_freeze_vision(checkpoint: Path, parts: str, tower: bool, merger: bool) -> None:
    backbone = load(checkpoint)
    freeze_vision(backbone, parts)
    for name, parameter in backbone.model.named_parameters():
        if ".visual." in name:
            assert parameter.requires_grad == (merger if "merger" in name else tower), name
        else:
            assert parameter.requires_grad, name
    names = [name for name, _ in backbone.model.named_parameters()]
    assert any(".visual.merger." in name for name in names) and any(".visual.blocks." in name for name in names)


def test_freeze_something_else(backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match="freeze 'merger': choose none, tower or tower"):
        freeze_vision(backbone, "merger")


def test_lora_wraps_the_language_model_alone(checkpoint: Path, backbone: Backbone) -> None:
    adapted = load(checkpoint)
    layers = adapted.core.config.text_config.num_hidden_layers
    add_lora(adapted, rank=2, alpha=4, dropout=0.0, targets=LM_TARGETS)
    wrapped = {name for name, module in adapted.model.named_modules() if hasattr(module, "lora_A")}
    assert len(wrapped) == layers * len(LM_TARGETS)
    assert all(".language_model." in name and ".visual." not in name for name in wrapped)
    trained = [name for name, p in adapted.model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    # adapters begin as no change, under the same forward
    renderer, row, views = whole_row(backbone)
    assert torch.equal(one_pass(adapted, renderer, row, views), one_pass(backbone, renderer, row, views))
    with torch.no_grad():
        logits = adapted.model(**batch_of(adapted, renderer, row), use_cache=False).logits[0]
        assert torch.equal(logits, backbone.model(**batch_of(backbone, renderer, row), use_cache=False).logits[0])


def test_both_families_are_known(checkpoints: Mapping[str, Path]) -> None:
    assert {load_spec(path).family for path in checkpoints.values()} == {"qwen2_5_vl", "qwen3_vl"}


def test_pixel_limits_are_read_under_both_names_and_never_guessed() -> None:
    assert pixel_limits({"size": {"shortest_edge": 1, "longest_edge": 2}}) == (1, 2)
    assert pixel_limits({"min_pixels": 3, "max_pixels": 4, "size": {"height": 5, "width": 5}}) == (3, 4)
    with pytest.raises(BackboneError, match="neither"):
        pixel_limits({"size": {"shortest_edge": 1}})
