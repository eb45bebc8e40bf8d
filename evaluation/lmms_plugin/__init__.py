"""Whilst checkpoints in lmms-eval (0.7.3), and strict streaming benchmarks as its tasks.

    pip install whilst lmms-eval==0.7.3
    export WHILST_OVO_BENCH=ovo_bench_new.json WHILST_OVO_BENCH_VIDEOS=src_videos
    python -m lmms_eval --model whilst_streaming --model_args pretrained=runs/vst,segment_seconds=2 \\
        --include_path "$(python -m evaluation.lmms_plugin)" --tasks whilst_ovo_bench

lmms-eval is optional and heavy: nothing of it is imported before it asks for `manifest` itself, through the entry point
`whilst` of the group `lmms_eval.models`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODEL = "whilst_streaming"


def manifest() -> Any:
    """What lmms-eval reads at the entry point: the model's name and its two classes."""
    from lmms_eval.models.registry_v2 import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        ModelManifest,
    )

    return ModelManifest(
        MODEL,
        simple_class_path=f"{__name__}.model.WhilstStreaming",
        chat_class_path=f"{__name__}.model.WhilstStreamingChat",
    )


def tasks_path() -> Path:
    """The folder of our tasks, for `--include_path` and `TaskManager(include_path=...)`."""
    return Path(__file__).parent / "tasks"
