"""StreamingBench (real-time visual) for lmms-eval. Run anew whenever lmms-eval loads a YAML of this folder.

WHILST_STREAMING_BENCH: questions_real.json. WHILST_STREAMING_BENCH_VIDEOS: the folder that its video paths lie below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.benchmarks.streaming_bench import BENCHMARK
from evaluation.lmms_plugin import scoring

WHERE = ("WHILST_STREAMING_BENCH", "WHILST_STREAMING_BENCH_VIDEOS")
WHOLE = scoring.load(BENCHMARK, *WHERE)
LAST_60 = scoring.load(BENCHMARK, *WHERE, context_seconds=60.0)
FILES = scoring.dataset(WHOLE)

doc_to_visual = scoring.doc_to_visual
doc_to_text = scoring.doc_to_text


def whole_docs(_: Any) -> Any:
    return scoring.documents(WHOLE)


def last_60_docs(_: Any) -> Any:
    return scoring.documents(LAST_60)


def whole_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    return scoring.judged(WHOLE, doc, results[0])


def last_60_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    return scoring.judged(LAST_60, doc, results[0])


def micro(items: Sequence[Mapping[str, Any]]) -> float:
    return scoring.total(WHOLE, "micro", items)
