"""Similar tokens dropped in training: which go, that the shorter row computes what the whole one would if nobody saw
them, and that serving does the same."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.streams import FPS, HEIGHT, WIDTH, frames, rows_of, stream, timeline, views_of
from train.collate import Collator
from train.dropping import Dropping, DroppingError, DropSimilar, Epochs, staying
from train.rows import Item
from train.sft import DataSettings, SFTRecipe, build_trainer, run
from train.stage import ModelSettings, OptimSettings
from whilst.backbones.base import Backbone, BackboneError
from whilst.checkpoint import load_checkpoint
from whilst.clips import SegmentClip
from whilst.policies import PolicyError, make_policy
from whilst.render import IGNORE, Renderer
from whilst.render_config import RenderConfig
from whilst.runtime import encode_clips
from whilst.sample import Answer, Query, Sample, Segment, Video, write_jsonl
from whilst.video import write_video

FEATURE, PIXEL = DropSimilar("feature", ratio=0.5), DropSimilar("pixel", threshold=0.02)
LAYOUTS = {
    "interleaved": RenderConfig(),
    "window": RenderConfig(rule="visual_window", rule_params={"budget": 9}, queries="kept"),
    "split": RenderConfig(layout="split", rule="unit", scheme="group_decoupled"),
}


def calm(sample: Sample, seed: int = 0) -> list[SegmentClip]:
    """Clips of which the left half never changes, and the right half does with every second frame."""
    rng = np.random.default_rng(seed)
    first = frames(rng, 1)
    clips = []
    for segment in sample.segments():
        n = round((segment.end - segment.start) * FPS)
        images = np.repeat(first, n, axis=0)
        images[:, :, WIDTH // 2 :] = np.repeat(frames(rng, -(-n // 2)), 2, axis=0)[:n, :, WIDTH // 2 :]
        clips.append(SegmentClip(segment, images, tuple(segment.start + i / FPS for i in range(n)), FPS))
    return clips


def items_of(backbone: Backbone, renderer: Renderer, seeds: tuple[int, ...] = (0, 1)) -> list[Item]:
    """Two samples of unequal length on calm clips."""
    found = []
    for seed in seeds:
        sample = timeline(f"s{seed}") if seed == 0 else timeline(f"s{seed}").with_events(timeline().events[:10])
        (row,) = rows_of(renderer, sample, views_of(backbone, sample))
        clips = calm(sample, seed)
        found.append(Item(row, tuple(clips[c] for c in row.clips)))
    return found


def hidden_of(backbone: Backbone, batch: dict[str, Any], **more: Any) -> torch.Tensor:
    names = ("labels", "loss_weight", "dropped")
    inputs = {key: value for key, value in batch.items() if key not in names} | more
    with torch.no_grad():
        hidden: torch.Tensor = backbone.core(**inputs).last_hidden_state
    return hidden


# ---- Which go.


def test_which_tokens_go_by_worked_numbers() -> None:
    """Two places a frame. Directions in degrees: (0, 0) (10, 90) (100, 90) | (100, 95): the frame before is the whole
    one, the first stays, and a clip is compared with the one before it. cos 10 = 0.985, cos 90 = 0, cos 5 = 0.996."""

    def clip(*degrees: tuple[float, float]) -> torch.Tensor:
        angles = torch.tensor(degrees).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], -1)

    clips = [clip((0, 0), (10, 90), (100, 90)), clip((100, 95))]
    by_threshold = staying(clips, DropSimilar(threshold=0.7))
    assert [stays.tolist() for stays in by_threshold] == [[True, True, False, True, True, False], [False, False]]
    assert [stays.tolist() for stays in staying(clips, DropSimilar(threshold=0.99))] == [
        [True, True, True, True, True, False],
        [False, False],
    ]
    # of each clip that share, the most alike first; of one frame of two tokens 0.4 is none
    by_ratio = staying(clips, DropSimilar(ratio=0.4))
    assert [stays.tolist() for stays in by_ratio] == [[True, True, False, True, True, False], [True, True]]
    assert staying(clips, DropSimilar(ratio=0.5))[1].tolist() == [False, True]
    pixels = [torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[0.1, 0.0], [0.0, 0.3]]])]
    (stays,) = staying(pixels, DropSimilar("pixel", threshold=0.1))  # mean differences 0.05 and 0.15
    assert stays.tolist() == [True, True, False, True]


def test_settings_that_cannot_be() -> None:
    for wrong in ({}, {"threshold": 0.5, "ratio": 0.5}, {"ratio": 1.0}, {"threshold": 0.5, "probability": 2.0}):
        with pytest.raises(ValueError, match="drop_similar"):
            DropSimilar(**wrong)  # type: ignore[arg-type]


def test_a_draw_is_the_seed_s_the_sample_s_and_the_epoch_s(backbones: Mapping[str, Backbone]) -> None:
    spec = backbones["qwen2_5_vl"].spec
    half = replace(FEATURE, probability=0.5)
    names = [f"s{i}" for i in range(400)]

    def draws(seed: int, epoch: int) -> list[bool]:
        dropping = Dropping(half, spec, seed, epoch)
        return [dropping.thins(name) for name in names]

    assert draws(0, 0) == draws(0, 0) and draws(0, 0) != draws(0, 1) != draws(1, 1)
    assert 0.4 < sum(draws(0, 0)) / 400 < 0.6
    assert not any(Dropping(replace(half, probability=0.0), spec, 0).thins(name) for name in names)
    assert all(Dropping(replace(half, probability=1.0), spec, 0).thins(name) for name in names)
    dropping = Dropping(half, spec, 0)

    class State:
        epoch = 2.0

    Epochs(dropping).on_epoch_begin(None, State(), None)
    assert dropping.epoch == 2


# ---- The shorter row is the whole row of which the dropped tokens are seen by nobody.


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("by", ["feature", "pixel"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_thinned_row_equals_the_whole_one_with_hidden_keys(
    backbone: Backbone, layout: str, by: str, packed: bool
) -> None:
    settings = FEATURE if by == "feature" else PIXEL
    renderer = Renderer(backbone.tokenizer, backbone.spec, LAYOUTS[layout])
    items = items_of(backbone, renderer)
    packs = [items] if packed else [[item] for item in items]
    plain = Collator(backbone.spec, renderer.rule, "whilst_sdpa", pad_id=0)
    thinner = replace(plain, dropping=Dropping(settings, backbone.spec, seed=0))
    whole, thinned = plain(packs), thinner(packs)

    # which tokens of the whole batch go, found on its own
    if by == "feature":
        with torch.no_grad():
            table = backbone.family.encode(backbone.core, whole["pixel_values_videos"], whole["video_grid_thw"]).tokens
    else:
        table = whole["pixel_values_videos"].view(-1, backbone.spec.merge**2 * whole["pixel_values_videos"].shape[1])
    stays_table, at = torch.ones(len(table), dtype=torch.bool), 0
    for item in items:
        clips = []
        for t, h, w in item.row.grids:
            n = h * w // backbone.spec.merge**2
            clips.append(table[at : at + t * n].view(t, n, -1))
            at += t * n
        stays_table[at - sum(c.shape[0] * c.shape[1] for c in clips) : at] = torch.cat(staying(clips, settings))
    stays = torch.ones(whole["input_ids"].shape, dtype=torch.bool)
    stays[whole["visual_mask"]] = stays_table[whole["visual_index"]]
    gone = int((~stays).sum())
    assert 0 < gone < int(whole["visual_mask"].sum())

    mask = whole["attention_mask"] & stays[:, None, None]
    mask |= torch.eye(mask.shape[-1], dtype=torch.bool) & ~stays[:, None, None]
    wanted = hidden_of(backbone, whole | {"attention_mask": mask})
    got = hidden_of(backbone, thinned)
    assert float((wanted - hidden_of(backbone, whole)).abs().max()) > 1e-3  # it matters who is seen
    if by == "feature":
        assert thinned["thin"].dropped == (gone, int(whole["visual_mask"].sum()))
        lengths = thinned["thin"].lengths
        real = torch.arange(stays.shape[1]) < torch.tensor(lengths)[:, None]
        assert float((wanted - got)[real & stays].abs().max()) <= 1e-5
        labels = (whole["labels"] != IGNORE).flatten().nonzero()[:, 0]
        assert torch.equal(hidden_of(backbone, thinned, kept=labels - 1)[0], got.flatten(0, 1)[labels - 1])
        call = (table, whole["visual_index"], whole)
        if len(packs) == 1:  # FlashAttention has no mask: the same tokens
            _, shorter, mask, _ = thinned["thin"](*call, None)
            assert mask is None and torch.equal(shorter["input_ids"], whole["input_ids"][stays][None])
        else:
            with pytest.raises(DroppingError, match="batch_size: 1"):
                thinned["thin"](*call, None)
        with pytest.raises(BackboneError, match="dropped"):
            hidden_of(backbone, thinned, kept=(~stays).flatten().nonzero()[:1, 0])
    else:
        assert thinned["dropped"].tolist() == [gone, int(whole["visual_mask"].sum())]
        for b, items_of_row in enumerate(packs):
            n = sum(len(item.row) for item in items_of_row)
            kept = stays[b, :n]
            count = int(kept.sum())
            assert torch.equal(thinned["position_ids"][:, b, :count], whole["position_ids"][:, b, :n][:, kept])
            assert torch.equal(thinned["labels"][b, :count], whole["labels"][b, :n][kept])
            assert float((wanted[b, :n][kept] - got[b, :count]).abs().max()) <= 1e-5


@pytest.mark.parametrize("layout", ["interleaved", "split"])
def test_serving_with_the_policy_is_what_was_trained(backbone: Backbone, layout: str) -> None:
    """Threshold or ratio, across segments: a stream under policy drop_similar gives the logits of the thinned row."""
    renderer = Renderer(backbone.tokenizer, backbone.spec, LAYOUTS[layout])
    sample = timeline("s0")
    (item,) = items_of(backbone, renderer, (0,))
    views = [encode_clips(backbone, [(c.segment, c.images, c.times)], FPS)[0] for c in item.clips]
    collate = Collator(backbone.spec, renderer.rule, "whilst_sdpa", pad_id=0)
    for settings in ({"threshold": 0.9}, {"ratio": 0.3}):
        dropping = Dropping(DropSimilar("feature", **settings), backbone.spec, seed=0)
        batch = replace(collate, dropping=dropping)([[item]])
        slots = (batch["labels"] != IGNORE).flatten().nonzero()[:, 0] - 1
        with torch.no_grad():
            trained = backbone.logits(hidden_of(backbone, batch, kept=slots)[0])
        assert 0 < batch["thin"].dropped[0] < batch["thin"].dropped[1]
        (run_,) = stream(backbone, renderer, [sample], [views], policy=make_policy({"name": "drop_similar"} | settings))
        assert float((run_.logits - trained).abs().max()) <= 1e-5


# ---- Runs.


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, checkpoints: Mapping[str, Path]) -> SFTRecipe:
    """Four calm videos of two segments with an answer each."""
    folder = tmp_path_factory.mktemp("calm")
    made = []
    for i in range(4):
        events = (
            Segment(0.0, 2.0),
            Segment(2.0, 4.0),
            Query("q", 4.0, "which in-1 ?"),
            Answer(4.0, "red-circle" if i % 2 else "none", "q"),
        )
        sample = Sample(f"s{i}", Video(f"{i}.mp4"), events)
        images = np.concatenate([clip.images for clip in calm(sample, i)])
        write_video(folder / f"{i}.mp4", images[:, :HEIGHT, :HEIGHT], 2)
        made.append(sample)
    write_jsonl(made, folder / "train.jsonl")
    return SFTRecipe(
        name="test",
        stage="sft",
        output=str(folder / "run"),
        model=ModelSettings(str(checkpoints["qwen3_vl"])),
        data=DataSettings(str(folder / "train.jsonl"), drop_similar=replace(FEATURE, probability=0.5)),
        optim=OptimSettings(epochs=2, global_batch=2, batch_size=1, learning_rate=1e-3, schedule="constant"),
        policy=({"name": "drop_similar", "ratio": 0.5},),
        log_steps=1,
        save_steps=1,
    )


def test_a_thinned_run_resumes_bitwise_and_says_what_it_left_out(recipe: SFTRecipe, tmp_path: Path) -> None:
    """Two epochs of four samples in global batches of two are four updates; the policy goes into the contract."""
    whole = run(replace(recipe, output=str(tmp_path / "whole")))
    stopped = replace(recipe, output=str(tmp_path / "stopped"))
    first = build_trainer(stopped)
    first.args.max_steps = 3  # in the second epoch
    first.train()
    again = run(stopped)
    assert (whole / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    log = [e for e in json.loads((again / "trainer_state.json").read_text())["log_history"] if "loss" in e]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4]
    shares = [entry["dropped_share"] for entry in log]
    assert any(0.0 < share <= 0.5 for share in shares) and all(0.0 <= share <= 0.5 for share in shares)
    assert load_checkpoint(whole).policy == make_policy({"name": "drop_similar", "ratio": 0.5})


def test_a_run_by_pixel_under_its_own_back_end(recipe: SFTRecipe, tmp_path: Path) -> None:
    data = replace(recipe.data, drop_similar=DropSimilar("pixel", threshold=0.2))
    model = replace(recipe.model, attention="eager")
    optim = replace(recipe.optim, epochs=None, steps=1)
    out = run(replace(recipe, output=str(tmp_path / "run"), data=data, model=model, optim=optim, save_steps=0))
    (entry,) = [e for e in json.loads((out / "trainer_state.json").read_text())["log_history"] if "loss" in e]
    assert 0.0 < entry["dropped_share"] < 1.0 and math.isfinite(entry["loss"])


def test_what_a_recipe_cannot_ask_for(recipe: SFTRecipe) -> None:
    with pytest.raises(DroppingError, match="by: pixel, or model.attention: whilst_sdpa"):
        build_trainer(replace(recipe, model=replace(recipe.model, attention="whilst_flex")))
    packed = RenderConfig(layout="recurrent_packed", rule="text_memory")
    with pytest.raises(DroppingError, match="use layout interleaved or split"):
        build_trainer(replace(recipe, render=packed))
    with pytest.raises(PolicyError, match="not defined for layout"):
        build_trainer(replace(recipe, render=packed, policy=({"name": "visual_window", "budget": 8},)))
