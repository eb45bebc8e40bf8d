"""The kinds of queries, by name."""

from __future__ import annotations

from data_pipeline.queries.backward import BACKWARD
from data_pipeline.queries.counting import COUNTING
from data_pipeline.queries.forward import FORWARD
from data_pipeline.queries.kind import Kind
from data_pipeline.queries.multi_hop import MULTI_HOP
from data_pipeline.queries.order import ORDER
from data_pipeline.queries.present import PRESENT
from data_pipeline.queries.unanswerable import UNANSWERABLE

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (BACKWARD, PRESENT, FORWARD, ORDER, COUNTING, MULTI_HOP, UNANSWERABLE)
}

# Subkinds whose question names the answer among what it compares: no leak there.
COMPARING = ("first",)
