"""Thoughts: the delta alone, short when nothing is new, grounded, and the same whichever way they are worked out."""

from dataclasses import replace
from itertools import pairwise

import pytest

from data_pipeline.graph import Edge
from data_pipeline.source import SynthError, draw
from data_pipeline.text.task import Task
from data_pipeline.text.templates import templates
from data_pipeline.text.templates.thought import says_nothing
from data_pipeline.thoughts import covered, news, thought, thoughts
from tests.data_pipeline.small_sources import states_source, steps_source
from tests.data_pipeline.worlds import world_sources
from whilst.sample import JSON, Segment

WRITE = templates(0)


def written(source, segments=None):  # type: ignore[no-untyped-def]
    return thoughts(source, segments or source.segments, WRITE, 0)


def test_every_event_is_told_once_and_in_the_segment_in_which_it_becomes_known() -> None:
    for source in [*world_sources(5), steps_source(0.5), steps_source(1.0)]:
        told = written(source)
        assert len(told) == len(source.segments)
        for segment, (text, ids) in zip(source.segments, told, strict=True):
            new = {edge.id for edge in news(source.graph) if segment.start < edge.knowable_at <= segment.end}
            assert set(ids) == new
            for edge in source.graph.edges:
                if edge.id in new:
                    assert edge.text.casefold() in text.casefold()
            assert says_nothing(text) == (not new)


def test_one_thought_off_the_graph_as_of_its_time_is_the_same_as_in_the_walk_through_all() -> None:
    for source in [*world_sources(3), steps_source(0.3), states_source()]:
        end, previous = -1.0, ""
        for segment, told in zip(source.segments, written(source), strict=True):
            alone = thought(source.as_of(segment.end), segment, end, WRITE, 0, previous)
            assert alone == told
            end, previous = segment.end, told[0]


def test_the_order_of_edges_in_a_graph_does_not_matter() -> None:
    source = steps_source(0.5)
    turned = replace(source, graph=replace(source.graph, edges=source.graph.edges[::-1]))
    assert written(turned) == written(source)


def test_a_state_is_news_when_it_begins_and_when_it_comes_back_but_not_when_it_goes_on() -> None:
    source = states_source()
    said = [(segment.end, ids) for segment, (_, ids) in zip(source.segments, written(source), strict=True) if ids]
    assert said == [(2.0, ("s0",)), (8.0, ("e", "s2")), (12.0, ("s3",))]


def test_how_annotations_hang_together_is_not_told() -> None:
    source = steps_source(1.0)
    assert source.graph.of("then")
    assert not any(id.startswith("t") for _, ids in written(source) for id in ids)
    assert not any("after" in text for text, _ in written(source))


def test_two_thoughts_in_a_row_never_read_the_same_though_nothing_is_new() -> None:
    source = steps_source(1.0, [(1.0, 2.0, 0, "sits")], duration=400.0)
    texts = [text for text, _ in written(source)]
    assert all(one != other for one, other in pairwise(texts))
    assert len(set(texts)) > 5
    assert all(len(text.split()) < 8 for text in texts)


def test_what_happens_again_is_said_to_happen_again() -> None:
    steps = [(1.0, 2.0, 0, "stirs"), (6.0, 7.0, 0, "stirs")]
    texts = [text for text, _ in written(steps_source(1.0, steps, duration=10.0))]
    assert "again" not in texts[0].casefold()
    assert any(word in texts[1].casefold() for word in ("again", "once more", "another time"))


def test_a_gap_between_segments_is_told_of_by_the_next_one() -> None:
    source = steps_source(1.0)
    some = [Segment(0.0, 5.0), Segment(30.0, 35.0)]
    assert set(written(source, some)[1][1]) == {"d1", "d2"}


# ---- Is a chain covered by thoughts?


def test_coverage_is_the_longest_run_of_a_chain_that_was_told() -> None:
    chain = [Edge(str(i), "a", "does", "b", i, i, "point", i, "it") for i in range(4)]
    assert covered(chain, {"0", "1", "2", "3"}) == 1.0
    assert covered(chain, {"0", "2", "3"}) == 0.5
    assert covered(chain, set()) == 0.0
    between = replace(chain[1], id="t", relation="then")
    assert covered([chain[0], between, chain[1]], {"0", "1"}) == 1.0
    with pytest.raises(ValueError, match="no coverage"):
        covered([between], {"t"})


# ---- The templates.


def test_wording_depends_on_seed_and_key_alone_and_varies_with_both() -> None:
    def task(key: str) -> Task:
        return Task("thought", {"new": ["the red circle goes into the box"], "known": [], "previous": ""}, key)

    assert [templates(3)(task(str(i))) for i in range(20)] == [templates(3)(task(str(i))) for i in range(20)]
    assert len({WRITE(task(str(i))) for i in range(50)}) >= 5
    assert any(templates(0)(task(str(i))) != templates(1)(task(str(i))) for i in range(20))


def test_sentences_begin_with_a_capital_and_end_with_one_full_stop() -> None:
    for many in range(5):
        clauses: list[JSON] = [f"the cook does thing {i}" for i in range(many)]
        for key in range(30):
            text = WRITE(Task("thought", {"new": clauses, "known": [], "previous": ""}, str(key)))
            assert text[0].isupper() and text.endswith(".") and not text.endswith("..") and "  " not in text
            assert all(str(clause) in text.casefold() for clause in clauses)


@pytest.mark.parametrize("about", ["past", "current", "next"])
@pytest.mark.parametrize("change", ["ask", "start", "end", "both"])
def test_every_reply_of_a_dialogue_has_several_wordings_without_times(about: str, change: str) -> None:
    facts: dict[str, JSON] = {"about": about, "change": change}
    facts |= {"begun": ["it begins"], "over": ["it ends"], "now": ["it goes on"], "before": ["it was"]}
    texts = {WRITE(Task("reply", facts, str(key))) for key in range(40)}
    assert len(texts) >= 3
    assert not any(character.isdigit() for text in texts for character in text)


def test_reasoning_tells_the_evidence_in_order_and_ends_with_the_answer() -> None:
    facts: dict[str, JSON] = {
        "question": "Which?",
        "clauses": ["one thing happens", "two things happen"],
        "answer": "it",
    }
    for key in range(20):
        text = WRITE(Task("reasoning", facts, str(key)))
        assert 0 <= text.find("one thing") < text.find("two things") < text.rfind("it")
        assert text.endswith("it.")


def test_an_unknown_step_or_a_missing_fact_is_an_error_that_names_it() -> None:
    with pytest.raises(SynthError, match=r"'limerick': no templates; the steps are thought"):
        WRITE(Task("limerick", {}, "k"))
    with pytest.raises(SynthError, match=r"'thought', key 'k': no fact 'new'"):
        WRITE(Task("thought", {}, "k"))
    with pytest.raises(SynthError, match=r"no wording for subkind 'none such'"):
        WRITE(Task("question", {"subkind": "none such"}, "k"))
    assert draw(0, "a").random() == draw(0, "a").random()
