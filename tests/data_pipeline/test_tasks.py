"""A run of synth that tasks share: piece by piece, the folder of one run; and what is missing is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_pipeline.engine.tasks import undone
from data_pipeline.source import SynthError
from data_pipeline.synth import begin, run, run_share
from tests.data_pipeline.runs import small


def todo(recipe: object) -> dict[str, list[int]]:
    return {name: sorted(missing) for name, _, missing in undone(recipe)}  # type: ignore[arg-type]


def data_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "data").rglob("*"))}


def test_tasks_make_what_one_run_makes(tmp_path: Path) -> None:
    recipe, folder = small(tmp_path), tmp_path / "run"
    run(recipe)
    whole = data_of(folder)
    shutil.rmtree(folder)
    with pytest.raises(SynthError, match="holds no recipe.yaml"):
        run_share(recipe, "gather", 0, 1)
    begin(recipe)
    assert todo(recipe) == {"gather": [0], "publish": [0, 1, 2], "finish": [0]}
    run_share(recipe, "gather", 0, 1)
    assert run_share(recipe, "publish", 0, 2) == "publish: task 0 of 2, 2 pieces are done"  # pieces 0 and 2
    assert todo(recipe) == {"gather": [], "publish": [1], "finish": [0]}
    assert undone(recipe)[1][2] == {1: "train-00001-of-00003"}
    with pytest.raises(SynthError):  # a piece of the phase before is missing
        run_share(recipe, "finish", 0, 1)
    run_share(recipe, "publish", 1, 2)
    run_share(recipe, "finish", 0, 1)
    assert not any(todo(recipe).values()) and data_of(folder) == whole
    with pytest.raises(SynthError, match="--phase merge: this recipe has gather, publish, finish"):
        run_share(recipe, "merge", 0, 1)
    with pytest.raises(SynthError, match="--task 2: must be from 0 to 1"):
        run_share(recipe, "publish", 2, 2)


def test_a_piece_that_fails_keeps_no_other_from_being_done(tmp_path: Path) -> None:
    recipe, folder = small(tmp_path), tmp_path / "run"
    begin(recipe)
    run_share(recipe, "gather", 0, 1)
    wall = folder / "data" / "train-00000-of-00003.parquet" / "wall"
    wall.mkdir(parents=True)
    with pytest.raises(SynthError, match=r"publish train-00000-of-00003: .*1 of this task's 3 pieces failed"):
        run_share(recipe, "publish", 0, 1)
    assert todo(recipe)["publish"] == [0]
