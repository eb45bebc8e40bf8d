"""Planted faults: one thing wrong with a clean sample, and which filter has to find it.

    for name, fault in FAULTS.items():
        planted = fault.plant(sample, source)   # (sample, source), or None where this sample has no place for it

A fault that breaks a rule of `whilst.sample` already (two answers swapped in time, say) is none: no writer would let it
pass. So every planted sample is valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.source import Source
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought

Planted = tuple[Sample, Source]


@dataclass(frozen=True)
class Fault:
    """`reasons`: any of these, as a filter gives them, finds the fault. `plant` changes a clean sample."""

    reasons: tuple[str, ...]
    plant: Callable[[Sample, Source], Sample | None]


# ---- Ways to change a sample.


def _with(sample: Sample, change: dict[int, Any]) -> Sample:
    """Events by index put in another's place; None takes one out, a tuple puts several there."""
    events: list[Any] = []
    for i, event in enumerate(sample.events):
        new = change.get(i, event)
        events += [] if new is None else new if isinstance(new, tuple) else [new]
    return sample.with_events(events)


def _thoughts(sample: Sample) -> Iterator[tuple[int, int, Thought]]:
    """(event index, number of the thought, thought)."""
    indices = [i for i, event in enumerate(sample.events) if isinstance(event, Thought)]
    for n, i in enumerate(indices):
        yield i, n, sample.events[i]  # type: ignore[misc]


def _queries(sample: Sample, **wanted: object) -> Iterator[tuple[int, Query, dict[str, Any]]]:
    """(event index, query, its ask) of those whose ask has these fields."""
    asks: Any = sample.meta["asks"]
    for i, event in enumerate(sample.events):
        if isinstance(event, Query) and all(asks[event.id][name] == value for name, value in wanted.items()):
            yield i, event, asks[event.id]


def _answer(sample: Sample, query: Query) -> tuple[int, Answer]:
    return next(
        (i, event) for i, event in enumerate(sample.events) if isinstance(event, Answer) and event.query == query.id
    )


def _right(sample: Sample, query: Query) -> str:
    """The answer's text, out of its box; of a letter, the option's."""
    text = _answer(sample, query)[1].text
    text = text.removeprefix("\\boxed{").removesuffix("}") if text.startswith("\\boxed{") else text
    if query.options is not None and text not in query.options:
        return query.options[ord(text) - ord("A")]
    return text


def _answered(sample: Sample, query: Query, text: str) -> Sample:
    i, answer = _answer(sample, query)
    return _with(sample, {i: replace(answer, text=text)})


def _edges(sample: Sample, source: Source) -> list[list[Any]]:
    by_id = {edge.id: edge for edge in source.graph.edges}
    told: Any = sample.meta["thought_edges"]
    return [[by_id[id] for id in row] for row in told]


def _stranger(source: Source, time: float) -> str | None:
    """The name of an object that is not known at `time`, though later."""
    known = {node.id for node in source.graph.as_of(time).nodes}
    return next((n.name for n in source.graph.nodes if n.id not in known and n.kind == "object"), None)


# ---- Thoughts.


def future_entity_in_thought(sample: Sample, source: Source) -> Sample | None:
    for i, _, thought in _thoughts(sample):
        name = _stranger(source, thought.time)
        if name:
            return _with(sample, {i: replace(thought, text=f"{thought.text} The {name} is near.")})
    return None


def future_event_in_thought(sample: Sample, source: Source) -> Sample | None:
    for i, _, thought in _thoughts(sample):
        now = {edge.text for edge in source.graph.as_of(thought.time).edges}
        later = [edge.text for edge in source.graph.edges if edge.knowable_at > thought.time and edge.text not in now]
        if later:
            return _with(sample, {i: replace(thought, text=f"{thought.text} Soon {later[0]}.")})
    return None


def false_relation_in_thought(sample: Sample, source: Source) -> Sample | None:
    for i, _, thought in _thoughts(sample):
        known = source.graph.as_of(thought.time)
        touched = {(source.graph.name(e.head), source.graph.name(e.tail)) for e in source.graph.of("touch")}
        names = [node.name for node in known.nodes if node.kind == "object"]
        for one in names:
            for other in names:
                if known.of("touch") and one != other and (one, other) not in touched:
                    return _with(sample, {i: replace(thought, text=f"{thought.text} The {one} touches the {other}.")})
    return None


def thought_turns_in_circles(sample: Sample, source: Source) -> Sample | None:
    for i, n, thought in _thoughts(sample):
        if len(_edges(sample, source)[n]) == 1:
            return _with(sample, {i: replace(thought, text=" ".join([thought.text] * 4))})
    return None


def thought_of_before(sample: Sample, source: Source) -> Sample | None:
    """The thought before once more, although other things are new."""
    edges, before = _edges(sample, source), None
    for i, n, thought in _thoughts(sample):
        now, then = ({edge.relation for edge in edges[k]} for k in (n, n - 1))
        if before is not None and now and then and now.isdisjoint(then):
            return _with(sample, {i: replace(thought, text=before.text)})
        before = thought
    return None


def stale_thought(sample: Sample, source: Source) -> Sample | None:
    """What an earlier segment showed, told as if it were new."""
    edges = _edges(sample, source)
    for i, n, thought in _thoughts(sample):
        own = {edge.text for edge in edges[n]}
        old = [edge.text for row in edges[: n - 1] for edge in row if edge.text not in own]
        if n > 2 and old:
            return _with(sample, {i: replace(thought, text=f"{thought.text} And {old[0]}.")})
    return None


def thought_missing(sample: Sample, source: Source) -> Sample | None:
    found = list(_thoughts(sample))
    told: Any = sample.meta["thought_edges"]
    i, n, _ = found[len(found) // 2]
    meta = dict(sample.meta) | {"thought_edges": [*told[:n], *told[n + 1 :]]}
    return replace(_with(sample, {i: None}), meta=meta)


def two_thoughts(sample: Sample, source: Source) -> Sample | None:
    found = list(_thoughts(sample))
    told: Any = sample.meta["thought_edges"]
    i, n, thought = found[len(found) // 2]
    meta = dict(sample.meta) | {"thought_edges": [*told[: n + 1], [], *told[n + 1 :]]}
    return replace(_with(sample, {i: (thought, replace(thought, text="Nothing else."))}), meta=meta)


def seconds_in_thought(sample: Sample, source: Source) -> Sample | None:
    i, _, thought = list(_thoughts(sample))[-1]
    return _with(sample, {i: replace(thought, text=f"At {thought.time:g} seconds: {thought.text}")})


def thought_too_long(sample: Sample, source: Source) -> Sample | None:
    i, _, thought = list(_thoughts(sample))[-1]
    more = " ".join(f"And so on to point {letter}{k}." for k, letter in enumerate("abcdefghijklmnopqrstuvwxyz" * 2))
    return _with(sample, {i: replace(thought, text=f"{thought.text} {more}")})


def edge_of_the_future(sample: Sample, source: Source) -> Sample | None:
    """The record says that the first thought tells of the last event."""
    told: Any = sample.meta["thought_edges"]
    last = source.graph.edges[-1].id
    return replace(sample, meta=dict(sample.meta) | {"thought_edges": [[*told[0], last], *told[1:]]})


# ---- Queries.


def answer_in_question(sample: Sample, source: Source) -> Sample | None:
    for i, query, ask in _queries(sample, format="open"):
        if ask["until"] is None and ask["kind"] != "unanswerable":
            return _with(sample, {i: replace(query, text=f"{query.text} Is it {_right(sample, query)}?")})
    return None


def count_in_question(sample: Sample, source: Source) -> Sample | None:
    for i, query, _ in _queries(sample, format="number"):
        return _with(sample, {i: replace(query, text=f"{query.text} I think {_right(sample, query)}.")})
    return None


def time_in_question(sample: Sample, source: Source) -> Sample | None:
    for i, query, _ in _queries(sample, format="interval"):
        start = _right(sample, query).split()[1]
        return _with(sample, {i: replace(query, text=f"{query.text} It begins at {start} seconds.")})
    return None


def due_time_in_question(sample: Sample, source: Source) -> Sample | None:
    for i, query, ask in _queries(sample, kind="forward"):
        if ask["until"] is not None:
            due = _answer(sample, query)[1].time
            return _with(sample, {i: replace(query, text=f"{query.text} It will be at {due:g} s.")})
    return None


def question_names_the_future(sample: Sample, source: Source) -> Sample | None:
    for i, query, ask in _queries(sample):
        name = _stranger(source, query.time)
        if name and ask["kind"] in ("backward", "present", "counting", "order"):
            return _with(sample, {i: replace(query, text=f"{query.text} Think of the {name}.")})
    return None


def option_twice(sample: Sample, source: Source) -> Sample | None:
    """The answer a second time, in capitals."""
    for i, query, _ in _queries(sample, format="choice"):
        right = _right(sample, query)
        options = query.options or ()
        place = next(k for k, option in enumerate(options) if option != right)
        doubled = (*options[:place], f" {right.upper()} ", *options[place + 1 :])
        if right.upper() != right:
            return _with(sample, {i: replace(query, options=doubled)})
    return None


def option_of_the_future(sample: Sample, source: Source) -> Sample | None:
    for i, query, _ in _queries(sample, format="choice"):
        name, right = _stranger(source, query.time), _right(sample, query)
        options = query.options or ()
        if name and _answer(sample, query)[1].text == right:
            place = next(k for k, option in enumerate(options) if option != right)
            return _with(sample, {i: replace(query, options=(*options[:place], name, *options[place + 1 :]))})
    return None


def wrong_option(sample: Sample, source: Source) -> Sample | None:
    for _, query, _ in _queries(sample, format="choice"):
        right = _right(sample, query)
        return _answered(sample, query, next(option for option in query.options or () if option != right))
    return None


def wrong_letter(sample: Sample, source: Source) -> Sample | None:
    for _, query, _ in _queries(sample, format="choice"):
        options = query.options or ()
        place = options.index(_right(sample, query))
        return _answered(sample, query, "ABCDEFGH"[(place + 1) % len(options)])
    return None


def count_off_by_one(sample: Sample, source: Source) -> Sample | None:
    for _, query, _ in _queries(sample, format="number"):
        return _answered(sample, query, str(int(_right(sample, query)) + 1))
    return None


def no_number(sample: Sample, source: Source) -> Sample | None:
    for _, query, _ in _queries(sample, format="number"):
        return _answered(sample, query, "a few")
    return None


def interval_backwards(sample: Sample, source: Source) -> Sample | None:
    for _, query, _ in _queries(sample, format="interval"):
        _, start, _, end, _ = _right(sample, query).split()
        if start != end:
            return _answered(sample, query, f"from {end} to {start} seconds")
    return None


def interval_shifted(sample: Sample, source: Source) -> Sample | None:
    for _, query, _ in _queries(sample, format="interval"):
        _, start, _, end, _ = _right(sample, query).split()
        return _answered(sample, query, f"from {float(start) + 0.5} to {float(end) + 0.5} seconds")
    return None


def order_swapped(sample: Sample, source: Source) -> Sample | None:
    """The other one of the two that were compared."""
    for _, query, ask in _queries(sample, kind="order", subkind="first", format="open"):
        right = _right(sample, query)
        others = [value for value in ask["slots"].values() if isinstance(value, str) and value != right]
        if others:
            return _answered(sample, query, others[0])
    return None


def answer_to_the_unanswerable(sample: Sample, source: Source) -> Sample | None:
    for _, query, _ in _queries(sample, kind="unanswerable", format="open"):
        return _answered(sample, query, source.graph.nodes[0].name)
    return None


def answer_from_the_future(sample: Sample, source: Source) -> Sample | None:
    """A standing query answered where it was still silent; its record of what is knowable is made to fit."""
    for i, query, ask in _queries(sample, kind="forward"):
        silent = [k for k, event in enumerate(sample.events) if isinstance(event, Silence) and event.query == query.id]
        if ask["until"] is not None and silent:
            j, answer = _answer(sample, query)
            early = sample.events[silent[0]].time
            asked = replace(query, knowable_at=early, evidence=((query.time, early),), window=(early, ask["until"]))
            gone: dict[int, Any] = {k: None for k in silent}
            return _with(sample, gone | {i: asked, j: None, silent[0]: replace(answer, time=early)})
    return None


def answer_too_late(sample: Sample, source: Source) -> Sample | None:
    """Silence where a standing query falls due, and the answer a segment later."""
    for _, query, ask in _queries(sample, kind="forward"):
        j, answer = _answer(sample, query)
        after = [k for k, event in enumerate(sample.events) if k > j and isinstance(event, Segment)]
        if ask["until"] is not None and after:
            late = sample.events[after[0]]
            thought = after[0] + 1 if isinstance(sample.events[after[0] + 1], Thought) else after[0]
            put = (sample.events[thought], replace(answer, time=late.time))
            return _with(sample, {j: Silence(answer.time, query.id), thought: put})
    return None


def other_evidence(sample: Sample, source: Source) -> Sample | None:
    for i, query, _ in _queries(sample, kind="backward"):
        spans = tuple((start + 0.25, end) for start, end in query.evidence)
        return _with(sample, {i: replace(query, evidence=spans)})
    return None


def evidence_after_the_answer(sample: Sample, source: Source) -> Sample | None:
    for i, query, _ in _queries(sample):
        _, answer = _answer(sample, query)
        if answer.time + 1.0 <= (sample.video.end or 0.0):
            spans = (*query.evidence, (answer.time, answer.time + 1.0))
            return _with(sample, {i: replace(query, evidence=spans)})
    return None


def broken_box(sample: Sample, source: Source) -> Sample | None:
    for _, query, _ in _queries(sample, format="open"):
        text = _answer(sample, query)[1].text
        if "\\boxed" in text:
            return _answered(sample, query, text.replace("}", ""))
    return None


def two_boxes(sample: Sample, source: Source) -> Sample | None:
    for _, query, _ in _queries(sample, format="open"):
        text = _answer(sample, query)[1].text
        if "\\boxed" in text:
            return _answered(sample, query, f"{text} \\boxed{{or else}}")
    return None


def unfilled_slot(sample: Sample, source: Source) -> Sample | None:
    i, query, _ = next(_queries(sample))
    return _with(sample, {i: replace(query, text=f"{query.text} {{event}}")})


def question_too_long(sample: Sample, source: Source) -> Sample | None:
    i, query, _ = next(_queries(sample))
    return _with(sample, {i: replace(query, text=query.text + " I would like to know it well" * 14)})


def seconds_in_answer(sample: Sample, source: Source) -> Sample | None:
    for _, query, ask in _queries(sample, format="open"):
        if ask["kind"] != "unanswerable":
            text = _right(sample, query)
            return _answered(sample, query, f"{text} at {query.time:g} s")
    return None


def no_record_of_the_ask(sample: Sample, source: Source) -> Sample | None:
    asks: Any = sample.meta["asks"]
    first = sample.queries()[0].id
    return replace(sample, meta=dict(sample.meta) | {"asks": {id: a for id, a in asks.items() if id != first}})


FAULTS: dict[str, Fault] = {
    "future entity in a thought": Fault(("grounding: thought names what is not known",), future_entity_in_thought),
    "future event in a thought": Fault(
        ("grounding: thought names what is not known", "grounding: thought tells what did not happen"),
        future_event_in_thought,
    ),
    "relation that never was": Fault(("grounding: thought tells what did not happen",), false_relation_in_thought),
    "thought turns in circles": Fault(("repetition: within a thought",), thought_turns_in_circles),
    "the thought before again": Fault(("repetition: of the thought before",), thought_of_before),
    "old news in a thought": Fault(("thought: says what is not new",), stale_thought),
    "thought missing": Fault(("thought: missing",), thought_missing),
    "two thoughts in a segment": Fault(("thought: more than one",), two_thoughts),
    "seconds in a thought": Fault(("seconds: in a thought",), seconds_in_thought),
    "thought too long": Fault(("length: thought",), thought_too_long),
    "edge of the future in a record": Fault(("thought: says what comes later",), edge_of_the_future),
    "answer in the question": Fault(("leakage: answer in the question",), answer_in_question),
    "count in the question": Fault(("leakage: answer in the question",), count_in_question),
    "time in the question": Fault(("leakage: answer's time in the question",), time_in_question),
    "due time in the question": Fault(("leakage: answer's time in the question",), due_time_in_question),
    "question names the future": Fault(("leakage: question names what is not known yet",), question_names_the_future),
    "option repeats the answer": Fault(("format: options repeat",), option_twice),
    "option of the future": Fault(("leakage: option names what is not known yet",), option_of_the_future),
    "wrong option": Fault(("consistency: another answer",), wrong_option),
    "wrong letter": Fault(("consistency: another answer",), wrong_letter),
    "count off by one": Fault(("consistency: another answer",), count_off_by_one),
    "no number": Fault(("format: no number",), no_number),
    "interval backwards": Fault(("format: no interval",), interval_backwards),
    "interval shifted": Fault(("consistency: another answer",), interval_shifted),
    "order swapped": Fault(("consistency: another answer",), order_swapped),
    "answer to the unanswerable": Fault(("consistency: another answer",), answer_to_the_unanswerable),
    "answer from the future": Fault(("consistency: answered before it is known",), answer_from_the_future),
    "answer too late": Fault(("consistency: silent though it is known",), answer_too_late),
    "other evidence": Fault(("consistency: other evidence",), other_evidence),
    "evidence after the answer": Fault(("format: evidence after the answer",), evidence_after_the_answer),
    "broken box": Fault(("format: broken box",), broken_box),
    "two boxes": Fault(("format: broken box",), two_boxes),
    "unfilled slot": Fault(("format: unfilled slot",), unfilled_slot),
    "question too long": Fault(("length: question",), question_too_long),
    "seconds in an answer": Fault(("seconds: in an answer",), seconds_in_answer),
    "no record of the ask": Fault(("consistency: no record of the ask",), no_record_of_the_ask),
}
"""By name. Contaminated videos and guessable questions need lists and counts: test_filters.py plants those."""
