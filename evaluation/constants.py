"""Constant replies: what is right without a look at anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.predict import Episode, EvaluationError, Reply
from rewards.queries import spoke_early
from whilst.episode import polls
from whilst.sample import Sample


def best_constants(samples: Sequence[Sample]) -> dict[str, str]:
    """By kind, the constant reply that is right most often on these samples; of equals the first in the alphabet.

    Chosen on what it is scored on: no constant does better, so it bounds all constants from above. A constant always
    speaks, so a standing query with a poll before its window is never right.
    """
    counts: dict[str, dict[str, int]] = {}
    for sample in samples:
        times: dict[str, list[float]] = {}
        for step in polls(sample):
            for poll in step:
                times.setdefault(poll.query.id, []).append(poll.time)
        for query in sample.queries():
            answers = sample.answers_to(query.id)
            if not answers:
                raise EvaluationError(
                    f"sample {sample.id}, query {query.id}: no answer to choose a constant by; leave constants out"
                )
            text = answers[0].text.strip()
            early = spoke_early(query, [Reply(query.id, time, text, True) for time in times.get(query.id, ())])
            of_kind = counts.setdefault(query.kind or "other", {})
            of_kind[text] = of_kind.get(text, 0) + (not early)
    return {kind: min(found, key=lambda text: (-found[text], text)) for kind, found in sorted(counts.items())}


def constant_episodes(samples: Sequence[Sample], constants: Mapping[str, str]) -> list[Episode]:
    """Episodes in which every query of a kind gets the same reply whenever it is put."""
    return [
        Episode(
            sample.id,
            replies=[
                Reply(poll.query.id, poll.time, constants[poll.query.kind or "other"], True)
                for step in polls(sample)
                for poll in step
            ],
        )
        for sample in samples
    ]
