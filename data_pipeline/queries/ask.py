"""An ask: a query before it has words and a reply.

What is asked belongs to the received stream, so whoever plans it may know the whole video. The reply is generated, so
it is worked out from the graph as of the moment of speaking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from whilst.sample import JSON


@dataclass(frozen=True)
class Ask:
    """`slots` is all that the kind needs to put the question and to work out its reply; JSON, kept in Sample.meta.

    `format` is `open`, `choice` (with `options`), `number` or `interval`. `until` is the last moment (seconds) at which
    a standing ask may be replied to; None where the reply is due at `time`.
    """

    id: str
    kind: str
    subkind: str
    time: float
    slots: Mapping[str, JSON] = field(hash=False)
    format: str = "open"
    options: tuple[str, ...] | None = None
    until: float | None = None


@dataclass(frozen=True)
class Reply:
    """What can be replied. `edges` are the ids of the edges it rests on; `evidence` their spans (seconds)."""

    text: str
    evidence: tuple[tuple[float, float], ...]
    edges: tuple[str, ...]
    knowable_at: float
