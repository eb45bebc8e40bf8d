"""Strict judging: one parse of the whole reply, and a reason for all that is not right. Nothing is fished for.

Of the replies to a query the first that is not silence counts, and only if it was finished. What it says must be an
option (`option`), a number, yes or no, or the expected words, and nothing besides. Whatever cannot be read is wrong,
and it stays in the denominator.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from evaluation.benchmarks.base import Given
from rewards.parsing import normal, number, whole, yes_no

Judged = tuple[float, str]  # credit, and the reason why it is not 1

RIGHT: Judged = (1.0, "")
WRONG: Judged = (0.0, "wrong")
SILENT = "no reply"
CUT_OFF = "cut off"

_LABELLED = re.compile(r"(?:\(([A-Za-z])\)[.:]?|([A-Za-z])[.:)])\s*(.+)", re.DOTALL)


def letters(count: int) -> str:
    """The letters of `count` options: "ABCD" for 4. Options beyond Z have no letter."""
    return string.ascii_uppercase[:count]


def option(text: str, options: Sequence[str]) -> int | None:
    """Index of the option that the whole text is; None: none, or it cannot be told which.

    | reply | is |
    |---|---|
    | `B`, `b`, `(B)`, `B.` | the option with this letter (the letter is what prompts ask for, so it goes first) |
    | `B. text`, `B: text`, `B) text`, `(B) text` | that option, if it is its text |
    | `text` | the option with this text, if it is one option's alone |

    Texts are compared as `rewards.parsing.normal` has them: without regard to case, white space and a last full stop.
    One semicolon at the end is passed over too: published prompts end options with it, and models repeat it.
    """
    text = whole(text).removesuffix(";")
    said = normal(text)
    if len(said) == 1 and said.upper() in letters(len(options)):
        return letters(len(options)).index(said.upper())
    if found := _LABELLED.fullmatch(text):
        i = string.ascii_uppercase.index((found[1] or found[2]).upper())
        if i < len(options) and normal(found[3]) == normal(options[i]):
            return i
    alike = [i for i, one in enumerate(options) if normal(one) == said]
    return alike[0] if len(alike) == 1 else None


# ---- Which reply counts.


def unread(given: Sequence[Given]) -> str:
    """Why there is no reply to read: a failure, silence, or a reply that was cut off; "" where there is one."""
    if failed := [reply.failure for reply in given if reply.failure]:
        return f"failed: {failed[0]}"
    said = first(given)
    if said is None:
        return SILENT
    return "" if said.finished else CUT_OFF


def first(given: Sequence[Given]) -> Given | None:
    """The first reply that is not silence."""
    return next((reply for reply in given if reply.text.strip()), None)


def shown(given: Sequence[Given]) -> str:
    """The text of the reply that counts; "" for silence."""
    said = first(given)
    return said.text if said is not None else ""


# ---- What it says.


def judge_option(given: Sequence[Given], options: Sequence[str], golds: Sequence[int]) -> Judged:
    """golds: indices of the right options (several where the annotation does not tell two of one text apart)."""
    if reason := unread(given):
        return 0.0, reason
    said = option(shown(given), options)
    if said is None:
        return 0.0, "not one of the options"
    return RIGHT if said in golds else WRONG


def judge_number(given: Sequence[Given], gold: float) -> Judged:
    if reason := unread(given):
        return 0.0, reason
    said = number(shown(given))
    if said is None:
        return 0.0, "not a number"
    return RIGHT if said == gold else WRONG


def judge_yes_no(given: Sequence[Given], gold: bool) -> Judged:
    if reason := unread(given):
        return 0.0, reason
    said = yes_no(shown(given))
    if said is None:
        return 0.0, "neither yes nor no"
    return RIGHT if said is gold else WRONG


def judge_words(given: Sequence[Given], gold: str) -> Judged:
    """The same words, but for case, white space and a last full stop."""
    if reason := unread(given):
        return 0.0, reason
    return RIGHT if normal(shown(given)) == normal(gold) else WRONG
