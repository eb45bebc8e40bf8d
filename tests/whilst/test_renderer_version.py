"""What version whilst.render.RENDERER writes, and that folders of another one are refused."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from whilst.backbones.base import Backbone, BackboneError, ClipShape
from whilst.checkpoint import CONTRACT, Contract, read_contract
from whilst.recipe import save_resolved
from whilst.render import RENDERER, Renderer
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought, Video

CONFIGS = {
    "interleaved": RenderConfig(layout="interleaved", queries="kept"),
    "split": RenderConfig(layout="split", rule="unit", scheme="overlapped"),
    "recurrent": RenderConfig(layout="recurrent", rule="causal", memory_tokens=40),
    "recurrent_packed": RenderConfig(layout="recurrent_packed", rule="text_memory"),
}
# sha256 of ids, labels, weights and positions of SAMPLE. One of these has changed: rows have another form, so raise
# RENDERER in whilst/render.py by one, then write the new hashes here. Only new settings leave them as they are.
GOLDEN = {
    ("qwen3_vl", "interleaved"): "947dc076e79fc447",
    ("qwen3_vl", "split"): "4ba94c501d8cc49e",
    ("qwen3_vl", "recurrent"): "f6d368fd01f629d7",
    ("qwen3_vl", "recurrent_packed"): "b3c4480746bd089d",
    ("qwen2_5_vl", "interleaved"): "d93d4eaf9042b3f4",
    ("qwen2_5_vl", "split"): "f260171cac66154b",
    ("qwen2_5_vl", "recurrent"): "05fa86a6a33bee9e",
    ("qwen2_5_vl", "recurrent_packed"): "d97c330ac4c36178",
}

SAMPLE = Sample(
    "golden",
    Video("golden.mp4"),
    (
        Segment(0.0, 1.0),
        Thought(1.0, "in-1 red-circle ."),
        Query("q", 1.0, "which in-1 ?", kind="backward"),
        Answer(1.0, "red-circle", "q"),
        Segment(1.0, 2.0),
        Silence(2.0),
        Query("r", 2.0, "tell-when none", kind="forward"),
        Silence(2.0, "r"),
        Segment(2.0, 3.0),
        Thought(3.0, "out-1 blue-square héllo"),
        Answer(3.0, "now", "r"),
    ),
)


def written(backbone: Backbone, config: RenderConfig) -> str:
    """A hash of the rows, of arrays with types and shapes of their own."""
    shape = backbone.spec.shape([0.0, 0.5], 32, 48, 2.0)
    clips = [ClipShape(shape.grid, (i, i + 0.5), 2.0) for i in range(3)]
    found = hashlib.sha256()
    for row in Renderer(backbone.tokenizer, backbone.spec, config).rows(SAMPLE, clips):
        for array, kind in (
            (row.input_ids, np.int64),
            (row.labels, np.int64),
            (row.loss_weight, np.float32),
            (row.positions, np.float64),
        ):
            found.update(repr(array.shape).encode() + np.ascontiguousarray(array, kind).tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("layout", CONFIGS)
def test_an_equal_sample_is_written_equally(layout: str, family: str, backbone: Backbone) -> None:
    assert RENDERER == 1, "write the new hashes into GOLDEN, and this number"
    assert written(backbone, CONFIGS[layout]) == GOLDEN[family, layout], "raise RENDERER: see GOLDEN"


def test_folders_of_another_renderer_are_refused(tmp_path: Path) -> None:
    file = tmp_path / CONTRACT
    save_resolved(Contract("base", 2.0, True, RenderConfig()), file)
    text = file.read_text(encoding="utf-8")
    assert f"\nrenderer: {RENDERER}\n" in text
    file.write_text(text.replace(f"renderer: {RENDERER}", f"renderer: {RENDERER + 1}"), encoding="utf-8")
    message = rf"streaming.yaml: renderer: .* version {RENDERER + 1}, this whilst writes version {RENDERER}.*upgrade"
    with pytest.raises(BackboneError, match=message):
        read_contract(tmp_path)
    file.write_text(re.sub(r"renderer: \d+\n", "renderer: 0\n", text), encoding="utf-8")
    with pytest.raises(BackboneError, match="version 0, .* train it again"):
        read_contract(tmp_path)
    file.write_text(re.sub(r"renderer: \d+\n", "", text), encoding="utf-8")  # as it was before versions were counted
    assert read_contract(tmp_path).renderer == 1
