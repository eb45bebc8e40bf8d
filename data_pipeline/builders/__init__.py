"""Builders make Samples of a source's graph: one small module for each paper, all of one form (script.py).

builder = BUILDERS["vst"]
settings = builder.settings()
for script in builder.plan(source, settings, write, seed=0).scripts:
    sample = builder.tell(source, script, settings, write, seed=0)
"""

from __future__ import annotations

from data_pipeline.builders import (
    exchanges,
    live_dialogue,
    live_narration,
    states,
    tays,
    text_stream,
    timechat_online,
    tww,
    vst,
    world,
)
from data_pipeline.builders.script import Builder

BUILDERS: dict[str, Builder] = {
    "vst": vst.BUILDER,
    "live_dialogue": live_dialogue.BUILDER,
    "live_narration": live_narration.BUILDER,
    "tww": tww.BUILDER,
    "timechat_online": timechat_online.BUILDER,
    "text_stream": text_stream.BUILDER,
    "states": states.BUILDER,
    "tays": tays.BUILDER,
    "exchanges": exchanges.BUILDER,
    "world": world.BUILDER,
}
