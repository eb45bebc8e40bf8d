"""`whilst world`, `synth` and `doctor` through the door."""

import json
from pathlib import Path

from tests.whilst.cli.command import TINY, fails, invoke, make_world
from whilst.sample import Answer, Query, Sample, Thought, read_samples


def test_synth_tells_its_yields_and_writes_words(world: Path) -> None:
    assert [len(read_samples(world / "data" / split)) for split in ("train", "validation", "test")] == [4, 1, 2]
    samples = read_samples(world / "data" / "train")
    used = {word for sample in samples for text in texts(sample) for word in text.split()}
    assert used <= set((world / "words.txt").read_text().split())
    counts = json.loads((world.parent / "world" / "counts.json").read_text())["train"]
    assert counts["simulated"] == counts["videos"] + sum(counts["rejected"].values())
    report = json.loads((world / "yields.json").read_text())["splits"]["train"]
    assert report["samples"]["in"] == report["samples"]["out"] == 4 and report["queries"]["out"] == 16


def texts(sample: Sample) -> list[str]:
    """All texts of a sample."""
    return [event.text for event in sample.events if isinstance(event, Thought | Query | Answer)]


def test_the_seed_of_a_world_recipe_is_the_world_s(tmp_path: Path) -> None:
    said = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        samples = read_samples(make_world(tmp_path / name, f"seed={seed}") / "data" / "train")
        said.append([sample.events for sample in samples])
    assert said[0] == said[1] != said[2]


def test_world_refuses_a_split_that_is_none(tmp_path: Path) -> None:
    assert "counts.holdout: no such split" in fails(
        "world", TINY / "world.yaml", f"output={tmp_path}", "counts.holdout=3"
    )


def test_the_doctor_finds_the_demo_s_samples_sound(world: Path) -> None:
    for check in ("causality", "data"):
        code, told, _, _ = invoke("doctor", check, world)
        assert code == 0, told


def test_tasks_of_job_arrays_do_their_shares(world: Path, tmp_path: Path) -> None:
    recipe = world / "recipe.yaml"
    code, told, _, _ = invoke("synth", recipe, f"output={tmp_path}", "--missing")
    assert code == 0 and told.startswith("gather 0 ")
    assert invoke("synth", recipe, "--missing")[:2] == (0, "")  # all is done
    code, told, _, _ = invoke("synth", recipe, "--phase", "finish", "--task", 1, "--tasks", 2)
    assert (code, told) == (0, "finish: task 1 of 2, 0 pieces are done\n")
    assert "--phase merge: this recipe has gather" in fails("synth", recipe, "--phase", "merge")
    assert "--phase guess: this recipe has" in fails("eval", TINY / "eval.yaml", "--phase", "guess")
