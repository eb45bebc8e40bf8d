"""Questions in words, by subkind of `data_pipeline.queries`: several wordings each, to be filled in from the slots.

They are in the present tense of a running commentary ("which object goes into the box second?"), as the clauses of the
graph are: so a clause can stand in a question as it is. Clauses that are quoted as a whole stand behind a colon.
The queries that cannot be answered yet share the words of those that can: the wording must not tell them apart.
"""

from __future__ import annotations

_ORDINAL = (
    "which {noun} {predicate} {nth}?",
    "in order of time, which {noun} is the {nth} one that {predicate}?",
    "counting from the start, which is the {nth} {noun} that {predicate}?",
    "name the {nth} {noun} that {predicate}.",
    "of all that has been shown, which {noun} is {nth} among those of which this is true: it {predicate}?",
)
_WHEN = (
    "when does this happen: {event}?",
    "at what time does the following happen: {event}?",
    "give the time at which this can be seen: {event}.",
    "during which part of the video is this shown: {event}?",
    "over which span of time does this take place: {event}?",
)
_AFTER = (
    "what happens right after this: {event}?",
    "which event comes next after this one: {event}?",
    "name what directly follows this: {event}.",
    "this has been shown: {event}. What comes directly after it?",
    "after the following, what is the very next thing to happen: {event}?",
)

TEMPLATES: dict[str, tuple[str, ...]] = {
    # backward
    "ordinal": _ORDINAL,
    "who": (
        "in what came before, which {noun} {predicate}?",
        "which {noun} is it that {predicate}?",
        "earlier in the video, which {noun} {predicate}?",
        "think back: which {noun} {predicate}?",
        "name the {noun} that {predicate}.",
    ),
    "object": (
        "earlier in the video, which {noun} {did}?",
        "which {noun} {did}?",
        "think back: which {noun} {did}?",
        "in what came before, which {noun} {did}?",
        "say which {noun} it was: {stem} ...",
    ),
    "when": _WHEN,
    "last": (
        "{grain}what happened last before the current moment?",
        "{grain}leaving aside what is seen right now, what was the last thing to happen?",
        "{grain}which event came to its end last, before the present one?",
        "{grain}what was over just before what is shown now?",
    ),
    # present
    "object_now": (
        "which {noun} {does} right now?",
        "at this moment, which {noun} {does}?",
        "as of now, which {noun} {does}?",
        "look at the current moment: which {noun} {does}?",
    ),
    "who_now": (
        "right now, which {noun} {predicate}?",
        "at this moment, which {noun} {predicate}?",
        "which {noun} is it that currently fits this: it {predicate}?",
        "name the {noun} that {predicate} at present.",
    ),
    "doing": (
        "{grain}what is going on right now?",
        "{grain}what is happening at this moment?",
        "{grain}which event is under way now?",
        "{grain}say what is taking place at present.",
    ),
    "just": (
        "{grain}what has just happened?",
        "{grain}what happened a moment ago?",
        "{grain}which event have you just seen?",
        "{grain}say what has happened just now.",
    ),
    # forward
    "tell_when": (
        "tell me when this happens: {event}.",
        "let me know as soon as you see this: {event}.",
        "watch on, and speak up when the following happens: {event}.",
        "give me a sign at the moment at which this takes place: {event}.",
        "say so when you see that this has happened: {event}.",
    ),
    "which_next": (
        "tell me which {noun} is the next one that {predicate}, as soon as you see it.",
        "which {noun} will be the next of which this is true: it {predicate}? Tell me once you know.",
        "watch for the next {noun} that {predicate}, and name it when it comes.",
        "as soon as another {noun} {predicate}, say which one it is.",
    ),
    "nth_time": (
        "counting from the start, tell me when {who} {predicate} for the {nth} time.",
        "let me know as soon as {who} {predicate} for the {nth} time since the beginning.",
        "from the very first time on, keep count, and speak up the {nth} time that {who} {predicate}.",
        "from the start on, count how often {who} {predicate}, and say so at the {nth} time.",
    ),
    "next": (
        "{grain}what happens next? Tell me as soon as you see it.",
        "{grain}tell me the next thing that happens, once it is clear.",
        "{grain}watch on and say what comes next.",
        "{grain}let me know about the next event as soon as it happens.",
    ),
    # order
    "first": (
        "which of these two comes first: {one}; or {other}?",
        "which happens earlier: {one}; or {other}?",
        "say what comes first of the two: {one}; or {other}.",
        "of these two, which one begins before the other: {one}; or {other}?",
    ),
    "earliest": (
        "which of these comes first?",
        "which of the following happens earliest?",
        "choose what is seen before all the others.",
        "put these in order of time: which one begins first?",
    ),
    "latest": (
        "which of these comes last?",
        "which of the following happens latest?",
        "choose what is seen after all the others.",
        "put these in order of time: which one begins last?",
    ),
    "before": (
        "what happens right before this: {event}?",
        "which event comes directly before this one: {event}?",
        "name what is followed directly by this: {event}.",
        "this has been shown: {event}. What came directly before it?",
        "before the following, what is the very last thing to happen: {event}?",
    ),
    "after": _AFTER,
    # counting
    "times": (
        "how many times {did} so far?",
        "up to now, how often {did}?",
        "count from the start: how many times {did}?",
        "how many times have you seen so far that {who} {predicate}?",
    ),
    "times_this": (
        "how many times so far has this happened: {event}?",
        "up to now, how often could this be seen: {event}?",
        "count from the start how many times this takes place: {event}.",
        "give the number of times that this has been shown so far: {event}.",
    ),
    "steps": (
        "{grain}how many events have there been so far?",
        "{grain}how many separate things have happened up to now?",
        "{grain}count the events from the start: how many are there?",
        "{grain}give the number of events that have been shown so far.",
    ),
    # multi_hop
    "route": (
        "{route}. Which {noun} is it?",
        "go from one to the next: {route}. Which {noun} do you arrive at?",
        "follow these steps: {route}. Name the {noun} at the end.",
        "in what has been shown so far, {route}. Which {noun} does this lead to?",
    ),
    # unanswerable: the words of those that can be answered
    "ordinal_unknown": _ORDINAL,
    "when_unknown": _WHEN,
    "after_unknown": _AFTER,
}
