"""Queries: what is right, worked out by hand, and what is only known later."""

import doctest
from dataclasses import replace

import pytest

from data_pipeline.graph import make_graph
from data_pipeline.queries import clauses
from data_pipeline.queries.ask import Ask
from data_pipeline.queries.choice import clash, options
from data_pipeline.queries.clauses import base, inverted, parts
from data_pipeline.queries.formats import interval, read_interval, read_number
from data_pipeline.queries.forward import NOW
from data_pipeline.queries.kind import UNKNOWN
from data_pipeline.queries.kinds import KINDS
from data_pipeline.queries.known import asked_at, comes_after, known_at, neighbours, view_of
from data_pipeline.queries.plan import replies, window
from data_pipeline.source import draw
from tests.data_pipeline.graphs import (
    BOX,
    STEPS,
    box,
    edge,
    goes_in,
    plan,
    recipe,
    reply,
    source_of,
    steps,
    told,
)


@pytest.mark.parametrize(
    ("subkind", "slots", "answer", "edges", "knowable"),
    [
        ("ordinal", {"predicate": "goes into the box", "number": 2}, "blue cube", ("1", "2"), 3.0),
        ("who", {"predicate": "comes out of the box"}, "red ball", ("3",), 5.0),
        ("object", {"stem": "the red ball comes out of"}, "box", ("3",), 5.0),
        ("when", {"event": "the blue cube goes into the box"}, "from 2.0 to 3.0 seconds", ("2",), 3.0),
        ("last", {"level": 0, "since": 6.0}, "the red ball comes out of the box", ("3",), 5.0),
    ],
)
def test_backward_answers(subkind, slots, answer, edges, knowable):
    found = reply(BOX, "backward", subkind, 7.0, **slots)
    assert (found.text, found.edges, found.knowable_at) == (answer, edges, knowable)
    assert found.evidence == tuple((e.start, e.end) for id in edges for e in BOX.edges if e.id == id)


def test_a_question_with_two_right_answers_has_none():
    assert told(BOX, "backward", "who", 7.0, predicate="goes into the box") is None
    assert told(BOX, "backward", "who", 1.5, predicate="goes into the box") == "red ball"
    assert told(BOX, "backward", "object", 7.0, stem="the lamp shows") is None
    twice = box(goes_in("1", "red ball", 0.0), goes_in("2", "red ball", 3.0), goes_in("3", "lamp", 5.0))
    assert told(twice, "backward", "when", 9.0, event="the red ball goes into the box") is None
    # "the second object that goes into the box": by turns the red ball, by objects the lamp
    assert told(twice, "backward", "ordinal", 9.0, predicate="goes into the box", number=2) is None


def test_things_that_begin_at_once_have_no_order():
    tied = box(goes_in("1", "red ball", 2.0), goes_in("2", "blue cube", 2.0), goes_in("3", "lamp", 5.0))
    assert told(tied, "backward", "ordinal", 9.0, predicate="goes into the box", number=1) is None
    texts = [f"the {thing} goes into the box" for thing in ("red ball", "blue cube", "lamp")]
    assert told(tied, "order", "first", 9.0, one=texts[0], other=texts[1]) is None
    assert told(tied, "order", "before", 9.0, event=texts[2], level=0) is None
    assert told(tied, "order", "first", 9.0, one=texts[2], other=texts[1]) == texts[1]


def test_the_present_changes_with_time():
    for time, colour in ((1.0, "white"), (4.9, "white"), (5.0, "white"), (5.1, "yellow"), (11.0, "yellow")):
        found = reply(BOX, "present", "object_now", time, stem="the lamp shows")
        assert found.text == colour and found.knowable_at == time
        assert found.evidence[0][1] <= time  # that it goes on is not known
    assert told(BOX, "present", "who_now", 6.0, predicate="shows yellow") == "lamp"
    assert told(BOX, "present", "who_now", 4.0, predicate="shows yellow") is None


def test_what_goes_on_and_what_has_just_happened():
    nodes, edges = steps(*STEPS)
    early = [replace(e, knowable_at=e.start + 1.0) if e.relation == "does" else e for e in edges]
    early = make_graph("r", 24.0, [("cook", "person", "cook"), *nodes], early)
    assert told(early, "present", "doing", 10.0, level=0) == "the cook fries onions"
    assert told(recipe(), "present", "doing", 10.0, level=0) is None  # what it is, is only known at its end
    assert told(recipe(), "present", "just", 14.0, level=0, since=12.0) == "the cook fries onions"
    assert told(recipe(), "present", "just", 13.0, level=0, since=11.0) is None
    assert told(recipe(), "present", "just", 16.0, level=0, since=12.0) is None  # two things have


def test_order_answers():
    graph, text = recipe(), {id: f"the cook {words}" for id, words, _, _ in STEPS}
    assert told(graph, "order", "first", 16.0, one=text["a2"], other=text["a0"]) == text["a0"]
    assert told(graph, "order", "earliest", 16.0, among=[text["a2"], text["a1"]]) == text["a1"]
    assert told(graph, "order", "latest", 16.0, among=[text["a2"], text["a1"], text["a0"]]) == text["a2"]
    assert told(graph, "order", "before", 16.0, event=text["a2"], level=0) == text["a1"]
    assert told(graph, "order", "after", 16.0, event=text["a2"], level=0) == text["a3"]
    assert told(graph, "order", "after", 15.0, event=text["a2"], level=0) is None  # it has not happened yet
    assert told(graph, "order", "first", 7.0, one=text["a2"], other=text["a0"]) is None


def test_one_after_the_other():
    def at(start, end):
        return edge("x", "a", "r", "b", start, end, "x")

    assert comes_after(at(0.0, 5.0), at(5.0, 6.0)) and not comes_after(at(5.0, 6.0), at(0.0, 5.0))
    assert comes_after(at(0.0, 10.5), at(10.0, 20.0)) and not comes_after(at(0.0, 12.0), at(10.0, 20.0))
    assert comes_after(at(1.0, 1.0), at(2.0, 2.0)) and not comes_after(at(1.0, 1.0), at(1.0, 1.0))


def test_steps_that_overlap_are_no_neighbours():
    nodes, edges = steps(("a0", "boils water", 0.0, 20.0), ("a1", "chops", 5.0, 10.0), ("a2", "serves", 20.5, 22.0))
    view = view_of(make_graph("r", 24.0, [("cook", "person", "cook"), *nodes], edges))
    assert neighbours(view.at_level[0]) == []
    assert [pair[1].text for pair in neighbours(view_of(recipe()).at_level[0])] == [
        f"the cook {text}" for _, text, _, _ in STEPS[1:]
    ]


def test_counts_grow_with_time():
    counts = {
        time: told(BOX, "counting", "times", time, predicate="goes into the box") for time in (0.5, 1.0, 3.0, 8.0)
    }
    assert counts == {0.5: None, 1.0: "1", 3.0: "2", 8.0: "3"}
    found = reply(BOX, "counting", "times", 8.0, predicate="goes into the box")
    assert found.knowable_at == 8.0 and found.edges == ("1", "2", "4")
    assert told(BOX, "counting", "times_this", 8.0, event="the red ball goes into the box") == "1"
    assert told(BOX, "counting", "steps", 8.0, level=0) == "4"


def test_what_has_not_happened_is_unknown_until_it_has():
    slots = {"predicate": "goes into the box", "number": 3}
    found = reply(BOX, "unanswerable", "ordinal_unknown", 6.0, **slots)
    assert found.text == UNKNOWN and found.evidence == ((0.0, 6.0),) and found.knowable_at == 6.0
    assert reply(BOX, "unanswerable", "ordinal_unknown", 7.0, **slots) is None
    event = "the green cone goes into the box"
    assert told(BOX, "unanswerable", "when_unknown", 6.0, event=event) == UNKNOWN
    assert told(BOX, "unanswerable", "when_unknown", 7.0, event=event) is None
    assert told(recipe(), "unanswerable", "after_unknown", 14.0, event="the cook fries onions", level=0) == UNKNOWN
    assert told(recipe(), "unanswerable", "after_unknown", 16.0, event="the cook fries onions", level=0) is None


def test_a_reply_that_is_due_at_once_is_of_the_moment_of_the_ask():
    """An answer may be given a little later than the query (on the next frame): it is still about the ask's moment."""
    for now in (5.0, 8.0, 12.0):
        assert told(BOX, "counting", "times", 5.0, now, predicate="goes into the box") == "2"
        assert told(BOX, "present", "object_now", 4.0, now, stem="the lamp shows") == "white"
        found = reply(BOX, "unanswerable", "ordinal_unknown", 5.0, now, predicate="goes into the box", number=3)
        assert found.text == UNKNOWN


def test_a_standing_query_is_silent_until_it_is_due():
    ask = Ask("q0", "forward", "tell_when", 3.0, {"event": "the green cone goes into the box"}, until=8.0)
    said = replies(ask, BOX, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assert [time for time, _ in said] == [4.0, 5.0, 6.0, 7.0]
    assert [found and found.text for _, found in said] == [None, None, None, NOW]
    assert said[-1][1].knowable_at == 7.0 and window(ask, said[-1][1]) == (7.0, 8.0)


def test_a_standing_query_whose_time_runs_out_has_no_reply():
    ask = Ask("q0", "forward", "tell_when", 3.0, {"event": "the green cone goes into the box"}, until=6.0)
    assert replies(ask, BOX, [4.0, 5.0, 6.0, 7.0]) == [(4.0, None), (5.0, None), (6.0, None)]
    assert replies(ask, BOX, [9.0]) == []


def test_standing_answers_look_at_what_is_new_alone():
    slots = {"predicate": "goes into the box", "of": "object"}
    assert told(BOX, "forward", "which_next", 0.5, 12.0, **slots) == "red ball"
    assert told(BOX, "forward", "which_next", 1.0, 12.0, **slots) == "blue cube"
    assert told(BOX, "forward", "which_next", 3.0, 6.0, **slots) is None
    assert told(BOX, "forward", "next", 3.0, 12.0, level=0) == "the red ball comes out of the box"
    assert told(BOX, "forward", "nth_time", 1.0, 12.0, predicate="goes into the box", number=3) == NOW
    assert told(BOX, "forward", "nth_time", 3.0, 6.9, predicate="goes into the box", number=3) is None
    assert told(BOX, "forward", "nth_time", 8.0, 12.0, predicate="goes into the box", number=3) is None


def test_an_ask_that_is_due_at_once_has_one_decision():
    ask = Ask("q0", "backward", "who", 7.0, {"predicate": "comes out of the box"})
    assert [(time, found.text) for time, found in replies(ask, BOX, [6.0, 7.0, 8.0])] == [(7.0, "red ball")]
    assert window(ask, replies(ask, BOX, [7.5])[0][1]) is None


def test_an_ask_of_an_unknown_kind_or_subkind_is_an_error():
    with pytest.raises(ValueError, match="ask 'q0': kind 'odd' is not known; the kinds are backward"):
        replies(Ask("q0", "odd", "who", 1.0, {}), BOX, [2.0])
    with pytest.raises(ValueError, match="ask 'q0': backward has no subkind 'odd'; it has ordinal"):
        replies(Ask("q0", "backward", "odd", 1.0, {}), BOX, [2.0])
    with pytest.raises(ValueError, match="slot 'number' must be a whole number"):
        reply(BOX, "backward", "ordinal", 5.0, predicate="goes into the box", number="two")


def test_an_option_is_never_a_second_name_of_the_answer():
    aliases = {"red ball": (("crimson sphere", 1.0), ("ruby", 9.0))}
    view = view_of(box(goes_in("1", "red ball", 0.0), goes_in("2", "blue cube", 2.0), aliases=aliases).as_of(3.0))
    assert clash("red ball", "crimson sphere", view) and clash("Crimson Sphere", "red ball", view)
    assert not clash("red ball", "ruby", view)  # not known yet, so nobody can tell
    assert clash("Red Ball.", "red  ball", view) and clash("ball", "red ball", view)
    assert not clash("ball", "red balloon", view) and not clash("1", "11", view)
    found = options(
        "red ball",
        ["RED BALL", "ball", "crimson sphere", "blue cube", "blue cube", "lamp"],
        view,
        draw(0),
        position=2,
        count=4,
        least=2,
        unknown_share=0.0,
    )
    assert sorted(found) == ["blue cube", "lamp", "red ball"] and found[2] == "red ball"


def test_a_route_over_activities_and_a_route_that_forks():
    start = {"by": "name", "text": "the cook chops onions", "of": "activity", "number": 0}
    onwards = {"by": "then", "text": "", "of": "activity", "number": 1}
    assert told(recipe(), "multi_hop", "route", 20.0, steps=[start, onwards, onwards]) == "fries onions"
    assert told(recipe(), "multi_hop", "route", 9.0, steps=[start, onwards, onwards]) is None
    back = onwards | {"number": -1}
    assert told(recipe(), "multi_hop", "route", 20.0, steps=[start | {"text": "the cook serves"}, back]) == "adds salt"
    fork = make_graph(
        "g",
        10.0,
        [(name, "object", name) for name in "abcd"],
        [
            edge("1", "a", "touch", "b", 0.0, 1.0, "the a touches the b"),
            edge("2", "b", "touch", "c", 2.0, 3.0, "the b touches the c"),
            edge("3", "b", "touch", "d", 4.0, 5.0, "the b touches the d"),
        ],
    )
    first = {"by": "tail", "text": "the a touches", "of": "object", "number": 0}
    hop = {"by": "does", "text": "touches", "of": "object", "number": 0}
    assert told(fork, "multi_hop", "route", 9.0, steps=[first, hop]) is None
    assert told(fork, "multi_hop", "route", 3.5, steps=[first, hop]) == "c"
    assert told(fork, "multi_hop", "route", 9.0, steps=[first, hop | {"number": 2}]) == "d"


def test_a_route_takes_no_turn_that_cannot_be_told():
    """The second one of two that come at once; what comes after a step that is still going on."""
    fork = make_graph(
        "g",
        10.0,
        [(name, "object", name) for name in "abcd"],
        [
            edge("1", "a", "touch", "b", 0.0, 1.0, "the a touches the b"),
            edge("2", "b", "touch", "c", 2.0, 3.0, "the b touches the c"),
            edge("3", "b", "touch", "d", 2.0, 4.0, "the b touches the d"),
        ],
    )
    first = {"by": "tail", "text": "the a touches", "of": "object", "number": 0}
    hop = {"by": "does", "text": "touches", "of": "object", "number": 2}
    assert told(fork, "multi_hop", "route", 9.0, steps=[first, hop]) is None
    nodes, edges = steps(("a0", "boils water", 0.0, 9.0), ("a1", "chops", 4.0, 10.0))
    graph = make_graph("r", 24.0, [("cook", "person", "cook"), *nodes], edges)
    start = {"by": "name", "text": "the cook boils water", "of": "activity", "number": 0}
    onwards = {"by": "then", "text": "", "of": "activity", "number": 1}
    assert told(graph, "multi_hop", "route", 20.0, steps=[start, onwards]) is None


def test_what_lies_on_the_way_is_no_distractor():
    start = {"by": "name", "text": "the cook chops onions", "of": "activity", "number": 0}
    onwards = {"by": "then", "text": "", "of": "activity", "number": 1}
    slots = {"steps": [start, onwards, onwards], "route": "", "of": "activity"}
    ask = Ask("q0", "multi_hop", "route", 20.0, slots, "choice")
    assert set(KINDS["multi_hop"].wrong(ask, recipe().as_of(20.0))) == {"adds salt", "serves"}
    ask = Ask("q0", "order", "after", 20.0, {"event": "the cook heats oil", "level": 0}, "choice")
    assert "the cook heats oil" not in KINDS["order"].wrong(ask, recipe().as_of(20.0))
    ask = Ask("q0", "backward", "who", 9.0, {"predicate": "goes into the red ball", "of": "object"}, "choice")
    assert "red ball" not in KINDS["backward"].wrong(ask, BOX.as_of(9.0))


def test_annotations_of_activities_can_be_asked_about():
    source = source_of(recipe(), 2.0)
    for kind in KINDS:
        asks, _ = plan(source, {kind: 1.0})
        assert asks, kind
        for ask in asks:
            assert replies(ask, source.graph, [segment.end for segment in source.segments])[-1][1] is not None


def test_relations_that_hold_can_be_asked_about():
    people = [("p", "person", "man"), ("w", "person", "woman"), ("c", "object", "cup"), ("b", "object", "book")]
    holds = [
        edge("1", "p", "hold", "c", 0.0, 6.0, "the man holds the cup", "state", 0.0),
        edge("2", "w", "hold", "b", 3.0, 20.0, "the woman holds the book", "state", 3.0),
        edge("3", "w", "next_to", "p", 8.0, 20.0, "the woman is next to the man", "state", 8.0),
    ]
    source = source_of(make_graph("s", 20.0, people, holds))
    found = {}
    for kind in ("backward", "present", "forward"):
        for ask in plan(source, {kind: 1.0})[0]:
            found[ask.subkind] = ask
    assert {"who", "object", "when", "object_now", "who_now", "tell_when"} <= set(found)
    graph = source.graph
    assert told(graph, "present", "who_now", 5.0, predicate="holds the cup") == "man"
    assert told(graph, "present", "who_now", 10.0, predicate="holds the cup") is None
    assert told(graph, "backward", "who", 10.0, predicate="holds the cup") == "man"
    assert told(graph, "present", "object_now", 10.0, stem="the woman is next to") == "man"


def test_views_are_kept_but_never_mixed_up():
    one, other = recipe(), BOX
    assert known_at(one, 9.0) is known_at(one, 9.0)
    assert known_at(one, 9.0).graph == one.as_of(9.0) and known_at(other, 9.0).graph == other.as_of(9.0)
    for i in range(200):  # more than are kept
        graph = box(goes_in("1", "red ball", i / 100))
        assert known_at(graph, 5.0).graph == graph.as_of(5.0)
    assert asked_at(one.as_of(20.0), 9.0).graph == one.as_of(9.0)
    assert asked_at(one.as_of(9.0), 9.0).graph == one.as_of(9.0)


def test_clauses_are_taken_apart_or_left_whole():
    assert doctest.testmod(clauses).failed == 0
    clause = parts("the red ball goes into the box", "red ball", "box")
    assert (clause.subject, clause.predicate, clause.verb) == ("the red ball", "goes into the box", "goes into")
    assert clause.stem == "the red ball goes into"
    assert parts("the man turns the light on", "man", "light").verb is None
    assert parts("Anna holds her cup", "Anna", "cup").stem == "Anna holds"
    assert parts("the redhead walks", "red", "redhead") is None  # a name is whole words
    assert parts("whisk the eggs", "cook", "whisk the eggs") is None
    assert parts("the cook slowly stirs the pot", "cook", "pot") is None
    assert parts("the cook is at this: rice", "cook", "rice") is None


@pytest.mark.parametrize(
    ("verb", "stem"),
    [
        *(("washes", "wash"), ("fixes", "fix"), ("passes", "pass"), ("goes", "go"), ("ties", "tie"), ("dries", "dry")),
        *(("uses", "use"), ("closes", "close"), ("has", "have"), ("are", "are"), ("glass", None), ("always", None)),
    ],
)
def test_verbs_lose_their_ending(verb, stem):
    assert base(verb) == stem


def test_only_verbs_are_inverted():
    assert inverted("the men", "are next to") == ("are the men next to", "were the men next to")
    with pytest.raises(ValueError, match="'slowly walks' does not begin with a verb"):
        inverted("the man", "slowly walks")


def test_intervals_and_numbers_are_read_as_they_are_written():
    assert read_interval(interval(12.0, 15.46)) == (12.0, 15.5)
    for text in ("from 5 to 3 seconds", "12.0 to 15.0", "at 3 seconds", UNKNOWN):
        assert read_interval(text) is None
    assert read_number(" 12 ") == 12 and read_number("12.5") is None and read_number("twelve") is None
