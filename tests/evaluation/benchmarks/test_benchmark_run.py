"""A public benchmark from its annotation file to the report: converted, watched, judged strictly and officially."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from evaluation.benchmark import convert
from evaluation.compare import compare
from evaluation.recipe import EvalRecipe
from evaluation.run import run
from tests.evaluation.benchmarks.real import write
from whilst.render_config import RenderConfig
from whilst.video import write_video

OVO = [
    {"id": 0, "task": "EPM", "video": "a.mp4", "realtime": 4, "question": "What ?", "options": ["x", "y"], "gt": 1},
    {"id": 1, "task": "OCR", "video": "a.mp4", "realtime": 9, "question": "What ?", "options": ["x", "y"], "gt": 0},
    {"id": 2, "task": "OCR", "video": "gone.mp4", "realtime": 3, "question": "What ?", "options": ["x", "y"], "gt": 0},
    {"id": 3, "task": "CRR", "video": "b.mp4", "question": "Who ?", "ask_time": 3, "clue_time": 5,
     "test_info": [{"realtime": 3, "type": 0}, {"realtime": 6, "type": 1}]},
]  # fmt: skip


def test_ovo_bench_from_annotations_to_a_report(new_arm: Callable[..., str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, seconds in (("a.mp4", 10), ("b.mp4", 7)):
        write_video(tmp_path / name, rng.integers(0, 256, (2 * seconds, 32, 32, 3)).astype(np.uint8), 2.0)
    convert("ovo_bench", write(tmp_path / "ovo.json", OVO), tmp_path, tmp_path / "data", {"segment_seconds": 3.0})
    arms = {
        name: new_arm(name, RenderConfig(layout="recurrent"), seed=seed) for seed, name in enumerate(("one", "two"))
    }
    recipe = EvalRecipe(
        name="ovo", stage="eval", scorer="ovo_bench", output=str(tmp_path / "out"), arms=arms, jobs=1,
        samples=str(tmp_path / "data" / "samples.jsonl"), controls=("constant_answers",), bootstrap_draws=50,
    )  # fmt: skip
    report = run(recipe)
    overall = report["benchmark"]["totals"]["one"]["overall"]
    assert overall["strict"]["counted"] == overall["official"]["counted"] == 5
    assert overall["gap"] == overall["official"]["value"] - overall["strict"]["value"]
    assert {arm: figures["all"]["n"] for arm, figures in report["arms"].items()} == {"one": 5, "two": 5}
    missing = [failure for failure in report["failures"]["one"] if "gone.mp4" in json.dumps(failure)]
    assert len(missing) == 1  # listed, and wrong: it stands in the denominator
    assert "mean of the categories backward, realtime and forward" in (tmp_path / "out" / "report.md").read_text()
    (pair,) = compare(f"{recipe.output}:one", f"{recipe.output}:two")["pairs"]
    assert pair["kinds"]["all"]["n"] == 5 and "overall" in pair["totals"]
