"""Runs the real lmms-eval on what test_lmms_plugin.py prepared, and writes down what it did (found.json).

    python tests/evaluation/lmms_run.py FOLDER

A process of its own: lmms-eval changes the interpreter that it is imported into, and may live in another one. FOLDER
holds the checkpoint, videos, chunks, annotation files, and tasks (YAML on lmms-eval's own functions for OVO-Bench).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import inspect
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)
STARTED = time.perf_counter()


def main(folder: Path) -> dict[str, Any]:
    import lmms_eval
    from lmms_eval import evaluator, models
    from lmms_eval.tasks import TaskManager

    from evaluation.lmms_plugin import MODEL, manifest, tasks_path

    imported = time.perf_counter()
    manager = TaskManager(include_path=[str(tasks_path()), str(folder / "tasks")], include_defaults=False)
    arguments = f"pretrained={folder / 'checkpoint'},segment_seconds=2,thought_tokens=4"

    def run(*tasks: str, **changes: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "model": MODEL,
            "model_args": arguments,
            "task_manager": manager,
            "device": "cpu",
            "bootstrap_iters": 0,
        }
        begun = time.perf_counter()
        found = evaluator.simple_evaluate(**settings | {"tasks": list(tasks)} | changes)
        return {
            "seconds": time.perf_counter() - begun,
            "backend": found["config"]["model_backend"],
            "results": found["results"],
            "throughput": found.get("throughput", {}),
            "replies": {
                task: [
                    {
                        "doc": sample["doc"].get("id", sample["doc_id"]),
                        "reply": sample["resps"][0][0],
                        "tokens": sample["token_counts"][0],
                        "verdicts": {k: v for k, v in sample.items() if isinstance(v, dict) and "credit" in v},
                    }
                    for sample in samples
                ]
                for task, samples in found["samples"].items()
            },
        }

    def refused(*tasks: str, **changes: Any) -> str:
        try:
            run(*tasks, **changes)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "nothing was raised"

    ovo = "whilst_ovo_bench"
    stock = argparse.Namespace(output_path=str(folder / "submissions"), process_with_media=True)
    found: dict[str, Any] = {
        "version": importlib.metadata.version("lmms_eval"),
        "file": lmms_eval.__file__,
        "entry_points": [point.value for point in importlib.metadata.entry_points(group="lmms_eval.models")],
        "models": MODEL in models.list_available_models(),
        "manifest": vars(models.get_model_manifest(MODEL)) == vars(manifest()),
        "tasks": manager.all_tasks,
        "chat": run(ovo, batch_size=2),
        "simple": run(ovo, batch_size=1, force_simple=True),
        "streaming": run("whilst_streaming_bench_realtime", "whilst_streaming_bench_realtime_60s", batch_size=3),
        "stock_chat": run("stock_backward", "stock_forward", batch_size=2, cli_args=stock),
        "stock_simple": run("stock_backward", "stock_forward", force_simple=True, cli_args=stock),
        "cached": [run("stock_forward", use_cache=str(folder / "cache"), cli_args=stock) for _ in range(2)],
        "sampled": refused("whilst_ovo_backward", gen_kwargs="temperature=0.7,do_sample=True"),
        "unknown": refused("whilst_ovo_backward", gen_kwargs="beams=4"),
        "likelihood": refused("choice", force_simple=True),
        "image": refused("image"),
        "signatures": {name: list(inspect.signature(value).parameters) for name, value in relied_on().items()},
    }
    found["command"] = command(folder, arguments, str(tasks_path()))
    os.environ["WHILST_OVO_BENCH_VIDEOS"] = str(folder / "one_video")  # the other one is missing
    found["missing"] = refused(ovo)
    found["counted"] = run(ovo, model_args=arguments + ",failures=count", batch_size=2)
    os.environ["WHILST_OVO_BENCH"] = ""
    found["unset"] = refused("whilst_ovo_backward")
    found["scorer"] = scorer(folder)
    found["prompts"] = prompts(folder)
    found["seconds"] = {"import": imported - STARTED, "all": time.perf_counter() - STARTED}
    return found


def command(folder: Path, arguments: str, tasks: str) -> dict[str, Any]:
    """The results that its command line writes: python -m lmms_eval --model whilst_streaming ..."""
    from lmms_eval.cli.dispatch import main as lmms_eval_main

    sys.argv = ["lmms_eval", "--model", "whilst_streaming", "--model_args", arguments, "--include_path", tasks]
    sys.argv += ["--tasks", "whilst_ovo_bench", "--batch_size", "2", "--device", "cpu"]
    sys.argv += ["--output_path", str(folder / "out"), "--log_samples"]
    lmms_eval_main()
    [file] = (folder / "out").rglob("*_results.json")
    results: dict[str, Any] = json.loads(file.read_text())["results"]
    return results


def relied_on() -> dict[str, Any]:
    """What of lmms-eval the plug-in calls, or is called with."""
    from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
    from lmms_eval.api.model import lmms
    from lmms_eval.api.task import ConfigurableMessagesTask
    from lmms_eval.models.model_utils.gen_metrics import log_metrics
    from lmms_eval.models.registry_v2 import ModelManifest
    from lmms_eval.tasks import TaskManager

    return {
        "ModelManifest": ModelManifest,
        "GenerationResult": GenerationResult,
        "TokenCounts": TokenCounts,
        "Instance": Instance,
        "generate_until": lmms.generate_until,
        "generate_until_multi_round": lmms.generate_until_multi_round,
        "loglikelihood": lmms.loglikelihood,
        "clean": lmms.clean,
        "doc_to_messages": ConfigurableMessagesTask.doc_to_messages,
        "log_metrics": log_metrics,
        "TaskManager": TaskManager,
    }


def prompts(folder: Path) -> list[list[str]]:
    """What lmms-eval asks in each round of its own forward tasks."""
    from lmms_eval.tasks.ovobench.utils import build_prompt

    rows = [json.loads(line) for line in (folder / "forward.jsonl").read_text().splitlines()]
    return [[build_prompt(row, index=j) for j in range(len(row["test_info"]))] for row in rows]


def scorer(folder: Path) -> dict[str, Any]:
    """lmms-eval's own scorer of OVO-Bench on made-up replies, item by item: {id or [id, test]: score}."""
    from lmms_eval.tasks.ovobench.score_utils.score import calculate_score_backward_realtime, calculate_score_forward

    said = json.loads((folder / "said.json").read_text())
    choice, _ = calculate_score_backward_realtime(said["choice"])
    _, forward = calculate_score_forward(said["forward"])
    return {"choice": [row["score"] for row in choice], "forward": {k: list(map(int, v)) for k, v in forward.items()}}


if __name__ == "__main__":
    random.seed(0)
    place = Path(sys.argv[1])
    (place / "found.json").write_text(json.dumps(main(place), default=str))
