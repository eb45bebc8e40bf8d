"""Controls: what an accuracy falls to when the model is deprived of something. `REGISTRY` names them all.

A control starts from an arm as it is (`Whole`), takes one thing away (`Control.takes`), and gives the episodes that
come of it (`Controlled`). `Control.valid` says for which contracts that is what happens: with KV memory a thought
cannot be swapped or dropped, because kept keys and values also carry what they saw.

| control | what is taken away |
|---|---|
| thoughts_shuffled | at every query the text memory is another video's |
| thoughts_dropped | at every query the text memory is empty |
| thoughts_only | at every query no clip is shown: the text memory alone |
| text_only | no video at all: the query alone |
| last_frames | only the last n frames before a query are watched (and thought about) |
| oracle_evidence | only the segments that overlap a query's evidence are watched (and thought about) |
| filler_tokens | its thoughts are as long as they were, but of one token that says nothing |
| thoughts_swapped | it writes another video's thoughts while it watches its own (KV memory) |
| kv_as_text | its own thoughts are written in a stream without any clip: what the words carry (KV memory) |
| kv_as_text_now | as kv_as_text, but the segment that has just arrived is shown (KV memory) |
| thoughts_greedy | chance: the likeliest thoughts of an arm whose thoughts are drawn |
| untouched_backbone | training: the base checkpoint under the arm's contract |
| constant_answers | everything: per kind the constant reply that does best on these very samples, an upper bound |
| constant_named | everything: one constant reply that is named beforehand |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluation.constants import best_constants, constant_episodes
from evaluation.predict import Episode, EvaluationError, predict
from evaluation.rereading import Clips, blind, moments, reread
from whilst.backbones.base import load
from whilst.checkpoint import Checkpoint, Contract, load_checkpoint
from whilst.clips import SegmentClip
from whilst.episode import polls
from whilst.render import Renderer
from whilst.runtime import StreamBatch
from whilst.sample import Answer, Query, Sample, Segment, Silence

CONTROLS = ("thoughts_shuffled", "thoughts_dropped", "text_only", "last_frames")  # of text memory
SWAPPED = "thoughts_swapped"  # of KV memory
GREEDY = "thoughts_greedy"  # of an arm whose thoughts are drawn

Predict = Callable[..., list[Episode]]


@dataclass(frozen=True)
class Whole:
    """An arm as it is: its checkpoint, samples whose i-th one shows clips[i], and the keyword arguments of `predict`.

    frames: of last_frames. filler: the token of filler_tokens, as text. constant: the reply of constant_named.
    """

    checkpoint: Checkpoint
    samples: Sequence[Sample]
    clips: Clips
    limits: Mapping[str, Any] = field(default_factory=dict)
    frames: int = 4
    filler: str = " ."
    constant: str = "A"


@dataclass(frozen=True)
class LeftOut:
    """A query that a control does not cover, and why. It is neither right nor wrong: compare on the others."""

    sample: str
    query: str
    reason: str


@dataclass(frozen=True)
class Controlled:
    """What came of a control. samples: to be scored with `episodes`, without the queries that are left out.

    constants: the reply by kind, where a control gives constants.
    """

    samples: Sequence[Sample]
    episodes: list[Episode]
    left_out: tuple[LeftOut, ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Control:
    """takes: what is taken away, in a sentence. valid: "" or why it cannot be had under a contract."""

    name: str
    takes: str
    valid: Callable[[Contract], str]
    run: Callable[[Whole, Predict], Controlled]


def run_control(name: str, whole: Whole, run: Predict = predict) -> Controlled:
    """An arm under a control. run: what watches the samples, with the arguments of `predict`.

    Raises EvaluationError for a control that does not exist or is not valid for the arm's contract.
    """
    control = named(name)
    if reason := control.valid(whole.checkpoint.contract):
        raise EvaluationError(f"control {name}: {reason}")
    return control.run(whole, run)


def named(name: str) -> Control:
    if name not in REGISTRY:
        raise EvaluationError(f"unknown control {name!r}; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def without(samples: Sequence[Sample], left_out: Sequence[LeftOut]) -> list[Sample]:
    """The samples without the queries that are left out, their answers and their silences."""
    gone = {(item.sample, item.query) for item in left_out}

    def stays(sample: Sample, event: object) -> bool:
        name = event.id if isinstance(event, Query) else getattr(event, "query", None)
        return name is None or (sample.id, name) not in gone

    return [sample.with_events([event for event in sample.events if stays(sample, event)]) for sample in samples]


# ---- Under which contracts a control is valid.


def _always(contract: Contract) -> str:
    return ""


def _thinks(contract: Contract) -> str:
    return "" if contract.thinks else "the arm does not think, so there is no thought to take; leave it out"


def _text_memory(contract: Contract) -> str:
    layout = contract.render.layout
    if not layout.startswith("recurrent"):
        return (
            f"layout {layout!r} keeps keys and values, which also carry what they saw; it needs text memory "
            f"(recurrent, recurrent_packed)"
        )
    return _thinks(contract)


def _kv_memory(contract: Contract) -> str:
    layout = contract.render.layout
    if layout.startswith("recurrent"):
        return f"layout {layout!r} has text memory, which keeps words alone; it needs KV memory (interleaved, split)"
    return _thinks(contract)


def _has_base(contract: Contract) -> str:
    if not contract.base:
        return "the contract names no base checkpoint; set base in streaming.yaml"
    return ""


# ---- Text memory: what is in it when a query is put.


def shuffle_thoughts(streams: StreamBatch) -> None:
    """Each stream gets the memory of the next one. `check_distinct` says whether that is another video's."""
    entries = streams.memory_entries()
    streams.replace_memory(entries[1:] + entries[:1])


def check_distinct(samples: Sequence[Sample], batch: int) -> None:
    """Raise unless every sample's next one in its batch is of another video, as shuffling and swapping take it."""
    for start in range(0, len(samples), batch):
        videos = [sample.video.path for sample in samples[start : start + batch]]
        for video, other in zip(videos, videos[1:] + videos[:1], strict=True):
            if video == other:
                raise EvaluationError(
                    f"{video}: its next neighbour in a batch of {len(videos)} is the same video, so a memory would be "
                    f"swapped with itself; order the samples by turns, and leave no single sample for the last batch"
                )


def drop_thoughts(streams: StreamBatch) -> None:
    streams.forget()


def look_away(streams: StreamBatch) -> None:
    """No clip is shown with the queries that are put now. The next segment to arrive is shown again."""
    streams.current = [None] * streams.size


def _shuffled(whole: Whole, run: Predict) -> Controlled:
    check_distinct(whole.samples, whole.limits.get("batch", 64))
    return _as_asked(whole, run, before_asking=shuffle_thoughts)


def _dropped(whole: Whole, run: Predict) -> Controlled:
    return _as_asked(whole, run, before_asking=drop_thoughts)


def _thoughts_only(whole: Whole, run: Predict) -> Controlled:
    return _as_asked(whole, run, before_asking=look_away)


def _as_asked(whole: Whole, run: Predict, **changes: Any) -> Controlled:
    """The same samples and clips, with other arguments of `predict`."""
    limits = {**whole.limits, **changes}
    return Controlled(whole.samples, run(whole.checkpoint, whole.samples, whole.clips, **limits))


# ---- Video: what is shown.


def without_video(samples: Sequence[Sample], clips: Clips) -> tuple[list[Sample], list[list[SegmentClip]]]:
    """The queries alone."""
    asked = [
        sample.with_events(
            [e for e in sample.events if isinstance(e, Query | Answer) or (isinstance(e, Silence) and e.query)]
        )
        for sample in samples
    ]
    return asked, [[] for _ in samples]


def last_frames(samples: Sequence[Sample], clips: Clips, frames: int) -> tuple[list[Sample], list[list[SegmentClip]]]:
    """One sample a moment at which a query is put: the segments of the last `frames` frames, then the query.

    They keep their sample's id; whole segments are kept, at least one.
    """
    if frames < 1:
        raise EvaluationError(f"last_frames: {frames}: must be at least 1; for none take the control text_only")

    def recent(arrived: Sequence[SegmentClip], query: Query) -> list[SegmentClip]:
        kept, shown = 0, 0
        while kept < len(arrived) and (kept == 0 or shown < frames):
            kept += 1
            shown += len(arrived[len(arrived) - kept].images)
        return list(arrived[len(arrived) - kept :])

    return _cut(samples, clips, recent)


def evidence_only(samples: Sequence[Sample], clips: Clips) -> tuple[list[Sample], list[list[SegmentClip]]]:
    """One sample a moment at which a query is put: the segments arrived that overlap its evidence, then the query.

    Never more frames than the whole run shows. They keep their sample's id.
    """

    def overlapping(arrived: Sequence[SegmentClip], query: Query) -> list[SegmentClip]:
        return [clip for clip in arrived if _overlaps(clip.segment, query)]

    return _cut(samples, clips, overlapping)


def uncovered(samples: Sequence[Sample]) -> list[LeftOut]:
    """The queries whose evidence no segment shows before the last moment at which they are put."""
    found: list[LeftOut] = []
    for sample in samples:
        last = {poll.query.id: poll for step in polls(sample) for poll in step}
        for query in sample.queries():
            poll = last.get(query.id)
            arrived = [s for s in sample.segments() if poll is not None and s.end <= poll.time]
            if not query.evidence:
                found.append(LeftOut(sample.id, query.id, "no evidence is given"))
            elif not any(_overlaps(segment, query) for segment in arrived):
                found.append(LeftOut(sample.id, query.id, "no segment that has arrived overlaps its evidence"))
    return found


def _overlaps(segment: Segment, query: Query) -> bool:
    """Whether [start, end) of a segment meets a span of evidence; one without length is a moment."""
    return any(
        segment.start <= start < segment.end or (segment.start < end and start < segment.end)
        for start, end in query.evidence
    )


def _cut(
    samples: Sequence[Sample], clips: Clips, choose: Callable[[Sequence[SegmentClip], Query], list[SegmentClip]]
) -> tuple[list[Sample], list[list[SegmentClip]]]:
    """One sample a moment at which a query is put: the clips chosen among those arrived, then the query."""
    cut_samples: list[Sample] = []
    cut_clips: list[list[SegmentClip]] = []
    for sample, arrived, query, reply in moments(samples, clips):
        kept = choose(arrived, query)
        asked = replace(query, time=reply.time)
        cut_samples.append(replace(sample, events=(*(clip.segment for clip in kept), asked, reply)))
        cut_clips.append(kept)
    return cut_samples, cut_clips


def _text_only(whole: Whole, run: Predict) -> Controlled:
    return Controlled(whole.samples, run(whole.checkpoint, *without_video(whole.samples, whole.clips), **whole.limits))


def _last_frames(whole: Whole, run: Predict) -> Controlled:
    cut = last_frames(whole.samples, whole.clips, whole.frames)
    return Controlled(whole.samples, run(whole.checkpoint, *cut, **whole.limits))


def _oracle_evidence(whole: Whole, run: Predict) -> Controlled:
    left_out = uncovered(whole.samples)
    covered = without(whole.samples, left_out)
    cut = evidence_only(covered, whole.clips)
    return Controlled(covered, run(whole.checkpoint, *cut, **whole.limits), tuple(left_out))


# ---- Thoughts: what is written. Texts are given one a segment, an empty one is silence.


def unasked(samples: Sequence[Sample]) -> list[Sample]:
    """The samples without their queries: all that it takes to know an arm's thoughts, since queries are on branches."""
    return [sample.with_events(sample.segments()) for sample in samples]


def thought_texts(whole: Whole, run: Predict) -> list[list[str]]:
    """The arm's own thoughts, one a segment of each sample."""
    episodes = run(whole.checkpoint, unasked(whole.samples), whole.clips, **whole.limits)
    return [[text for _, text, _ in episode.thoughts] for episode in episodes]


def swapped(episodes: Sequence[Episode]) -> list[list[str]]:
    """Each sample's thoughts replaced by the next one's, to be written while it watches its own video.

    With KV memory the words are another video's, but their keys and values still saw this one: what is right beyond
    chance leaked through them.
    """
    texts = [[text for _, text, _ in episode.thoughts] for episode in episodes]
    silent = [episode.sample for episode in episodes if not episode.thoughts]
    if silent:
        raise EvaluationError(f"sample {silent[0]}: no thought to swap; leave samples without segments out")
    others = texts[1:] + texts[:1]
    return [[other[i % len(other)] for i in range(len(own))] for own, other in zip(texts, others, strict=True)]


def filled(renderer: Renderer, texts: Sequence[Sequence[str]], filler: str) -> list[list[str]]:
    """Each thought replaced by as many `filler` tokens as its text has; silence stays silence.

    Raises EvaluationError where the tokenizer does not write n fillers as n equal tokens.
    """

    def fill(text: str) -> str:
        n = len(renderer.encode(text)) if text else 0
        ids = renderer.encode(filler * n) if n else ()
        if len(ids) != n or len(set(ids)) > 1:
            raise EvaluationError(
                f"filler {filler!r}: {n} of them are the tokens {list(ids)}, not {n} equal ones; name another filler"
            )
        return filler * n

    return [[fill(text) for text in of_sample] for of_sample in texts]


def _kv_as_text(whole: Whole, run: Predict) -> Controlled:
    return _reread(whole, run, show_now=False)


def _kv_as_text_now(whole: Whole, run: Predict) -> Controlled:
    return _reread(whole, run, show_now=True)


def _reread(whole: Whole, run: Predict, *, show_now: bool) -> Controlled:
    samples, clips, texts = reread(whole.samples, whole.clips, thought_texts(whole, run), show_now=show_now)
    limits = {**whole.limits, "temperature": 0.0, "thoughts": texts}
    return Controlled(whole.samples, run(blind(whole.checkpoint), samples, clips, **limits))


def _swapped(whole: Whole, run: Predict) -> Controlled:
    check_distinct(whole.samples, len(whole.samples))
    written = run(whole.checkpoint, unasked(whole.samples), whole.clips, **whole.limits)
    return _as_asked(whole, run, temperature=0.0, thoughts=swapped(written))


def _filler_tokens(whole: Whole, run: Predict) -> Controlled:
    texts = filled(whole.checkpoint.renderer, thought_texts(whole, run), whole.filler)
    return _as_asked(whole, run, temperature=0.0, thoughts=texts)


def _greedy(whole: Whole, run: Predict) -> Controlled:
    return _as_asked(whole, run, temperature=0.0)


# ---- Training and everything.


def untouched(checkpoint: Checkpoint) -> Checkpoint:
    """The base checkpoint that an arm was trained from, under the arm's contract.

    Raises EvaluationError where the base is a local path that does not exist.
    """
    contract = checkpoint.contract
    base = Path(contract.base)
    if not base.exists() and (base.is_absolute() or contract.base.count("/") != 1):  # a Hub id is owner/name
        raise EvaluationError(f"base {contract.base!r} of streaming.yaml does not exist; restore it or correct base")
    device = str(checkpoint.backbone.device)
    if Path(base, "adapter_config.json").exists():
        backbone = load_checkpoint(base, device=device).backbone
    else:
        pixels = {"min_pixels": contract.min_pixels, "max_pixels": contract.max_pixels}
        backbone = load(contract.base, device=device, **pixels)  # type: ignore[arg-type]
        backbone.model.eval()
    return Checkpoint(backbone, Renderer(backbone.tokenizer, backbone.spec, contract.render), contract)


def _untouched_backbone(whole: Whole, run: Predict) -> Controlled:
    return Controlled(whole.samples, run(untouched(whole.checkpoint), whole.samples, whole.clips, **whole.limits))


def _constant_answers(whole: Whole, run: Predict) -> Controlled:
    best = best_constants(whole.samples)
    return Controlled(whole.samples, constant_episodes(whole.samples, best), constants=best)


def _constant_named(whole: Whole, run: Predict) -> Controlled:
    kinds = {query.kind or "other" for sample in whole.samples for query in sample.queries()}
    named_one = dict.fromkeys(sorted(kinds), whole.constant)
    return Controlled(whole.samples, constant_episodes(whole.samples, named_one), constants=named_one)


REGISTRY: dict[str, Control] = {
    name: Control(name, takes, valid, run)
    for name, takes, valid, run in (
        ("thoughts_shuffled", "At every query the text memory is another video's.", _text_memory, _shuffled),
        ("thoughts_dropped", "At every query the text memory is empty.", _text_memory, _dropped),
        ("thoughts_only", "At every query no clip is shown, the text memory alone.", _text_memory, _thoughts_only),
        ("text_only", "No video is watched: it has the query alone.", _always, _text_only),
        ("last_frames", "Only the last n frames before a query are watched.", _always, _last_frames),
        (
            "oracle_evidence",
            "Only segments that overlap the query's evidence are watched.",
            _always,
            _oracle_evidence,
        ),
        ("filler_tokens", "Its thoughts are as long, but of one token that says nothing.", _thinks, _filler_tokens),
        (SWAPPED, "It writes another video's thoughts while it watches its own.", _kv_memory, _swapped),
        ("kv_as_text", "Its thoughts are read as words in a stream without any clip.", _kv_memory, _kv_as_text),
        ("kv_as_text_now", "As kv_as_text, but the last segment is shown.", _kv_memory, _kv_as_text_now),
        (GREEDY, "Chance: the likeliest thoughts, of an arm whose thoughts are drawn.", _thinks, _greedy),
        ("untouched_backbone", "Training: the base under the arm's contract.", _has_base, _untouched_backbone),
        ("constant_answers", "Everything: per kind the best constant on these samples.", _always, _constant_answers),
        ("constant_named", "Everything: one constant that is named beforehand.", _always, _constant_named),
    )
}
