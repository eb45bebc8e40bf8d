"""All builders: valid samples, nothing lost, and nothing said that depends on what comes later; then each alone."""

import json
from dataclasses import replace
from typing import Any

import pytest

from data_pipeline.builders import BUILDERS
from data_pipeline.builders.assemble import assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.builders.watch import any_event, cut_at, frames, watch
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.source import Source
from tests.data_pipeline.builder_cases import CASES, NARRATED, STEPS, WORLDS, WRITE, told
from tests.data_pipeline.small_sources import (
    source_of,
    states_source,
    steps_source,
)
from whilst.sample import Answer, Sample, Segment, Silence, Thought, to_record, validate


def test_there_is_a_case_for_every_builder() -> None:
    assert {case.builder for case in CASES.values()} == set(BUILDERS)


@pytest.mark.parametrize("name", CASES)
def test_samples_are_valid_and_say_where_they_come_from(name: str) -> None:
    case, ids = CASES[name], set()
    for source, script, sample in told(case):
        validate(sample)
        json.dumps(to_record(sample))
        assert sample.id == script.id and sample.id.startswith(source.id)
        assert sample.id not in ids
        ids.add(sample.id)
        meta: Any = sample.meta
        assert (meta["builder"], meta["source"], meta["dataset"]) == (case.builder, source.id, source.dataset)
        assert (meta["video_id"], meta["licence"]) == (source.video_id, source.licence)
        queries = {query.id for query in sample.queries()}
        assert set(meta["asks"]) == queries == set(meta["answer_edges"])
        known = {edge.id for edge in source.graph.edges}
        assert len(meta["thought_edges"]) == sum(isinstance(event, Thought) for event in sample.events)
        assert {edge for row in meta["thought_edges"] for edge in row} <= known
        assert {edge for row in meta["answer_edges"].values() for edge in row} <= known
        for query in sample.queries():
            assert query.knowable_at is not None
            assert query.evidence or name == "exchanges"  # an annotation may not say
    assert ids


@pytest.mark.parametrize("name", CASES)
def test_every_source_gives_a_script_or_a_rejection_and_every_query_is_counted(name: str) -> None:
    case, builder = CASES[name], BUILDERS[CASES[name].builder]
    for source in (*case.sources, source_of(replace(WORLDS[0].graph, id="none", nodes=(), edges=()))):
        planned = builder.plan(source, case.settings, WRITE, 0)
        assert planned.scripts or planned.rejected
        planned.queries.check(name)
        if case.builder != "text_stream":
            assert planned.queries.made == sum(len(script.asks) for script in planned.scripts)
        assert builder.plan(source, case.settings, WRITE, 0) == planned


# ---- Causality: nothing that is said at t depends on what comes after t.


def cut(source: Source, time: float) -> Source:
    """Nothing is known of what comes after `time`."""
    return replace(source, graph=source.graph.as_of(time), exchanges=at_most(source, time))


def otherwise(source: Source, time: float) -> Source:
    """Other things happen after `time`, what goes on then ends elsewhere, and nodes stand in another order."""
    graph = source.graph
    nodes = tuple(reversed([replace(node, aliases=((f"late {node.name}", graph.duration),)) for node in graph.nodes]))
    kept = [replace(e, end=(time + graph.duration) / 2) if e.end >= time and e.kind != "point" else e
            for e in graph.edges if e.knowable_at <= time]  # fmt: skip
    later = [e for e in graph.edges if e.knowable_at > time]
    others = [
        replace(e, id=f"other {e.id}", head=e.tail, tail=e.head, text=f"otherwise {e.text}", level=1 - e.level)
        for e in later[::2]
    ]
    changed = replace(graph, nodes=nodes, edges=(*kept, *others))
    return replace(source, graph=changed, exchanges=at_most(source, time))


def at_most(source: Source, time: float) -> tuple[Any, ...]:
    return tuple(
        one if (one.wait or one.time or 0.0) <= time and one.time is not None else replace(one, answer="otherwise")
        for one in source.exchanges
    )


def said(sample: Sample, time: float, start: float) -> list[Any]:
    """What is generated up to `time` seconds of the source."""
    kinds = (Thought, Answer, Silence)
    return [event for event in sample.events if isinstance(event, kinds) and event.time <= time + start]


def leaks(builder: Builder, source: Source, script: Script, settings: Any) -> list[float]:
    """The times up to which something else is said when what comes after is changed."""
    whole = builder.tell(source, script, settings, WRITE, 0)
    ends = [segment.end for segment in script.segments]
    found = []
    for time in sorted({ends[len(ends) * n // 5] for n in range(5)} | {ends[len(ends) // 2] - 0.3}):
        for changed in (cut(source, time), otherwise(source, time)):
            again = builder.tell(changed, script, settings, WRITE, 0)
            start = source.video.start
            if said(again, time, start) != said(whole, time, start):
                found.append(time)
    return found


@pytest.mark.parametrize("name", CASES)
def test_nothing_said_at_t_depends_on_what_comes_after_t(name: str) -> None:
    case, checked = CASES[name], 0
    for source, script, _ in told(case):
        assert leaks(BUILDERS[case.builder], source, script, case.settings) == []
        checked += 1
    assert checked


def test_a_builder_that_looks_ahead_is_found_out() -> None:
    def tell(source: Source, script: Script, settings: Any, write: Any, seed: int) -> Sample:
        count = len(source.graph.edges)
        return assemble(source, script, "ahead", [(f"{count} things", ()) for _ in script.segments], {})

    builder = Builder(object, lambda *_: Plan(), tell)
    script = Script("a", WORLDS[0].segments)
    assert leaks(builder, WORLDS[0], script, None)


@pytest.mark.parametrize("wanted", [any_event, lambda edge: edge.kind == "span"])
def test_watching_shows_what_the_graph_as_of_each_moment_shows(wanted: Any) -> None:
    for source in (*WORLDS, *STEPS, NARRATED, states_source()):
        times = [k * 0.5 for k in range(1, round(source.graph.duration * 2) + 1)]
        over, before = set[str](), -1.0
        for moment in watch(source.graph, times, wanted):
            known = [edge for edge in source.graph.as_of(moment.time).edges if wanted(edge)]
            ended = {e.id for e in known if e.kind == "point" or e.end < moment.time}
            assert {e.id for e in moment.new} == {e.id for e in known if e.knowable_at > before}
            assert {e.id for e in moment.now} == {e.id for e in known} - ended
            assert {e.id for e in moment.ended} == ended - over
            last = max((e.end for e in known if e.id in ended), default=None)
            assert {e.id for e in moment.last} == {e.id for e in known if e.id in ended and e.end == last}
            over, before = ended, moment.time


# ---- assemble.


def test_events_of_one_time_stand_in_order_of_arrival_on_the_clock_of_the_file() -> None:
    source = steps_source(1.0, start=3.0)
    asks = (Ask("q0", "forward", "x", 5.0, {}, until=20.0), Ask("q1", "backward", "x", 10.0, {}))
    script = Script("a", source.segments[:2], asks, {"q0": "When?", "q1": "What?"})
    reply = Reply("now", ((2.0, 8.0),), ("d0",), 8.0)
    sample = assemble(
        source,
        script,
        "b",
        [("one", ()), None],
        {"q0": [(10.0, reply)], "q1": [(10.0, replace(reply, text="it"))]},
    )
    assert [(type(event).__name__, event.time) for event in sample.events] == [
        ("Segment", 8.0), ("Thought", 8.0), ("Query", 8.0),
        ("Segment", 13.0), ("Silence", 13.0), ("Answer", 13.0), ("Query", 13.0), ("Answer", 13.0),
    ]  # fmt: skip
    assert sample.queries()[0].window == (11.0, 23.0)
    assert sample.queries()[0].evidence == ((5.0, 11.0),)
    assert sample.queries()[1].window is None
    validate(sample)


def test_assemble_refuses_what_does_not_fit_together() -> None:
    source = steps_source(1.0)
    script = Script("a", source.segments[:2])
    with pytest.raises(ValueError, match="1 thoughts for 2 segments"):
        assemble(source, script, "b", [("one", ())], {})
    with pytest.raises(ValueError, match=r"replies to \['q9'\], which it does not ask"):
        assemble(source, script, "b", (), {"q9": []})


def test_segments_are_cut_where_no_piece_gets_too_short() -> None:
    segments = (Segment(0.0, 5.0), Segment(5.0, 10.0))
    cut = cut_at(segments, [2.0, 2.2, 4.8, 5.0, 7.5], 0.5)
    assert [(one.start, one.end) for one in cut] == [(0.0, 2.0), (2.0, 5.0), (5.0, 7.5), (7.5, 10.0)]
    assert len(frames(0.0, 10.3, 2.0)) == 20
