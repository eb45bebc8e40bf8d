"""Clauses into sentences. A clause is what an edge says: lower case, no full stop."""

from __future__ import annotations

from collections.abc import Sequence


def sentence(text: str) -> str:
    """A clause, or several in one text, with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def joined(clauses: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, or `a; b; and c`: semicolons, since clauses have commas of their own."""
    if len(clauses) < 3:
        return f" {last} ".join(clauses)
    return "; ".join(clauses[:-1]) + f"; {last} {clauses[-1]}"
