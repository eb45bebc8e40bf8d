"""Position schemes: the published worked examples, and parity with the models' own arithmetic where it is right.

Tables: Speak-While-Watching (arXiv 2601.06843) section 3.3; Qwen2-VL M-RoPE as transformers <= 4.57 and vLLM compute
it; the released runtime of Think-While-Watching (arXiv 2603.11896).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from tests.streams import rows_of, timeline, views_of
from whilst.backbones.base import Backbone
from whilst.positions import SCHEMES, Grid, GroupDecoupled, Interleaved, Piece, PositionError, make_scheme, place
from whilst.render import Renderer, Role
from whilst.render_config import RenderConfig

PROMPT, VIDEO, ANSWERS = 5, (4, 4, 4), (3, 3, 6)  # tokens of the 1-D worked example
RECEIVED_END = PROMPT + sum(VIDEO)


def span(positions: np.ndarray) -> tuple[int, int]:
    """First and last position of text tokens, which stand in a row and are the same on all axes."""
    first, last = int(positions[0, 0]), int(positions[0, -1])
    assert np.array_equal(positions, np.broadcast_to(np.arange(first, last + 1), (3, last + 1 - first)))
    return first, last


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [  # V1, A1, V2, A2, V3, A3
        ("interleaved", {}, [(5, 8), (9, 11), (12, 15), (16, 18), (19, 22), (23, 28)]),
        ("batch", {}, [(5, 8), (17, 19), (9, 12), (20, 22), (13, 16), (23, 28)]),
        ("overlapped", {}, [(5, 8), (9, 11), (9, 12), (13, 15), (13, 16), (17, 22)]),
        ("group_decoupled", {}, [(5, 8), (0, 2), (9, 12), (3, 5), (13, 16), (6, 11)]),
        ("group_decoupled", {"phi": 100}, [(5, 8), (100, 102), (9, 12), (103, 105), (13, 16), (106, 111)]),
        ("gap_isolated", {}, [(5, 8), (10000, 10002), (9, 12), (10003, 10005), (13, 16), (10006, 10011)]),
        ("tww", {}, [(5, 8), (0, 2), (9, 12), (3, 5), (13, 16), (6, 11)]),
    ],
)
def test_worked_example(name: str, params: dict[str, int], expected: list[tuple[int, int]]) -> None:
    scheme = make_scheme(name, RECEIVED_END, **params)
    assert span(scheme.received([PROMPT])) == (0, 4)
    spans = []
    for video, answer in zip(VIDEO, ANSWERS, strict=True):
        spans += [span(scheme.received([video])), span(scheme.generated(answer))]
    assert spans == expected


def test_overlapped_waits_for_an_answer_longer_than_the_next_video() -> None:
    """E_2 = max(E_1 + m_2, E_1 + k_1): the next answer starts after both."""
    scheme = make_scheme("overlapped")
    scheme.received([2])
    assert span(scheme.generated(9)) == (2, 10)
    assert span(scheme.received([3])) == (2, 4)
    assert span(scheme.generated(1)) == (11, 11)
    assert span(scheme.received([1])) == (11, 11)


def test_text_in_parts_is_text_at_once() -> None:
    """A turn may be read or written in parts: the barrier of `overlapped` moves with the stream, not with the call."""
    for name in SCHEMES:
        whole, parts = (make_scheme(name, RECEIVED_END) for _ in range(2))
        for n in (5, 4):
            assert np.array_equal(
                whole.received([n]), np.concatenate([parts.received([1]), parts.received([n - 1])], axis=1)
            )
            assert np.array_equal(
                whole.generated(n), np.concatenate([parts.generated(n - 1), parts.generated(1)], axis=1)
            )


@pytest.mark.parametrize("name", SCHEMES)
def test_a_branch_leaves_no_trace(name: str) -> None:
    scheme, other = (make_scheme(name, RECEIVED_END) for _ in range(2))
    for each in (scheme, other):
        each.received([PROMPT])
        each.generated(3)
    mark = scheme.mark()
    scheme.received([4])
    scheme.generated(2)
    scheme.reset(mark)
    assert np.array_equal(scheme.generated(2), other.generated(2))
    assert np.array_equal(scheme.received([Grid(2, 2, 3)]), other.received([Grid(2, 2, 3)]))


# --- three axes ---------------------------------------------------------------------------------------------------


def test_a_grid_advances_by_the_largest_axis() -> None:
    """Five prompt tokens, a 4 x (2 x 3) grid at two positions a patch: next text 12 (transformers <= 4.57, vLLM)."""
    positions, following = place([5, Grid(4, 2, 3, stride=2.0)], 0)
    t, h, w = positions[:, 5:]
    assert t.tolist() == [5] * 6 + [7] * 6 + [9] * 6 + [11] * 6
    assert h.tolist() == [5, 5, 5, 6, 6, 6] * 4
    assert w.tolist() == [5, 6, 7, 5, 6, 7] * 4
    assert following == 12


def test_a_broken_stride_is_floored() -> None:
    """Three frames a second: a temporal patch of two frames is 2/3 s, so 4/3 positions."""
    positions, following = place([Grid(4, 1, 1, stride=4 / 3)], 10)
    assert positions[0].tolist() == [10, 11, 12, 14]
    assert following == 15


def test_wide_grids_advance_by_their_width() -> None:
    assert place([Grid(1, 2, 3)], 6)[1] == 9
    assert place([Grid(1, 4, 3)], 6)[1] == 10


def test_no_pieces() -> None:
    positions, following = place([], 3)
    assert positions.shape == (3, 0) and following == 3


def test_think_while_watching() -> None:
    """The released runtime: 3 header tokens, two 2 x 3 patches after 2-token timestamps, a question, one more patch."""
    scheme = make_scheme("tww")
    patch: list[Piece] = [2, 1, Grid(1, 2, 3), 1]  # timestamp, vision start, patch, vision end
    first = scheme.received([3, *patch, *patch])
    assert first[0].tolist() == [0, 1, 2, 3, 4, 5, *[6] * 6, 9, 10, 11, 12, *[13] * 6, 16]
    assert first[1, 6:12].tolist() == [6, 6, 6, 7, 7, 7] and first[2, 6:12].tolist() == [6, 7, 8, 6, 7, 8]
    assert first[1, 16:22].tolist() == [13, 13, 13, 14, 14, 14] and first[2, 16:22].tolist() == [13, 14, 15] * 2
    assert span(scheme.received([4])) == (17, 20)
    third = scheme.received(patch)
    assert third[0].tolist() == [21, 22, 23, *[24] * 6, 27]
    assert [span(scheme.generated(n)) for n in (3, 1, 1, 4)] == [(0, 2), (3, 3), (4, 4), (5, 8)]


def stock(backbone: Backbone, row_ids: np.ndarray, grids: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Positions (3, L) by the model's own get_rope_index."""
    ids = torch.from_numpy(row_ids)[None]
    kinds = (ids == backbone.model.config.video_token_id).int() * 2
    extra = {"second_per_grid_ts": torch.ones(len(grids))} if backbone.family.name == "qwen2_5_vl" else {}
    positions, _ = backbone.core.get_rope_index(ids, kinds, video_grid_thw=torch.tensor(grids), **extra)
    return np.asarray(positions[:, 0])


def test_qwen3_vl_positions_are_stock(backbones: Mapping[str, Backbone]) -> None:
    """Rows with several turns, clips of one and of two temporal patches, and timestamps of several tokens."""
    backbone = backbones["qwen3_vl"]
    sample = timeline()
    for config in (RenderConfig(queries="kept"), RenderConfig(layout="recurrent")):
        renderer = Renderer(backbone.tokenizer, backbone.spec, config)
        rows = rows_of(renderer, sample, views_of(backbone, sample))
        assert {t for row in rows for t, _, _ in row.grids} == {1, 2}
        for row in rows:
            assert np.array_equal(row.positions, stock(backbone, row.input_ids, row.grids))


def test_qwen2_5_vl_row(backbones: Mapping[str, Backbone]) -> None:
    """Three frames at two a second: two temporal patches, two positions apart; text resumes after all axes."""
    backbone = backbones["qwen2_5_vl"]
    sample = timeline()
    renderer = Renderer(backbone.tokenizer, backbone.spec, RenderConfig(queries="kept"))
    (row,) = rows_of(renderer, sample, views_of(backbone, sample))
    pads = np.flatnonzero(row.roles == Role.VISION)[6:18]  # the second clip
    start = int(row.positions[0, pads[0]])
    assert start == int(row.positions[0, pads[0] - 1]) + 1
    assert (row.positions[0, pads] - start).tolist() == [0] * 6 + [2] * 6
    assert (row.positions[:, pads[-1] + 1] - start).tolist() == [3, 3, 3]


def test_stock_qwen2_5_vl_lets_text_overlap_the_video(backbones: Mapping[str, Backbone]) -> None:
    """Why we do not call it. transformers 5.17 resumes at max(h, w) after a video: text at 8, under t = 11. When this
    fails, upstream has changed: compare with `place` anew."""
    backbone = backbones["qwen2_5_vl"]
    video = backbone.model.config.video_token_id
    theirs = stock(backbone, np.array([1] * 5 + [video] * 24 + [1]), [(4, 4, 6)])
    ours, _ = place([5, Grid(4, 2, 3, stride=2.0), 1], 0)
    assert np.array_equal(theirs[:, :-1], ours[:, :-1])
    assert theirs[:, -1].tolist() == [8, 8, 8]
    assert ours[:, -1].tolist() == [12, 12, 12]


# --- errors -------------------------------------------------------------------------------------------------------


def test_received_positions_that_reach_the_generated_group() -> None:
    scheme = make_scheme("gap_isolated", delta=10)
    scheme.received([10])  # 0 to 9: the last that fit
    with pytest.raises(PositionError, match="reach 10 and collide .* delta 10; choose a larger delta"):
        scheme.received([1])


def test_the_gap_does_not_grow_with_the_answers() -> None:
    scheme = make_scheme("gap_isolated", delta=10)
    scheme.received([8])
    scheme.generated(5)  # 10 to 14
    with pytest.raises(PositionError, match="collide"):
        scheme.received([Grid(1, 2, 3)])  # 8 to 10


def test_batch_needs_the_end_of_the_stream() -> None:
    with pytest.raises(PositionError, match="received_end"):
        make_scheme("batch")


def test_unknown_scheme() -> None:
    with pytest.raises(PositionError, match="unknown position scheme 'gdpe'; known: batch, gap_isolated"):
        make_scheme("gdpe")


@pytest.mark.parametrize("name", SCHEMES)
def test_a_parameter_of_another_scheme(name: str) -> None:
    with pytest.raises(PositionError, match=f"'{name}' does not take \\['sigma'\\]"):
        make_scheme(name, RECEIVED_END, sigma=3)


def test_schemes_are_cursors() -> None:
    """Two streams never share a cursor."""
    a, b = make_scheme("group_decoupled"), make_scheme("group_decoupled")
    assert isinstance(a, GroupDecoupled) and isinstance(a, Interleaved)
    a.received([3])
    assert b.next == 0
