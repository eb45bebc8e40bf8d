"""Where the answer stands in a reply, and what it is as a choice, a number or yes/no. Strict: nothing is fished for.

`The answer is (A) or B` is no letter, two boxes that differ are no box, and a number with words around it is no number.
A reply that cannot be read is None, and None is never right.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Literal

Place = Literal["whole", "boxed", "tag"]

# ASCII digits only (`\\d` takes those of every script), thousands in commas, at most three digits of exponent.
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
LONGEST_NUMBER = 40  # characters
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped sign is passed over


# ---- Where the answer stands.


def whole(text: str) -> str:
    """The reply without white space around it."""
    return text.strip()


def boxed(text: str) -> str | None:
    r"""What stands in `\boxed{...}`. None without a box, with boxes that differ, one inside another, or one that is not
    closed. Braces must balance; `\{` and `\}` are signs like others."""
    found = set()
    end = 0
    while (start := text.find("\\boxed", end)) >= 0:
        start += len("\\boxed")
        closing = _closing(text, start)
        if closing is None or "\\boxed" in text[start:closing]:
            return None
        found.add(text[start + 1 : closing].strip())
        end = closing
    return found.pop() if len(found) == 1 else None


def boxes(text: str) -> int:
    r"""How often `\boxed` stands in a text."""
    return text.count("\\boxed")


def _closing(text: str, start: int) -> int | None:
    """Index of the brace that closes the one at `start`; None where there is none."""
    if not text.startswith("{", start):
        return None
    depth = 0
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def tagged(text: str, name: str) -> str | None:
    """What stands in `<name>...</name>`. None unless there is one opening and one closing tag, in this order."""
    opening, closing = f"<{name}>", f"</{name}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    inside, closed, _ = text.partition(opening)[2].partition(closing)
    return inside.strip() if closed else None


def answer_in(text: str, place: Place) -> str | None:
    """The answer of a reply: all of it, in `\\boxed{}`, or in `<answer>` tags."""
    if place == "boxed":
        return boxed(text)
    return tagged(text, "answer") if place == "tag" else whole(text)


def gold_in(text: str, place: Place) -> str:
    """The answer of a sample's own reply: taken out in the same way, or all of it where it is written plainly."""
    found = answer_in(text, place)
    return whole(text) if found is None else found


# ---- What it is.


def normal(text: str) -> str:
    """For comparison: NFKC, case folded, single spaces, without one full stop at the end and one pair of parentheses
    around it. A text of signs alone stays as it is. Nothing else is taken away."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = text[:-1].rstrip() if text.endswith(".") else text
    if bare.startswith("(") and bare.endswith(")") and not any(sign in bare[1:-1] for sign in "()"):
        bare = bare[1:-1].strip()
    return bare or text


def choice(text: str, options: Sequence[str]) -> int | None:
    """Index of the option that a text is: its exact text, its text but for `normal`, or its letter alone.

    An option's text goes before a letter. None: no option, or several different ones alike.
    """
    if text in options:
        return options.index(text)
    alike = [i for i, option in enumerate(options) if normal(option) == normal(text)]
    if alike:
        return alike[0] if len({options[i] for i in alike}) == 1 else None
    letter = normal(text)
    place = string.ascii_lowercase.find(letter) if len(letter) == 1 else -1
    return place if 0 <= place < len(options) else None


def yes_no(text: str) -> bool | None:
    """Whether a text is `yes` (True) or `no` (False) and nothing else."""
    return {"yes": True, "no": False}.get(normal(text))


def number(text: str) -> float | None:
    """The finite number that a text is: `12`, `-3.5`, `.5`, `1,000`, `2e3`; a full stop or parentheses around it.

    None: anything else: words or units, digits of other scripts, `nan`, `inf`, `1e999`, over 40 characters.
    """
    text = text.strip()
    if not text.isascii() or len(text) > LONGEST_NUMBER:
        return None
    text = normal(text)
    if not _NUMBER.fullmatch(text) or not any(sign.isdigit() for sign in text.partition("e")[0]):
        return None
    value = float(text.replace(",", ""))
    return value if math.isfinite(value) else None
