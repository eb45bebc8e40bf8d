"""How close an extracted graph comes to the true one, where that is known (a world, or a video annotated densely)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data_pipeline.extract.names import relation
from data_pipeline.graph import Graph


@dataclass(frozen=True)
class Score:
    """Precision and recall over so many items; 1.0 where there was nothing to be wrong about."""

    precision: float
    recall: float
    items: int

    @property
    def f1(self) -> float:
        """Their harmonic mean."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def linking(assigned: Iterable[tuple[str, str]]) -> Score:
    """Pairwise: of (true entity, found entity) of every mention, over all pairs of mentions.

    Precision: of the pairs that were linked, how many are one entity. Recall: of the pairs that are one, how many were
    linked. (The pairwise measure of entity resolution.)
    """
    cells = Counter(assigned)
    true: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for (truth, entity), count in cells.items():
        true[truth] += count
        found[entity] += count
    right = _pairs(cells)
    linked, one = _pairs(found), _pairs(true)
    return Score(right / linked if linked else 1.0, right / one if one else 1.0, sum(cells.values()))


def linking_b_cubed(assigned: Iterable[tuple[str, str]]) -> Score:
    """B-cubed (Bagga and Baldwin 1998): as `linking`, but per mention, so that large entities do not weigh more."""
    cells = Counter(assigned)
    true: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for (truth, entity), count in cells.items():
        true[truth] += count
        found[entity] += count
    total = sum(cells.values())
    if not total:
        return Score(1.0, 1.0, 0)
    precision = sum(count * count / found[entity] for (_, entity), count in cells.items()) / total
    recall = sum(count * count / true[truth] for (truth, _), count in cells.items()) / total
    return Score(precision, recall, total)


def edges(extracted: Graph, truth: Graph, same: Mapping[str, str], seconds: float) -> Score:
    """Of edges: one is right if a true edge has the same ends and relation and starts within `seconds` of it.

    `same` maps found entities to true ones. Every true edge accounts for one found edge at most, so a double is an
    error.
    """
    left = [(e.head, relation(e.relation), e.tail, e.start) for e in truth.edges]
    total, right = len(left), 0
    found = [edge for edge in extracted.edges if edge.relation != "same_as"]
    for edge in found:
        key = (same.get(edge.head, ""), relation(edge.relation), same.get(edge.tail, ""))
        near = [one for one in left if one[:3] == key and abs(one[3] - edge.start) <= seconds]
        if near:
            left.remove(min(near, key=lambda one: abs(one[3] - edge.start)))
            right += 1
    return Score(right / len(found) if found else 1.0, right / total if total else 1.0, len(found))


def _pairs(counts: Counter[str] | Counter[tuple[str, str]]) -> int:
    return sum(count * (count - 1) // 2 for count in counts.values())
