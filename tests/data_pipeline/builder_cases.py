"""Every builder with settings under which small sources give samples, and those sources."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.builders import BUILDERS, exchanges, states, tays, text_stream, timechat_online, tww, vst
from data_pipeline.builders.asking import Asking
from data_pipeline.builders.live_dialogue import LiveDialogueSettings
from data_pipeline.builders.script import Script
from data_pipeline.source import Source
from data_pipeline.text.templates import templates
from tests.data_pipeline.small_sources import (
    asked_source,
    narrated_source,
    states_source,
    steps_source,
)
from tests.data_pipeline.worlds import world_sources
from whilst.sample import Sample

WRITE = templates(0)


@dataclass(frozen=True)
class Case:
    """A builder with settings under which small sources give samples, and those sources."""

    builder: str
    settings: Any
    sources: tuple[Source, ...]


WORLDS = tuple(replace(source, video=replace(source.video, start=7.0, end=7.0 + source.graph.duration))
               for source in world_sources(3))  # fmt: skip
STEPS = (steps_source(0.0), steps_source(0.5, id="half"), steps_source(1.0, id="end", start=3.5))
NARRATED = narrated_source([(k * 0.7, f"the cook takes part {k} of {k + 3}") for k in range(28)])
ALL_KINDS = {kind: 1.0 for kind in ("backward", "present", "forward", "order", "counting", "multi_hop", "unanswerable")}
FORMATS = {"open": 1.0, "choice": 1.0, "number": 1.0, "interval": 1.0}
ANYTHING = Asking(ALL_KINDS, FORMATS)

CASES = {
    "vst": Case("vst", vst.VstSettings(queries=3, asking=ANYTHING, longest=8.0), (*WORLDS, *STEPS)),
    "vst reasoned": Case("vst", vst.VstSettings(queries=2, asking=ANYTHING, answers="reasoned"), (*WORLDS, *STEPS)),
    "vst tagged": Case("vst", vst.VstSettings(queries=2, asking=ANYTHING, answers="tagged"), (*WORLDS, *STEPS)),
    "live_dialogue": Case(
        "live_dialogue", LiveDialogueSettings(dialogues=3, shortest=5.0, kinds=("span", "point")), (*WORLDS, *STEPS)
    ),
    "live_narration": Case("live_narration", BUILDERS["live_narration"].settings(), (*WORLDS, NARRATED)),
    "tww 1": Case("tww", tww.TwwSettings(), (*WORLDS, *STEPS)),
    "tww 2": Case("tww", tww.TwwSettings(stage=2), (*WORLDS, *STEPS)),
    "tww 3": Case("tww", tww.TwwSettings(stage=3, rounds=(1, 3)), (*WORLDS, *STEPS)),
    "timechat_online": Case("timechat_online", timechat_online.TimechatOnlineSettings(queries=6), (*WORLDS, *STEPS)),
    "text_stream": Case(
        "text_stream",
        text_stream.TextStreamSettings(window=8.0, overlap=4.0, least_words_per_second=0.1),
        (*WORLDS, *STEPS, NARRATED, states_source()),
    ),
    "states each": Case("states", states.StatesSettings(turns=40), (*WORLDS, *STEPS, NARRATED)),
    "states when": Case("states", states.StatesSettings(mode="when", turns=40), (*WORLDS, *STEPS)),
    "tays entity": Case("tays", tays.TaysSettings(), (*WORLDS, *STEPS, NARRATED)),
    "tays exchanges": Case("tays", tays.TaysSettings(ask="exchanges"), (asked_source(),)),
    "exchanges": Case("exchanges", exchanges.ExchangesSettings(thoughts="every"), (asked_source(),)),
    "world": Case("world", BUILDERS["world"].settings(), WORLDS),
}


def told(case: Case) -> Iterator[tuple[Source, Script, Sample]]:
    builder = BUILDERS[case.builder]
    for source in case.sources:
        for script in builder.plan(source, case.settings, WRITE, 0).scripts:
            yield source, script, builder.tell(source, script, case.settings, WRITE, 0)


def samples(name: str, settings: Any, *sources: Source) -> list[Sample]:
    return [sample for _, _, sample in told(Case(name, settings, sources))]
