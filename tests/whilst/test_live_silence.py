"""`whilst watch` on a checkpoint of LIVE, whose silence is learned at every frame and never written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.streams import trained
from whilst.checkpoint import Checkpoint, load_checkpoint
from whilst.cli import app, load_for, stage_module
from whilst.engines import LiveSettings
from whilst.events import QueryHeard, Reply, SegmentRead, Silent, StreamEvent
from whilst.live import LiveStream
from whilst.pace import open_source
from whilst.runtime import encode_clips
from whilst.sample import Answer, Event, Query, Sample, Segment, Silence, Video, read_samples
from whilst.segmenters import Clip
from whilst.twin import steps_of, take

RECIPE = Path(__file__).parents[2] / "recipes" / "live" / "live1.yaml"
LONGER = ("optim.steps=60", "optim.batch_size=4", "optim.learning_rate=3e-3", 'optim.schedule="constant"')
FRAME = 0.5  # seconds: two frames a second, each a segment


@dataclass
class Narrator:
    """A twin of live1 that has learned its samples, and the first of them."""

    path: Path
    checkpoint: Checkpoint
    sample: Sample

    @property
    def query(self) -> str:
        return self.sample.queries()[0].text


@pytest.fixture(scope="module")
def narrator(tmp_path_factory: pytest.TempPathFactory) -> Narrator:
    *before, last = steps_of(RECIPE, load_for("sft", RECIPE), tmp_path_factory.mktemp("live"))
    last = replace(last, overrides=(*last.overrides, *LONGER))
    take([*before, last], lambda step: stage_module(step.stage).run(load_for(step.stage, step.recipe, step.overrides)))
    samples = read_samples(load_for("sft", last.recipe, last.overrides).data.train)
    return Narrator(last.output, load_checkpoint(last.output), next(iter(samples)))


@dataclass
class Watched:
    """What a stream told, and the clips that it read."""

    events: list[StreamEvent] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)

    @property
    def decisions(self) -> list[Silent | Reply]:
        return [event for event in self.events if isinstance(event, Silent | Reply)]


def watched(narrator: Narrator, asked: Sequence[tuple[float, str]] = (), **settings: Any) -> Watched:
    seen = Watched()
    settings = {"segment_seconds": FRAME, "answer_tokens": 16, "thinks": False, **settings}
    source = open_source(narrator.sample.video.path, narrator.checkpoint.contract.fps)
    LiveStream(
        narrator.checkpoint,
        source,
        LiveSettings(**settings),
        on_event=seen.events.append,
        on_clip=seen.clips.append,
        queries=asked,
    ).run()
    return seen


def probability(decision: Silent | Reply) -> float:
    found = decision.probability if isinstance(decision, Silent) else decision.silence
    assert found is not None
    return found


def one_pass(narrator: Narrator, seen: Watched) -> list[float]:
    """The probability of silence at every decision, in the one masked forward of training over what was said."""
    backbone, renderer = narrator.checkpoint.backbone, narrator.checkpoint.renderer
    events: list[Event] = []
    for event in seen.events:
        if isinstance(event, SegmentRead):
            events.append(Segment(event.start, event.end))
        elif isinstance(event, QueryHeard):
            events.append(Query(event.id, event.time, event.text))
        elif isinstance(event, Silent):
            events.append(Silence(event.time, event.query))
        elif isinstance(event, Reply):
            events.append(Answer(event.time, event.text, event.query))
    clips = [(Segment(clip.start, clip.end), clip.frames.images, clip.frames.times.tolist()) for clip in seen.clips]
    views = [encode_clips(backbone, [clip], narrator.checkpoint.contract.fps)[0] for clip in clips]
    logits = trained(backbone, renderer, Sample("seen", Video("video.mp4"), tuple(events)), views)
    logits[:, list(backbone.banned)] = -torch.inf  # never drawn
    silence, at, found = torch.softmax(logits.double(), -1)[:, renderer.boundary].tolist(), 0, []
    for decision in seen.decisions:
        found.append(silence[at])
        at += 1 if isinstance(decision, Silent) else len(renderer.drawn(decision.text)) + 1
    return found


def test_every_frame_is_decided_as_in_training(narrator: Narrator) -> None:
    """Greedy: one decision behind each frame, with the probability of the one-pass forward over the same stream."""
    seen = watched(narrator, standing=(narrator.query,))
    kinds = [type(event) for event in seen.events if isinstance(event, SegmentRead | Silent | Reply)]
    assert len(kinds) == 24 and set(kinds[::2]) == {SegmentRead} and set(kinds[1::2]) == {Silent, Reply}
    assert [probability(one) for one in seen.decisions] == pytest.approx(one_pass(narrator, seen), abs=1e-5)
    told = {event.text: event.time for event in narrator.sample.events if isinstance(event, Answer)}
    said = {one.text for one in seen.decisions if isinstance(one, Reply)}
    assert len(said & set(told)) >= 3, "the twin does not narrate what it has learned"


def test_answers_come_where_the_threshold_says(narrator: Narrator) -> None:
    """By the command: from the likeliest silences, one is made to speak; until then nothing is another, and after it
    each frame is decided anew, in the stream as it has become."""
    greedy = watched(narrator, standing=(narrator.query,)).decisions
    silent = sorted(one.probability for one in greedy if isinstance(one, Silent))
    threshold = (silent[0] + silent[1]) / 2
    assert 0.5 < silent[0] < threshold < silent[1]
    line = ["watch", narrator.sample.video.path, "--model", str(narrator.path), "--json"]  # cut as in training
    line += ["--proactive", narrator.query, "--threshold", str(threshold), "--answer-tokens", "16"]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    told = [json.loads(one) for one in done.output.splitlines() if one.startswith("{")]
    decided = [one for one in told if one["type"] in ("silence", "answer")]
    assert len(decided) == sum(one["type"] == "segment" for one in told) == len(greedy)
    for one in decided:
        likely = one["probability"] if one["type"] == "silence" else one["silence"]
        assert (one["type"] == "silence") == (likely >= threshold)
    forced = next(i for i, one in enumerate(greedy) if isinstance(one, Silent) and one.probability < threshold)
    before = [probability(one) for one in greedy[: forced + 1]]
    assert before == pytest.approx([one.get("probability", one.get("silence")) for one in decided[: forced + 1]])
    assert decided[forced]["type"] == "answer" and decided[forced]["text"]


def test_a_query_that_is_asked_stays_and_every_later_frame_is_decided(narrator: Narrator) -> None:
    """As LIVE's streams have it: a question in mid-stream is not over when nothing is said to it at once. The next one
    takes its place, in a stream that still holds both."""
    seen = watched(narrator, [(FRAME, narrator.query), (4.0, "Keep me posted on what is being done.")])
    times = [(one.time, one.query) for one in seen.decisions]
    frames = [FRAME * i for i in range(1, 13)]
    assert times == [(t, "q1") for t in [FRAME, *frames[1:8]]] + [(t, "q2") for t in [4.0, *frames[8:]]]
    assert {type(one) for one in seen.decisions} == {Silent, Reply}
    assert [probability(one) for one in seen.decisions] == pytest.approx(one_pass(narrator, seen), abs=1e-5)
