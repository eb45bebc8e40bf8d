"""The eval stage on tiny checkpoints: which jobs a recipe asks for, what readers read, and what the report holds."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import controls
from evaluation.predict import EvaluationError
from evaluation.recipe import EvalRecipe, Job, Reading, check_readers, named_jobs
from evaluation.run import learning_curve, reward_curve, run, run_job
from whilst.checkpoint import CONTRACT, Contract
from whilst.recipe import RecipeError, load_recipe, save_resolved
from whilst.render import RenderConfig
from whilst.sample import Sample, write_jsonl
from whilst.video import write_video

ARMS = {"thinking": "t", "kv": "k", "lazy": "l", "better": "b"}
TEXT = RenderConfig(layout="recurrent_packed", rule="text_memory")
KV = RenderConfig(layout="interleaved", rule="last_segments", rule_params={"n": 1})
SILENT = RenderConfig(layout="recurrent", rule="causal")


def recipe(**changes: Any) -> EvalRecipe:
    given: dict[str, Any] = {"name": "e", "stage": "eval", "output": "out", "samples": "s", "arms": ARMS}
    return EvalRecipe(**given | changes)


def test_jobs_have_names() -> None:
    asked = recipe(
        control_arm="thinking",
        kv_arm="kv",
        control_arms={"better": ("thoughts_shuffled", "thoughts_greedy")},
        temperature={"better": 1.0},
        readers={"lazy_reads_better": Reading("lazy", "better")},
    )
    assert named_jobs(asked) == {
        **{arm: Job(arm) for arm in ARMS},
        **{f"thinking/{name}": Job("thinking", name) for name in controls.CONTROLS},
        "better/thoughts_shuffled": Job("better", "thoughts_shuffled"),
        "better/thoughts_greedy": Job("better", "thoughts_greedy"),
        "kv/thoughts_swapped": Job("kv", "thoughts_swapped"),
        "lazy_reads_better": Job("lazy", writer="better"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control_arm": "x"}, "control_arm: 'x' must be one of arms: better, kv, lazy, thinking"),
        ({"kv_arm": "x"}, "kv_arm: 'x' must be one of arms"),
        ({"control_arms": {"x": ()}}, "control_arms: 'x' must be one of arms"),
        ({"control_arms": {"lazy": ("text",)}}, "control_arms.lazy: 'text' must be one of thoughts_shuffled"),
        ({"control_arms": {"lazy": ("thoughts_greedy",)}}, "control_arms.lazy: 'thoughts_greedy' must be one of"),
        ({"temperature": {"x": 1.0}}, "temperature: 'x' must be one of arms"),
        ({"temperature": {"lazy": 0.0}}, "temperature.lazy: 0.0: must be above 0"),
        ({"readers": {"r": Reading("lazy", "x")}}, "readers.r: 'x' must be one of arms"),
        ({"readers": {"lazy": Reading("lazy", "better")}}, "readers: lazy: names of arms; give each its own"),
        ({"gains": {"better": "x"}}, "gains: 'x' must be one of thinking, kv, lazy, better"),
        ({"gains": {"better/text_only": "lazy"}}, "gains: 'better/text_only' must be one of"),
    ],
)
def test_a_bad_recipe_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_a_recipe_reads_from_yaml(tmp_path: Path) -> None:
    asked = recipe(
        control_arms={"better": ("thoughts_shuffled",)},
        readers={"r": Reading("lazy", "better")},
        gains={"better": "lazy", "r": "lazy", "better/thoughts_shuffled": "lazy"},
        temperature={"lazy": 0.5},
    )
    save_resolved(asked, tmp_path / "eval.yaml")
    assert load_recipe(tmp_path / "eval.yaml", EvalRecipe) == asked
    with pytest.raises(RecipeError, match="gains: 'nobody' must be one of"):
        load_recipe(tmp_path / "eval.yaml", EvalRecipe, ["gains={better: nobody}"])


# ---- Checkpoints on disk


@pytest.fixture
def arm(tmp_path: Path, checkpoints: Mapping[str, Path]) -> Callable[..., str]:
    """arm(name, render, thinks=True, seed=0, log=()) -> a tiny checkpoint with that contract, its weights stirred."""

    def make(name: str, render: RenderConfig, thinks: bool = True, seed: int = 0, log: Any = ()) -> str:
        from safetensors.numpy import load_file, save_file

        out = tmp_path / name
        shutil.copytree(checkpoints["qwen3_vl"], out)
        rng = np.random.default_rng(seed)
        weights = load_file(out / "model.safetensors")
        stirred = {k: (w + 0.05 * rng.standard_normal(w.shape)).astype(w.dtype) for k, w in weights.items()}
        save_file(stirred, out / "model.safetensors", {"format": "pt"})
        save_resolved(Contract(str(out), 2.0, thinks, render), out / CONTRACT)
        (out / "trainer_state.json").write_text(json.dumps({"log_history": list(log)}))
        return str(out)

    return make


@pytest.fixture
def samples(tmp_path: Path, new_sample: Callable[..., Sample]) -> str:
    """Three samples of three segments, whose videos are noise of 14 s at 2 frames a second."""
    made = []
    for seed, name in enumerate("abc"):
        sample, video = new_sample(name, 3), str(tmp_path / f"{name}.mp4")
        write_video(video, np.random.default_rng(seed).integers(0, 256, (28, 32, 32, 3)).astype(np.uint8), 2.0)
        made.append(replace(sample, video=replace(sample.video, path=video, end=None)))
    write_jsonl(made, tmp_path / "samples.jsonl")
    return str(tmp_path / "samples.jsonl")


FEW: dict[str, Any] = {"bootstrap_draws": 20, "thought_tokens": 3, "answer_tokens": 3}


def test_a_reader_answers_from_what_another_arm_writes(arm: Callable[..., str], samples: str) -> None:
    arms = {name: arm(name, TEXT, seed=seed) for seed, name in enumerate(("one", "two"))}
    reading = {f"{reader} of {writer}": Reading(reader, writer) for reader in arms for writer in arms}
    asked = recipe(arms=arms, samples=samples, readers=reading, temperature={"two": 1.0}, **FEW)
    check_readers(asked)
    jobs = named_jobs(asked)
    done = {name: run_job(asked, jobs[name]) for name in (*arms, *reading)}

    def thoughts(name: str) -> Any:
        return [[text for _, text, _ in episode.thoughts] for episode in done[name].episodes]

    def replies(name: str) -> Any:
        return [[reply.text for reply in episode.replies] for episode in done[name].episodes]

    assert thoughts("one") != thoughts("two")
    for reader in arms:
        for writer in arms:
            name = f"{reader} of {writer}"
            assert thoughts(name) == thoughts(writer), "word for word, drawn ones too"
            assert (replies(name) == replies(reader)) == (reader == writer)
            assert done[name].shares is None and done[name].thoughts is None, "they are the writer's, not its own"
    assert replies("one of two") != replies("two"), "who answers makes a difference"


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (Reading("kv", "text"), "readers.r: arm 'kv' has layout 'interleaved', .* needs text memory"),
        (Reading("text", "quiet"), "readers.r: arm 'quiet' does not think"),
        (Reading("quiet", "text"), "readers.r: arm 'quiet' does not think"),
    ],
)
def test_readers_need_text_memory_and_writers_thoughts(
    reading: Reading, message: str, arm: Callable[..., str], samples: str
) -> None:
    arms = {"kv": arm("kv", KV), "text": arm("text", TEXT), "quiet": arm("quiet", SILENT, thinks=False)}
    asked = recipe(arms=arms, samples=samples, readers={"r": reading})
    with pytest.raises(EvaluationError, match=message):
        run(asked)
    check_readers(replace(asked, readers={"r": Reading("text", "kv")}))  # what a KV arm writes can be read by others


def test_the_report_of_an_arm_that_learnt_from_rewards(arm: Callable[..., str], samples: str, tmp_path: Path) -> None:
    log = [{"step": i, "reward": 0.1 * i, "told": 0.3, "loss": 0.0, "rewards/accuracy": 0.2} for i in (1, 2)]
    supervised = [{"step": 1, "loss": 2.0, "mean_token_accuracy": 0.5}, {"step": 1, "train_runtime": 7.0}]
    arms = {
        "answers_only": arm("answers_only", TEXT, thinks=False),
        "lazy": arm("lazy", TEXT, seed=1, log=supervised),
        "grpo": arm("grpo", TEXT, seed=2, log=log),
    }
    asked = recipe(
        arms=arms,
        samples=samples,
        output=str(tmp_path / "out"),
        control_arm="lazy",
        control_arms={"grpo": ("thoughts_shuffled", "thoughts_greedy")},
        temperature={"grpo": 1.0},
        readers={"lazy_reads_grpo": Reading("lazy", "grpo")},
        gains={"grpo": "lazy", "lazy_reads_grpo": "lazy", "grpo/thoughts_greedy": "lazy"},
        **FEW,
    )
    report = run(asked)
    assert json.loads((tmp_path / "out/report.json").read_text())["gains"] == report["gains"]
    assert set(report["arms"]) == set(arms) and set(report["readers"]) == {"lazy_reads_grpo"}
    assert report["control_arm"] == "lazy" and set(report["controls"]) == set(controls.CONTROLS)
    assert report["controls_by_arm"]["lazy"] == report["controls"]
    assert set(report["controls_by_arm"]["grpo"]) == {"thoughts_shuffled", "thoughts_greedy"}
    assert {name: gain["baseline"] for name, gain in report["gains"].items()} == asked.gains
    for name, found in report["gains"].items():
        figures = report["arms"].get(name) or report["readers"].get(name) or report["controls_by_arm"]["grpo"][name[5:]]
        difference = figures["backward"]["accuracy"] - report["arms"]["lazy"]["backward"]["accuracy"]
        assert found["backward"]["gain"] == pytest.approx(difference) and found["backward"]["n"] == 3
    assert set(report["thought_shares"]) == {"lazy", "grpo", "grpo/thoughts_greedy"}
    assert report["thought_shares"]["lazy"]["true"]["share"] == pytest.approx(2 / 3)
    assert report["thoughts"]["answers_only"] is None
    assert report["reward_curves"] == {"grpo": [{"step": i, "reward": 0.1 * i, "told": 0.3} for i in (1, 2)]}
    assert report["curves"] == {"answers_only": [], "lazy": supervised[:1], "grpo": []}
    page = (tmp_path / "out/report.html").read_text()
    assert "Reward: from" not in page and "grpo: from 0.1 at step 1 to 0.2 at 2" in page
    assert "<h2>Gains</h2>" in page and "lazy answers from what grpo writes" in page


def test_curves_of_a_folder_without_a_trainer_state(tmp_path: Path) -> None:
    assert learning_curve(str(tmp_path)) == reward_curve(str(tmp_path)) == []
