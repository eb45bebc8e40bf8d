"""Format: can a query and its answer be read as what they are meant to be? And length: are they short enough?"""

from __future__ import annotations

import re

from data_pipeline.filters.settings import Length
from data_pipeline.filters.view import Problems, View, chosen
from data_pipeline.filters.words import same, unboxed
from data_pipeline.queries.choice import own_words
from whilst.sample import Query, Thought

_COUNTED = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
NUMBERS = {name: number for number, name in enumerate(_COUNTED)} | {"none": 0, "never": 0, "once": 1, "twice": 2}

INTERVAL = re.compile(r"(\d+(?:\.\d+)?)\D+?(\d+(?:\.\d+)?)")
_SLOT = re.compile(r"(?<!\\boxed)\{[^{}]*\}|\bNone\b(?= )|\{\{|\}\}")
_TOKEN = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?")


def numbers(text: str) -> list[int]:
    """The whole numbers that a text names, in figures or in words up to twenty."""
    found = []
    for token in _TOKEN.findall(text.casefold()):
        if token in NUMBERS:
            found.append(NUMBERS[token])
        elif token.isdigit():
            found.append(int(token))
    return found


def interval(text: str) -> tuple[float, float] | None:
    """The (start, end) that a text such as `from 12.0 to 15.5 seconds` names; None when it is not just two numbers."""
    if len(re.findall(r"\d+(?:\.\d+)?", text)) != 2 or (found := INTERVAL.search(text)) is None:
        return None
    return float(found[1]), float(found[2])


def format_problems(view: View, query: Query) -> Problems:
    """Options that repeat or are too few, an answer that is none of them, broken boxes, numbers and intervals that do
    not parse, slots that were never filled, and evidence that comes after its answer."""
    ask, answers = view.ask(query), view.answers(query)
    if not answers:
        yield "format: no answer", f"{query.id} has no answer"
    for text in (query.text, *(answer.text for answer in answers), *(query.options or ())):
        if found := _SLOT.search(text):
            yield "format: unfilled slot", f"{found[0]!r} in {text!r}"
    if ask is not None and (ask.format == "choice") != (query.options is not None):
        yield "format: options do not fit", f"format {ask.format!r} with options {query.options!r}"
    if query.options is not None:
        yield from _choice_problems(view, query)
    for answer in answers:
        yield from _box_problems(answer.text, query)
        text = unboxed(answer.text)
        if ask is not None and ask.format == "number" and len(numbers(text)) != 1:
            yield "format: no number", f"{answer.text!r} is to name exactly one whole number"
        if ask is not None and ask.format == "interval":
            span = interval(text)
            if span is None or not 0.0 <= span[0] <= span[1] <= view.source.graph.duration:
                yield "format: no interval", f"{answer.text!r} is to name a start and a later end within the video"
    given = ask is not None and "exchange" in ask.slots  # an annotation may let one answer while the evidence lasts
    for start, end in query.evidence:
        if answers and (start if given else end) > answers[-1].time:
            yield "format: evidence after the answer", f"[{start}, {end}] s, answered at {answers[-1].time} s"
    if answers and query.knowable_at is not None and query.knowable_at > answers[0].time:
        yield "format: answered too early", f"at {answers[0].time} s, knowable at {query.knowable_at} s"


def _choice_problems(view: View, query: Query) -> Problems:
    options = query.options or ()
    if len(options) < 2:
        yield "format: too few options", f"{len(options)} of them"
    for i, option in enumerate(options):
        if any(same(option, other) for other in options[:i]):
            yield "format: options repeat", f"{option!r} in {list(options)}"
    for answer in view.answers(query):
        if chosen(query, answer) not in options:
            yield "format: answer is no option", f"{answer.text!r} is none of {list(options)}"


def _box_problems(text: str, query: Query) -> Problems:
    boxes = text.count("\\boxed")
    if not boxes:
        return
    opened = text[text.index("\\boxed") + len("\\boxed") :]
    depth, closed = 0, None
    for i, sign in enumerate(opened):
        depth += (sign == "{") - (sign == "}")
        if depth <= 0:
            closed = i
            break
    if boxes > 1 or not opened.startswith("{") or closed is None or not opened[1:closed].strip():
        yield "format: broken box", f"{text!r}; write \\boxed{{...}} once, with the answer in it"
    elif query.options is not None:
        yield "format: boxed option", f"{text!r}; a choice is answered by an option's text or letter alone"


def query_length(view: View, query: Query) -> Problems:
    """A question, option or answer of too many words."""
    most = view.settings.length
    assert most is not None
    yield from _too_long("question", own_words(query), most)
    for option in query.options or ():
        yield from _too_long("option", option, most)
    for answer in view.answers(query):
        yield from _too_long("answer", answer.text, most)


def thought_length(view: View) -> Problems:
    """A thought of too many words."""
    most = view.settings.length
    assert most is not None
    for event in view.sample.events:
        if isinstance(event, Thought):
            yield from _too_long("thought", event.text, most)


def _too_long(what: str, text: str, most: Length) -> Problems:
    count, limit = len(text.split()), getattr(most, what)
    if count > limit:
        yield f"length: {what}", f"{count} words, most {limit}: {text[:60]!r}..."
