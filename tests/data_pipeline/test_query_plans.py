"""Plans of queries: what is drawn, what is rejected, what multiple choice offers, and in what words it is put."""

import json
import re
import string
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from data_pipeline.graph import make_graph
from data_pipeline.queries.clauses import same
from data_pipeline.queries.formats import read_interval, read_number
from data_pipeline.queries.kind import UNKNOWN
from data_pipeline.queries.kinds import KINDS
from data_pipeline.queries.plan import AskSettings, from_meta, meta, plan_asks, question_task, replies
from data_pipeline.source import SynthError
from data_pipeline.text.templates import templates
from data_pipeline.text.templates.question import TEMPLATES
from tests.data_pipeline.graphs import (
    BOX,
    EVERY,
    STEPS,
    box,
    edge,
    goes_in,
    plan,
    recipe,
    shines,
    source_of,
    steps,
    told,
)
from tests.data_pipeline.worlds import world_sources

SUBKINDS = {(kind.name, name) for kind in KINDS.values() for name in kind.subkinds}


@pytest.fixture(scope="module")
def sources():
    return world_sources(25)


@pytest.fixture(scope="module")
def planned(sources):
    """(source, ask, known graph at the ask, reply) of very many queries of every kind."""
    found = []
    for source in sources:
        for kind in KINDS:
            for ask in plan(source, {kind: 1.0})[0]:
                said = replies(ask, source.graph, [segment.end for segment in source.segments])
                found.append((source, ask, source.graph.as_of(ask.time), said))
    return found


def test_planned_standing_queries_come_true_in_their_window(planned):
    seen = 0
    for source, ask, _, said in planned:
        if ask.kind == "forward":
            seen += 1
            time, found = said[-1]
            assert all(silence is None for _, silence in said[:-1])
            assert ask.time < found.knowable_at <= time <= ask.until <= source.graph.duration
            assert found.knowable_at + 1.0 == ask.until or ask.until == source.graph.duration
            # silence is not skipped over: at every decision before, what was known gave no reply
            ends = [segment.end for segment in source.segments if ask.time < segment.end < time]
            assert [moment for moment, _ in said[:-1]] == ends
            assert all(KINDS["forward"].reply(ask, source.graph.as_of(moment)) is None for moment in ends)
    assert seen > 40


def test_one_standing_query_at_a_time(sources):
    several = 0
    for source in sources:
        asks, counted = plan(source, {"forward": 1.0})
        several += len(asks) > 1
        for one, other in pairwise(asks):
            assert other.time > one.until
        assert counted.rejected["a standing query is open"] > 0
    assert several > 0


def test_what_cannot_be_decided_in_its_window_is_not_asked():
    source = source_of(BOX)
    settings = AskSettings(subkinds={"which_next": 0.0, "nth_time": 0.0, "next": 0.0}, slack=0.5)
    asks, _ = plan(source, {"forward": 1.0}, times=[6.0], settings=settings)
    assert [ask.slots["event"] for ask in asks] == ["the green cone goes into the box"]
    asks, counted = plan(source, {"forward": 1.0}, times=[6.0], settings=settings, decisions=[6.5, 8.0])
    assert asks == [] and counted.rejected == {"no forward query at this time": 1}


def test_every_subkind_is_asked_somewhere(planned):
    found = {(ask.kind, ask.subkind) for _, ask, _, _ in planned}
    assert SUBKINDS - found == {("present", "who_now")}  # nobody but the star has a state in this world


def test_every_planned_query_has_its_reply(planned):
    assert len(planned) > 800
    for source, ask, _, said in planned:
        time, found = said[-1]
        assert found is not None and found.text and found.evidence
        assert found.knowable_at <= time
        assert all(0.0 <= start <= end <= time for start, end in found.evidence)
        known = {edge.id for edge in source.graph.as_of(time).edges}
        assert set(found.edges) <= known
        if ask.kind == "unanswerable":
            assert found.text == UNKNOWN
        if ask.format == "number":
            assert read_number(found.text) is not None
        if ask.format == "interval":
            assert read_interval(found.text) == pytest.approx(found.evidence[0], abs=0.051)


def test_the_current_segment_alone_answers_no_query_about_the_past(planned):
    for source, ask, _, said in planned:
        if ask.kind in ("backward", "order"):
            since = max(segment.start for segment in source.segments if segment.end <= ask.time)
            assert all(end <= since for _, end in said[-1][1].evidence), ask
        if ask.kind in ("counting", "multi_hop"):
            since = max(segment.start for segment in source.segments if segment.end <= ask.time)
            assert any(end <= since for _, end in said[-1][1].evidence), ask


def test_plans_are_the_same_for_the_same_seed(sources):
    source, weights = sources[0], dict.fromkeys(KINDS, 1.0)
    one, other = plan(source, weights, seed=1), plan(source, weights, seed=1)
    assert one == other and repr(one[0]) == repr(other[0])  # slots are no part of ==
    assert repr(one[0]) != repr(plan(source, weights, seed=2)[0])


def test_the_future_changes_nothing_that_is_planned_now(sources):
    """Of all but standing queries: they are planned from what is known, at every time."""
    weights = {kind: 1.0 for kind in KINDS if kind != "forward"}
    changed = 0
    for source in sources:
        half = source.segments[len(source.segments) // 2].end
        cut = replace(source, graph=source.graph.as_of(half))
        times = [segment.end for segment in source.segments if segment.end <= half]
        whole = plan(source, weights, times=times)
        assert repr(whole) == repr(plan(cut, weights, times=times))
        changed += len(whole[0])
    assert changed > 100


def test_the_future_changes_no_reply(planned):
    for source, ask, _, said in planned[::7]:
        for time, found in said:
            cut = source.graph.as_of(time)
            assert KINDS[ask.kind].reply(ask, cut) == found
            later = [replace(e, text="the whale sings", head=e.tail, tail=e.head) for e in source.graph.edges]
            other = [e if e.knowable_at <= time else new for e, new in zip(source.graph.edges, later, strict=True)]
            assert replies(ask, replace(source.graph, edges=tuple(other)), [time])[-1] == (time, found)


def test_nothing_is_lost_and_the_mix_of_kinds_is_drawn_first(sources):
    weights, total, made = {"backward": 1.0, "order": 3.0, "counting": 1.0}, Counter(), Counter()
    for source in sources:
        asks, counted = plan(source, weights)
        assert counted.taken == len(source.segments) == counted.made + sum(counted.rejected.values())
        assert counted.made == len(asks) and [ask.id for ask in asks] == [f"q{i}" for i in range(len(asks))]
        made.update(ask.kind for ask in asks)
        for reason, number in counted.rejected.items():
            for kind in weights:
                total[kind] += number * (kind in reason)
    tried = made + total
    assert tried["order"] / tried.total() == pytest.approx(0.6, abs=0.08)


def test_nothing_is_asked_twice_at_one_time(sources):
    doubled = 0
    for source in sources[:10]:
        end = source.segments[-1].end
        asks, counted = plan(source, {"present": 1.0, "counting": 1.0}, times=[end] * 40)
        keys = [(ask.kind, ask.subkind, json.dumps(ask.slots, sort_keys=True)) for ask in asks]
        assert len(set(keys)) == len(keys) > 5
        doubled += sum(counted.rejected.values())
    assert doubled > 0


def test_ids_have_the_prefix_that_is_wanted():
    asks, _ = plan(source_of(BOX), {"counting": 1.0}, prefix="late-")
    assert asks[0].id == "late-0"


def test_subkinds_are_weighed_and_left_out():
    only = AskSettings(subkinds={name: float(name == "when") for name in KINDS["backward"].subkinds})
    asks, _ = plan(source_of(BOX), {"backward": 1.0}, settings=only)
    assert asks and {ask.subkind for ask in asks} == {"when"}


def test_a_subkind_is_only_asked_in_a_format_that_it_has(planned):
    for _, ask, _, _ in planned:
        assert ask.format in KINDS[ask.kind].subkinds[ask.subkind].formats
    asks, counted = plan(source_of(BOX), {"backward": 1.0}, {"number": 1.0})
    assert asks == [] and set(counted.rejected) == {"no backward query at this time"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"sideways": 1.0}}, "asks.weights: 'sideways' is not known; choose from backward"),
        ({"weights": {"backward": 0.0}}, "asks.weights: .* needs one weight above 0"),
        ({"weights": {"backward": -1.0}}, "asks.weights.backward: -1.0: must be a weight"),
        ({"weights": {"backward": float("nan")}}, "asks.weights.backward: nan"),
        ({"formats": {"essay": 1.0}}, "asks.formats: 'essay' is not known"),
        ({"times": [12.5]}, r"asks of v: time 12.5 s is outside \[0, 12.0\] s"),
        ({"times": [float("nan")]}, "asks of v: time nan s is outside"),
    ],
)
def test_a_plan_that_cannot_be_made_is_an_error(change, message):
    given = {"times": [4.0], "weights": {"backward": 1.0}, "formats": EVERY} | change
    with pytest.raises(SynthError, match=message):
        plan_asks(source_of(BOX), given["times"], given["weights"], given["formats"], 0)


@pytest.mark.parametrize(
    "change",
    [
        {"subkinds": {"nothing": 1.0}},
        {"slack": -1.0},
        {"options": 1},
        {"least_options": 1},
        {"least_options": 5},
        {"unknown_share": 1.5},
        {"hops": 1},
        {"spread": -1.0},
        {"tries": 0},
    ],
)
def test_settings_out_of_range_are_an_error(change):
    with pytest.raises(SynthError, match=f"asks.{'least_options' if 'options' in change else next(iter(change))}"):
        AskSettings(**change)


def test_an_ask_survives_the_meta_of_a_sample(planned):
    for _, ask, known, _ in planned[::11]:
        record = json.loads(json.dumps(meta(ask)))
        again = from_meta(ask.id, ask.time, ask.options, record)
        assert again == ask and meta(again) == record
        assert KINDS[ask.kind].reply(again, known) == KINDS[ask.kind].reply(ask, known)


def test_options_hold_the_answer_once_and_only_what_is_known(planned):
    seen = 0
    for _, ask, known, said in planned:
        if ask.format != "choice":
            assert ask.options is None
            continue
        seen += 1
        answer = said[-1][1].text
        folded = [same(option) for option in ask.options]
        assert 2 <= len(folded) == len(set(folded)) <= 4 and ask.options.count(answer) == 1
        texts = {edge.text for edge in known.edges} | {node.name for node in known.nodes}
        for option in ask.options:
            assert option in texts or option == UNKNOWN or option.isdigit(), (option, ask)
    assert seen > 200


def test_distractors_are_of_the_type_of_the_answer(planned):
    for _, ask, known, _ in planned:
        if ask.format == "choice" and "of" in ask.slots:
            kinds = {node.name: node.kind for node in known.nodes}
            assert {kinds[option] for option in ask.options if option != UNKNOWN} == {ask.slots["of"]}


def test_letters_are_balanced(sources):
    letters = Counter()
    for source in sources:
        asks, _ = plan(source, {"present": 1.0, "unanswerable": 1.0}, {"choice": 1.0})
        for ask in asks:
            if len(ask.options) == 4:
                answer = KINDS[ask.kind].reply(ask, source.graph.as_of(ask.time)).text
                letters[string.ascii_uppercase[ask.options.index(answer)]] += 1
    assert set(letters) == set("ABCD") and letters.total() > 100
    assert max(letters.values()) < 1.3 * min(letters.values())


def test_letters_are_balanced_where_queries_are_planned_one_by_one(sources):
    letters = Counter()
    for source in sources:
        for segment in source.segments:
            asks, _ = plan(source, {"unanswerable": 1.0}, {"choice": 1.0}, times=[segment.end])
            letters.update(ask.options.index(UNKNOWN) for ask in asks if len(ask.options) == 4)
    assert set(letters) == {0, 1, 2, 3} and max(letters.values()) < 1.5 * min(letters.values())


def test_a_standing_query_keeps_others_away_in_any_order_of_times():
    asks, counted = plan(source_of(BOX), {"forward": 1.0}, times=[3.0, 1.0, 2.0, 0.0])
    assert asks[0].time == 3.0
    for one in asks[1:]:
        assert one.until < asks[0].time
    assert counted.rejected["a standing query is open"] > 0


def test_not_known_yet_is_offered_where_it_is_wrong_too(planned):
    wrong = [ask for _, ask, _, _ in planned if ask.format == "choice" and ask.kind == "backward"]
    share = sum(UNKNOWN in ask.options for ask in wrong) / len(wrong)
    assert 0.1 < share < 0.45
    closed = [ask for _, ask, _, _ in planned if ask.format == "choice" and ask.subkind in ("earliest", "times")]
    assert closed and all(UNKNOWN not in ask.options for ask in closed)


def test_clauses_of_what_happens_at_the_same_time_are_no_distractors():
    nodes, edges = steps(*STEPS[:3])
    twin = edge("x", "cook", "does", "a9", 8.2, 13.8, "the cook browns the chopped vegetables")
    nodes = [("cook", "person", "cook"), *nodes, ("a9", "activity", "brown the chopped vegetables")]
    late = edge("y", "cook", "does", "a8", 16.0, 18.0, "the cook serves")
    graph = make_graph("r", 24.0, [*nodes, ("a8", "activity", "serve")], [*edges, twin, late])
    settings = AskSettings(subkinds={name: float(name == "latest") for name in KINDS["order"].subkinds})
    asks, _ = plan(source_of(graph, 2.0), {"order": 1.0}, times=[20.0] * 8, settings=settings)
    assert asks and all(not {twin.text, "the cook fries onions"} <= set(ask.options) for ask in asks)
    known = AskSettings(subkinds={name: float(name == "just") for name in KINDS["present"].subkinds})
    for ask in plan(source_of(graph, 0.1), {"present": 1.0}, {"choice": 1.0}, settings=known)[0]:
        assert not {twin.text, "the cook fries onions"} <= set(ask.options)


def test_too_few_distractors_are_a_rejection():
    alone = box(goes_in("1", "red ball", 0.0), shines("l", "white", 2.0, 4.0))
    settings = AskSettings(subkinds={"who_now": 0.0, "object_now": 0.0})
    asks, counted = plan(source_of(alone), {"present": 1.0}, {"choice": 1.0}, times=[1.0], settings=settings)
    assert asks == [] and counted.rejected == {"too few distractors": 1}
    asks, counted = plan(source_of(BOX), {"counting": 1.0}, {"choice": 1.0}, settings=AskSettings(least_options=4))
    assert asks and all(len(ask.options) == 4 for ask in asks)


def test_a_route_is_walked_over_what_is_known(planned):
    seen = Counter()
    for _, ask, known, said in planned:
        if ask.kind == "multi_hop":
            found = said[-1][1]
            assert len(found.edges) >= 2 and len(ask.slots["steps"]) >= 2
            name = next(node for node in known.nodes if node.name == found.text)
            assert name.kind == ask.slots["of"]
            assert not re.search(rf"\b{found.text}\b", ask.slots["route"])
            touched = {node for edge in known.edges if edge.id in found.edges for node in (edge.head, edge.tail)}
            assert name.id in touched
            seen.update(step["by"] for step in ask.slots["steps"])
    assert {"head", "tail", "does", "done", "sibling"} <= set(seen)


def test_two_levels_of_detail_are_told_apart():
    nodes, edges = steps(*STEPS)
    more, details = steps(("b0", "peels one", 0.0, 2.0), ("b1", "cuts it", 2.0, 4.0), level=1)
    graph = make_graph("r", 24.0, [("cook", "person", "cook"), *nodes, *more], [*edges, *details])
    assert told(graph, "counting", "steps", 8.0, level=0) == "2" == told(graph, "counting", "steps", 8.0, level=1)
    settings = AskSettings(subkinds={name: float(name == "steps") for name in KINDS["counting"].subkinds})
    asks, _ = plan(source_of(graph, 2.0), {"counting": 1.0}, settings=settings)
    assert {ask.slots["grain"] for ask in asks} == {"on the whole, ", "in detail, "}
    assert plan(source_of(recipe(), 2.0), {"counting": 1.0}, settings=settings)[0][0].slots["grain"] == ""


def test_a_video_of_which_nothing_is_known_gives_rejections():
    empty = source_of(make_graph("g", 10.0, [], []))
    for kind in KINDS:
        asks, counted = plan(empty, {kind: 1.0})
        assert asks == [] and counted.rejected == {f"no {kind} query at this time": 10}


def test_every_subkind_has_its_words():
    assert set(TEMPLATES) == {name for _, name in SUBKINDS}
    for name, wordings in TEMPLATES.items():
        assert len(set(wordings)) == len(wordings) >= 4, name
        for wording in wordings:
            assert wording.endswith((".", "?", "...")) and wording == wording.strip(), wording
            assert not re.search(r"\bseconds?\b", wording.replace("{nth}", "")), wording


def test_what_cannot_be_answered_is_asked_in_the_same_words():
    for name in ("ordinal", "when", "after"):
        assert TEMPLATES[f"{name}_unknown"] == TEMPLATES[name]


def test_questions_are_filled_in_and_tell_no_answer(planned):
    write = templates(0)
    wordings = set()
    for source, ask, _, said in planned:
        question = write(question_task(ask, source.id))
        wordings.add((ask.subkind, question))
        assert question[0].isupper() and not re.search(r"[{}]|\bNone\b|  ", question), question
        answer = said[-1][1].text
        if ask.subkind != "first" and ask.until is None:
            assert not re.search(rf"\b{re.escape(answer)}\b", re.sub(r"cell \d+", "cell", question)), question
    assert len(wordings) > 500


def test_wordings_vary_and_are_seeded():
    ask = plan(source_of(BOX), {"counting": 1.0}, times=[8.0])[0][0]
    tasks = [question_task(replace(ask, id=f"q{i}"), "v") for i in range(40)]
    one = [templates(0)(task) for task in tasks]
    assert len(set(one)) >= 4 and one == [templates(0)(task) for task in tasks]
    assert one != [templates(1)(task) for task in tasks]
