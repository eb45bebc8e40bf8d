"""Each builder by itself: the rules of its paper."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from data_pipeline.builders import BUILDERS, exchanges, states, tays, text_stream, timechat_online, tww, vst
from data_pipeline.builders.asking import Asking
from data_pipeline.queries.choice import own_words
from data_pipeline.queries.plan import AskSettings
from data_pipeline.source import Rejected, SynthError
from data_pipeline.thoughts import thoughts
from tests.data_pipeline.builder_cases import ALL_KINDS, ANYTHING, NARRATED, STEPS, WORLDS, WRITE, samples
from tests.data_pipeline.small_sources import (
    asked_source,
    narrated_source,
    steps_source,
)
from tests.data_pipeline.worlds import world_sources
from whilst.recipe import load_recipe
from whilst.sample import Answer, Query, Segment, Silence, Thought
from whilst.segmenters import clips_of
from whilst.video import Frames

# ---- vst.


def test_vst_asks_over_a_chain_at_the_end_and_boxes_open_answers() -> None:
    found = samples("vst", vst.VstSettings(), *world_sources(10))
    assert len(found) >= 8
    for sample in found:
        (query,) = sample.queries()
        assert query.kind == "multi_hop" and query.time == sample.segments()[-1].end
        (answer,) = sample.answers_to(query.id)
        assert answer.text.startswith("\\boxed{") and answer.text.endswith("}")
        (chain,) = sample.meta["chains"].values()  # type: ignore[union-attr]
        assert len(chain["edges"]) >= 2 and chain["coverage"] == 1.0  # type: ignore


def test_vst_options_are_given_as_they_are_with_the_reasoning_apart() -> None:
    settings = vst.VstSettings(asking=Asking({"backward": 1.0}, {"choice": 1.0}), answers="reasoned")
    for sample in samples("vst", settings, *WORLDS):
        (query,) = sample.queries()
        (answer,) = sample.answers_to(query.id)
        assert query.options is not None and answer.text in query.options
        assert answer.text in sample.meta["rationales"][query.id]  # type: ignore
    settings = replace(settings, asking=Asking({"backward": 1.0}, {"open": 1.0}))
    for sample in samples("vst", settings, *WORLDS):
        (answer,) = (event for event in sample.events if isinstance(event, Answer))
        way, boxed = answer.text.split(" \\boxed{")
        assert boxed[:-1] in way


def test_vst_chains_of_one_video_share_hardly_any_entity_and_their_hops_are_counted() -> None:
    settings = vst.VstSettings(queries=4, longest=10.0)
    several = 0
    for source in world_sources(10):
        planned = BUILDERS["vst"].plan(source, settings, WRITE, 0)
        edges = {edge.id: edge for edge in source.graph.edges}
        chains: list[set[str]] = []
        for script in planned.scripts:
            meta: Any = BUILDERS["vst"].tell(source, script, settings, WRITE, 0).meta
            for chain in meta["chains"].values():
                chains.append({end for id in chain["edges"] for end in (edges[id].head, edges[id].tail)})
        touched = Counter(end for edge in source.graph.edges for end in {edge.head, edge.tail})
        chains = [{node for node in chain if touched[node] <= len(edges) / 4} for chain in chains]
        assert not any(one & other for k, one in enumerate(chains) for other in chains[:k])
        assert sum(count for name, count in planned.statistics.items() if name.startswith("hops ")) == len(chains)
        several += len(chains) > 1
    assert several
    # The actor of every step is in every chain, and does not count.
    assert len(BUILDERS["vst"].plan(steps_source(1.0), replace(settings, longest=40.0), WRITE, 0).scripts) > 1


def test_vst_goes_on_with_the_thoughts_before_as_memory() -> None:
    source = steps_source(1.0)
    settings = vst.VstSettings(asking=ANYTHING, longest=30.0)
    found = samples("vst", settings, source)
    assert len(found) > 2
    whole = thoughts(source, source.segments, WRITE, 0)
    for sample in found:
        spans = sample.segments()
        assert spans[-1].end - spans[0].start <= 30.0
        before = [
            text for segment, (text, _) in zip(source.segments, whole, strict=True) if segment.end <= spans[0].start
        ]
        assert sample.memory.splitlines() == [
            f"Time={k * 5:.1f}-{k * 5 + 5:.1f}s {text}" for k, text in enumerate(before)
        ]
        assert sample.video == source.video


# ---- tww.


@pytest.mark.parametrize(("stage", "rounds"), [(1, {1}), (2, {2, 3, 4}), (3, {3, 4, 5})])
def test_tww_has_one_note_a_segment_and_one_answer_a_question(stage: Any, rounds: set[int]) -> None:
    found = samples("tww", tww.TwwSettings(stage=stage), *world_sources(12))
    counts = Counter(len(sample.queries()) for sample in found)
    assert set(counts) <= rounds and len(found) >= 6 and len(counts) == min(3, len(rounds))
    for sample in found:
        notes = [event.time for event in sample.events if isinstance(event, Thought)]
        assert notes == [segment.end for segment in sample.segments()]
        assert all(len(sample.answers_to(query.id)) == 1 for query in sample.queries())
        assert not any(isinstance(event, Silence) for event in sample.events)
        assert sample.segments()[-1].end == max(query.time for query in sample.queries())


def test_tww_stage_3_asks_about_what_lies_far_back_and_defers() -> None:
    kinds = {"backward": 1.0, "counting": 1.0, "unanswerable": 1.0}
    settings = tww.TwwSettings(stage=3, rounds=(1, 3), distractors=4, asking=Asking(kinds))
    found = samples("tww", settings, *world_sources(12))
    assert found
    deferred = 0
    for sample in found:
        for query in sample.queries():
            if query.kind == "unanswerable":
                deferred += 1
                assert "not known" in sample.answers_to(query.id)[0].text
            else:
                assert query.time - max(end for _, end in query.evidence) >= 4.0
    assert deferred


def test_tww_turns_down_short_and_long_videos_and_standing_queries() -> None:
    settings = tww.TwwSettings(stage=3, shortest=600.0)
    planned = BUILDERS["tww"].plan(WORLDS[0], settings, WRITE, 0)
    assert [one.reason for one in planned.rejected] == ["video too short or too long"]
    with pytest.raises(SynthError, match=r"tww\.asking\.kinds\.forward"):
        tww.TwwSettings(asking=Asking({"forward": 1.0}))
    with pytest.raises(SynthError, match="least <= most"):
        tww.TwwSettings(rounds=(3, 2))


# ---- timechat_online.


def test_timechat_has_one_question_a_sample_of_every_type_and_no_thoughts() -> None:
    found = samples("timechat_online", timechat_online.TimechatOnlineSettings(queries=8), *world_sources(20))
    kinds = Counter(sample.queries()[0].kind for sample in found)
    assert set(kinds) == set(ALL_KINDS)
    assert 0.05 < kinds["unanswerable"] / sum(kinds.values()) < 0.3
    for sample in found:
        assert len(sample.queries()) == 1
        assert not any(isinstance(event, Thought) for event in sample.events)
        last = sample.answers_to("q0")[-1].time
        assert 0 <= sample.segments()[-1].end - last <= 1.0
        if sample.queries()[0].kind == "forward":
            assert last > sample.queries()[0].time


# ---- text_stream.


def test_text_stream_chunks_overlap_and_go_on_from_what_was_said() -> None:
    settings = text_stream.TextStreamSettings(window=8.0, overlap=4.0, least_words_per_second=1.0, words_per_second=5)
    found = samples("text_stream", settings, NARRATED)
    assert [sample.video.start for sample in found] == [0.0, 4.0, 8.0, 12.0]
    for sample, after in pairwise(found):
        spoken = {event.time: event.text for event in sample.events if isinstance(event, Thought)}
        again = {event.time: event.text for event in after.events if isinstance(event, Thought)}
        first_half = " ".join(text for time, text in sorted(spoken.items()) if time <= after.video.start)
        assert after.memory.endswith(first_half)
        assert all(again[time] == text for time, text in spoken.items() if time in again)
    for sample in found:
        for event in sample.events:
            assert not isinstance(event, Thought) or len(event.text.split()) <= 5
        words: Any = sample.meta["text_stream"]
        text = " ".join(event.text for event in sample.events if isinstance(event, Thought))
        assert " ".join(word for *_, word in words["words"]) == text


def test_text_stream_keeps_the_first_and_the_last_words_of_its_memory() -> None:
    settings = text_stream.TextStreamSettings(
        window=8.0, overlap=4.0, least_words_per_second=0.5, memory_words=(3, 2), words_per_second=5
    )
    last = samples("text_stream", settings, NARRATED)[-1]
    assert last.memory.startswith("The cook takes ") and len(last.memory.split()) == 5
    planned = BUILDERS["text_stream"].plan(NARRATED, replace(settings, least_words_per_second=9.0), WRITE, 0)
    assert {one.reason for one in planned.rejected} == {"too few words"} and not planned.scripts
    with pytest.raises(SynthError, match="overlap < window"):
        text_stream.TextStreamSettings(overlap=24.0)


def test_text_stream_is_what_the_papers_own_layout_can_hold(tmp_path: Any) -> None:
    from whilst.foreign.text_stream import read_text_stream, write_text_stream

    settings = text_stream.TextStreamSettings(window=8.0, overlap=4.0, least_words_per_second=1.0)
    found = samples("text_stream", settings, NARRATED)
    kept = [replace(one, meta={name: one.meta[name] for name in ("instruction", "text_stream")}) for one in found]
    write_text_stream(kept, tmp_path / "a.jsonl")
    again = read_text_stream(tmp_path / "a.jsonl")
    assert [sample.events for sample in again] == [sample.events for sample in found]


# ---- states.


def states_of(clue: float, **changes: Any) -> list[str]:
    source = steps_source(clue, [(3.0, 7.0, 0, "sits down")], duration=12.0)
    (sample,) = samples("states", replace(states.StatesSettings(), **changes), source)
    return list(sample.meta["states"])  # type: ignore[arg-type]


def test_states_respond_one_turn_after_the_end_and_stand_by_from_when_it_is_known() -> None:
    silent = ["silence"]
    assert states_of(1.0) == silent * 6 + ["standby", "respond"] + silent * 4
    assert states_of(0.5) == silent * 4 + ["standby"] * 3 + ["respond"] + silent * 4
    assert states_of(0.0) == silent * 2 + ["standby"] * 5 + ["respond"] + silent * 4
    assert states_of(0.0, mode="when") == states_of(0.0)


def test_states_are_silences_and_words_and_only_a_response_has_an_answer() -> None:
    settings = states.StatesSettings(standby="</Standby>", respond="</Response>")
    for sample in samples("states", settings, *WORLDS, *STEPS):
        turns = [event for event in sample.events if not isinstance(event, (Segment, Query, Answer))]
        assert len(turns) == len(sample.segments())
        words = [event.text if isinstance(event, Thought) else "silence" for event in turns]
        assert [word.strip("</>").lower().replace("response", "respond") for word in words] == sample.meta["states"]
        answered = {event.time for event in sample.events if isinstance(event, Answer)}
        assert answered == {e.time for e in turns if isinstance(e, Thought) and e.text == "</Response>"}
    with pytest.raises(SynthError, match="two different words"):
        states.StatesSettings(standby="a", respond="a")


def test_states_when_waits_for_one_event_and_is_done_with_it() -> None:
    for sample in samples("states", states.StatesSettings(mode="when"), *STEPS):
        (ask,) = sample.meta["asks"].values()  # type: ignore[union-attr]
        (answer,) = (event for event in sample.events if isinstance(event, Answer))
        assert answer.text.casefold().rstrip(".") == ask["slots"]["clause"]  # type: ignore
        assert ask["slots"]["clause"] in sample.queries()[0].text  # type: ignore


# ---- choices.


def test_a_model_reads_the_options_below_the_question_and_filters_do_not() -> None:
    """What is rendered of a query is its text: options that it does not hold would be graded and never shown."""
    asking = Asking({"backward": 1.0, "multi_hop": 0.0}, {"choice": 1.0, "open": 0.0})
    found = samples("vst", vst.VstSettings(asking=asking), *WORLDS, *STEPS)
    assert found
    for sample in found:
        (query,) = sample.queries()
        assert query.options and query.text.splitlines()[1:] == [
            f"{letter}. {option}" for letter, option in zip("ABCDE", query.options, strict=False)
        ]
        assert own_words(query) == query.text.splitlines()[0]
        assert own_words(replace(query, options=None)) == query.text


# ---- tays.


def test_tays_has_a_sentence_or_a_skip_at_every_frame_and_answers_at_the_end() -> None:
    found = samples("tays", tays.TaysSettings(), *WORLDS, *STEPS)
    assert found
    for sample in found:
        start = sample.video.start
        assert isinstance(sample.events[0], Query) and sample.events[0].time == start
        frames_seen = [event for event in sample.events if isinstance(event, (Thought, Silence))]
        assert len(frames_seen) == len(sample.segments())
        assert sample.segments()[-1].end <= start + 30.0
        assert all(segment.end - segment.start == 0.5 for segment in sample.segments())
        entity = sample.meta["asks"]["q0"]["slots"]["entity"]  # type: ignore
        for event in frames_seen:
            assert not isinstance(event, Thought) or entity in event.text.casefold()
        assert isinstance(sample.events[-1], Answer)


def test_every_frame_of_tays_holds_a_picture_wherever_evidence_lies() -> None:
    """Videos are read at 2 frames a second: a border moved to 1.08 s would leave the frame behind it empty."""
    told = [(1.08, "the cook sits"), (2.3, "she gets up"), (3.5, "she sits down")]
    (sample,) = samples("tays", tays.TaysSettings(), narrated_source(told, duration=5.0))
    at = {event.time: event.text for event in sample.events if isinstance(event, Thought)}
    assert at == {1.5: "The cook sits.", 2.5: "She gets up.", 3.5: "She sits down."}
    pictures = Frames(np.zeros((10, 8, 8, 3), np.uint8), np.arange(10) / 2)
    clips = clips_of(pictures, [(segment.start, segment.end) for segment in sample.segments()])
    assert [clip.frames.times.tolist() for clip in clips] == [[i / 2] for i in range(10)]


def test_tays_drops_a_sentence_like_the_one_before() -> None:
    again = narrated_source([(1.0, "the cook sits"), (2.0, "the cook sits"), (3.0, "she gets up")], duration=5.0)
    (sample,) = samples("tays", tays.TaysSettings(), again)
    assert [event.time for event in sample.events if isinstance(event, Thought)] == [1.0, 3.0]
    assert tays.likeness("a b c", "a b d") == 0.5 and tays.likeness("", "") == 0.0


# ---- exchanges.


def test_exchanges_stand_at_their_times_and_what_cannot_be_asked_is_counted() -> None:
    source = asked_source()
    planned = BUILDERS["exchanges"].plan(source, exchanges.ExchangesSettings(), WRITE, 0)
    assert (planned.queries.taken, planned.queries.made) == (5, 4)
    assert planned.queries.rejected == {"answer is none of the options": 1}
    assert planned.statistics["asked at the end"] == 1
    (sample,) = samples("exchanges", exchanges.ExchangesSettings(), source)
    by_text = {own_words(query): query for query in sample.queries()}
    assert [by_text[one.question].time for one in source.exchanges[:4]] == [41.0, 82.5, 42.0, 100.0]
    waiting = by_text["Tell me when the oven opens."]
    assert waiting.window == (52.5, 60.0) and sample.answers_to(waiting.id)[0].time == 53.0
    silent = [event.time for event in sample.events if isinstance(event, Silence)]
    assert silent == [45.0, 50.0]
    assert {41.0, 42.0, 53.0, 82.5} <= {segment.end for segment in sample.segments()}
    assert by_text["What is made?"].evidence == ((2.0, 40.0),)


def test_exchanges_are_split_and_watched_no_further_than_needed() -> None:
    found = samples("exchanges", exchanges.ExchangesSettings(queries=1), asked_source())
    assert len(found) == 4
    assert [sample.segments()[-1].end for sample in found] == [41.0, 53.0, 82.5, 100.0]
    none = BUILDERS["exchanges"].plan(WORLDS[0], exchanges.ExchangesSettings(), WRITE, 0)
    assert none.rejected == [Rejected(WORLDS[0].id, "no exchange")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": " "}, "no question or no answer"),
        ({"time": 400.0}, "asked after the last segment"),
        ({"time": 50.0, "wait": 40.0}, "answered before it is asked or after the last segment"),
        ({"time": None, "wait": 40.0}, "answered before it is asked or after the last segment"),
        ({"id": "x1"}, "a second exchange with this id"),
    ],
)
def test_exchanges_that_cannot_stand_in_a_sample_have_their_reason(change: dict[str, Any], reason: str) -> None:
    source = asked_source()
    one, two = source.exchanges[:2]
    bad = replace(source, exchanges=(two, replace(one, **change)))
    planned = BUILDERS["exchanges"].plan(bad, exchanges.ExchangesSettings(), WRITE, 0)
    assert planned.queries.rejected == {reason: 1} and planned.queries.made == 1


def test_an_answer_that_is_due_within_a_piece_too_short_to_cut_waits_for_its_end() -> None:
    source = asked_source()
    late = replace(source, exchanges=(replace(source.exchanges[2], wait=54.8),))
    (sample,) = samples("exchanges", exchanges.ExchangesSettings(), late)
    assert sample.answers_to("q0")[0].time == 55.0


# ---- Asking.


def test_settings_of_every_builder_can_be_read_from_a_recipe(tmp_path: Any) -> None:
    (tmp_path / "a.yaml").write_text(
        "asking: {kinds: {forward: 1.0, multi_hop: 0.0}, asks: {hops: 3}}\nanswers: plain\n"
    )
    read = load_recipe(tmp_path / "a.yaml", vst.VstSettings)
    assert read == vst.VstSettings(
        asking=Asking({"multi_hop": 0.0, "forward": 1.0}, asks=AskSettings(hops=3)), answers="plain"
    )
    (tmp_path / "b.yaml").write_text("{}\n")
    for builder in BUILDERS.values():
        assert load_recipe(tmp_path / "b.yaml", builder.settings) == builder.settings()


def test_asking_refuses_weights_and_counts_that_make_no_sense() -> None:
    for kinds in ({}, {"backward": 0.0}, {"backward": -1.0}):
        with pytest.raises(SynthError, match=r"asking\.kinds"):
            Asking(kinds)
    with pytest.raises(SynthError, match=r"asking\.tries"):
        Asking({"backward": 1.0}, tries=0)
    assert Asking({"backward": 1.0}, asks=AskSettings(hops=3)).asks.hops == 3
