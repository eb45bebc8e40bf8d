"""Exported folders of real runs: they load anywhere, hold what was trained to the bit, and name no place of here."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import save
from transformers import AutoModelForImageTextToText, AutoTokenizer

from data_pipeline.share import export_samples
from train import sft
from train.checkpoint_files import Manifest, contents, publish
from train.export import ExportSettings, export_run
from train.sft import DataSettings, SFTRecipe
from train.sharding import MODEL_SHARDS
from train.stage import LoraSettings, ModelSettings, OptimSettings
from whilst.backbones.base import VISION_TOKENS, load
from whilst.checkpoint import CONTRACT, NOT_PUBLISHED, read_contract
from whilst.exported import ExportError, read_exported
from whilst.files import fingerprints
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video, read_samples, write_jsonl
from whilst.session import StreamSession
from whilst.video import write_video

PACKED = RenderConfig(layout="recurrent_packed", rule="text_memory")
HUB_BASE = "owner/base"
EXACT = ExportSettings(dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def samples(folder: Path) -> Path:
    """Two videos of two segments, and a sample of each."""
    made = []
    for i in range(2):
        frames = np.random.default_rng(i).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
        write_video(folder / f"{i}.mp4", frames, 2)
        events: list[Any] = []
        for k in range(2):
            events += [Segment(float(k), k + 1.0), Thought(k + 1.0, f"in-{k + 1} red-circle .")]
        events += [Query("q", 2.0, "which in-1 ?", kind="backward"), Answer(2.0, "red-circle", "q")]
        made.append(Sample(f"s{i}", Video(f"{i}.mp4"), tuple(events)))
    write_jsonl(made, folder / "train.jsonl")
    return folder / "train.jsonl"


@pytest.fixture(scope="module")
def runs(folder: Path, samples: Path, checkpoints: Mapping[str, Path]) -> Mapping[str, Path]:
    """Trained runs: whole weights in the family whose files have other names than its memory, and LoRA."""

    def train(name: str, base: Path, lora: LoraSettings | None, save: int) -> Path:
        recipe = SFTRecipe(
            name=f"test-{name}",
            stage="sft",
            source="Nobody 2026, table 1.",
            notes="The second video is noise.",
            output=str(folder / name),
            model=ModelSettings(str(base), lora=lora),
            data=DataSettings(str(samples)),
            optim=OptimSettings(steps=2, batch_size=2, learning_rate=1e-2, schedule="constant"),
            render=PACKED,
            save_steps=save,
        )
        return sft.run(recipe)

    return {
        "whole": train("whole", checkpoints["qwen2_5_vl"], None, 1),
        "lora": train("lora", checkpoints["qwen3_vl"], LoraSettings(rank=4), 0),
    }


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForImageTextToText.from_pretrained(run, dtype=torch.float32).state_dict())


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def stream(path: Path) -> list[object]:
    rng = np.random.default_rng(0)
    with StreamSession.from_pretrained(path, thought_tokens=6, answer_tokens=6) as session:
        said: list[object] = []
        for i in range(3):
            session.watch(rng.integers(0, 255, (2, 32, 32, 3), dtype=np.uint8), [i, i + 0.5], i + 1.0)
            said.append(session.think().ids)
        return [*said, session.ask("which in-1 ?").ids, session.memory]


def test_float32_is_the_trained_model_and_bfloat16_its_rounding(runs: Mapping[str, Path], tmp_path: Path) -> None:
    run = runs["whole"]
    trained = tensors(run)
    for dtype in ("float32", "bfloat16"):
        # shards so small that there are several, listed in an index
        done = export_run(run, tmp_path / dtype, ExportSettings(dtype=dtype, shard="300KB"))  # type: ignore[arg-type]
        assert sum(name.startswith("model-") for name in done.files) > 2
        assert "model.safetensors.index.json" in done.files
        assert json.loads((done.folder / "config.json").read_text())["dtype"] == dtype
        written = AutoModelForImageTextToText.from_pretrained(done.folder, dtype="auto").state_dict()
        assert set(written) == set(trained)
        for name, tensor in trained.items():
            assert torch.equal(written[name], tensor.to(getattr(torch, dtype))), name
    plain = [AutoModelForImageTextToText.from_pretrained(path) for path in (run, tmp_path / "float32")]
    assert torch.equal(logits(plain[0]), logits(plain[1]))
    assert stream(run) == stream(tmp_path / "float32")


def test_a_folder_has_what_loaders_need_and_names_no_place_here(
    runs: Mapping[str, Path], folder: Path, tmp_path: Path
) -> None:
    done = export_run(runs["whole"], tmp_path / "out", replace(EXACT, license="apache-2.0", datasets=("owner/data",)))
    assert set(done.files) >= {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("preprocessor_config.json", "video_preprocessor_config.json", CONTRACT, "README.md", "model.safetensors"),
    }
    assert not {"training_args.bin", "trainer_state.json", "recipe.yaml", "optimizer.pt"} & set(done.files)
    for name in done.files:
        assert str(folder).encode() not in (done.folder / name).read_bytes(), name
    contract = read_contract(done.folder)
    assert contract == replace(read_contract(runs["whole"]), base=NOT_PUBLISHED)
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "now"}], tokenize=False)
    assert text == "<|im_start|>user\nnow<|im_end|>\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]  # no part folder is left


def test_plain_generate_cannot_sample_vision_tokens(runs: Mapping[str, Path], tmp_path: Path) -> None:
    out = export_run(runs["whole"], tmp_path / "out", EXACT).folder
    model = AutoModelForImageTextToText.from_pretrained(out)
    vocabulary = AutoTokenizer.from_pretrained(out).get_vocab()
    vision = [vocabulary[token] for token in VISION_TOKENS]
    head = model.get_output_embeddings().weight
    ids = torch.arange(20, 28)[None]
    with torch.no_grad():
        hidden = model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, -1]
        head[vision] = 100 * hidden / hidden.norm() ** 2  # now nothing is likelier
    assert int(logits_of(model, ids).argmax()) in vision
    said = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, min_new_tokens=8)
    assert not set(said[0, 8:].tolist()) & set(vision)


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]


def test_adapters_are_merged_or_stand_by_themselves(
    runs: Mapping[str, Path], checkpoints: Mapping[str, Path], tmp_path: Path
) -> None:
    run, base = runs["lora"], checkpoints["qwen3_vl"]
    trained = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), str(run))
    expected = logits(trained)
    assert not torch.equal(expected, logits(AutoModelForImageTextToText.from_pretrained(base)))
    merged = export_run(run, tmp_path / "merged", EXACT).folder
    assert torch.allclose(logits(AutoModelForImageTextToText.from_pretrained(merged)), expected, atol=1e-5)
    assert stream(merged) == stream(run)
    with pytest.raises(ExportError, match="its adapter was trained on the folder .* name it with --base ID"):
        export_run(run, tmp_path / "adapter", replace(EXACT, adapter=True))
    done = export_run(run, tmp_path / "adapter", replace(EXACT, adapter=True, base=HUB_BASE))
    assert done.kind == "adapter" and read_contract(done.folder).base == HUB_BASE
    assert json.loads((done.folder / "adapter_config.json").read_text())["base_model_name_or_path"] == HUB_BASE
    alone = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), str(done.folder))
    assert torch.equal(logits(alone), expected)
    assert ModelCard.load(done.folder / "README.md").data.base_model == HUB_BASE
    with pytest.raises(ExportError, match="trained without LoRA, so it has no adapter; leave --adapter out"):
        export_run(runs["whole"], tmp_path / "none", replace(EXACT, adapter=True))


def test_checkpoints_and_shards_of_ranks(runs: Mapping[str, Path], tmp_path: Path) -> None:
    run = runs["whole"]
    first = export_run(run, tmp_path / "first", replace(EXACT, checkpoint=1)).folder
    before = tensors(run / "checkpoint-1")
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(first).items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in tensors(run).items())
    assert "this is the checkpoint of step 1" in (first / "README.md").read_text()
    with pytest.raises(ExportError, match="checkpoint-7: no such checkpoint; this run has 1, 2"):
        export_run(run, tmp_path / "none", replace(EXACT, checkpoint=7))
    # a run that was stopped, with its tensors in the shards of ranks: train.sharding puts them together
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for noted in ("recipe.yaml", "segments.json"):
        (stopped / noted).write_text((run / noted).read_text())
    together = load(run).model.state_dict()

    def checkpoint(model: Mapping[str, torch.Tensor]) -> None:
        part = stopped / "part"
        save({"model": model}, checkpoint_id=part / MODEL_SHARDS, no_dist=True)
        publish(part, stopped / "checkpoint-2", Manifest(2, 1, 1, "", fingerprints(part, contents(part))))

    checkpoint(together)
    found = export_run(stopped, tmp_path / "shards", EXACT).folder
    assert all(torch.equal(tensor, together[name]) for name, tensor in tensors(found).items())
    assert read_contract(found) == replace(read_contract(run), base=NOT_PUBLISHED)
    checkpoint({name: tensor for name, tensor in together.items() if "language_model.norm" not in name})
    with pytest.raises(ExportError, match=r"not of this model: model.language_model.norm.weight missing, none unknown"):
        export_run(stopped, tmp_path / "torn", EXACT)


def test_nothing_is_left_of_an_export_that_fails(runs: Mapping[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in runs["whole"].iterdir():
        if file.is_file():
            (run / file.name).write_bytes(file.read_bytes())
    weights = load_file(run / "model.safetensors")
    name = next(iter(weights))
    for broken, message in (
        ({**weights, name: weights[name] * float("nan")}, "holds NaN or infinity: the training broke down"),
        ({k: v for k, v in weights.items() if k != name}, "its weights are not of this model: missing_keys: "),
        ({**weights, "extra": weights[name].clone()}, "its weights are not of this model: unexpected_keys: extra"),
    ):
        save_file(broken, run / "model.safetensors", {"format": "pt"})
        with pytest.raises(ExportError, match=message):
            export_run(run, tmp_path / "out", EXACT)
        assert list(tmp_path.iterdir()) == [run]
    with pytest.raises(ExportError, match="it is there already; choose another folder, or pass --overwrite"):
        export_run(runs["whole"], run, EXACT)
    with pytest.raises(ExportError, match="it is no exported folder, so it is not overwritten"):
        export_run(runs["whole"], run, replace(EXACT, overwrite=True))


REPORT: dict[str, Any] = {
    "name": "small",
    "scorer": "exact",
    "definitions": {"accuracy": "share of queries that are right"},
    "arms": {"mine": {"all": {"n": 40, "accuracy": 0.625, "ci_low": 0.5, "ci_high": 0.75}}},
    "controls_by_arm": {"mine": {"text_only": {"all": {"n": 40, "accuracy": 0.25, "ci_low": 0.1, "ci_high": 0.4}}}},
    "manifests": {"mine": {"model": {"weights and config": "0123456789abcdef"}}},
}


def test_the_card_says_what_is_known_and_no_more(
    runs: Mapping[str, Path], samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs["whole"]
    settings = replace(EXACT, base=HUB_BASE, license="apache-2.0", datasets=("owner/data",))
    plain = export_run(run, tmp_path / "plain", settings).folder
    card = ModelCard.load(plain / "README.md")
    assert (card.data.base_model, card.data.license, card.data.datasets) == (HUB_BASE, "apache-2.0", ["owner/data"])
    assert card.data.library_name == "transformers" and card.data.eval_results is None
    said_of_run = ("Nobody 2026, table 1.", "The second video is noise.", "recurrent_packed", "0.01")
    for said in (*said_of_run, "Not evaluated", ", 1):  # segments as in training"):
        assert said in card.text, said
    report = tmp_path / "report.json"
    of = {"arms": {"mine": str(run), "other": str(tmp_path)}, "samples": "somewhere/test"}
    report.write_text(json.dumps({**REPORT, "settings": of}))
    card = ModelCard.load(export_run(run, tmp_path / "shown", replace(settings, report=report)).folder / "README.md")
    (result,) = card.data.eval_results or []
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.625, "small, test")
    assert "| all | 40 | 62.5% | 50.0 to 75.0 |" in card.text
    assert "| text_only | 40 | 25.0% | 10.0 to 40.0 |" in card.text and "Not evaluated" not in card.text
    for checkpoint, where in ((1, "checkpoint-1"), (None, "other")):  # figures of other weights are not given
        other = {**REPORT, "settings": {**of, "arms": {"mine": str(run if checkpoint else tmp_path)}}}
        report.write_text(json.dumps(other))
        with pytest.raises(ExportError, match="none of its arms"):
            export_run(run, tmp_path / where, replace(settings, report=report, checkpoint=checkpoint))
    # the code of the card works, in the folder as it stands
    code = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(plain)
    exec(code[1].replace("video.mp4", str(samples.parent / "0.mp4")), {})


def test_samples_become_a_dataset_that_loads(samples: Path, folder: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    done = export_samples(samples, tmp_path / "data", license="cc-by-4.0")
    assert set(done.files) == {"README.md", "data/train-00000-of-00001.parquet"} and done.kind == "dataset"
    rows = load_dataset(str(done.folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows["id"] == ["s0", "s1"] and json.loads(rows[0]["events"])[1]["text"] == "in-1 red-circle ."
    assert [s.events for s in read_samples(done.folder / "data" / "train")] == [s.events for s in read_samples(samples)]
    header = yaml.safe_load((done.folder / "README.md").read_text().split("---\n")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    absolute = samples.with_name("absolute.jsonl")
    absolute.write_text(samples.read_text().replace('"0.mp4"', f'"{folder}/0.mp4"'))
    with pytest.raises(ExportError, match="absolute.jsonl: sample s0: video.path .* names a place on this machine"):
        export_samples(absolute, tmp_path / "absolute")
    with pytest.raises(ExportError, match="neither a training run nor samples"):
        export_samples(tmp_path / "cache", tmp_path / "none")
    (done.folder / "README.md").write_text("changed")
    with pytest.raises(ExportError, match="not what was exported: README.md was changed"):
        read_exported(done.folder)
