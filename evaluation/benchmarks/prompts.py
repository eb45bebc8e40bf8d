"""How questions are put to a model: the one place where the words of all benchmarks stand.

The wording is ours and neutral; published prompts differ from benchmark to benchmark, and some tell the answer. What is
asked for is what is judged: the letter alone, a number alone, yes or no alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.benchmarks.strict import letters


def choice(question: str, options: Sequence[str]) -> str:
    """A question with options, answered by a letter."""
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(letters(len(options)), options, strict=True))
    return f"{question.strip()}\n{listed}\nReply with the letter of the right option alone."


def words(question: str, options: Sequence[str]) -> str:
    """A question with options, answered by the words of one: for more options than there are letters."""
    listed = "\n".join(f"- {text}" for text in options)
    return f"{question.strip()}\n{listed}\nReply with one of these, word for word, and nothing else."


def brief(question: str) -> str:
    """An open question."""
    return f"{question.strip()}\nReply in a few words."


def count(activity: str) -> str:
    """How often an activity has been completed (OVO-Bench, REC)."""
    return (
        f"So far in the video, how many times did people finish this: {activity.strip()}? Count all people together.\n"
        "Reply with a number alone."
    )


def step(text: str) -> str:
    """Whether a step is being done at this moment (OVO-Bench, SSR)."""
    return f"Is this step being carried out at this moment: {text.strip()}?\nReply with Yes or No alone."


def enough(question: str) -> str:
    """Whether a question can be answered yet (OVO-Bench, CRR)."""
    return (
        f"Does what the video has shown so far tell enough to answer this: {question.strip()}\n"
        "Reply with Yes or No alone."
    )


def alert(request: str) -> str:
    """A standing request: to speak when something happens, and only then."""
    return f"{request.strip()}\nSpeak only when that is so. Until then, and afterwards, say nothing."


def turns(exchanges: Sequence[tuple[str, str]], last: str) -> str:
    """A conversation and what is said in it now, which may need no reply."""
    lines = [line for said, reply in exchanges for line in (f"User: {said.strip()}", f"Assistant: {reply.strip()}")]
    return "\n".join([*lines, f"User: {last.strip()}", "If this needs no reply, say nothing."])


def after(exchanges: Sequence[tuple[str, Sequence[str], str]], question: str) -> str:
    """A question after others (question, options, letter of the right one) whose right answers are told."""
    told = []
    for asked, options, letter in exchanges:
        listed = " ".join(f"{key}. {text}" for key, text in zip(letters(len(options)), options, strict=True))
        told.append(f"Earlier question: {asked.strip()} {listed}\nRight answer: {letter}")
    return "\n".join([*told, question])


def moments(text: str) -> str:
    """When something is seen (QVHighlights)."""
    return (
        f"In which parts of the video is this seen: {text.strip()}\n"
        "Reply with their starts and ends in seconds alone, the surest first, as in 12-30; 44-60."
    )
