"""What a model may reply: one JSON schema a text step, and the check that a reply keeps to it.

The schema is sent along with the request (constrained decoding) and checked again on arrival: not every server that
takes a schema enforces it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

Schema = Mapping[str, Any]


class BadReply(ValueError):
    """A reply that is not acceptable. `reason` is one of few texts that can be counted, `detail` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def text_schema(characters: int) -> Schema:
    """{"text": one line of 1 to `characters` characters}."""
    return {
        "type": "object",
        "properties": {"text": {"type": "string", "minLength": 1, "maxLength": characters}},
        "required": ["text"],
        "additionalProperties": False,
    }


TEXTS: dict[str, Schema] = {
    "thought": text_schema(600),
    "question": text_schema(300),
    "reply": text_schema(300),
    "reasoning": text_schema(1500),
    "guess": text_schema(300),
}
"""The steps that give one text: what a `Write` can be asked for."""


def parsed(content: str, schema: Schema) -> dict[str, Any]:
    """The JSON object that a model has written.

    Raises:
        BadReply: it is no JSON object, breaks the schema, or holds what UTF-8 cannot carry.
    """
    try:
        value = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadReply("not JSON", f"{error} in {content[:200]!r}") from error
    broken = best_match(Draft202012Validator(schema).iter_errors(value))
    if broken is not None:
        raise BadReply("not of the schema", f"{broken.json_path}: {broken.message[:200]}")
    if not isinstance(value, dict):
        raise BadReply("not of the schema", f"{type(value).__name__} instead of an object")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadReply("not text", "half of a surrogate pair") from error
    return value


# ---- What holds for a text beyond its schema. Whether it is grounded in the graph is asked by the filters, for every
# writer alike; these are the faults that another attempt can mend at once.


def accepted(step: str, facts: Mapping[str, Any], draft: str | None, value: Mapping[str, Any]) -> str:
    """The text of a reply to one of `TEXTS`, without space around it.

    Raises:
        BadReply: it is blank or of several lines; it has a number that neither facts nor draft have; a question leaves
            out a number or name that its draft has; a thought is the one before it, or has less than half of the words
            of something new; a reply has no word of what there is to say; or a reasoning does not come to its answer.
    """
    text = str(value["text"]).strip()
    if not text:
        raise BadReply("empty text", "only white space")
    if len(text.splitlines()) > 1:
        raise BadReply("several lines", repr(text[:200]))
    said = _numbers(text)
    # Beside a draft, the facts of a question are what its answer rests on: the model does not see them.
    shown = {} if step == "question" and draft is not None else dict(facts)
    given = _numbers(json.dumps(shown, ensure_ascii=False)) | _numbers(draft or "")
    if step != "guess" and said - given:
        raise BadReply("number of its own", f"{sorted(said - given)[0]} in {text[:200]!r}")
    if step == "question" and (lost := _numbers(draft or "") - said):
        raise BadReply("number left out", f"{sorted(lost)[0]} is not in {text[:200]!r}")
    if step == "thought" and _plain(text) == _plain(facts["previous"]):
        raise BadReply("repeats the thought before", repr(text[:200]))
    if step == "thought":
        for clause in facts["new"]:
            if not _tells(text, clause):
                raise BadReply("leaves out what is new", f"{clause!r} is not told by {text[:200]!r}")
    if step == "question" and draft is not None:
        for name, slot in facts.items():
            asked = slot if isinstance(slot, str) and name not in ("kind", "subkind", "format") else ""
            if _plain(asked) in _plain(draft) and not _tells(text, asked):
                raise BadReply("leaves out what is asked for", f"{asked!r} is not told by {text[:200]!r}")
    to_say = _stems(draft or "") if step == "question" else set()
    if step == "reply":
        to_say = {stem for value in facts.values() if isinstance(value, list) for stem in _stems(" ".join(value))}
    if to_say and not to_say & _stems(text):
        raise BadReply("says nothing of the facts", repr(text[:200]))
    if step == "reasoning" and _plain(facts["answer"]) not in _plain(text):
        raise BadReply("answer left out", f"{facts['answer']!r} is not in {text[-200:]!r}")
    return text


def _numbers(text: str) -> set[str]:
    """The numbers that a text writes in digits. Those of "q1", "12.5" and "3rd" are 1, 12.5 and 3."""
    return set(re.findall(r"\d+(?:[.:]\d+)*", text))


def _tells(text: str, clause: str) -> bool:
    """Whether a text has a name of up to three words as it is, or at least half of the longer words of a clause."""
    if len(clause.split()) <= 3:
        return _plain(clause) in _plain(text)
    stems = _stems(clause)
    return 2 * len(stems & _stems(text)) >= len(stems)


def _stems(text: str) -> set[str]:
    """The first four letters of all longer words: the same for `adds`, `added` and `adding`."""
    return {word[:4] for word in re.findall(r"\w{4,}", text.casefold())}


def _plain(text: str) -> str:
    """Case folded, single spaces, no full stop at the end."""
    return " ".join(text.casefold().split()).rstrip(".")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
