"""Episodes of a step, to read: a table (Parquet, W&B), a page with their frames, and their figures.

    <output>/episodes/step-00010.parquet    one row an episode (columns: `records`)
    <output>/episodes/step-00010.html       one timeline an episode; opens anywhere, loads nothing

| metric | mean of | over |
|---|---|---|
| reward | the weighted sum of the terms | episodes |
| reward/TERM | a term's score | episodes that it applies to |
| reward/TERM/PART | a part of it | episodes that have it (queries, for `accuracy/KIND`) |
| accuracy/KIND | that part, of the first term that has it | queries of the kind |
| turns | turns | episodes |
| tokens/thought, tokens/answer | sampled tokens, the boundary token included | thoughts, replies (silences too) |
| told | whether there is a thought that says something | segments |
| distinct_thoughts | whether no earlier thought of the episode has the same words | thoughts that say something |
| unfinished | whether the token limit cut it off | turns |

A metric of nothing (a term that applies to no episode) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from rewards.mix import Mixed
from rewards.parsing import Place, answer_in, choice, gold_in, normal
from whilst.clips import SegmentClip
from whilst.episode import Episode, Turn
from whilst.sample import Answer, Query, Segment, Silence, replacing
from whilst.view import page, section, stage_with
from whilst.view_page.budget import count_words


class TableError(ValueError):
    """A table that cannot be written; says what is missing."""


@dataclass(frozen=True)
class EpisodeRow:
    """An episode and what became of it in a step. group: number of its group in the step. gap: its largest
    |rollout - trainer log-prob| of a token, None where it was not measured."""

    step: int
    group: int
    episode: Episode
    mixed: Mixed
    advantage: float
    gap: float | None = None


# ---- Replies beside the sample's own.


@dataclass(frozen=True)
class Verdict:
    """What was said when a query was put, and what the sample has there; silence is "". turn: None if it was never put.

    right: the same option, or the same words but for case and spaces (rewards.parsing); a reward may judge otherwise.
    """

    query: Query
    time: float
    gold: str
    turn: Turn | None
    right: bool


def verdicts(episode: Episode, place: Place = "whole") -> list[Verdict]:
    """One for every answer or silence that the sample has to a query. place: where a reply holds its answer."""
    queries = {query.id: query for query in episode.sample.queries()}
    waiting = [turn for turn in episode.turns if turn.role == "answer"]
    made = []
    for event in episode.sample.events:
        if not isinstance(event, Answer | Silence) or event.query is None:
            continue
        query, gold = queries[event.query], event.text if isinstance(event, Answer) else ""
        turn = next((t for t in waiting if (t.query, t.time) == (query.id, event.time)), None)
        if turn is not None:
            waiting.remove(turn)
        right = turn is not None and turn.finished and _same(turn.text, gold, query, place)
        made.append(Verdict(query, event.time, gold, turn, right))
    return made


def _same(said: str, gold: str, query: Query, place: Place) -> bool:
    if not gold or not said.strip():
        return not gold and not said.strip()
    found, wanted = answer_in(said, place), gold_in(gold, place)
    if found is None:
        return False
    if query.options is not None:
        picked = choice(found, query.options)
        return picked is not None and picked == choice(wanted, query.options)
    return normal(found) == normal(wanted)


# ---- Tables.


def records(rows: Sequence[EpisodeRow]) -> list[dict[str, Any]]:
    """One flat record an episode, all with the same keys; times in seconds, lengths in tokens.

    `thoughts`, `queries`, `replies` and `gold` are texts, one line a turn or query, in order of time. `score/TERM` is
    null where the term does not apply; `parts` is JSON, {term: {part: value}}.
    """
    terms = list(dict.fromkeys(term for row in rows for term in row.mixed.terms))
    return [_record(row, terms) for row in rows]


def _record(row: EpisodeRow, terms: Sequence[str]) -> dict[str, Any]:
    episode, sample = row.episode, row.episode.sample
    scored = {term: row.mixed.terms.get(term) for term in terms}
    replies = [turn for turn in episode.turns if turn.role == "answer"]
    return {
        "step": row.step,
        "sample": sample.id,
        "video": sample.video.path,
        "group": row.group,
        "rollout": episode.rollout,
        "perturbation": episode.perturbation,
        "turns": len(episode.turns),
        "thoughts": "\n".join(f"{turn.time:g} s: {_said(turn.text)}" for turn in episode.thoughts),
        "queries": "\n".join(f"{query.time:g} s: {query.id}: {query.text}" for query in sample.queries()),
        "replies": "\n".join(f"{turn.time:g} s: {turn.query}: {_said(turn.text)}" for turn in replies),
        "gold": "\n".join(f"{one.time:g} s: {one.query.id}: {_said(one.gold)}" for one in verdicts(episode)),
        "reward": row.mixed.total,
        **{f"score/{term}": None if one is None else one.score for term, one in scored.items()},
        "parts": json.dumps({term: dict(one.parts) for term, one in scored.items() if one is not None and one.parts}),
        "advantage": row.advantage,
        "tokens": episode.tokens,
        "thought_tokens": sum(turn.tokens for turn in episode.thoughts),
        "unfinished": sum(not turn.finished for turn in episode.turns),
        "gap": row.gap,
    }


def _said(text: str) -> str:
    return " ".join(text.splitlines()) or "(silence)"


def write_table(rows: Sequence[EpisodeRow], output: Path) -> Path:
    """Write the episodes of one step as Parquet, whole or not at all, and return the path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = _path(rows, output, "parquet")
    made = records(rows)
    figures = [name for name in made[0] if name.startswith("score/") or name == "gap"]
    table = pa.Table.from_pylist(made)
    for name in figures:  # a column of nulls alone would have no type, and files of a run could not be read as one
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.float64()))
    with replacing(path) as part:
        pq.write_table(table, part)
    return path


def log_to_wandb(rows: Sequence[EpisodeRow]) -> None:
    """Log the episodes of one step as the table `episodes` of the W&B run that is under way.

    Raises:
        TableError: there is no run.
    """
    import wandb

    if wandb.run is None:
        raise TableError("no W&B run is under way: put wandb into report_to, or leave the table out")
    made = records(rows)
    table = wandb.Table(columns=list(made[0]), data=[list(record.values()) for record in made])
    wandb.log({"episodes": table, "train/global_step": rows[0].step})


def _path(rows: Sequence[EpisodeRow], output: Path, suffix: str) -> Path:
    steps = {row.step for row in rows}
    if len(steps) != 1:
        raise TableError(f"a table of episodes is of one step, not of {sorted(steps) or 'none'}")
    return output / "episodes" / f"step-{rows[0].step:05d}.{suffix}"


# ---- The page.


def write_page(
    rows: Sequence[EpisodeRow], clips: Sequence[Sequence[SegmentClip]], output: Path, place: Place = "whole"
) -> Path:
    """Write the episodes of one step as one HTML page and return the path. clips: what each was shown, one a segment.

    `place` is as in `verdicts`.
    """
    path = _path(rows, output, "html")
    sections = [_section(row, shown, place) for row, shown in zip(rows, clips, strict=True)]
    with replacing(path) as part:
        Path(part).write_text(page(f"Episodes of step {rows[0].step}", sections, {}, "episode"), encoding="utf-8")
    return path


def _section(row: EpisodeRow, clips: Sequence[SegmentClip], place: Place) -> str:
    episode = row.episode
    judged = verdicts(episode, place)
    of_turn = {id(one.turn): one for one in judged if one.turn is not None}
    turns = iter(episode.turns)
    lived = episode.lived()
    notes = {}
    for i, event in enumerate(lived.events):
        if not isinstance(event, Segment | Query):
            turn = next(turns)  # `lived` has one event a turn, in their order
            notes[i] = _note(turn, of_turn.get(id(turn)))
    name = f"{episode.sample.id}, group {row.group}, rollout {episode.rollout}"
    name += f", {episode.perturbation}" if episode.perturbation else ""
    stage = stage_with("", "Frames as the policy was shown them.")
    count = replace(count_words(), note="Counted in words and frames; the tokens of a turn stand under it.")
    above = f'<div class="scores">{_scores(row)}{_replies(judged)}</div>'
    end = max((event.time for event in lived.events), default=None)  # an episode is over: all of it is shown at first
    return section(replace(lived, id=name), clips, stage, count, None, above=above, notes=notes, opens_at=end)


def _note(turn: Turn, verdict: Verdict | None) -> str:
    cut = "" if turn.finished else ", cut off by the limit"
    told = f"<small>{turn.tokens} token{'s' if turn.tokens != 1 else ''}{cut}</small>"
    return told if verdict is None else _mark(verdict) + told


def _mark(verdict: Verdict) -> str:
    if verdict.right:
        return '<small class="right">\u2713 right</small>'
    why = "cut off" if verdict.turn is not None and not verdict.turn.finished else "wrong"
    return f'<small class="wrong">\u2717 {why}; the sample: {escape(_said(verdict.gold))}</small>'


def _scores(row: EpisodeRow) -> str:
    episode = row.episode
    lines = [f'<tr class="total"><th>reward</th><td>{row.mixed.total:.4g}</td><td></td></tr>']
    for term, one in row.mixed.terms.items():
        score = "" if one is None else f"{one.score:.4g}"
        parts = "" if one is None else ", ".join(f"{name} {value:.4g}" for name, value in one.parts.items())
        told = '<span class="quiet">does not apply</span>' if one is None else escape(parts)
        lines.append(f"<tr><th>{escape(term)}</th><td>{score}</td><td>{told}</td></tr>")
    lines.append(f'<tr class="total"><th>advantage</th><td>{row.advantage:+.4g}</td><td></td></tr>')
    gap = "" if row.gap is None else f", largest log-prob gap {row.gap:.2g}"
    facts = f"step {row.step}: {len(episode.turns)} turns, {episode.tokens} tokens{gap}"
    return f'<div><table>{"".join(lines)}</table><p class="note">{facts}</p></div>'


def _replies(judged: Sequence[Verdict]) -> str:
    if not judged:
        return '<p class="note">No query is put in this sample.</p>'
    lines = []
    for one in judged:
        look, sign = ("right", "\u2713") if one.right else ("wrong", "\u2717")
        said = "(never put)" if one.turn is None else _said(one.turn.text)
        cells = (f"{one.time:g} s", one.query.kind or "", one.query.text, said, _said(one.gold))
        told = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr><td class="{look}">{sign}</td>{told}</tr>')
    head = "".join(f"<th>{title}</th>" for title in ("", "at", "kind", "query", "reply", "the sample"))
    return f'<div><table class="replies"><tr>{head}</tr>{"".join(lines)}</table></div>'


# ---- Figures.


@dataclass(frozen=True)
class Tally:
    """Sums and counts by metric: those of several ranks make the metrics of all, however many episodes each had."""

    sums: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in sorted(self.sums.items()) if self.counts[name]}


def combine(tallies: Iterable[Tally]) -> Tally:
    """The tally of all that was counted in any of them."""
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for tally in tallies:
        for name, total in tally.sums.items():
            sums[name] = sums.get(name, 0.0) + total
            counts[name] = counts.get(name, 0.0) + tally.counts[name]
    return Tally(sums, counts)


def metrics(episodes: Sequence[Episode], scores: Sequence[Mixed]) -> Tally:
    """The metrics of the module's table, over episodes with their scores."""
    pairs = zip(episodes, scores, strict=True)
    return combine(tally for episode, mixed in pairs for tally in (_lived(episode), _earned(mixed)))


def _lived(episode: Episode) -> Tally:
    """Of one episode: what it did."""
    thoughts = episode.thoughts
    replies = [turn for turn in episode.turns if turn.role == "answer"]
    told = [turn for turn in thoughts if turn.text.strip()]
    segments = episode.sample.segments()
    of: dict[str, tuple[float, float]] = {
        "turns": (len(episode.turns), 1),
        "tokens/thought": (sum(turn.tokens for turn in thoughts), len(thoughts)),
        "tokens/answer": (sum(turn.tokens for turn in replies), len(replies)),
        "told": (len({turn.segment for turn in told}), len(segments)),
        "distinct_thoughts": (len({turn.text.strip() for turn in told}), len(told)),
        "unfinished": (sum(not turn.finished for turn in episode.turns), len(episode.turns)),
    }
    return _tally(of)


def _earned(mixed: Mixed) -> Tally:
    """Of one episode: what it got. A part `accuracy/KIND` is a mean over `queries/KIND` queries (rewards.accuracy)."""
    of = {"reward": (mixed.total, 1.0)}
    for term, scored in mixed.terms.items():
        if scored is None:
            continue
        of[f"reward/{term}"] = (scored.score, 1.0)
        for name, value in scored.parts.items():
            family, _, kind = name.partition("/")
            if family == "queries":
                continue
            weight = scored.parts.get(f"queries/{kind}", 1.0) if family == "accuracy" else 1.0
            of[f"reward/{term}/{name}"] = (value * weight, weight)
            if family == "accuracy":
                of.setdefault(name, (value * weight, weight))
    return _tally(of)


def _tally(of: Mapping[str, tuple[float, float]]) -> Tally:
    return Tally({name: total for name, (total, _) in of.items()}, {name: count for name, (_, count) in of.items()})
