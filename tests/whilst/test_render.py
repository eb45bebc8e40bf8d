"""The renderer: what each layout writes, what carries the loss, and what it refuses. Nothing is run through a model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.streams import said, shapes_of, timeline
from whilst.backbones.base import VIDEO_PAD, Backbone
from whilst.chunks import Role, TurnFormat
from whilst.memory import MemoryCapError
from whilst.positions import PositionError
from whilst.render import IGNORE, Renderer, RenderError, TokenRow
from whilst.render_config import Layout, MemoryCut, RenderConfig
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video
from whilst.visibility import FIELDS, GENERATED, RECEIVED, Tokens, VisibilityError, dense_mask

LAYOUTS: dict[str, RenderConfig] = {
    "interleaved": RenderConfig(),
    "interleaved, kept": RenderConfig(queries="kept"),
    "split": RenderConfig(layout="split", rule="unit", scheme="group_decoupled"),
    "split, kept": RenderConfig(layout="split", rule="row_shift", scheme="overlapped", queries="kept"),
    "recurrent": RenderConfig(layout="recurrent"),
    "recurrent_packed": RenderConfig(layout="recurrent_packed", rule="text_memory"),
}
GROWING = [name for name in LAYOUTS if "recurrent" not in name]
GENERATED_ROLES = (Role.THOUGHT, Role.ANSWER)


def rows(backbone: Backbone, config: RenderConfig, sample: Sample | None = None) -> list[TokenRow]:
    sample = sample or timeline()
    return Renderer(backbone.tokenizer, backbone.spec, config).rows(sample, shapes_of(backbone, sample))


def one_row(backbone: Backbone, config: RenderConfig, sample: Sample | None = None) -> TokenRow:
    (row,) = rows(backbone, config, sample)
    return row


def short() -> Sample:
    events = (
        Segment(0.0, 1.0),
        Thought(1.0, "in-1 red-circle ."),
        Query("q", 1.0, "which in-1 ?"),
        Answer(1.0, "red-circle", "q"),
        Segment(1.0, 2.0),
        Thought(2.0, "none ."),
    )
    return Sample("short", Video("video.mp4"), events)


def text_of(backbone: Backbone, ids: np.ndarray) -> str:
    """What was written, with one <video> for a clip's pads."""
    text: str = backbone.tokenizer.decode(ids)
    return text.replace(VIDEO_PAD * 6, "<video>").replace("<|vision_start|><video><|vision_end|>", "<video>")


SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
MEMORY = "<|im_start|>previous text\n"


def user(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n"


def assistant(text: str) -> str:
    return f"<|im_start|>assistant\n{text}<|im_end|>"


def clip(backbone: Backbone, stamp: str) -> str:
    return f"<{stamp} seconds><video>" if backbone.family.name == "qwen3_vl" else "<video>"


# --- what is written ----------------------------------------------------------------------------------------------


def test_interleaved_is_a_plain_chat(backbone: Backbone) -> None:
    first, second = (user(clip(backbone, stamp)) for stamp in ("0.2", "1.2"))
    query, answer = user("which in-1 ?"), assistant("red-circle")
    said_first, said_second = assistant("in-1 red-circle ."), assistant("none .")
    expected = f"{SYSTEM}{first}{said_first}\n{query}{answer}\n{second}{said_second}"
    for queries in ("kept", "branch"):
        row = one_row(backbone, RenderConfig(queries=queries), short())  # type: ignore[arg-type]
        assert text_of(backbone, row.input_ids) == expected


def test_split_is_everything_received_and_then_everything_generated(backbone: Backbone) -> None:
    row = one_row(backbone, LAYOUTS["split, kept"], short())
    first, second = (user(clip(backbone, stamp)) for stamp in ("0.2", "1.2"))
    received = f"{SYSTEM}{first}{user('which in-1 ?')}{second}"
    generated = "\n".join(assistant(text) for text in ("in-1 red-circle .", "red-circle", "none ."))
    assert text_of(backbone, row.input_ids) == received + generated
    assert (np.diff(row.meta["stream"]) >= 0).all()


def test_recurrent_rows_are_prompts_of_memory_and_one_segment(backbone: Backbone) -> None:
    first, second = (clip(backbone, stamp) for stamp in ("0.2", "1.2"))
    memory = f"{SYSTEM}{MEMORY}in-1 red-circle .\n<|im_end|>\n"
    assert [text_of(backbone, row.input_ids) for row in rows(backbone, LAYOUTS["recurrent"], short())] == [
        f"{SYSTEM}{MEMORY}<|im_end|>\n{user(first)}{assistant('in-1 red-circle .')}",
        f"{memory}{user(first + 'which in-1 ?')}{assistant('red-circle')}",
        f"{memory}{user(second)}{assistant('none .')}",
    ]


def test_every_turn_of_a_packed_row_is_its_recurrent_row(backbone: Backbone) -> None:
    """What a turn may see, in order, has the ids, positions, roles and labels of the separate prompt."""
    for memory, cap in (("", None), ("in-2 none .\n", None), ("in-2 none .\n", 8), ("", 5)):
        sample = replace(timeline(), memory=memory)
        recurrent = rows(backbone, replace(LAYOUTS["recurrent"], memory_tokens=cap), sample)
        packed = rows(backbone, replace(LAYOUTS["recurrent_packed"], memory_tokens=cap), sample)
        assert (len(packed) > 1) == (cap is not None)
        turns = [(row, turn) for row in packed for turn in np.unique(row.meta["turn"]) if turn >= 0]
        assert len(turns) == len(recurrent)
        for single, (row, turn) in zip(recurrent, turns, strict=True):
            mine = row.meta["turn"] == turn
            seen = mine | ((row.meta["turn"] == -1) & (np.arange(len(row)) < np.argmax(mine)))
            for name in ("input_ids", "labels", "roles", "loss_weight"):
                assert np.array_equal(getattr(row, name)[seen], getattr(single, name)), name
            assert np.array_equal(row.positions[:, seen], single.positions)
            clips = [row.clips[c] for c in np.unique(clip_number(row)[mine & (row.visual_index >= 0)])]
            assert tuple(clips) == single.clips


def clip_number(row: TokenRow) -> np.ndarray:
    """Which of the row's clips each visual token takes its feature from."""
    ends = np.cumsum([t * h * w // 4 for t, h, w in row.grids])
    return np.searchsorted(ends, row.visual_index, side="right")


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_whole(backbone: Backbone, name: str) -> None:
    """All arrays are as long as the row, and every visual token has its own feature of its own segment's clip."""
    sample = timeline()
    pad = backbone.tokenizer.convert_tokens_to_ids(VIDEO_PAD)
    for row in rows(backbone, LAYOUTS[name], sample):
        assert row.sample_id == "a"
        arrays = (row.input_ids, row.labels, row.loss_weight, row.roles, row.visual_index, *row.meta.values())
        assert {len(array) for array in arrays} == {len(row)} and row.positions.shape == (3, len(row))
        assert set(row.meta) == set(FIELDS)
        assert np.array_equal(row.meta["index"], np.arange(len(row)))
        visual = row.visual_index >= 0
        assert np.array_equal(visual, row.input_ids == pad) and np.array_equal(visual, row.roles == Role.VISION)
        table = sum(t * h * w // backbone.spec.merge**2 for t, h, w in row.grids)
        assert sorted(set(row.visual_index[visual])) == list(range(table))
        segments = row.meta["segment"][visual]
        assert np.array_equal(segments, np.array(row.clips)[clip_number(row)[visual]])
        for segment in np.unique(segments):
            t, h, w = shapes_of(backbone, sample)[segment].grid
            assert (segments == segment).sum() % (t * h * w // 4) == 0
    if "recurrent" not in name:
        assert row.clips == (0, 1, 2, 3) and len(np.unique(row.visual_index[visual])) == visual.sum()


def test_a_clip_in_several_turns_is_one_clip(backbone: Backbone) -> None:
    row = one_row(backbone, LAYOUTS["recurrent_packed"])
    assert row.clips == (0, 1, 2, 3)
    uses = np.bincount(row.visual_index[row.visual_index >= 0])
    assert uses.tolist() == [2] * 6 + [2] * 12 + [2] * 6 + [3] * 6  # turns that show segments 0 to 3


# --- what is learned ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_labels_are_the_generated_texts_and_their_boundaries(backbone: Backbone, name: str) -> None:
    sample = timeline()
    learned: list[str] = []
    config = replace(LAYOUTS[name], thought_weight=0.5, answer_weight=2.0, silence_weight=0.25)
    for row in rows(backbone, config, sample):
        labelled = row.labels != IGNORE
        assert np.array_equal(row.labels[labelled], row.input_ids[labelled])
        assert np.array_equal(labelled, np.isin(row.roles, GENERATED_ROLES))
        assert (row.meta["stream"][labelled] == GENERATED).all()
        weights = {Role.THOUGHT: 0.5, Role.ANSWER: 2.0}
        expected = np.array([weights.get(Role(role), 0.0) for role in row.roles])
        empty = labelled & ~np.append(False, labelled[:-1]) & ~np.append(labelled[1:], False)  # a boundary token alone
        assert row.loss_weight.tolist() == np.where(empty, 0.25, expected).tolist()
        # each learned text follows the prefix that opens its turn
        opens = np.flatnonzero(labelled & ~np.concatenate([[False], labelled[:-1]]))
        assert {text_of(backbone, row.input_ids[i - 3 : i]) for i in opens} == {"<|im_start|>assistant\n"}
        learned.append(text_of(backbone, row.labels[labelled]))
    assert "".join(learned) == "".join(f"{text}<|im_end|>" for _, text in said(sample))


def test_an_arm_without_thoughts_retains_nothing(backbone: Backbone) -> None:
    """No filler token stands where a thought was; answers alone are learned."""
    bare = timeline(thoughts=("", "", "", "")).without_thoughts()
    bare = bare.with_events(e for e in bare.events if getattr(e, "query", "") is not None)  # silences without a query
    for row in rows(backbone, LAYOUTS["recurrent"], bare):
        assert f"{SYSTEM}{MEMORY}<|im_end|>\n" in text_of(backbone, row.input_ids)
        assert Role.THOUGHT not in row.roles
    main = one_row(backbone, LAYOUTS["interleaved"], bare)
    kept = main.meta["branch"] == 0
    assert not np.isin(main.roles[kept], GENERATED_ROLES).any()
    assert "<|im_start|>assistant" not in text_of(backbone, main.input_ids[kept])


def test_a_silent_thought_leaves_no_memory(backbone: Backbone) -> None:
    last = rows(backbone, LAYOUTS["recurrent"])[-1]
    written = text_of(backbone, last.input_ids[last.roles == Role.MEMORY])
    assert written == f"{MEMORY}in-1 red-circle .\nout-1 blue-square .\n.\n<|im_end|>\n"


# --- branches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *(("interleaved", scheme) for scheme in ("interleaved", "overlapped", "group_decoupled")),
        *(("split", scheme) for scheme in ("interleaved", "overlapped", "group_decoupled", "batch")),
    ],
)
def test_the_main_timeline_is_that_of_a_sample_without_queries(backbone: Backbone, name: str, scheme: str) -> None:
    config = replace(LAYOUTS[name], scheme=scheme)
    sample = timeline()
    unasked = sample.with_events(
        e for e in sample.events if not isinstance(e, Query) and getattr(e, "query", None) is None
    )
    row, plain = one_row(backbone, config, sample), one_row(backbone, config, unasked)
    main = row.meta["branch"] == 0
    assert np.array_equal(row.input_ids[main], plain.input_ids)
    assert np.array_equal(row.positions[:, main], plain.positions)
    for field in ("order", "stream", "unit", "segment", "now", "visual_count", "visual_end"):
        assert np.array_equal(row.meta[field][main], plain.meta[field]), field
    texts = [text_of(backbone, row.labels[(row.meta["branch"] == b) & (row.labels != IGNORE)]) for b in range(1, 6)]
    assert texts == [f"{text}<|im_end|>" for text in ("red-circle", "", "now", "now", "blue-square")]


def test_text_before_the_first_segment_comes_before_its_unit(backbone: Backbone) -> None:
    """A query that nothing had been received for: its answer must not see the first segment of a split row."""
    early = (Query("early", 0.0, "which ?"), Answer(0.0, "unknown", "early"))
    row = one_row(backbone, LAYOUTS["split"], timeline().with_events((*early, *timeline().events)))
    answer = row.meta["branch"] == 1
    assert answer.any() and row.meta["unit"][answer].max() < row.meta["unit"][row.visual_index >= 0].min()


# --- causality ----------------------------------------------------------------------------------------------------


def edited_after(sample: Sample, time: float) -> Sample:
    """Other texts after `time`, one event less, and more at the end."""

    def edit(event: Any) -> Any:
        return replace(event, text=f"{event.text} now") if event.time > time and hasattr(event, "text") else event

    events = [edit(event) for event in sample.events if getattr(event, "query", getattr(event, "id", "")) != "last"]
    return sample.with_events([*events, Segment(4.0, 6.0), Thought(6.0, "unknown")])


@pytest.mark.parametrize("time", [1.0, 2.5, 3.0])
@pytest.mark.parametrize("name", LAYOUTS)
def test_later_events_leave_earlier_tokens_as_they_are(backbone: Backbone, name: str, time: float) -> None:
    sample, config = timeline(), LAYOUTS[name]
    past = sample.with_events(event for event in sample.events if event.time <= time)
    start = rows(backbone, config, past)
    for whole in (rows(backbone, config, sample), rows(backbone, config, edited_after(sample, time))):
        for early, late in zip(start, whole, strict=False):
            for stream in (RECEIVED, GENERATED) if config.layout == "split" else (None,):
                a, b = (
                    (row.meta["stream"] == stream) if stream is not None else row.roles >= 0 for row in (early, late)
                )
                n = int(a.sum())
                assert n <= int(b.sum())
                for key in ("input_ids", "labels", "loss_weight", "roles", "visual_index"):
                    assert np.array_equal(getattr(early, key)[a], getattr(late, key)[b][:n]), key
                assert np.array_equal(early.positions[:, a], late.positions[:, b][:, :n])
                for field in set(FIELDS) - {"index", "next_unit"}:
                    assert np.array_equal(early.meta[field][a], late.meta[field][b][:n]), field


# --- memory -------------------------------------------------------------------------------------------------------


def test_a_full_memory_drops_its_oldest_entry_and_starts_a_row(backbone: Backbone) -> None:
    config = replace(LAYOUTS["recurrent_packed"], memory_tokens=9)  # two thoughts of 4 tokens; the third has 2
    packed = rows(backbone, config)
    assert len(packed) == 2
    prefixes = [text_of(backbone, row.input_ids[: np.argmax(row.meta["turn"] >= 0)]) for row in packed]
    assert prefixes == [f"{SYSTEM}{MEMORY}", f"{SYSTEM}{MEMORY}out-1 blue-square .\n.\n"]
    assert text_of(backbone, packed[1].labels[packed[1].labels != IGNORE]) == "blue-square<|im_end|>"
    assert packed[1].clips == (3,) and packed[1].positions.min() == 0


def test_an_entry_that_never_fits(backbone: Backbone) -> None:
    with pytest.raises(MemoryCapError, match="4 tokens is longer than memory_tokens 3; raise the cap"):
        rows(backbone, replace(LAYOUTS["recurrent"], memory_tokens=3))
    with pytest.raises(MemoryCapError, match="must be at least 1, got 0"):
        rows(backbone, replace(LAYOUTS["recurrent"], memory_tokens=0))


def test_memory_entries_may_carry_their_span(backbone: Backbone) -> None:
    config = replace(LAYOUTS["recurrent"], format=TurnFormat(memory_entry="Time={start:.1f}-{end:.1f}s {text}\n"))
    last = rows(backbone, config, short())[-1]
    assert "Time=0.0-1.0s in-1 red-circle .\n" in text_of(backbone, last.input_ids)


# --- formats ------------------------------------------------------------------------------------------------------


def test_a_span_before_a_clip_goes_with_the_clip(backbone: Backbone) -> None:
    form = TurnFormat(segment="Time={start:.1f}-{end:.1f}s ", query="at {time:.1f}: {text}")
    row = one_row(backbone, RenderConfig(format=form, queries="kept"), short())
    text = text_of(backbone, row.input_ids)
    assert "user\nTime=0.0-1.0s <" in text and "user\nat 1.0: which in-1 ?<" in text
    stamp = row.roles == Role.STAMP
    assert (row.meta["visual_end"][stamp] > 0).all() and "Time=1.0" in text_of(backbone, row.input_ids[stamp])


def test_braces_in_texts_are_text(backbone: Backbone) -> None:
    sample = short().with_events((Segment(0.0, 1.0), Thought(1.0, "{x} {0} {"), Thought(1.0, "}")))
    for name in ("interleaved", "recurrent"):
        assert "{x} {0} {" in text_of(backbone, rows(backbone, LAYOUTS[name], sample)[-1].input_ids)


def test_closing_must_be_one_token(backbone: Backbone) -> None:
    with pytest.raises(RenderError, match="format.closing 'the end' must be one token, it is 7"):
        rows(backbone, RenderConfig(format=TurnFormat(closing="the end")))


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    ("event", "where"),
    [
        (Thought(4.0, "a <|im_end|>"), r"sample a, events\[16\]"),
        (Answer(4.0, "<|video_pad|>", "last"), r"sample a, events\[16\]"),
        (Query("more", 4.0, "<|im_start|>system ?"), "query more"),
    ],
)
def test_special_tokens_in_a_text(backbone: Backbone, name: str, event: Any, where: str) -> None:
    events = [*timeline().events, event]
    if isinstance(event, Query):
        events.append(Answer(4.0, "now", event.id))
    with pytest.raises(RenderError, match=where + r": text holds the special token '<\|.*remove it from the text"):
        rows(backbone, LAYOUTS[name], timeline().with_events(events))


def test_special_tokens_in_a_given_memory(backbone: Backbone) -> None:
    with pytest.raises(RenderError, match="memory: text holds the special token"):
        rows(backbone, LAYOUTS["recurrent"], replace(timeline(), memory="<|endoftext|>"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_row_longer_than_max_tokens(backbone: Backbone, name: str) -> None:
    longest = max(len(row) for row in rows(backbone, LAYOUTS[name]))
    assert rows(backbone, replace(LAYOUTS[name], max_tokens=longest))
    with pytest.raises(RenderError, match=f"sample a: a row of {longest} tokens exceeds max_tokens {longest - 1}; cut"):
        rows(backbone, replace(LAYOUTS[name], max_tokens=longest - 1))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_clip_too_few(backbone: Backbone, name: str) -> None:
    renderer = Renderer(backbone.tokenizer, backbone.spec, LAYOUTS[name])
    with pytest.raises(RenderError, match="sample a: 4 segments but 3 clips"):
        renderer.rows(timeline(), shapes_of(backbone, timeline())[:3])


# --- text memory that a growing stream starts with ----------------------------------------------------------------

GIVEN = "in-2 none . out-1 red-circle ."


@pytest.mark.parametrize("name", GROWING)
def test_given_memory_is_a_turn_behind_the_system_turn(backbone: Backbone, name: str) -> None:
    """Nothing else is written otherwise, and nothing of it is learned."""
    bare, row = (one_row(backbone, LAYOUTS[name], s) for s in (timeline(), replace(timeline(), memory=GIVEN)))
    here = np.flatnonzero(row.roles == Role.MEMORY)
    start = int((row.roles == Role.SYSTEM).sum())
    assert here.tolist() == list(range(start, start + len(here)))
    assert text_of(backbone, row.input_ids[: here[-1] + 1]) == f"{SYSTEM}{MEMORY}{GIVEN}<|im_end|>\n"
    assert (row.labels[here] == IGNORE).all() and not row.loss_weight[here].any()
    rest = np.setdiff1d(np.arange(len(row)), here)
    assert np.array_equal(row.input_ids[rest], bare.input_ids) and np.array_equal(row.labels[rest], bare.labels)


@pytest.mark.parametrize("scheme", ["interleaved", "batch", "overlapped", "group_decoupled", "gap_isolated", "tww"])
def test_given_memory_takes_positions_of_what_is_received(backbone: Backbone, scheme: str) -> None:
    config = RenderConfig(layout="split", rule="unit", scheme=scheme)
    sample = timeline().with_events(timeline().events[:2])  # a segment and its thought
    bare, row = (one_row(backbone, config, s) for s in (sample, replace(sample, memory=GIVEN)))
    here = row.roles == Role.MEMORY
    n = int(here.sum())
    first = int((row.roles == Role.SYSTEM).sum())
    assert np.array_equal(row.positions[:, here], np.broadcast_to(np.arange(first, first + n), (3, n)))
    received = bare.meta["stream"] == RECEIVED
    moved = np.where(received & (bare.roles != Role.SYSTEM), n, 0)
    if scheme in ("interleaved", "batch", "overlapped"):  # generated text follows what was received
        moved = np.where(received, moved, n)
    assert np.array_equal(row.positions[:, ~here], bare.positions + moved)


@pytest.mark.parametrize(
    ("layout", "rule", "params"),
    [
        ("interleaved", "causal", {}),
        ("interleaved", "visual_window", {"budget": 9}),
        ("interleaved", "last_segments", {"n": 1}),
        ("interleaved", "sink_window", {"sink": 1, "window": 30}),
        ("split", "unit", {}),
        ("split", "row_shift", {}),
    ],
)
def test_what_each_rule_does_with_given_memory(
    backbone: Backbone, layout: Any, rule: str, params: Mapping[str, int]
) -> None:
    """It is text: every rule keeps it in sight, but for the one that counts tokens of the timeline."""
    system = len(Renderer(backbone.tokenizer, backbone.spec, RenderConfig()).system())
    if "sink" in params:
        params = {**params, "sink": system + 3}  # three tokens of the memory are among the first of the stream
    config = RenderConfig(layout=layout, rule=rule, rule_params=params, queries="kept")
    row = one_row(backbone, config, replace(timeline(), memory=GIVEN))
    seen = dense_mask(config.check(), Tokens.of(row.meta))
    here = torch.from_numpy(row.roles == Role.MEMORY)
    later = torch.arange(len(row)) > int(here.nonzero().max())
    order = torch.from_numpy(row.meta["order"])
    expected = torch.ones(int(later.sum()), int(here.sum()), dtype=torch.bool)
    if rule == "sink_window":
        expected &= (order[here] < system + 3) | (order[later][:, None] - order[here] < 30)
        assert expected[0].all() and expected[-1].sum() == 3
    assert torch.equal(seen[later][:, here], expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_middle_of_a_given_memory_is_left_out(backbone: Backbone, name: str) -> None:
    whole = Renderer(backbone.tokenizer, backbone.spec, LAYOUTS[name])
    ids = list(whole.encode(GIVEN))
    for sink, tail in ((2, 1), (0, 3), (3, 0), (len(ids) - 1, 1), (len(ids), len(ids))):
        config = replace(LAYOUTS[name], memory_cut=MemoryCut(sink, tail))
        renderer = Renderer(backbone.tokenizer, backbone.spec, config)
        kept = ids if sink + tail >= len(ids) else ids[:sink] + ids[len(ids) - tail :]
        row = rows(backbone, config, replace(timeline(), memory=GIVEN))[0]
        around = len(whole.memory_open())
        memory = row.input_ids[row.roles == Role.MEMORY].tolist()
        assert memory[around : around + len(kept) + 1] == [*kept, memory[around + len(kept)]]
        assert renderer.memory_left_out(GIVEN) == len(ids) - len(kept)
    assert renderer.memory_left_out("") == 0 and whole.memory_left_out(GIVEN) == 0
    renderer = Renderer(backbone.tokenizer, backbone.spec, replace(LAYOUTS[name], memory_cut=MemoryCut(2, 1)))
    assert len(renderer.memory_given(GIVEN)) == 3


@pytest.mark.parametrize("layout, rule", [("interleaved", "causal"), ("split", "unit")])
def test_a_cap_that_no_text_memory_would_keep_to_is_refused(layout: Layout, rule: str) -> None:
    with pytest.raises(VisibilityError, match=f"render.memory_tokens caps .* layout '{layout}' keeps its thoughts in"):
        RenderConfig(layout=layout, rule=rule, memory_tokens=40).check()


@pytest.mark.parametrize(("sink", "tail"), [(-1, 4), (4, -1), (0, 0)])
def test_a_cut_that_makes_no_sense(sink: int, tail: int) -> None:
    with pytest.raises(VisibilityError, match=f"render.memory_cut: .* they are {sink} and {tail}"):
        MemoryCut(sink, tail)


@pytest.mark.parametrize("name", ["recurrent", "recurrent_packed"])
def test_a_thought_before_any_segment(backbone: Backbone, name: str) -> None:
    sample = timeline().with_events((Thought(0.0, "none"), *timeline().events))
    with pytest.raises(RenderError, match=r"events\[0\]: a thought before the first segment"):
        rows(backbone, LAYOUTS[name], sample)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"layout": "split", "rule": "row_shift"}, VisibilityError, "set queries: kept, or rule: unit"),
        ({"layout": "split"}, VisibilityError, "'causal' is not defined for layout 'split'; use one of .*row_shift"),
        ({"rule": "unit"}, VisibilityError, "'unit' is not defined for layout 'interleaved'"),
        ({"layout": "recurrent", "scheme": "overlapped"}, VisibilityError, "scheme must be 'interleaved'"),
        (
            {"layout": "recurrent_packed", "rule": "text_memory", "scheme": "tww"},
            VisibilityError,
            "scheme must be 'interleaved'",
        ),
        ({"layout": "recurrent", "queries": "kept"}, VisibilityError, "set queries: branch"),
        ({"scheme": "batch"}, VisibilityError, "scheme 'batch' .* use layout split"),
        ({"scheme": "mrope"}, PositionError, "unknown position scheme 'mrope'"),
        ({"scheme": "overlapped", "scheme_params": {"phi": 1}}, PositionError, "does not take"),
        ({"layout": "split", "rule": "unit", "scheme": "batch", "scheme_params": {"phi": 1}}, PositionError, "phi"),
        ({"rule": "last_segments"}, VisibilityError, r"takes parameters \['n'\]"),
    ],
)
def test_settings_that_do_not_fit_together(settings: Mapping[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        RenderConfig(**settings).check()
