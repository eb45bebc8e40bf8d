"""Samples on disk -> rows -> batches: nothing is lost, nothing is mixed up."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.streams import HEIGHT, WIDTH, clips_of, frames, timeline
from train.collate import Collator, pad_tokens
from train.rows import DataError, Item, Limits, load_items, pack, pack_rows, with_thoughts
from train.sft import DataSettings
from whilst.attention import unpack_mask
from whilst.backbones.base import Backbone
from whilst.clips import SegmentClip
from whilst.render import IGNORE, Renderer
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought, Video, write_jsonl
from whilst.video import write_video
from whilst.visibility import FIELDS, RULES, Rule, block_mask, dense_mask

PACKED = RenderConfig(layout="recurrent_packed", rule="text_memory", memory_tokens=12)


def thinking(sample_id: str, path: str, text: str = "none .") -> Sample:
    events = (Segment(0.0, 1.0), Thought(1.0, text), Segment(1.0, 2.0), Thought(2.0, "now"))
    return Sample(sample_id, Video(path), events)


def item_of(renderer: Renderer, sample: Sample, seed: int = 0) -> Item:
    clips = [SegmentClip(segment, images, times, 2.0) for segment, images, times in clips_of(sample, seed)]
    (row,) = renderer.rows(sample, [clip.shape(renderer.spec) for clip in clips])
    return Item(row, tuple(clips[c] for c in row.clips))


@pytest.fixture
def renderer(backbone: Backbone) -> Renderer:
    return Renderer(backbone.tokenizer, backbone.spec, RenderConfig())


@pytest.fixture
def items(renderer: Renderer) -> list[Item]:
    """Three rows of different lengths; their clips have 2, 3, 1 and 2 frames; 2 and 2; 2."""
    short = thinking("b", "video.mp4")
    samples = [timeline("a"), short, replace(short, id="c", events=short.events[:2])]
    return [item_of(renderer, sample, seed) for seed, sample in enumerate(samples)]


# --- from disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path: Path) -> Callable[[str, int], str]:
    def write(name: str, seconds: int) -> str:
        write_video(tmp_path / name, frames(np.random.default_rng(0), 2 * seconds), 2.0)
        return str(tmp_path / name)

    return write


def test_items_in_are_items_out_and_items_rejected(
    backbone: Backbone, tmp_path: Path, videos: Callable[[str, int], str]
) -> None:
    """Good samples among every kind of bad one: each bad one is named with its own reason, each good one is kept."""
    good = videos("good.mp4", 4)
    (tmp_path / "broken.mp4").write_bytes(b"not a video" * 50)
    (tmp_path / "empty.mp4").touch()
    wide = tmp_path / "wide.mp4"
    write_video(wide, np.zeros((4, 16, 3216, 3), np.uint8), 2.0)
    mute = Sample("mute", Video(good), (Segment(0.0, 1.0),))
    samples = [
        thinking("first", good),
        thinking("broken", str(tmp_path / "broken.mp4")),
        thinking("empty", str(tmp_path / "empty.mp4")),
        thinking("missing", str(tmp_path / "missing.mp4")),
        thinking("short", videos("short.mp4", 1)),
        mute,
        thinking("special", good, "a <|im_end|>"),
        thinking("long", good, "seven words are many bytes here"),
        thinking("wide", str(wide)),
        replace(timeline("last"), video=Video(good)),
    ]
    write_jsonl(samples, tmp_path / "samples.jsonl")
    renderer = Renderer(backbone.tokenizer, backbone.spec, PACKED)
    items, rejected = load_items(tmp_path / "samples.jsonl", renderer, 2.0)
    kept = {item.row.sample_id for item in items}
    assert kept == {"first", "last"}
    assert len(kept) + len(rejected) == len(samples)
    reasons = {one.sample: one.reason for one in rejected}
    assert set(reasons) == {sample.id for sample in samples} - kept
    expected = {
        "broken": "broken.mp4",
        "empty": "empty.mp4",
        "missing": "missing.mp4",
        "short": "short.mp4",
        "mute": "nothing to learn: no thought and no answer",
        "special": "special token '<|im_end|>'",
        "long": "longer than memory_tokens 12",
        "wide": "aspect ratio above 200",
    }
    for sample, reason in expected.items():
        assert reason in reasons[sample], reasons[sample]


def test_a_sample_of_several_rows_is_one_sample(
    backbone: Backbone, tmp_path: Path, videos: Callable[[str, int], str]
) -> None:
    """Recurrent: one row a turn, each with the clip of its own segment as it was decoded."""
    write_jsonl([thinking("a", videos("a.mp4", 2)), thinking("b", videos("b.mp4", 2))], tmp_path / "samples.jsonl")
    renderer = Renderer(backbone.tokenizer, backbone.spec, RenderConfig(layout="recurrent"))
    items, rejected = load_items(tmp_path / "samples.jsonl", renderer, 2.0)
    assert [item.row.sample_id for item in items] == ["a", "a", "b", "b"] and not rejected
    written = frames(np.random.default_rng(0), 4).astype(int)
    for item, start in zip(items, (0, 2, 0, 2), strict=True):
        (clip,) = item.clips
        assert clip.times == (start / 2, start / 2 + 0.5) and clip.images.shape == (2, HEIGHT, WIDTH, 3)
        assert np.abs(clip.images - written[start : start + 2]).mean() < 4  # near-lossless
    first, rejected = load_items(tmp_path / "samples.jsonl", renderer, 2.0, limit=1)
    assert [item.row.sample_id for item in first] == ["a", "a"] and not rejected


def test_frames_are_thinned_evenly_above_their_limit(
    backbone: Backbone, renderer: Renderer, tmp_path: Path, videos: Callable[[str, int], str]
) -> None:
    """2 fps over 2 s are 4 frames; at most 3 leave 1.5 fps, at most 2 one a second; no segment is left without one."""
    write_jsonl([thinking("a", videos("a.mp4", 2))], tmp_path / "samples.jsonl")
    for most, times in ((None, [0.0, 0.5, 1.0, 1.5]), (4, [0.0, 0.5, 1.0, 1.5]), (3, [0.0, 2 / 3, 4 / 3]), (1, [0, 1])):
        (item,), _ = load_items(tmp_path / "samples.jsonl", renderer, 2.0, limits=Limits(frames=most))
        assert [t for clip in item.clips for t in clip.times] == pytest.approx(times)
        assert {clip.fps for clip in item.clips} == {min(2.0, max(most or 4, 2) / 2)}


def test_pixels_of_a_sample_stay_under_their_limit(
    backbone: Backbone, tmp_path: Path, videos: Callable[[str, int], str]
) -> None:
    """Four frames are two patches. Smaller frames are what the family's own resizing makes at that limit."""
    factor = backbone.spec.patch * backbone.spec.merge
    spec = replace(backbone.spec, min_pixels=factor**2, max_pixels=40 * factor**2)
    path = tmp_path / "large.mp4"
    images = np.random.default_rng(0).integers(0, 256, (4, 5 * factor, 8 * factor, 3), dtype=np.uint8)
    write_video(path, images, 2.0)
    write_jsonl([thinking("a", str(path))], tmp_path / "samples.jsonl")
    renderer = Renderer(backbone.tokenizer, spec, RenderConfig())

    def load(total: int | None) -> Item:
        (item,), rejected = load_items(tmp_path / "samples.jsonl", renderer, 2.0, limits=Limits(total_pixels=total))
        assert not rejected
        return item

    whole = load(None)
    assert int((whole.row.visual_index >= 0).sum()) == 2 * 40
    assert np.array_equal(load(2 * 40 * factor**2).clips[0].images, whole.clips[0].images)
    small = load(2 * 30 * factor**2)
    visual = int((small.row.visual_index >= 0).sum())
    assert visual == 2 * 4 * 6  # the largest sides of whole patches within 30, aspect kept
    limited = replace(spec, max_pixels=30 * factor**2)
    assert torch.equal(spec.patchify(small.clips[0].images), limited.patchify(whole.clips[0].images))
    least = load(1)  # min_pixels is kept, and the limit passed
    assert int((least.row.visual_index >= 0).sum()) == 2


@pytest.mark.parametrize("limit", ["frames", "total_pixels"])
def test_a_limit_of_nothing_is_an_error(limit: str) -> None:
    with pytest.raises(DataError, match=f"data.{limit} must be at least 1, not 0"):
        DataSettings("train.jsonl", **{limit: 0})


def test_thoughts_may_be_kept_dropped_or_silenced() -> None:
    sample = timeline()
    assert with_thoughts(sample, "keep") is sample
    dropped, silenced = with_thoughts(sample, "drop"), with_thoughts(sample, "silence")
    assert not any(isinstance(event, Thought) for event in (*dropped.events, *silenced.events))
    assert len(dropped.events) == len(sample.events) - 3 and len(silenced.events) == len(sample.events)
    changed = [(a, b) for a, b in zip(sample.events, silenced.events, strict=True) if a != b]
    assert changed == [(thought, Silence(thought.time)) for thought in sample.events if isinstance(thought, Thought)]


def test_an_arm_without_thoughts_still_has_rows_with_answers(
    backbone: Backbone, tmp_path: Path, videos: Callable[[str, int], str]
) -> None:
    """A sample that only thinks teaches this arm nothing: rejected, with the reason."""
    path = videos("a.mp4", 2)
    events = (*thinking("b", path).events, Query("q", 2.0, "which ?"), Answer(2.0, "now", "q"))
    write_jsonl([thinking("a", path), Sample("b", Video(path), events)], tmp_path / "samples.jsonl")
    renderer = Renderer(backbone.tokenizer, backbone.spec, PACKED)
    items, rejected = load_items(tmp_path / "samples.jsonl", renderer, 2.0, thoughts="drop")
    assert [item.row.sample_id for item in items] == ["b"]
    assert [(one.sample, "nothing to learn" in one.reason) for one in rejected] == [("a", True)]


# --- packs --------------------------------------------------------------------------------------------------------


def test_pack_is_first_fit_and_keeps_all(items: list[Item]) -> None:
    a, b, c = items
    sizes = {item.row.sample_id: len(item.row) for item in items}
    assert sizes["a"] > sizes["b"] > sizes["c"]

    def packed(rows: list[Item], tokens: int) -> list[list[str]]:
        names = [item.row.sample_id for item in rows]
        return [[names[row] for row in rows] for rows in pack([len(item.row) for item in rows], tokens, names)]

    assert packed([a, b, c], sizes["a"] + sizes["c"]) == [["a", "c"], ["b"]]
    assert packed([c, a, b], max(sizes["a"], sizes["b"] + sizes["c"])) == [["c", "b"], ["a"]]
    assert packed([a, b, c], sum(sizes.values())) == [["a", "b", "c"]]
    assert packed([a, a, a], sizes["a"]) == [["a"], ["a"], ["a"]]
    assert packed([], 10) == []
    with pytest.raises(DataError, match=f"sample a: a row of {sizes['a']} tokens does not fit pack_tokens"):
        packed([a, b, c], sizes["a"] - 1)


def test_packed_rows_stand_side_by_side(items: list[Item]) -> None:
    rows = [item.row for item in items]
    packed = pack_rows(rows)
    starts = np.cumsum([0, *(len(row) for row in rows)])
    assert packed.sample_id == "a+b+c" and len(packed) == starts[-1]
    assert packed.clips == (0, 1, 2, 3, 0, 1, 0) and packed.grids == sum((row.grids for row in rows), ())
    assert np.array_equal(packed.meta["index"], np.arange(len(packed)))
    features = 0
    for number, (row, start) in enumerate(zip(rows, starts[:-1], strict=True)):
        here = slice(start, start + len(row))
        for name in ("input_ids", "labels", "loss_weight", "roles"):
            assert np.array_equal(getattr(packed, name)[here], getattr(row, name))
        assert np.array_equal(packed.positions[:, here], row.positions)
        for field in set(FIELDS) - {"index", "sample"}:
            assert np.array_equal(packed.meta[field][here], row.meta[field])
        assert (packed.meta["sample"][here] == number).all()
        visual = row.visual_index >= 0
        assert np.array_equal(packed.visual_index[here][visual], row.visual_index[visual] + features)
        assert (packed.visual_index[here][~visual] == -1).all()
        features += len(np.unique(row.visual_index[visual]))
    # the caller's rows are as they were
    assert (rows[1].meta["sample"] == 0).all() and rows[1].meta["index"][0] == 0


def test_a_text_row_in_a_pack_takes_no_feature(renderer: Renderer, items: list[Item]) -> None:
    asked = Sample("text", Video("video.mp4"), (Query("q", 0.0, "which ?"), Answer(0.0, "none", "q")))
    (text,) = renderer.rows(asked, [])
    packed = pack_rows([text, items[1].row])
    assert np.array_equal(packed.visual_index[len(text) :], items[1].row.visual_index)
    assert packed.clips == items[1].row.clips


def test_padding_sees_padding_alone(items: list[Item]) -> None:
    rows = [items[0].row, items[2].row]
    tokens, length = pad_tokens(rows, multiple=16)
    assert length % 16 == 0 and length - 16 < len(rows[0]) <= length
    params = {"budget": 5, "n": 1, "sink": 0, "window": 3}
    for name, kind in RULES.items():
        mask = dense_mask(Rule(name, {key: params[key] for key in kind.params}), tokens)
        for row, seen in zip(rows, mask, strict=True):
            n = len(row)
            assert not seen[:n, n:].any() and not seen[n:, :n].any()
            assert seen.diagonal().all()  # a row of the softmax that sees nothing would be NaN


# --- batches ------------------------------------------------------------------------------------------------------


def test_collator(renderer: Renderer, items: list[Item]) -> None:
    a, b, c = items
    batch = Collator(renderer.spec, renderer.rule, "whilst_sdpa", pad_id=7)([[a], [b, c]])
    rows = [a.row, pack_rows([b.row, c.row])]
    L = max(len(row) for row in rows)
    patches = [renderer.spec.patchify(clip.images) for item in (a, b, c) for clip in item.clips]
    assert torch.equal(batch["pixel_values_videos"], torch.cat(patches))
    assert batch["video_grid_thw"].tolist() == [list(grid) for row in rows for grid in row.grids]
    assert batch["attention_mask"].shape == (2, 1, L, L) and batch["attention_mask"].dtype == torch.bool
    table = int(batch["video_grid_thw"].prod(1).sum()) // renderer.spec.merge**2
    assert batch["visual_index"].tolist() == list(range(table))  # here every clip is shown once, in order
    pad = renderer.vocabulary["<|video_pad|>"]
    assert torch.equal(batch["visual_mask"], batch["input_ids"] == pad)
    for i, row in enumerate(rows):
        n = len(row)
        for key, array, filler in (
            ("input_ids", row.input_ids, 7),
            ("labels", row.labels, IGNORE),
            ("loss_weight", row.loss_weight, 0.0),
        ):
            assert batch[key].shape == (2, L)
            assert np.array_equal(batch[key][i, :n], array) and (batch[key][i, n:] == filler).all()
        assert np.array_equal(batch["position_ids"][:, i, :n], row.positions)
        assert batch["position_ids"].shape == (3, 2, L)


def test_collator_cuts_equal_clips_together(renderer: Renderer, items: list[Item]) -> None:
    """The quick path of equal clips gives the patches of the slow one."""
    b, c = items[1:]
    batch = Collator(renderer.spec, renderer.rule, "whilst_sdpa", pad_id=0)([[b], [c]])
    patches = [renderer.spec.patchify(clip.images) for item in (b, c) for clip in item.clips]
    assert torch.equal(batch["pixel_values_videos"], torch.cat(patches))
    assert batch["visual_index"].tolist() == list(range(18))


def test_collator_encodes_a_clip_of_several_turns_once(backbone: Backbone) -> None:
    renderer = Renderer(backbone.tokenizer, backbone.spec, replace(PACKED, memory_tokens=None))
    item = item_of(renderer, timeline())
    batch = Collator(renderer.spec, renderer.rule, "whilst_sdpa", pad_id=0)([[item], [item]])
    assert len(batch["video_grid_thw"]) == 4  # rows of one episode's group show the very same clips
    uses = torch.bincount(batch["visual_index"])
    assert uses.tolist() == [*[4] * 24, *[6] * 6]  # turns of both rows that show each of the 30 features
    other = item_of(renderer, timeline())  # decoded anew: clips are told apart by identity
    batch = Collator(renderer.spec, renderer.rule, "whilst_sdpa", pad_id=0)([[item], [other]])
    assert len(batch["video_grid_thw"]) == 8
    assert torch.bincount(batch["visual_index"]).tolist() == [*[2] * 24, *[3] * 6] * 2


def test_collator_for_flex_fills_blocks(renderer: Renderer, items: list[Item]) -> None:
    from torch.nn.attention.flex_attention import BlockMask

    batch = Collator(renderer.spec, renderer.rule, "whilst_flex", pad_id=0)([[items[0]], [items[1]]])
    assert batch["input_ids"].shape[1] % 128 == 0
    stored = io.BytesIO()
    torch.save(batch["attention_mask"], stored)  # as the rows of an unfinished generation are
    stored.seek(0)
    mask = unpack_mask(torch.load(stored, weights_only=True), torch.device("cpu"))
    assert isinstance(mask, BlockMask)
    tokens, _ = pad_tokens([items[0].row, items[1].row], 128)
    assert torch.equal(mask.to_dense(), block_mask(renderer.rule, tokens).to_dense())


def test_a_batch_without_a_clip(renderer: Renderer) -> None:
    asked = Sample("text", Video("video.mp4"), (Query("q", 0.0, "which ?"), Answer(0.0, "none", "q")))
    (row,) = renderer.rows(asked, [])
    with pytest.raises(DataError, match=r"a batch without a clip \(text\)"):
        Collator(renderer.spec, renderer.rule, "whilst_sdpa", pad_id=0)([[Item(row, ())]])
