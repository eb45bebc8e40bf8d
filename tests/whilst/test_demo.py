"""Which stage of the demo comes after which. What the demo does with processes is tested in cli/test_evaluate.py."""

from pathlib import Path

from whilst.demo import jobs_of


def test_reinforcement_learning_comes_between_fine_tuning_and_evaluation(tmp_path: Path) -> None:
    for stage in ("eval", "grpo", "sft", "synth", "tiny", "world"):
        (tmp_path / f"{stage}.yaml").write_text(f"name: {stage}\nstage: {stage}\n")
    (tmp_path / "another.yaml").write_text("name: another\nstage: grpo\n")
    waves = jobs_of(tmp_path, tmp_path / "logs")
    assert [[job.name for job in wave] for wave in waves] == [
        ["world"], ["synth"], ["tiny"], ["sft"], ["another", "grpo"], ["eval"]
    ]  # fmt: skip
