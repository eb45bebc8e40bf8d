"""What a user says in the dialogues that builders make themselves: `live`, `states` and `tays`.

LIVE draws from 54 questions about the past, 50 about the present and 50 about what comes next (VideoLLM-online,
`data/livechat`); these are our own, one of some openings before one of some questions each.
"""

from __future__ import annotations

_OPENINGS = ("", "hey, ", "tell me, ", "please say: ", "one question: ", "can you tell me: ")


def _opened(*questions: str) -> tuple[str, ...]:
    return tuple(opening + question for question in questions for opening in _OPENINGS)


REQUESTS: dict[str, tuple[str, ...]] = {
    "live_past": _opened(
        "what was done just before?",
        "what happened last?",
        "what was the last step?",
        "which step came before this one?",
        "what has just been finished?",
        "what did I miss a moment ago?",
        "what was going on earlier?",
        "which step is already over?",
        "what was done before now?",
    ),
    "live_current": _opened(
        "what is going on right now?",
        "what is being done at the moment?",
        "which step is this?",
        "what do you see now?",
        "what is happening here?",
        "what is the current step?",
        "what is this step about?",
        "what are we looking at?",
        "what is the person doing now?",
    ),
    "live_next": _opened(
        "what comes next?",
        "what will be done next?",
        "which step follows?",
        "what happens after this?",
        "what is the next step?",
        "what will follow this step?",
        "what should I expect next?",
        "what is coming up?",
        "where does this go from here?",
    ),
    "live_narration": (
        "tell me what happens, as it happens.",
        "please narrate the video while it plays.",
        "describe every action as soon as you see it.",
        "keep me posted on what is being done.",
        "comment on what you see, and stay silent otherwise.",
        "say what happens, one action at a time.",
        "give me a running account of this video.",
        "watch the video and report each action.",
    ),
    "states_each": (
        "report every event as soon as it is over.",
        "tell me about each event once it has ended.",
        "whenever something has come to its end, say what it was.",
        "describe each event when it is complete.",
    ),
    "states_when": (
        "tell me when this is over: {clause}.",
        "say so as soon as this has ended: {clause}.",
        "let me know once this is done: {clause}.",
        "wait for this and speak up when it is complete: {clause}.",
    ),
    "tays_entity": (
        "what happens to the {entity} in this video?",
        "what is shown of the {entity}?",
        "what can be said about the {entity} in the end?",
        "follow the {entity}: what happens?",
    ),
}
