"""The world's own short language: exact answers, silent until due, thoughts that tell the event alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest

from data_pipeline.builders.script import Plan, Script
from data_pipeline.builders.world import BUILDER, KINDS, WorldSettings, plan, questions, tell
from data_pipeline.doctor.causality import CausalityReport, check_source
from data_pipeline.filters import FilterSettings
from data_pipeline.filters.apply import problems
from data_pipeline.source import Source, SynthError
from data_pipeline.text.task import Task
from data_pipeline.world.build import BuildReport, source_of
from data_pipeline.world.build import tell as tell_worlds
from data_pipeline.world.config import EVENTS, WorldConfig
from data_pipeline.world.simulate import World
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought, validate

DEFAULT = WorldConfig()
USUAL = WorldSettings()
HARD = WorldConfig(
    segments=(5, 9),
    grid=4,
    colours=("red", "green", "blue", "yellow", "purple", "cyan"),
    shapes=("circle", "square", "triangle", "diamond", "cross"),
    events=dict.fromkeys(EVENTS, 1.0),
    seed=3,
)


@dataclass(frozen=True)
class Made:
    world: World
    source: Source
    script: Script
    sample: Sample


def unwritten(task: Task) -> str:
    raise AssertionError("this language needs no writer")


def planned(source: Source, settings: WorldSettings, seed: int = 0) -> Plan:
    return plan(source, settings, unwritten, seed)


def made(config: WorldConfig = DEFAULT, n: int = 200, settings: WorldSettings = USUAL) -> list[Made]:
    out = []
    for one in tell_worlds(config, "train", n, BuildReport()):
        (script,) = planned(one.source, settings, config.seed).scripts
        out.append(Made(one.world, one.source, script, tell(one.source, script, settings, unwritten, config.seed)))
    return out


def happened(one: Made, relation: str, before: float) -> list[str]:
    """The objects that went in (or out) in segments which ended before or at `before`, told from the scenes alone."""
    event = {"in": "enter", "out": "leave"}[relation]
    scenes = enumerate(one.world.scenes)
    return [scene.objects[0] for k, scene in scenes if scene.event == event and k + 1 <= before]


def test_a_segment_ends_with_its_thought_then_the_replies_that_are_due() -> None:
    for sample in (one.sample for one in made()):
        segments = [i for i, event in enumerate(sample.events) if isinstance(event, Segment)]
        for k, i in enumerate(segments):
            segment, thought = sample.events[i], sample.events[i + 1]
            assert segment == Segment(float(k), float(k + 1))
            assert isinstance(thought, Thought)
        for i, j in pairwise([*segments, len(sample.events)]):
            later = sample.events[i + 2 : j]
            assert {event.time for event in later} <= {sample.events[i].time}
            queries = [event.id for event in later if isinstance(event, Query)]
            replies = [event.query for event in later if isinstance(event, Answer | Silence)]
            standing = [id for id in replies if id not in queries]
            assert replies[: len(standing)] == standing


def test_thoughts_tell_the_event_and_nothing_else() -> None:
    for one in made(n=50) + made(HARD, n=50):
        counts: Counter[str] = Counter()
        expected = []
        for scene in one.world.scenes:
            relation = {"enter": "in", "leave": "out"}.get(scene.event, scene.event)
            counts[relation] += 1
            ordinal = f"-{counts[relation]}" if relation in ("in", "out") else ""
            objects = scene.objects[:2] if relation == "touch" else scene.objects[:1]
            expected.append("none ." if relation == "idle" else f"{relation}{ordinal} {' '.join(objects)} .")
        assert [event.text for event in one.sample.events if isinstance(event, Thought)] == expected


def test_answers_are_right() -> None:
    seen: Counter[str] = Counter()
    for one in made() + made(HARD, n=100):
        for query in one.sample.queries():
            subkind = one.sample.meta["asks"][query.id]["subkind"]  # type: ignore[index, call-overload]
            (answer,) = one.sample.answers_to(query.id)
            verb, *rest = query.text.removesuffix(" ?").split()
            seen[f"{query.kind} {subkind}"] += 1
            if verb == "which":
                relation, number = rest[0].rsplit("-", 1)
                objects = happened(one, relation, query.time)
                known = objects[int(number) - 1] if int(number) <= len(objects) else "unknown"
                assert answer.text == known
                assert (query.kind == "unanswerable") == (known == "unknown")
            elif verb == "count":
                assert answer.text == f"n-{len(happened(one, rest[0], query.time))}"
            elif verb == "now":
                assert answer.text == one.world.scenes[round(query.time) - 1].star
            elif verb == "before":
                objects = happened(one, rest[0], query.time)
                assert objects[objects.index(rest[1]) - 1] == answer.text
                assert objects.index(rest[1]) > 0
            elif verb == "first":
                objects = happened(one, "in", query.time)
                assert answer.text == min(rest, key=objects.index)
            else:
                assert (verb, answer.text) == ("tell-when", "now")
                assert rest[1] in happened(one, "out", answer.time)
                assert rest[1] not in happened(one, "out", answer.time - 1)
            if query.kind != "forward":
                assert answer.time == query.time
    assert set(seen) == {
        "backward which_in", "backward which_out", "backward count", "present star", "order before", "order first",
        "forward tell_when", "unanswerable unknown_in", "unanswerable unknown_out",
    }  # fmt: skip


def test_the_current_segment_alone_cannot_answer_about_the_past() -> None:
    for one in made():
        for query in one.sample.queries():
            current = query.time - 1.0
            assert query.knowable_at is not None and query.evidence
            assert query.knowable_at <= one.sample.answers_to(query.id)[0].time
            if query.kind == "order" or (query.kind == "backward" and query.text.startswith("which")):
                assert all(end <= current for _, end in query.evidence)
                assert query.knowable_at == query.evidence[-1][1]
            elif query.kind == "backward":
                assert query.evidence[0][1] <= current
            elif query.kind == "present":
                assert query.evidence == ((current, query.time),)


def test_a_standing_query_is_silent_at_every_segment_end_until_it_is_due() -> None:
    delays: Counter[int] = Counter()
    for one in made():
        forward = [query for query in one.sample.queries() if query.kind == "forward"]
        assert len(forward) <= 1
        for query in forward:
            (answer,) = one.sample.answers_to(query.id)
            silences = [e.time for e in one.sample.events if isinstance(e, Silence) and e.query == query.id]
            delay = round(answer.time - query.time)
            delays[delay] += 1
            assert delay >= 1
            assert silences == [query.time + i for i in range(1, delay)]
            assert query.window == (answer.time, min(answer.time + 1.0, one.source.graph.duration))
            assert query.knowable_at == answer.time
    assert len(delays) > 2


def test_kinds_come_by_their_weights() -> None:
    settings = WorldSettings(queries={"backward": 1.0, "present": 3.0, "order": 0.0})
    kinds = Counter(query.kind for one in made(settings=settings) for query in one.sample.queries())
    assert set(kinds) == {"backward", "present"}
    assert 0.6 < kinds["present"] / kinds.total() < 0.85
    kinds = Counter(query.kind for one in made(n=300) for query in one.sample.queries())
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 0.08 * kinds.total()
    counted = WorldSettings(subkinds={"count": 1e-9})
    assert not any(q.text.startswith("count") for one in made(HARD, 20, counted) for q in one.sample.queries())


def test_every_sample_is_valid_and_asks_nothing_twice() -> None:
    for one in made() + made(HARD, n=100):
        validate(one.sample)
        asked = [(query.text, query.time) for query in one.sample.queries()]
        assert len(set(asked)) == len(asked) == 3
        assert one.sample.id == one.source.id and one.sample.meta["video_id"] == one.world.state()


def test_too_few_queries_are_a_rejection_and_all_are_counted() -> None:
    source = next(iter(tell_worlds(WorldConfig(segments=(1, 1)), "train", 1, BuildReport()))).source
    plan = planned(source, WorldSettings(queries_per_video=9))
    assert not plan.scripts
    assert [(one.item, one.reason) for one in plan.rejected] == [(source.id, "too few queries")]
    plan.queries.check("queries")
    assert plan.queries.taken == 9 and plan.queries.rejected == {"too few queries": 9}


def test_other_seeds_ask_other_things() -> None:
    source = next(iter(tell_worlds(HARD, "train", 1, BuildReport()))).source
    asked = [planned(source, WorldSettings(), seed).scripts for seed in (0, 0, 1)]
    assert asked[0] == asked[1] != asked[2]


def test_what_comes_later_changes_nothing_that_was_said() -> None:
    """Another last scene: the same script is told alike up to it. And every question that could be asked before, but
    for those that await something, is the same."""
    changed = 0
    for one in made(HARD, n=30):
        other = World((*one.world.scenes[:-1], replace(one.world.scenes[-1], event="idle", objects=(), star="star-x")))
        source = source_of(other, one.source.id, one.source.video.path)
        retold = tell(source, one.script, WorldSettings(), unwritten, HARD.seed)
        last = len(one.world.scenes) - 1.0

        def spoken(sample: Sample, until: float = last) -> list[Any]:
            return [e for e in sample.events if isinstance(e, Thought | Answer | Silence) and e.time <= until]

        assert spoken(one.sample) == spoken(retold)
        changed += [e for e in one.sample.events if isinstance(e, Thought)] != [
            e for e in retold.events if isinstance(e, Thought)
        ]
        asked = [
            [(ask, words) for ask, words in questions(s) if ask.time <= last and ask.kind != "forward"]
            for s in (one.source, source)
        ]
        assert asked[0] == asked[1]
    assert changed > 20


# ---- A lazy annotator

LAZY = WorldSettings(idle="", silent=0.5)


def spoken(sample: Sample) -> list[str]:
    """The thought of every segment, "" for a silence."""
    thoughts = [e for e in sample.events if isinstance(e, Thought) or (isinstance(e, Silence) and e.query is None)]
    assert [event.time for event in thoughts] == [segment.end for segment in sample.segments()]
    return [event.text if isinstance(event, Thought) else "" for event in thoughts]


def others(sample: Sample) -> list[Any]:
    """All events but thoughts and the silences in their place."""
    return [e for e in sample.events if not isinstance(e, Thought) and not (isinstance(e, Silence) and e.query is None)]


def test_a_lazy_annotator_leaves_its_share_of_thoughts_silent_and_nothing_else() -> None:
    told = happened = 0
    for whole, lazy in zip(made(n=300), made(n=300, settings=LAZY), strict=True):
        validate(lazy.sample)
        assert others(lazy.sample) == others(whole.sample), "queries, answers and evidence stay"
        for text, gold in zip(spoken(lazy.sample), spoken(whole.sample), strict=True):
            assert text in ("", gold) and text != "none ."
            happened += gold != "none ."
            told += text != ""
        differ = {key for key in whole.sample.meta if whole.sample.meta[key] != lazy.sample.meta[key]}
        assert differ <= {"thought_edges"}
    # 1,000 thoughts or so, each silent with chance 1/2: three standard deviations are 0.05.
    assert happened > 800 and abs(told / happened - 0.5) < 0.05


@pytest.mark.parametrize(("silent", "told"), [(0.0, 1.0), (1.0, 0.0)])
def test_all_or_none_are_left_silent(silent: float, told: float) -> None:
    for one in made(n=30, settings=WorldSettings(idle="", silent=silent)):
        texts, edges = spoken(one.sample), one.sample.meta["shown_edges"]
        assert [bool(text) for text in texts] == [bool(told and of_segment) for of_segment in edges]  # type: ignore[union-attr]
    for one in made(n=30, settings=WorldSettings(silent=silent)):
        assert spoken(one.sample).count("none .") == list(one.sample.meta["shown_edges"]).count([])  # type: ignore[arg-type]


def test_what_is_left_untold_can_be_found_in_meta() -> None:
    """thought_edges has the thoughts that were written, shown_edges every segment."""
    untold = 0
    for one in made(n=50, settings=LAZY):
        texts, meta = spoken(one.sample), one.sample.meta
        shown: Any = meta["shown_edges"]
        by_id = {edge.id: edge for edge in one.source.graph.edges}
        for segment, ids in zip(one.sample.segments(), shown, strict=True):
            assert all(segment.start < by_id[id].knowable_at <= segment.end for id in ids)
        assert meta["thought_edges"] == [ids for ids, text in zip(shown, texts, strict=True) if text]
        untold += sum(bool(ids) and not text for ids, text in zip(shown, texts, strict=True))
    assert untold > 50


def test_what_is_silent_depends_on_seed_source_and_segment_alone() -> None:
    one = made(n=1, settings=LAZY)[0]

    def told(source: Source, seed: int, settings: WorldSettings = LAZY) -> list[bool]:
        return [bool(text) for text in spoken(tell(source, one.script, settings, unwritten, seed))]

    busy = [[bool(t) for t in spoken(o.sample)] for o in made(n=40, settings=LAZY)]
    assert busy == [[bool(t) for t in spoken(o.sample)] for o in made(n=40, settings=LAZY)]
    assert told(one.source, 0) == told(one.source, 0, replace(LAZY, queries_per_video=1))
    seeds = {tuple(told(one.source, seed)) for seed in range(20)}
    sources = {tuple(told(replace(one.source, id=f"x-{i}"), 0)) for i in range(20)}
    assert len(seeds) > 3 and len(sources) > 3
    more = [told(one.source, 0, replace(LAZY, silent=share)) for share in (0.2, 0.5, 0.8)]
    assert all(b <= a for one, other in pairwise(more) for a, b in zip(one, other, strict=True)), "one draw a segment"


def test_lazy_samples_are_clean() -> None:
    """No filter finds anything, and nothing that is said, or left unsaid, depends on what comes later."""
    report = CausalityReport()
    for one in made(n=40, settings=LAZY) + made(HARD, n=20, settings=LAZY):
        assert problems(one.sample, one.source, FilterSettings()) == []
        report.add(check_source(one.source, BUILDER, LAZY, unwritten, 0, cuts=4))
    assert report.leaks == [] and report.clean
    assert report.compared["thought"] > 100 and report.compared["silence"] > 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"silent": 1.5}, r"world\.silent: 1\.5: must be a share from 0 to 1"),
        ({"silent": float("nan")}, r"world\.silent: nan: must be a share"),
        ({"queries_per_video": 0}, r"world\.queries_per_video: 0: must be at least 1"),
        ({"queries": {"backward": 0.0}}, r"world\.queries: .*above 0"),
        ({"queries": {"future": 1.0}}, r"world\.queries: 'future': must be one of backward"),
        ({"subkinds": {"count": 0.0}}, r"world\.subkinds\.count: 0\.0: must be a weight above 0"),
    ],
)
def test_a_bad_setting_is_named(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SynthError, match=message):
        WorldSettings(**settings)
