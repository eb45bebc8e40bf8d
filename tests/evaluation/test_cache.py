"""Predictions that are kept: same manifest, same bits; anything else is made anew and says why."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation import predictions
from evaluation.cache import (
    MANIFEST,
    Predicted,
    block_file,
    blocks_of,
    check_ids,
    differences,
    folder_of,
    read_block,
    sources_hash,
    videos_hash,
    write_block,
)
from evaluation.predict import Episode, EvaluationError, Reply
from evaluation.predictions import Done, load_samples, predict_all, predictions_of
from evaluation.recipe import EvalRecipe, Job, Reading, named_jobs
from evaluation.run import run_job
from whilst.checkpoint import CONTRACT
from whilst.recipe import save_resolved
from whilst.render_config import RenderConfig
from whilst.sample import Sample, read_samples, write_jsonl

ROOT = Path(__file__).parents[2]
TEXT = RenderConfig(layout="recurrent_packed", rule="text_memory")
New = Callable[..., str]


@pytest.fixture
def asked(new_arm: New, sample_file: str, tmp_path: Path) -> EvalRecipe:
    """One arm that draws its thoughts, on three samples in three blocks."""
    return EvalRecipe(
        name="e",
        stage="eval",
        output=str(tmp_path / "out"),
        samples=sample_file,
        arms={"one": new_arm("one", TEXT, seed=1)},
        temperature={"one": 1.0},
        batch=1,
        thought_tokens=3,
        answer_tokens=3,
        bootstrap_draws=20,
    )


def files(output: str | Path, job: str = "one") -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder_of(output, job).iterdir())}


def predict(recipe: EvalRecipe, **jobs: Job) -> dict[str, Done]:
    return predict_all(recipe, jobs or named_jobs(recipe))[0]


# ---- Blocks


def videos(*names: str) -> list[Sample]:
    made = []
    for i, name in enumerate(names):
        made.append(Sample.__new__(Sample))
        object.__setattr__(made[-1], "id", str(i))
        object.__setattr__(made[-1], "video", type("V", (), {"path": name})())
    return made


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("names", ["a", "abcdefg", "aabbccdd", "abcabcabc", "aaaaaaab", "abbbbc"])
def test_blocks_hold_every_sample_once_and_videos_whole(names: str, batch: int) -> None:
    blocks = blocks_of(videos(*names), batch)
    assert sorted(i for block in blocks for i in block) == list(range(len(names)))
    for video in set(names):
        inside = {b for b, block in enumerate(blocks) if any(names[i] == video for i in block)}
        assert len(inside) == 1 or names.count(video) > batch
    for block in blocks:
        of_block = {names[i] for i in block}
        assert len({names[i] for i in block[: len(of_block)]}) == len(of_block), "videos take turns"
    if batch > 1 and len(set(names)) == len(names) > 1:
        assert all(len(block) > 1 for block in blocks), "none is alone"


def test_one_sample_a_video_keeps_the_order_of_the_file() -> None:
    assert blocks_of(videos(*"abcdefgh"), 3) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert blocks_of(videos(*"abcdefg"), 3) == [[0, 1, 2], [3, 4, 5, 6]], (
        "a last block of one video joins its neighbour"
    )


def test_the_same_id_twice_is_refused(sample_file: str, tmp_path: Path) -> None:
    samples = read_samples(sample_file)
    with pytest.raises(EvaluationError, match="the id 'a' is there twice"):
        check_ids([*samples, samples[0]])


def test_a_block_reads_back_as_it_was(tmp_path: Path) -> None:
    episode = Episode("a", [(1.0, "in-1 “x” \u2028 .", True)], [Reply("q", 1.5, "", False)], 4, 2)
    made = [
        Predicted("a", (episode, Episode("a"))),
        Predicted("b", (), "gone"),
        Predicted("c", left_out=(("q", "no"),)),
    ]
    write_block(tmp_path, 7, made)
    assert read_block(tmp_path, 7, ["a", "b", "c"]) == (made, "")
    assert read_block(tmp_path, 8, ["a"]) == (None, "")
    assert "does not hold the 2 samples" in read_block(tmp_path, 7, ["a", "b"])[1]
    assert [file.name for file in tmp_path.iterdir()] == ["block-00007.jsonl"], "no temporary file stays"


# ---- Runs


def test_a_second_run_reads_and_does_not_watch(asked: EvalRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    first = predict(asked)["one"]
    assert (first.made, first.reused, first.notes) == (3, 0, ())
    before = files(asked.output)
    monkeypatch.setattr(predictions, "checkpoint_of", lambda *_, **__: pytest.fail("no model is needed"))
    again = predict(asked)["one"]
    assert (again.made, again.reused, again.notes) == (0, 3, ()) and files(asked.output) == before


KILLED = """
import os, signal, sys
from evaluation import cache, predictions
from evaluation.recipe import EvalRecipe, named_jobs
from whilst.recipe import load_recipe

whole, blocks = cache.os.replace, []

def replace(source, target):
    if "block-" in str(target):
        blocks.append(target)
        if len(blocks) == 2:
            os.kill(os.getpid(), signal.SIGKILL)  # the second block is written, but not in its place
    whole(source, target)

cache.os.replace = replace
cache.sources_hash = lambda: sys.argv[2]  # files may be edited while tests run
recipe = load_recipe(sys.argv[1], EvalRecipe)
predictions.predict_all(recipe, named_jobs(recipe))
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(asked: EvalRecipe, tmp_path: Path) -> None:
    predict(asked)
    whole = files(asked.output)
    killed = replace(asked, output=str(tmp_path / "killed"))
    save_resolved(killed, tmp_path / "killed.yaml")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed.yaml"), sources_hash()]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    there = [file for file in files(killed.output) if file.startswith("block-")]
    assert there == ["block-00000.jsonl"]
    done = predict(killed)["one"]
    assert (done.made, done.reused) == (2, 1), "it goes on behind the last block"
    again = {name: content for name, content in files(killed.output).items() if not name.startswith(".")}
    assert again == whole, "bit for bit"


def test_a_torn_or_changed_line_is_predicted_again(asked: EvalRecipe, capfd: pytest.CaptureFixture[str]) -> None:
    predict(asked)
    before = files(asked.output)
    torn = block_file(folder_of(asked.output, "one"), 1)
    for spoil in (
        lambda b: b[: len(b) // 2],
        lambda b: b.replace(b'"time"', b'"Time"', 1),
        lambda b: b + b[:9] + b"\n",
    ):
        torn.write_bytes(spoil(before[torn.name]))
        done = predict(asked)["one"]
        assert (done.made, done.reused) == (1, 2)
        assert "block-00001.jsonl" in done.notes[0] and "predicted again" in done.notes[0]
        assert done.notes[0] in capfd.readouterr().err
        assert files(asked.output) == before


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"thought_tokens": 4}, "settings.thought_tokens: 3 -> 4"),
        ({"temperature": {"one": 0.5}}, "settings.temperature: 1.0 -> 0.5"),
        ({"seed": 1}, "settings.seed: 0 -> 1"),
        ({"batch": 2}, "settings.batch: 1 -> 2"),
        ({"limit": 2}, "samples: "),
    ],
)
def test_another_recipe_makes_predictions_anew(asked: EvalRecipe, change: dict[str, Any], why: str) -> None:
    predict(asked)
    other = replace(asked, **change)
    done = predict(other)["one"]
    assert done.reused == 0 and done.made == (other.limit or 3)
    assert why in done.notes[0] and "made anew" in done.notes[0]
    assert predict(other)["one"].reused == done.made


def test_what_does_not_decide_predictions_keeps_them(asked: EvalRecipe) -> None:
    predict(asked)
    other = replace(asked, bootstrap_draws=30, shards=2, idle_thought="x", shown_episodes=1, constant="B")
    assert predict(other)["one"].reused == 3


def test_another_model_contract_sample_or_video_makes_predictions_anew(asked: EvalRecipe) -> None:
    from safetensors.numpy import load_file, save_file

    def note() -> str:
        done = predict(asked)["one"]
        assert done.reused == 0 and done.made == 3
        assert predict(asked)["one"].reused == 3
        return " ".join(done.notes)

    predict(asked)
    weights = Path(asked.arms["one"], "model.safetensors")
    tensors = load_file(weights)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, weights, {"format": "pt"})
    assert "model.weights and config" in note()
    contract = Path(asked.arms["one"], CONTRACT)
    contract.write_text(contract.read_text() + "\n# another line\n")
    assert "model.streaming.yaml" in note()
    Path(asked.arms["one"], "trainer_state.json").write_text("{}")
    assert predict(asked)["one"].reused == 3, "the trainer's diary says nothing"
    samples = read_samples(asked.samples)
    write_jsonl([replace(samples[0], memory="none .\n"), *samples[1:]], asked.samples)
    assert "samples: " in note()
    video = Path(samples[0].video.path)
    before = videos_hash([str(video)])
    video.write_bytes(video.read_bytes() + b"\0")
    assert videos_hash([str(video)]) != before and "videos: " in note()


def test_predictions_without_a_manifest_are_not_believed(asked: EvalRecipe) -> None:
    predict(asked)
    (folder_of(asked.output, "one") / MANIFEST).unlink()
    done = predict(asked)["one"]
    assert (done.made, done.reused) == (3, 0) and "there is no manifest" in done.notes[0]
    (folder_of(asked.output, "one") / MANIFEST).write_text("{")
    assert "its manifest cannot be read" in predict(asked)["one"].notes[0]


def test_the_manifest_says_what_decides(asked: EvalRecipe) -> None:
    predict(asked)
    manifest = json.loads((folder_of(asked.output, "one") / MANIFEST).read_text())
    assert set(manifest) == {
        "schema", "model", "samples", "videos", "settings", "thoughts_of", "device", "code", "libraries", "commit",
    }  # fmt: skip
    assert set(manifest["model"]) == {"weights and config", CONTRACT}
    assert set(manifest["libraries"]) == {"torch", "transformers"} and set(manifest["code"]) == {"version", "sources"}
    assert differences(manifest, manifest) == []
    assert differences({"a": {"b": 1}}, {"a": {"b": 2, "c": 0}}) == ["a.b: 1 -> 2", "a.c: null -> 0"]


def test_a_writer_that_changes_changes_its_reader(asked: EvalRecipe, new_arm: New) -> None:
    arms = {**asked.arms, "two": new_arm("two", TEXT, seed=2)}
    reading = replace(asked, arms=arms, readers={"r": Reading("two", "one")})
    assert {name: done.made for name, done in predict(reading).items()} == {"one": 3, "two": 3, "r": 3}
    other = replace(reading, temperature={"one": 0.7})
    done = predict(other)
    assert {name: one.made for name, one in done.items()} == {"one": 3, "two": 0, "r": 3}
    assert "thoughts_of" in done["r"].notes[0]


# ---- Shards


@pytest.mark.parametrize("control", [None, "thoughts_shuffled", "last_frames"])
def test_shards_add_up_to_the_single_run(asked: EvalRecipe, tmp_path: Path, control: str | None) -> None:
    job = Job("one", control)
    single = replace(asked, batch=1 if control != "thoughts_shuffled" else 3)
    predict(single, x=job)
    want = files(single.output, "x")
    blocks = sum(name.startswith("block-") for name in want)
    for shards in (2, 5):
        split = replace(single, output=str(tmp_path / f"{shards}"), shards=shards)
        manifest = predictions.manifests_of(split, {"x": job}, load_samples(split))["x"]
        parts = []
        for shard in range(shards):
            before = set(files(split.output, "x")) if folder_of(split.output, "x").exists() else set()
            predictions.predict_shard(split, "x", job, shard, "cpu")
            if folder_of(split.output, "x").exists():
                parts.append(set(files(split.output, "x")) - before)
        assert sum(len(part) for part in parts) == blocks, "no block twice, none left out"
        got = files(split.output, "x")
        assert got == {name: content for name, content in want.items() if name != MANIFEST}
        assert manifest == json.loads(want[MANIFEST]), "how many there are decides nothing"


@pytest.mark.slow
def test_processes_give_the_same_predictions(asked: EvalRecipe, new_arm: New, tmp_path: Path) -> None:
    arms = {**asked.arms, "two": new_arm("two", TEXT, seed=2)}
    single = replace(asked, arms=arms, readers={"r": Reading("two", "one")})
    predict(single)
    spread = replace(single, output=str(tmp_path / "spread"), jobs=2, shards=2, devices=("cpu", "cpu"))
    done = predict(spread)
    assert {name: one.made for name, one in done.items()} == {"one": 3, "two": 3, "r": 3}
    for job in ("one", "two", "r"):
        assert files(spread.output, job) == files(single.output, job)


def test_a_device_that_is_not_here_is_an_error(asked: EvalRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(
        EvaluationError, match=r"devices: cuda:1: this machine has 1 CUDA devices; use devices: \[cpu\]"
    ):
        predict(replace(asked, devices=("cuda:0", "cuda:1")))


# ---- Failures


def test_a_video_that_cannot_be_read_is_a_listed_failure(asked: EvalRecipe) -> None:
    video = Path(read_samples(asked.samples)[1].video.path)
    sound = video.read_bytes()
    video.write_bytes(b"no video")
    job = Job("one")
    outcome = run_job(asked, job)
    assert list(outcome.failures) == ["b"] and str(video) in outcome.failures["b"]
    assert len(outcome.scored) == 6, "the denominator stays"
    broken = [item for item in outcome.scored if item.sample == "b"]
    assert len(broken) == 2 and not any(item.right for item in broken)
    assert all(item.reason.startswith("failed: ") for item in broken)
    again = predict(asked)["one"]
    assert (again.reused, again.made, again.failed) == (2, 1, 1), "what failed is tried again, the rest is kept"
    video.write_bytes(sound)
    mended = run_job(asked, job)
    assert mended.failures == {} and all(not item.reason.startswith("failed") for item in mended.scored)


def test_an_error_of_the_model_stops_the_run(asked: EvalRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("evaluation.jobs.predict", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        predict(asked)
    assert not [name for name in files(asked.output) if name.startswith("block-")]


def test_missing_predictions_are_named(asked: EvalRecipe) -> None:
    predict(asked)
    block_file(folder_of(asked.output, "one"), 2).unlink()
    with pytest.raises(EvaluationError, match="block 2 is missing or broken"):
        predictions_of(asked, "one", load_samples(asked))
