"""Leakage: a question that gives its answer away, by text or time, or by an option that tells what is still to come."""

from __future__ import annotations

from data_pipeline.filters.claims import unknown, unnamed
from data_pipeline.filters.form import interval, numbers
from data_pipeline.filters.view import Problems, View, chosen
from data_pipeline.filters.words import holds, seconds, unboxed, words
from data_pipeline.queries.ask import Ask
from data_pipeline.queries.choice import own_words
from data_pipeline.queries.kinds import COMPARING
from whilst.sample import Query

NEAR = 0.5  # seconds: a time this near to the one that is asked for gives it away
AHEAD = ("forward", "unanswerable")  # kinds whose questions are about what is still to come, or never comes


def leakage_problems(view: View, query: Query) -> Problems:
    """The answer's text or time in the question; an option, or the question, that names what is not known yet."""
    ask, answers = view.ask(query), view.answers(query)
    asked = view.moment(query.time)
    for option in query.options or ():
        for name in unknown(option, asked, view.language):
            yield "leakage: option names what is not known yet", f"{name!r} at {query.time} s"
    if ask is None or not answers:
        return
    standing = ask.until is not None
    if not standing and ask.kind not in AHEAD and "exchange" not in ask.slots:
        # People who annotated a question had seen the whole video; what they name is given, not a leak of ours.
        for name in unknown(own_words(query), asked, view.language):
            yield "leakage: question names what is not known yet", f"{name!r} at {query.time} s: {own_words(query)!r}"
    for answer in answers[:1]:
        text = unboxed(chosen(query, answer))
        if ask.format == "interval" or standing:
            yield from _time_problems(view, query, text, standing)
        if ask.format == "number" or text.strip().isdigit():
            told = bool(set(numbers(text)) & set(numbers(_unquoted(query, ask, view))))
        elif ask.format == "interval" or standing:
            told = False
        else:
            told = holds(words(own_words(query)), words(text)) and not _one_of_several(query, ask, text)
        if told:
            yield "leakage: answer in the question", f"{text!r} in {own_words(query)!r}"


def _time_problems(view: View, query: Query, text: str, standing: bool) -> Problems:
    """Times of an interval's answer, or of the moment at which a standing query falls due, in the question."""
    if standing:
        due = [] if query.knowable_at is None else [view.moment(query.knowable_at)]
    else:
        due = list(interval(text) or ())
    for time in seconds(own_words(query)):
        if any(abs(time - one) <= NEAR for one in due):
            yield "leakage: answer's time in the question", f"{time:g} s in {own_words(query)!r}"


def _unquoted(query: Query, ask: Ask, view: View) -> str:
    """The question without what it quotes: slots, names and clauses have numbers of their own (`cell 3`, `two men`)."""
    told = " ".join(words(own_words(query)))
    for slot in sorted(_texts(ask), key=len, reverse=True):
        if part := " ".join(words(slot)):
            told = f" {told} ".replace(f" {part} ", " | ").strip()
    return unnamed(told, view.language)


def _texts(ask: Ask) -> set[str]:
    """The texts among the slots."""
    found: set[str] = set()
    for value in ask.slots.values():
        items = value if isinstance(value, (list, tuple)) else [value]
        found |= {item for item in items if isinstance(item, str)}
    return found


def _one_of_several(query: Query, ask: Ask, text: str) -> bool:
    """Whether the question itself puts the answer up for choice, once: `which came first, A or B`."""
    asked, part = words(own_words(query)), words(text)
    if query.options is not None:
        return all(holds(asked, words(option)) for option in query.options)
    often = sum(asked[i : i + len(part)] == part for i in range(len(asked)))
    return ask.subkind in COMPARING and often == 1
