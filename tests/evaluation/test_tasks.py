"""An evaluation that tasks share: together they predict what one run predicts, and say what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.cache import folder_of
from evaluation.predict import EvaluationError
from evaluation.predictions import predict_all
from evaluation.recipe import EvalRecipe, Reading, named_jobs
from evaluation.tasks import for_tasks, phases, run_share, undone
from whilst.render_config import RenderConfig

TEXT = RenderConfig(layout="recurrent_packed", rule="text_memory")


def todo(recipe: EvalRecipe) -> dict[str, list[int]]:
    return {name: sorted(missing) for name, _, missing in undone(recipe)}


def test_tasks_predict_what_one_run_predicts(new_arm: Callable[..., str], sample_file: str, tmp_path: Path) -> None:
    recipe = EvalRecipe(
        name="e",
        stage="eval",
        output=str(tmp_path / "shared"),
        samples=sample_file,
        arms={"one": new_arm("one", TEXT, seed=1), "two": new_arm("two", TEXT, seed=2)},
        readers={"reads": Reading("one", "two")},
        batch=1,
        thought_tokens=3,
        answer_tokens=3,
    )
    whole = replace(recipe, output=str(tmp_path / "whole"))
    predict_all(whole, named_jobs(whole))
    recipe = for_tasks(recipe, 2)
    assert phases(recipe) == {"prepare": 1, "predict": 2, "read": 2, "score": 1}
    assert todo(recipe) == {"prepare": [0], "predict": [0, 1], "read": [0, 1], "score": [0]}
    with pytest.raises(EvaluationError, match="run --phase prepare first"):
        run_share(recipe, "predict", 0, 2)
    run_share(recipe, "prepare", 0, 1)
    # three samples in three blocks: task 0 has the first and the last of both arms
    assert run_share(recipe, "predict", 0, 2) == "predict: task 0 of 2, 4 samples predicted, 0 were there"
    assert todo(recipe) == {"prepare": [], "predict": [1], "read": [0, 1], "score": [0]}
    assert dict(undone(recipe)[1][2]) == {1: "one block 1, two block 1"}
    assert run_share(recipe, "predict", 0, 2).endswith("0 samples predicted, 4 were there")
    run_share(recipe, "predict", 1, 2)
    for task in (0, 1):
        run_share(recipe, "read", task, 2)
    assert todo(recipe) == {"prepare": [], "predict": [], "read": [], "score": [0]}
    for job in named_jobs(recipe):
        ours, theirs = (folder_of(one.output, job) for one in (recipe, whole))
        names = sorted(file.name for file in theirs.glob("block-*"))
        assert names and all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in names)
    for phase, task, tasks in (("guess", 0, 1), ("read", 2, 2)):
        with pytest.raises(EvaluationError, match="--phase guess: this recipe has|--task 2: must be from 0 to 1"):
            run_share(recipe, phase, task, tasks)
