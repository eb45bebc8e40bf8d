"""`whilst plan`: recipes of checkpoints that are not here or not made yet, and what it warns of."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.train.plan_runs import grpo_recipe_of
from train.dropping import Dropping, DropSimilar
from train.grpo_recipe import GRPORecipe
from train.plan import GPUS, Options, Plan, PlanError, plan, sizes_of, spec_of
from train.plan_rows import Approximate, Nominal, Rows, tokenizer_of
from train.plan_start import find_start
from train.rows import load_items
from train.sft import DataSettings, SFTRecipe
from train.stage import LoraSettings, ModelSettings, OptimSettings
from whilst import cli
from whilst.backbones.base import BackboneError
from whilst.backbones.published import PUBLISHED
from whilst.hardware import Launch
from whilst.recipe import load_recipe
from whilst.render import Renderer
from whilst.render_config import MemoryCut, RenderConfig
from whilst.sample import Sample, Segment, Thought, Video, read_samples, write_jsonl
from whilst.video import write_video

ROOT = Path(__file__).parents[2]
# totals as the Hub counts the published safetensors of each checkpoint (huggingface.co/Qwen, "Model size")
TOTALS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.75e9,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.29e9,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33.45e9,
    "Qwen/Qwen3-VL-2B-Instruct": 2.13e9,
    "Qwen/Qwen3-VL-4B-Instruct": 4.44e9,
    "Qwen/Qwen3-VL-8B-Instruct": 8.77e9,
}
PACKED = RenderConfig(layout="recurrent_packed", rule="text_memory")


@pytest.fixture
def recipe(tmp_path: Path) -> SFTRecipe:
    """A 7B model on 8 GPUs, whose data are not here."""
    return SFTRecipe(
        name="plan",
        stage="sft",
        output=str(tmp_path / "run"),
        model=ModelSettings(
            "Qwen/Qwen2.5-VL-7B-Instruct", dtype="bfloat16", attention="whilst_flex", max_pixels=100352
        ),
        data=DataSettings(str(tmp_path / "none.jsonl")),
        optim=OptimSettings(epochs=1, global_batch=64, deepspeed="zero3", gradient_checkpointing=True),
        render=PACKED,
        save_steps=100,
        launch=Launch(nodes=1, gpus_per_node=8),
    )


@pytest.mark.parametrize("name", TOTALS)
def test_published_checkpoints_have_their_published_sizes(name: str) -> None:
    assert sizes_of(ModelSettings(name), name).parts.total == pytest.approx(TOTALS[name], rel=0.01)


def test_thinking_variants_are_known() -> None:
    assert {f"Qwen/Qwen3-VL-{size}-Thinking" for size in ("2B", "4B", "8B")} <= set(PUBLISHED)


def test_a_model_that_nobody_knows_says_how_to_go_on(recipe: SFTRecipe) -> None:
    with pytest.raises(BackboneError, match="hf download Qwen/Qwen9-VL"):
        plan(replace(recipe, model=ModelSettings("Qwen/Qwen9-VL")))


def test_what_is_trained_after_freezing_and_lora(recipe: SFTRecipe) -> None:
    whole = plan(recipe).parameters
    frozen = plan(replace(recipe, model=replace(recipe.model, freeze_vision="tower+merger"))).parameters
    assert (whole.frozen, frozen.frozen) == (0, whole.vision)
    lora = plan(replace(recipe, model=replace(recipe.model, lora=LoraSettings(rank=16)))).parameters
    # 28 layers of rank 16 over q, k, v, o, gate, up, down
    wide, key, inner = 3584, 512, 18944
    assert lora.trainable == 28 * 16 * (2 * (wide + wide) + 2 * (wide + key) + 3 * (wide + inner))


def test_visual_tokens_need_no_tokenizer(recipe: SFTRecipe) -> None:
    """4 s at 2 fps of 640x360 at no more than 100352 pixels: 14 * 28 x 8 * 28 pixels, 4 pairs of frames."""
    rows = plan(recipe, Options(nominal=Nominal(seconds=40.0, segment=4.0))).rows
    assert rows.nominal and not rows.exact
    assert rows.clip == 4 * (rows.frame // 4) and rows.frame * 14 * 14 <= 100352
    assert rows.visual == 11 * rows.clip  # ten segments; the question sees the last one again
    assert Approximate().encode("<|im_start|>user\nTime=12 internationally") == [5, 8, 8, 8, 8, 8, 8, 8, 8]


def test_limits_of_a_sample_are_counted(recipe: SFTRecipe) -> None:
    """60 s at 2 fps are 120 frames, 60 patches; 20 tokens each fit 60 * 20 * 28 * 28 pixels over all of them."""
    nominal = Options(nominal=Nominal(seconds=60.0, segment=4.0))

    def rows(**limits: int) -> Rows:
        data = replace(recipe.data, **limits)
        return plan(replace(recipe, data=data, render=RenderConfig()), nominal).rows

    whole, few, small = rows(), rows(frames=60), rows(total_pixels=60 * 60 * 28 * 28)
    assert few.clip == whole.clip / 2 and few.frame == whole.frame
    assert small.frame < whole.frame and 0.8 * 60 * 60 < small.visual <= 60 * 60
    assert rows(frames=60, total_pixels=60 * 60 * 28 * 28).visual <= 60 * 60


def test_similar_tokens_are_counted_as_they_are_dropped(recipe: SFTRecipe, checkpoint: Path, tmp_path: Path) -> None:
    """Against what the collator cuts; a sample that is thinned in half of the epochs counts half."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(3):
        images = rng.integers(0, 256, (8, 64, 96, 3), dtype=np.uint8)
        images[2:4, :32] = images[:2, :32]  # half of the second patch equals the first
        write_video(tmp_path / f"{i}.mp4", images, 2)
        events = (Segment(0.0, 2.0), Thought(2.0, "none ."), Segment(2.0, 4.0), Thought(4.0, "now"))
        samples.append(Sample(f"s{i}", Video(str(tmp_path / f"{i}.mp4")), events))
    write_jsonl(samples, tmp_path / "train.jsonl")
    model = ModelSettings(str(checkpoint))
    spec = spec_of(model, str(checkpoint))
    tokenizer = tokenizer_of(str(checkpoint))
    items, _ = load_items(tmp_path / "train.jsonl", Renderer(tokenizer, spec, RenderConfig()), 2.0)

    def found(settings: DropSimilar) -> Plan:
        data = replace(recipe.data, train=str(tmp_path / "train.jsonl"), drop_similar=settings)
        return plan(replace(recipe, data=data, model=model, render=RenderConfig()))

    for settings in (
        DropSimilar(by="pixel", threshold=0.3, probability=0.5),
        DropSimilar(by="pixel", ratio=0.4),
        DropSimilar(by="pixel", ratio=0.9),
    ):
        thins = Dropping(replace(settings, probability=1.0), spec, 0)
        whole = sum(int((item.row.visual_index >= 0).sum()) for item in items)
        kept = sum(int((thins.cut(item.row, [item]).visual_index >= 0).sum()) for item in items)
        rows = found(settings).rows
        assert rows.visual == whole > kept
        assert rows.dropped == pytest.approx(settings.probability * (1 - kept / whole))
        assert rows.thinned * rows.tokens == pytest.approx(rows.tokens - rows.dropped * whole)
    unknown = found(DropSimilar(threshold=0.7))
    assert unknown.rows.dropped is None and unknown.rows.thinned == 1.0
    assert any("data.drop_similar: only the frames" in text for text in unknown.warnings)
    ratio = found(DropSimilar(ratio=0.9))
    assert ratio.work.flops.total < unknown.work.flops.total and ratio.memory.total == unknown.memory.total


def test_text_memory_is_counted_and_what_is_cut_of_it(recipe: SFTRecipe, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, np.zeros((2, 32, 32, 3), np.uint8), 2)
    events = (Segment(0.0, 1.0), Thought(1.0, "none ."))
    samples = [Sample(f"s{i}", Video(str(path)), events, memory="in-1 none . " * i) for i in range(3)]
    write_jsonl(samples, tmp_path / "train.jsonl")
    data, model = DataSettings(str(tmp_path / "train.jsonl")), ModelSettings(str(checkpoint))

    def rows(cut: MemoryCut | None) -> Rows:
        return plan(replace(recipe, data=data, model=model, render=RenderConfig(memory_cut=cut))).rows

    whole, cut = rows(None), rows(MemoryCut(1, 1))
    assert whole.memory_cut == 0 and len(set(whole.lengths)) == 3
    assert cut.memory_cut == whole.tokens - cut.tokens > 0


def test_steps_follow_from_samples_epochs_and_batch(recipe: SFTRecipe) -> None:
    work = plan(recipe).work
    assert work.steps is None and "--samples" in work.why_no_steps and work.gpu_hours is None
    work = plan(recipe, Options(samples=6500)).work
    assert (work.steps, work.accumulation) == (102, 8)  # 6500 / 64, rounded up
    assert work.gpu_hours is not None
    peak = GPUS["a100-80gb"][1]
    assert work.gpu_hours == pytest.approx(102 * work.flops_a_step / (0.35 * peak) / 3600)
    assert plan(recipe, Options(samples=6500, mfu=0.7)).work.gpu_hours == pytest.approx(work.gpu_hours / 2)


def test_memory_says_what_fits_and_what_to_do(recipe: SFTRecipe) -> None:
    spread = plan(recipe)
    assert spread.memory.fits and not any("do not fit" in text for text in spread.warnings)
    alone = plan(replace(recipe, optim=replace(recipe.optim, deepspeed=None)))
    assert alone.memory.fits is False  # 16 bytes of 8.3 billion parameters and DDP's buckets
    assert any("do not fit" in text and "zero3" in text for text in alone.warnings)
    on_cpu = plan(replace(recipe, launch=Launch(gpus_per_node=0)))
    assert on_cpu.memory.fits is None and on_cpu.work.gpu_hours is None


def test_warnings_of_settings_that_will_fail_or_lose_work(recipe: SFTRecipe) -> None:
    def told(changed: SFTRecipe, samples: int | None = None) -> str:
        return "\n".join(plan(changed, Options(samples)).warnings)

    assert "global_batch 64 is no multiple" in told(replace(recipe, launch=Launch(gpus_per_node=6)))
    assert "save_steps is 0" in told(replace(recipe, save_steps=0), 64 * 600)
    assert "not in the table" in told(replace(recipe, launch=Launch(gpu="b300-288gb")))
    short = replace(recipe, render=replace(PACKED, max_tokens=500))
    assert "nominal is rejected" in told(short)
    frozen = replace(recipe, model=replace(recipe.model, freeze_vision="tower"))
    assert "frozen tower backwards" in told(frozen)


def test_what_a_stop_costs(recipe: SFTRecipe) -> None:
    """Rooms and notices that follow from sizes alone, worked out here."""
    found = plan(recipe, Options(samples=64 * 250))
    total, trained = found.parameters.total, found.parameters.trainable
    assert found.stops.checkpoint == 2 * total + 12 * trained  # ZeRO-3 in bfloat16
    assert found.stops.most == 3  # of 250 updates after 100, 200 and 250; two are kept
    seconds = found.work.flops_a_step / (8 * 0.35 * GPUS["a100-80gb"][1])
    assert found.stops.unbroken == pytest.approx(seconds)
    assert found.stops.notice == pytest.approx(seconds + found.stops.checkpoint / 1e9)
    two = plan(replace(recipe, optim=replace(recipe.optim, deepspeed="zero2"))).stops
    assert two.checkpoint == 4 * total + 12 * trained
    lora = plan(replace(recipe, model=replace(recipe.model, lora=LoraSettings(rank=16))))
    assert lora.stops.checkpoint == 14 * lora.parameters.trainable
    assert plan(replace(recipe, keep_checkpoints=None), Options(samples=64 * 650)).stops.most == 7

    def told(changed: SFTRecipe) -> str:
        return "\n".join(plan(changed, Options(64 * 650)).warnings)

    assert "signal_seconds" not in told(recipe) and "keep_checkpoints" not in told(recipe)
    large = replace(recipe, optim=replace(recipe.optim, global_batch=1024))
    assert "launch.signal_seconds 300: from the signal" in told(large)
    assert "signal_seconds" not in told(replace(large, launch=replace(recipe.launch, signal_seconds=7200)))
    assert "checkpoints will take up to" in told(replace(large, optim=recipe.optim, save_steps=1, keep_checkpoints=20))
    assert "and all stay" in "\n".join(plan(replace(recipe, keep_checkpoints=None)).warnings)
    assert plan(replace(recipe, launch=Launch(gpus_per_node=0))).stops.unbroken is None


def test_a_model_is_loaded_whole_before_fsdp2_spreads_it(recipe: SFTRecipe) -> None:
    large = replace(
        recipe,
        model=replace(recipe.model, path="Qwen/Qwen2.5-VL-32B-Instruct"),
        launch=replace(recipe.launch, nodes=8),
    )
    spread = plan(replace(large, optim=replace(recipe.optim, deepspeed=None, fsdp2=True)))
    assert spread.memory.fits is False
    assert spread.memory.other["loading, before training"] == 4 * spread.parameters.total
    assert plan(large).memory.fits  # DeepSpeed's stage 3 loads a share


def test_options_are_checked() -> None:
    with pytest.raises(PlanError, match="mfu"):
        Options(mfu=0.0)
    with pytest.raises(PlanError, match="samples"):
        Options(samples=0)


def test_a_recipe_may_start_from_what_another_is_still_to_write(tmp_path: Path) -> None:
    sft = tmp_path / "sft.yaml"
    sft.write_text(
        "name: a\nstage: sft\noutput: out/sft\nmodel: {path: Qwen/Qwen3-VL-2B-Instruct}\ndata: {train: x, fps: 1.0}\n"
        "render: {layout: recurrent_packed, rule: text_memory}\noptim: {steps: 1}\n"
    )
    start = find_start("out/sft", tmp_path / "rl.yaml", tmp_path)
    assert start is not None and start.path == "Qwen/Qwen3-VL-2B-Instruct"
    assert start.contract is not None and start.contract.fps == 1.0
    with pytest.raises(PlanError, match="no recipe beside"):
        find_start("out/other", tmp_path / "rl.yaml", tmp_path)


def test_rows_of_rl_are_of_episodes_at_their_limits(tmp_path: Path) -> None:
    """8 segments, a thought each of at most 32 tokens, and an answer of at most 8: whatever the samples say."""
    recipe = grpo_recipe_of(tmp_path, "qwen3_vl")
    limits = replace(recipe.rollout, thought_tokens=40)
    rows, longer = plan(recipe).rows, plan(replace(recipe, rollout=limits)).rows
    assert rows.learned == 4 * (8 * 32 + 8) and rows.most_learned == 8 * 32 + 8
    made, length = plan(recipe).rollout, rows.lengths[0]
    frames = 8 * (96 // 8) ** 2 * (3 * 2 * 8 * 8) * 4  # 8 pairs of 96 x 96, in patches of 8 x 8, in float32
    assert made is not None and made.waiting == 4 * (frames + length * (53 + length))  # four episodes, and their masks
    assert [b - a for a, b in zip(rows.lengths, longer.lengths, strict=True)] == [8 * 8] * 4
    file = tmp_path / "train.jsonl"
    write_jsonl([sample.without_thoughts() for sample in read_samples(file)], file)
    assert plan(recipe).rows == rows
    silent = replace(recipe, contract=replace(recipe.contract, thinks=False))
    assert plan(silent).rows.learned == 4 * 8
    recurrent = RenderConfig(layout="recurrent")
    turns = plan(replace(recipe, contract=replace(recipe.contract, render=recurrent))).rows
    assert len(turns.lengths) == 4 * 9 and turns.learned == rows.learned  # a row a turn


def test_who_sees_one_segment_and_does_not_think_is_counted_on_whole_videos() -> None:
    """Time-R1's turn holds the video: a nominal one is one segment, not fifteen of which it sees the last."""
    recipe = load_recipe(ROOT / "recipes/time_r1/rl_7b.yaml", GRPORecipe)
    rows = plan(recipe, Options(nominal=Nominal(seconds=60.0, segment=4.0))).rows
    assert rows.nominal == Nominal(seconds=60.0, segment=60.0) and rows.segments == 1
    frames, size = 120, spec_of(recipe.model, recipe.model.path).frame_size(360, 640)
    assert rows.visual == frames // 2 * (size[0] // 28) * (size[1] // 28)


def test_rl_on_the_command_line_and_as_json(tmp_path: Path) -> None:
    """The published recipe: 256 groups of 8 on 32 ranks, from a checkpoint that is still to be trained."""
    out = tmp_path / "plan.json"
    found = CliRunner().invoke(
        cli.app, ["plan", str(ROOT / "recipes/vst/rl_7b.yaml"), "--samples", "11000", "--json", str(out)]
    )
    assert found.exit_code == 0, found.output
    figures = json.loads(out.read_text())
    assert figures["recipe"]["rollout"]["global_groups"] == 256
    assert figures["model"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert figures["rollout"]["episodes"] == 2048 and figures["rollout"]["turns"] == 2048 * 16
    assert figures["work"]["steps"] == 4 * 43  # 11000 / 256 generations of four updates
    flops, work = figures["work"]["flops"], figures["work"]
    whole = sum(flops.values()) + 4 * work["rollout"]  # vLLM's generation is waited for, and an update follows
    assert figures["stops"]["unbroken"] == pytest.approx(whole / (32 * 0.35 * GPUS["a100-80gb"][1]))
    assert any("launch.signal_seconds" in text for text in figures["warnings"])
    assert "a generation" in found.output and "GPU-hours" in found.output


def test_other_stages_are_counted_where_it_is_cheap() -> None:
    found = CliRunner().invoke(cli.app, ["plan", str(ROOT / "recipes/tiny/eval.yaml")])
    assert found.exit_code == 0 and "jobs" in found.output
