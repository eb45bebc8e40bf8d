"""Tiny checkpoints: they load offline like any other, lose no text, and are the same bytes for the same seed."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from whilst.backbones.tiny import CHAT_WORDS, SPECIAL_TOKENS, THINK_TOKENS, Family, build_tiny

FAMILIES: tuple[Family, ...] = ("qwen2_5_vl", "qwen3_vl")
WORDS = ("red-circle", "red", "in-1", "n-12", "?", ".", "none", "circle-red-circle", "naïve", "日本")


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(request.param, tmp_path_factory.mktemp(request.param), WORDS)


def model_of(checkpoint: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(checkpoint)


def tokenizer_of(checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(checkpoint)


def forward(model: Any, pixels: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model(
            input_ids=ids, pixel_values_videos=pixels, video_grid_thw=torch.tensor([[1, 4, 4]]), position_ids=positions
        )
    logits: torch.Tensor = output.logits
    return logits


def test_forward_with_video_and_explicit_positions(checkpoint: Path) -> None:
    model = model_of(checkpoint).eval()
    tokenizer = tokenizer_of(checkpoint)
    text = "<|vision_start|>" + "<|video_pad|>" * 4 + "<|vision_end|> red ?"
    ids = torch.tensor([tokenizer(text).input_ids])
    pixels = torch.randn(16, 3 * 2 * 8 * 8, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1).clone()

    logits = forward(model, pixels, ids, positions)
    assert logits.shape == (1, 8, len(tokenizer))
    assert torch.isfinite(logits).all()

    other_pixels = forward(model, pixels.flip(0), ids, positions)
    assert not torch.allclose(logits[0, -1], other_pixels[0, -1], atol=1e-3), "the answer must depend on the video"
    assert torch.equal(logits[0, 0], other_pixels[0, 0])

    for axis in range(3):
        moved = positions.clone()
        moved[axis, 0, 4:] += 3
        other_positions = forward(model, pixels, ids, moved)
        assert not torch.allclose(logits[0, -1], other_positions[0, -1], atol=1e-5), f"axis {axis} must matter"


def test_one_backward_step_reaches_every_part(checkpoint: Path) -> None:
    model = model_of(checkpoint)
    tokenizer = tokenizer_of(checkpoint)
    ids = torch.tensor([tokenizer("<|video_pad|>" * 4 + " red ?").input_ids])
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    grid = torch.tensor([[1, 4, 4]])
    loss = model(
        input_ids=ids,
        pixel_values_videos=torch.randn(16, 384),
        video_grid_thw=grid,
        position_ids=positions,
        labels=ids,
    ).loss
    loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_loads_in_a_fresh_offline_process(checkpoint: Path) -> None:
    program = (
        "import sys; from transformers import AutoModelForImageTextToText as M, AutoTokenizer as T;"
        "print(M.from_pretrained(sys.argv[1]).config.model_type, len(T.from_pretrained(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(checkpoint)],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    config = AutoConfig.from_pretrained(checkpoint)
    assert done.stdout.split()[-2:] == [config.model_type, str(config.text_config.vocab_size)]


def test_each_word_is_one_token_with_and_without_leading_space(checkpoint: Path) -> None:
    tokenizer = tokenizer_of(checkpoint)
    for word in (*WORDS, *CHAT_WORDS, *SPECIAL_TOKENS, *THINK_TOKENS):
        assert len(tokenizer(word).input_ids) == 1, word
    for word in (*WORDS, *CHAT_WORDS):
        assert len(tokenizer(f" {word}").input_ids) == 1, word
    assert tokenizer("none").input_ids != tokenizer(" none").input_ids
    assert len(tokenizer("in-1 red-circle .\nnone .").input_ids) == 6
    for seconds in ("0.0", "0.2", "9.9", "64.0"):
        assert len(tokenizer(f"<{seconds} seconds>").input_ids) == 2


def test_tokenizer_loses_nothing(checkpoint: Path) -> None:
    tokenizer = tokenizer_of(checkpoint)
    texts = [
        "",
        " ",
        "   three   spaces  ",
        "tab\tand\r\nnewlines\n\n\n end \n",
        "café cafe\u0301 \u00a0\u2003 👩‍👩‍👧 𝔘𝔫𝔦 \u200b \x00 \x1c \u2028",
        "words red-circle? red-circlered-circle . none,",
        "<|im_start|>user\n<think> a </think><|im_end|>\n<|im_start",
    ]
    generator = random.Random(0)
    for _ in range(300):
        points = (generator.choice([generator.randrange(0x20, 0x7F), generator.randrange(0x110000)]) for _ in range(20))
        texts.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text


def test_special_ids_of_the_config_are_the_tokenizers(checkpoint: Path) -> None:
    tokenizer = tokenizer_of(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*SPECIAL_TOKENS, *THINK_TOKENS)}
    assert len(set(ids.values())) == len(ids)
    assert config.image_token_id == ids["<|image_pad|>"]
    assert config.video_token_id == ids["<|video_pad|>"]
    assert config.vision_start_token_id == ids["<|vision_start|>"]
    assert config.vision_end_token_id == ids["<|vision_end|>"]
    assert config.text_config.eos_token_id == tokenizer.eos_token_id == ids["<|im_end|>"]
    assert config.text_config.bos_token_id == tokenizer.pad_token_id == ids["<|endoftext|>"]
    assert config.text_config.vocab_size == len(tokenizer)
    generation = json.loads((checkpoint / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [ids["<|im_end|>"], ids["<|endoftext|>"]]
    assert tokenizer.decode([ids["<think>"], ids["<|im_end|>"]], skip_special_tokens=True) == "<think>"


def test_mrope_sections_fill_the_rotary_pairs(checkpoint: Path) -> None:
    text = AutoConfig.from_pretrained(checkpoint).text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    assert 2 * sum(text.rope_parameters["mrope_section"]) == head_dim


def test_processor_files_agree_with_the_vision_config(checkpoint: Path) -> None:
    vision = AutoConfig.from_pretrained(checkpoint).vision_config
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        processor = json.loads((checkpoint / name).read_text())
        assert processor["patch_size"] == vision.patch_size
        assert processor["merge_size"] == vision.spatial_merge_size
        assert processor["temporal_patch_size"] == vision.temporal_patch_size


def test_chat_template_renders(checkpoint: Path) -> None:
    tokenizer = tokenizer_of(checkpoint)
    messages = [
        {"role": "system", "content": "text"},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "red ?"}, {"type": "image"}]},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\ntext<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>red ?<|vision_start|><|image_pad|><|vision_end|>"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    with pytest.raises(Exception, match="got audio"):
        tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}], tokenize=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_bytes(family: Family, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = build_tiny(family, tmp_path / "first", WORDS, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's random state must not move"
    torch.rand(7)
    second = build_tiny(family, tmp_path / "second", WORDS, seed=3)
    third = build_tiny(family, tmp_path / "third", WORDS, seed=4)

    def digest(folder: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}

    assert digest(first) == digest(second)
    different = {name for name, value in digest(first).items() if digest(third)[name] != value}
    assert different == {"model.safetensors"}


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_those_asked_for(family: Family, tmp_path: Path) -> None:
    out = build_tiny(
        family,
        tmp_path,
        hidden=48,
        layers=2,
        heads=2,
        kv_heads=1,
        intermediate=40,
        vision_depth=2,
        vision_hidden=32,
        vision_heads=2,
        patch=4,
        deepstack_layers=(1,),
        timestamp_seconds=1,
        initializer_range=0.3,
    )
    config = AutoConfig.from_pretrained(out)
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (48, 2)
    assert (config.vision_config.depth, config.vision_config.patch_size) == (2, 4)
    model = model_of(out)
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("word", ["", "two words", "line\nbreak", "<think>x"])
def test_a_word_that_cannot_be_one_token_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be one token"):
        build_tiny("qwen3_vl", tmp_path, [word])


def test_illegal_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave head_dim out"):
        build_tiny("qwen2_5_vl", tmp_path, head_dim=32)
    with pytest.raises(ValueError, match="multiple of heads"):
        build_tiny("qwen2_5_vl", tmp_path, hidden=50)
    with pytest.raises(ValueError, match="multiple of kv_heads"):
        build_tiny("qwen3_vl", tmp_path, kv_heads=3)
    with pytest.raises(ValueError, match="unknown family"):
        build_tiny("qwen9", tmp_path)  # type: ignore[arg-type]
