"""What a sample costs: visual tokens and text a segment, and the time in which its text has to be written.

Exact with a checkpoint, whose tokenizer and sizes say what a token is; without one, words and frames are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from whilst.clips import SegmentClip
from whilst.sample import Answer, Query, Sample, Segment, Thought


@dataclass(frozen=True)
class Count:
    """How text and clips are counted, and in which units. `note` says on the page what the figures mean."""

    text: Callable[[str], int]
    clip: Callable[[SegmentClip], int]
    text_unit: str
    clip_unit: str
    note: str


def count_words() -> Count:
    """Words between blanks, and frames."""
    note = "Counted in words and frames; with --checkpoint in its tokens."
    return Count(lambda text: len(text.split()), lambda clip: len(clip.images), "words", "frames", note)


def count_tokens(checkpoint: Path, fps: float) -> Count:
    """Tokens as a checkpoint counts them, without its weights; frames are sampled at `fps`.

    Raises:
        BackboneError: a model type that is not known, or files that are missing.
        OSError: no such folder, or no tokenizer in it.
    """
    from transformers import AutoTokenizer

    from whilst.backbones.base import load_spec
    from whilst.checkpoint import CONTRACT, read_contract

    folder, pixels = str(checkpoint), {}
    if Path(checkpoint, CONTRACT).exists():  # a folder that was trained: as in training
        contract = read_contract(checkpoint)
        pixels = {"min_pixels": contract.min_pixels, "max_pixels": contract.max_pixels}
        if Path(checkpoint, "adapter_config.json").exists():
            folder = contract.base
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spec = load_spec(folder, **pixels)

    def visual(clip: SegmentClip) -> int:
        grid = spec.merged(clip.shape(spec))
        return grid.t * grid.h * grid.w

    note = f"Tokens of {Path(checkpoint).name}, frames at {fps:g} fps; the template around them is not counted."
    return Count(
        lambda text: len(tokenizer.encode(text, add_special_tokens=False)), visual, "tokens", "visual tokens", note
    )


@dataclass(frozen=True)
class Slot:
    """One segment's costs. `seconds` until the next segment has arrived; None after the last one."""

    segment: Segment
    seconds: float | None
    visual: int
    thought: int
    received: int
    answer: int

    @property
    def rate(self) -> float | None:
        """Text a second that must be written here so that nothing is late."""
        return (self.thought + self.answer) / self.seconds if self.seconds else None


def slots(sample: Sample, clips: Sequence[SegmentClip] | None, count: Count) -> list[Slot]:
    """One slot a segment. What comes before the first segment counts for it. Without clips, `visual` is 0."""
    segments = sample.segments()
    words = [dict.fromkeys((Thought, Query, Answer), 0) for _ in segments]
    at = -1
    for event in sample.events:
        if isinstance(event, Segment):
            at += 1
        elif isinstance(event, Thought | Query | Answer) and words:
            words[max(at, 0)][type(event)] += count.text(event.text)
    made = []
    for k, segment in enumerate(segments):
        seconds = segments[k + 1].end - segment.end if k + 1 < len(segments) else None
        visual = count.clip(clips[k]) if clips is not None else 0
        made.append(Slot(segment, seconds, visual, words[k][Thought], words[k][Query], words[k][Answer]))
    return made
