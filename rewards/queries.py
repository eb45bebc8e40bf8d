"""Which reply to a query counts. Rewards and evaluation use the same rule, so that what is trained is what is measured.

A query is answered once: by its first reply. A standing query (kind `forward`, with a window) is polled many times. It
is right only if every poll before its window is met with silence and the reply at the first poll in the window is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from whilst.sample import Query


class Given(Protocol):
    """A reply (or silence: empty text) at a time (s). finished: not cut off by the token limit."""

    @property
    def time(self) -> float: ...
    @property
    def text(self) -> str: ...
    @property
    def finished(self) -> bool: ...


R = TypeVar("R", bound=Given)


def counting_reply(query: Query, replies: Sequence[R]) -> R | None:
    """The one reply to `query` that is judged; None where there is none. `replies` are all those to the query."""
    given = sorted(replies, key=lambda reply: reply.time)
    if query.kind == "forward" and query.window is not None:
        given = [reply for reply in given if query.window[0] <= reply.time <= query.window[1]]
    return given[0] if given else None


def spoke_early(query: Query, replies: Sequence[Given]) -> bool:
    """Whether a standing query was replied to before its window: then it is wrong, whatever is said later."""
    if query.kind != "forward" or query.window is None:
        return False
    return any(reply.text for reply in replies if reply.time < query.window[0])


def judged_text(query: Query, replies: Sequence[Given]) -> str | None:
    """The text to compare with the answer. None where the query is wrong without a look at it: the reply that counts
    is missing, silent or cut off, or an earlier one came too early."""
    reply = counting_reply(query, replies)
    if reply is None or not reply.finished or not reply.text.strip() or spoke_early(query, replies):
        return None
    return reply.text
