"""Episodes -> training rows, and rows -> micro-batches that TRL's GRPO loss can take.

Turns become rows by the prefix-merge rule: a turn stays in the row of the turn before while its context only adds to
that row's, else a new row begins. The renderer's layouts are this rule, read off what each turn sees:

| context mode | a turn sees | layouts | rows of an episode |
|---|---|---|---|
| in_context | the stream so far (KV memory) | interleaved, split | one |
| recurrent_packed | text memory and current segment, in a shared row | recurrent_packed | one, and one more a FIFO |
| recurrent | text memory and current segment, as a prompt of its own | recurrent | one a turn |

The model sees rows; the loss sees turns. Each token of a turn carries its weight in the loss, so how an episode is cut
into rows, and how rows lie in micro-batches and on ranks, changes nothing (tests/train/test_grpo.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from rewards.mix import Mixed
from train.collate import Collator
from train.rows import DataError, Item
from whilst.backbones.base import VisionSpec
from whilst.clips import SegmentClip, shapes
from whilst.episode import Episode, Turn
from whilst.render import IGNORE, Renderer
from whilst.sample import Sample, Segment, Silence, Video

LossType = Literal["dapo", "grpo", "dr_grpo", "cispo", "gspo"]
Roles = tuple[Literal["thought", "answer"], ...]


@dataclass(frozen=True)
class Judged:
    """An episode with its score and its advantage over its group."""

    episode: Episode
    mixed: Mixed
    advantage: float
    clips: tuple[SegmentClip, ...]


@dataclass(frozen=True)
class TurnRow:
    """A row of an episode's tokens. Its n learned tokens, in order, belong to turns[i] (index into the episode's turns)
    at place places[i] within the turn; a turn lies in one row."""

    item: Item
    judged: Judged | None  # None: a dummy row, which carries no loss
    turns: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.item.row)


def episode_items(episode: Episode, renderer: Renderer, clips: Sequence[SegmentClip]) -> list[Item]:
    """The rows of an episode, with the very tokens that were sampled."""
    rows = renderer.rows(episode.lived(), shapes(clips, renderer.spec), episode.turns)
    return [Item(row, tuple(clips[c] for c in row.clips)) for row in rows]


def turn_rows(judged: Judged, renderer: Renderer) -> list[TurnRow]:
    """The rows of an episode, and which learned token belongs to which turn.

    Raises DataError where the rows' learned tokens are not those that were sampled: a policy's log-probs would then be
    put beside other tokens.
    """
    turns = judged.episode.turns
    owner = np.repeat(np.arange(len(turns)), [turn.tokens for turn in turns])
    place = np.concatenate([np.arange(turn.tokens) for turn in turns]) if turns else owner
    rows, start = [], 0
    for item in episode_items(judged.episode, renderer, judged.clips):
        learned = item.row.labels[item.row.labels != IGNORE]
        part = slice(start, start + len(learned))
        expected = [_token(turns[t], p, renderer.boundary) for t, p in zip(owner[part], place[part], strict=True)]
        if learned.tolist() != expected:
            raise DataError(f"sample {judged.episode.sample.id}: rendered tokens are not those that were sampled")
        rows.append(TurnRow(item, judged, owner[part], place[part]))
        start += len(learned)
    if start != len(owner):
        raise DataError(f"sample {judged.episode.sample.id}: {len(owner) - start} sampled tokens are in no row")
    return rows


def _token(turn: Turn, place: int, boundary: int) -> int:
    return turn.ids[place] if place < len(turn.ids) else boundary


def one_turn_a_row(row: TurnRow, spec: VisionSpec) -> list[TurnRow]:
    """A merged row of a growing stream taken apart: one row a turn, each with all that came before it.

    What a trainer without the prefix-merge rule computes; the loss is the same (a test), the work is not (a benchmark).
    """
    old = row.item.row
    learned = np.flatnonzero(old.labels != IGNORE)
    ends = np.cumsum([t * h * w // spec.merge**2 for t, h, w in old.grids])
    apart = []
    for turn in np.unique(row.turns):
        own = row.turns == turn
        stop = int(learned[own][-1]) + 1
        labels = np.full(stop, IGNORE, np.int64)
        labels[learned[own]] = old.labels[learned[own]]
        shown = int(np.searchsorted(ends, old.visual_index[:stop].max())) + 1  # clips up to here
        cut = replace(
            old,
            input_ids=old.input_ids[:stop],
            labels=labels,
            loss_weight=np.where(labels != IGNORE, old.loss_weight[:stop], 0).astype(np.float32),
            roles=old.roles[:stop],
            visual_index=old.visual_index[:stop],
            positions=old.positions[:, :stop],
            meta={name: value[:stop] for name, value in old.meta.items()},
            clips=old.clips[:shown],
            grids=old.grids[:shown],
        )
        apart.append(TurnRow(Item(cut, row.item.clips[:shown]), row.judged, row.turns[own], row.places[own]))
    return apart


def blank_row(renderer: Renderer, fps: float) -> TurnRow:
    """A short row without loss: a grey clip and an empty thought. It keeps a rank in step with the others, and touches
    the vision tower where a micro-batch has nothing else to show."""
    side = renderer.spec.patch * renderer.spec.merge
    images = np.full((renderer.spec.temporal_patch, side, side, 3), 128, np.uint8)
    times = tuple(i / fps for i in range(renderer.spec.temporal_patch))
    segment = Segment(0.0, len(times) / fps)
    clip = SegmentClip(segment, images, times, fps)
    sample = Sample("blank", Video("blank"), (segment, Silence(segment.end)))
    (row,) = renderer.rows(sample, shapes([clip], renderer.spec))
    one = np.zeros(1, np.int64)  # its boundary token, which no episode owns
    return TurnRow(Item(row, (clip,)), None, one, one)


# --- advantages -------------------------------------------------------------------------------------------------------


def advantages(totals: Sequence[float], kind: Literal["mean", "mean_std"]) -> list[float]:
    """Score minus the group's mean (Dr. GRPO, VST-RL), or that over the group's standard deviation (GRPO)."""
    scores = np.array(totals, np.float64)
    centred = scores - scores.mean()
    if kind == "mean_std":
        centred = centred / (scores.std(ddof=1) + 1e-4) if len(scores) > 1 else centred
    return [float(value) for value in centred]


def has_spread(totals: Sequence[float]) -> bool:
    """Whether a group teaches anything: its scores differ."""
    return max(totals) - min(totals) > 1e-9


# --- weights ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weighing:
    """How much each token counts in the loss, by loss type; see `norm`.

    dapo, cispo: every token alike, over the global number of tokens. grpo, gspo: every episode alike, whatever its
    length. dr_grpo: every token alike, over the global number of episodes times `most_tokens`, the most that an episode
    can have. roles: turns that are trained. cut_off: whether episodes with a turn that hit its limit are trained.
    """

    type: LossType
    roles: Roles = ("thought", "answer")
    cut_off: Literal["train", "mask"] = "train"
    most_tokens: int = 1

    def tokens(self, episode: Episode) -> int:
        """Tokens of an episode that carry loss."""
        if self.cut_off == "mask" and not all(turn.finished for turn in episode.turns):
            return 0
        return sum(turn.tokens for turn in episode.turns if turn.role in self.roles)

    def weight(self, episode: Episode, turn: Turn) -> float:
        """Weight of every token of a turn."""
        tokens = self.tokens(episode)
        if not tokens or turn.role not in self.roles:
            return 0.0
        return self.most_tokens / tokens if self.type in ("grpo", "gspo") else 1.0

    def norm(self, episodes: Sequence[Episode]) -> float:
        """What these episodes add to the divisor of the loss."""
        tokens = [self.tokens(episode) for episode in episodes]
        if self.type in ("dapo", "cispo"):
            return float(sum(tokens))
        return float(sum(1 for n in tokens if n) * self.most_tokens)


# --- micro-batches ----------------------------------------------------------------------------------------------------


def split_rows(rows: Sequence[TurnRow], parts: int) -> list[list[TurnRow]]:
    """Rows into `parts` micro-batches of about as many tokens each, sorted by length, so that rows that lie together
    are alike and padding is small. A part may be empty."""
    ordered = sorted(rows, key=len, reverse=True)  # stable: the same rows give the same parts
    whole = sum(len(row) for row in ordered)
    out: list[list[TurnRow]] = [[] for _ in range(parts)]
    done = 0
    for row in ordered:
        out[min(parts - 1, done * parts // max(whole, 1))].append(row)
        done += len(row)
    return out


def collate_turns(rows: Sequence[TurnRow], collator: Collator, weighing: Weighing) -> dict[str, Any]:
    """A micro-batch: `forward` for the model, and per turn (n, T) what the loss needs.

    slots (N,): where in the flattened (n * T) the k-th learned token of the batch belongs. completion_mask: the weight
    of each token in the loss. sampled: which places hold a sampled token; sampling_logps: its log-prob as the rollout
    recorded it. advantages: of the episode. names: sample, rollout and turn of each of the n.
    """
    batch = collator([[row.item] for row in rows])
    labels = batch.pop("labels").roll(-1, 1)  # the slot that predicts each token
    labels[:, -1] = IGNORE
    del batch["loss_weight"]
    kept = (labels != IGNORE).flatten().nonzero()[:, 0]
    batch["kept"], batch["shift_labels"] = kept, labels.flatten()[kept][None]
    units = [(row, int(t)) for row in rows for t in np.unique(row.turns)]
    length = max([2, *(row.judged.episode.turns[t].tokens for row, t in units if row.judged)])
    n = len(units)
    weights, signal, logps = (torch.zeros(n, length) for _ in range(3))
    sampled = torch.zeros(n, length, dtype=torch.bool)
    slots: list[int] = []
    names: list[tuple[str, int, int]] = []
    at = {(id(row), t): i for i, (row, t) in enumerate(units)}
    for row in rows:
        slots += [at[id(row), int(t)] * length + int(p) for t, p in zip(row.turns, row.places, strict=True)]
    for i, (row, t) in enumerate(units):
        if row.judged is None:
            names.append((row.item.row.sample_id, 0, 0))
            continue
        turn, episode = row.judged.episode.turns[t], row.judged.episode
        weights[i, : turn.tokens] = weighing.weight(episode, turn)
        signal[i, : turn.tokens] = row.judged.advantage
        logps[i, : turn.tokens] = torch.tensor(turn.logprobs)
        sampled[i, : turn.tokens] = True
        names.append((episode.sample.id, episode.rollout, t))
    return {
        "forward": batch,
        "slots": torch.tensor(slots, dtype=torch.long),
        "prompt_ids": torch.zeros(n, 0, dtype=torch.long),
        "prompt_mask": torch.zeros(n, 0, dtype=torch.long),
        "completion_ids": torch.zeros(n, length, dtype=torch.long),
        "completion_mask": weights,
        "advantages": signal,
        "sampled": sampled,
        "sampling_logps": logps,
        "names": names,
    }


PER_TURN = (
    "prompt_ids",
    "prompt_mask",
    "completion_ids",
    "completion_mask",
    "advantages",
    "sampled",
    "sampling_logps",
)


def pad_turns(batch: dict[str, Any], n: int) -> None:
    """Dummy turns without weight, up to n: ranks gather metrics a turn, so they must have equally many."""
    missing = n - len(batch["completion_mask"])
    for name in PER_TURN:
        batch[name] = torch.cat([batch[name], batch[name].new_zeros(missing, batch[name].shape[1])])
