"""OVO-Bench for lmms-eval. Run anew whenever lmms-eval loads a YAML of this folder, so it reads the environment then.

WHILST_OVO_BENCH: ovo_bench_new.json. WHILST_OVO_BENCH_VIDEOS: the folder of the source videos (not of the chunks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.benchmarks.ovo_bench import BENCHMARK, CATEGORIES
from evaluation.lmms_plugin import scoring

LOADED = scoring.load(BENCHMARK, "WHILST_OVO_BENCH", "WHILST_OVO_BENCH_VIDEOS")
FILES = scoring.dataset(LOADED)

doc_to_visual = scoring.doc_to_visual
doc_to_text = scoring.doc_to_text


def backward_docs(_: Any) -> Any:
    return scoring.documents(LOADED, CATEGORIES["backward"])


def realtime_docs(_: Any) -> Any:
    return scoring.documents(LOADED, CATEGORIES["realtime"])


def forward_docs(_: Any) -> Any:
    return scoring.documents(LOADED, CATEGORIES["forward"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    return scoring.judged(LOADED, doc, results[0])


def backward(items: Sequence[Mapping[str, Any]]) -> float:
    return scoring.total(LOADED, "backward", items)


def realtime(items: Sequence[Mapping[str, Any]]) -> float:
    return scoring.total(LOADED, "realtime", items)


def forward(items: Sequence[Mapping[str, Any]]) -> float:
    return scoring.total(LOADED, "forward", items)


def micro(items: Sequence[Mapping[str, Any]]) -> float:
    return scoring.total(LOADED, "micro", items)
