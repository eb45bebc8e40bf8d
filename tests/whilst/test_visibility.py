"""Visibility rules against double loops written from their formulas, and the back-ends that must apply them or refuse.

The loops know tokens as a list of what was said, not as metadata: they count and compare on that list.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.streams import one_pass, row_features, rows_of, timeline, views_of
from whilst.attention import BACKENDS, build_mask, check_backend, set_backend
from whilst.backbones.base import Backbone, load
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.visibility import FIELDS, GENERATED, RECEIVED, RULES, Rule, Tokens, VisibilityError, block_mask, dense_mask

# --- random timelines ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """One token: what the loops know of it. `block`: which vision block it is a pad or a mark of."""

    sample: int
    stream: int
    unit: int
    branch: int
    segment: int
    now: int
    block: int
    pad: bool
    turn: int


def random_sample(rng: np.random.Generator, number: int, split: bool, packed_turns: bool) -> list[Said]:
    """A stream of segments (marks around pads), generated turns and branches, of random lengths."""
    tokens: list[Said] = []
    unit = now = block = -1
    branch = turn = 0

    def say(n: int, **what: Any) -> None:
        state: dict[str, Any] = {"stream": RECEIVED, "branch": 0, "segment": -1, "block": -1, "pad": False, "turn": -1}
        tokens.extend([Said(number, unit=unit, now=now, **{**state, **what})] * n)

    say(int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(2, 5))):
        if rng.random() < 0.8:
            unit, now, block = unit + 1, now + 1, block + 1
            which = turn if packed_turns else -1
            say(1, segment=now, turn=which)  # opens the turn: not vision
            say(int(rng.integers(1, 3)), segment=now, block=block, turn=which)
            say(int(rng.integers(1, 6)), segment=now, block=block, pad=True, turn=which)
            say(1, segment=now, block=block, turn=which)
            say(1, segment=now, turn=which)
        if rng.random() < 0.8:
            say(int(rng.integers(1, 4)), stream=GENERATED, turn=turn if packed_turns else -1)
        if packed_turns:
            turn += 1
            say(int(rng.integers(0, 3)))  # the memory copy
        elif rng.random() < 0.5:
            branch += 1
            say(int(rng.integers(1, 3)), branch=branch)
            say(int(rng.integers(1, 3)), stream=GENERATED, branch=branch)
    if split:
        tokens.sort(key=lambda token: token.stream)
    return tokens


def random_row(seed: int, rule: str) -> list[Said]:
    """Two or three packed samples, then padding."""
    rng = np.random.default_rng(seed)
    split, packed_turns = RULES[rule].layouts == ("split",), rule == "text_memory"
    samples = [random_sample(rng, i, split, packed_turns) for i in range(int(rng.integers(2, 4)))]
    padding = [Said(-1, -1, -1, 0, -1, -1, -1, False, -1)] * int(rng.integers(1, 5))
    return [token for sample in samples for token in sample] + padding


def fields_of(row: list[Said]) -> dict[str, np.ndarray]:
    """The metadata that whilst.visibility.FIELDS describes, for a row of tokens."""
    values: dict[str, list[int]] = {name: [] for name in FIELDS}
    for i, token in enumerate(row):
        before = timeline_before(row, i)
        later = row[i + 1] if i + 1 < len(row) else token
        generated = token.stream == GENERATED and later.stream == GENERATED and later.sample == token.sample
        ends = [
            sum(t.pad for t in timeline_before(row, j)) for j, t in enumerate(row) if same_block(t, token) and t.pad
        ]
        count = sum(t.pad for t in before)
        values["index"].append(i)
        values["order"].append(len(before) - 1 if token.sample >= 0 else -1)
        values["sample"].append(token.sample)
        values["stream"].append(token.stream)
        values["unit"].append(token.unit)
        values["next_unit"].append(later.unit if generated else token.unit)
        values["branch"].append(token.branch)
        values["turn"].append(token.turn)
        values["segment"].append(token.segment)
        values["now"].append(token.now)
        values["visual_count"].append(count)
        values["visual_end"].append(count if token.pad else (max(ends) if token.block >= 0 else -1))
    return {name: np.array(value, np.int32) for name, value in values.items()}


def same_block(a: Said, b: Said) -> bool:
    return a.block >= 0 and (a.sample, a.block) == (b.sample, b.block)


def timeline_before(row: list[Said], i: int) -> list[Said]:
    """Tokens of row[i]'s own timeline up to and including it: other samples and other branches are not on it."""
    return [t for t in row[: i + 1] if t.sample == row[i].sample and t.branch in (0, row[i].branch)]


# --- the formulas -------------------------------------------------------------------------------------------------

Formula = Callable[[list[Said], int, int], bool]


def vst(row: list[Said], q: int, k: int, budget: int = 4) -> bool:
    """VST Eq. 3: k is not vision, or fewer than `budget` visual tokens lie in (k, q]. A mark goes with its last pad."""
    if row[k].block < 0:
        return True
    if not row[k].pad:
        k = max(j for j, token in enumerate(row) if same_block(token, row[k]) and token.pad)
    return sum(t.pad for j, t in enumerate(row) if k < j <= q and t.sample == row[q].sample) < budget


def last_segments(row: list[Said], q: int, k: int, n: int = 2) -> bool:
    """The received turns of the last n segments that had arrived when q was written."""
    recent = range(row[q].now - n + 1, row[q].now + 1)
    return row[k].segment == -1 or row[k].segment in recent


def sink_window(row: list[Said], q: int, k: int, sink: int = 3, window: int = 6) -> bool:
    timeline = [j for j in range(q + 1) if row[j].sample == row[q].sample and row[j].branch in (0, row[q].branch)]
    return k in timeline[:sink] or k in timeline[-window:]


def two_streams(row: list[Said], q: int, k: int, visible: int) -> bool:
    if row[q].stream == RECEIVED and row[k].stream == GENERATED:
        return False
    return row[k].stream == GENERATED or row[k].unit <= visible


def unit(row: list[Said], q: int, k: int) -> bool:
    return two_streams(row, q, k, row[q].unit)


def row_shift(row: list[Said], q: int, k: int) -> bool:
    """vis(q) = unit[q + 1] inside the generated tokens; the last one keeps its own."""
    last = q + 1 == len(row) or row[q + 1].sample != row[q].sample
    return two_streams(row, q, k, row[q].unit if last or row[q].stream == RECEIVED else row[q + 1].unit)


def text_memory(row: list[Said], q: int, k: int) -> bool:
    return row[k].turn == -1 or row[k].turn == row[q].turn


FORMULAS: dict[str, tuple[Formula, dict[str, int]]] = {
    "causal": (lambda row, q, k: True, {}),
    "visual_window": (vst, {"budget": 4}),
    "last_segments": (last_segments, {"n": 2}),
    "sink_window": (sink_window, {"sink": 3, "window": 6}),
    "unit": (unit, {}),
    "row_shift": (row_shift, {}),
    "text_memory": (text_memory, {}),
}


def by_formula(row: list[Said], formula: Formula) -> np.ndarray:
    mask = np.zeros((len(row), len(row)), bool)
    for q in range(len(row)):
        for k in range(q + 1):
            here = row[k].sample == row[q].sample and row[k].branch in (0, row[q].branch)
            padding = row[q].sample == -1
            mask[q, k] = here and (padding or formula(row, q, k))
    return mask


def test_every_rule_has_a_formula() -> None:
    assert set(FORMULAS) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_rule_equals_its_formula(name: str) -> None:
    formula, params = FORMULAS[name]
    rule = Rule(name, params)
    hidden = 0
    for seed in range(8):
        row = random_row(seed, name)
        tokens = Tokens.of(fields_of(row))
        want = by_formula(row, formula)
        assert np.array_equal(dense_mask(rule, tokens).numpy(), want)
        assert np.array_equal(dense_mask(rule, tokens, rows=5).numpy(), want)  # in strips
        assert np.array_equal(rule.allowed(tokens[:, None], tokens[None, :]).numpy(), want)
        assert want.diagonal().all()  # every token sees itself: no row is empty
        hidden += int((by_formula(row, FORMULAS["causal"][0]) & ~want).sum())
    assert (hidden > 0) == (name != "causal")


# --- worked examples ----------------------------------------------------------------------------------------------


def picture(mask: torch.Tensor) -> list[str]:
    return ["".join("1" if allowed else "." for allowed in row) for row in mask.tolist()]


def two_units() -> Tokens:
    """R1 R1 R2 R2 C1 C1 C2 C2: two received units of two tokens, and the two generated ones that go with them."""
    stream, unit = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1]
    fields: dict[str, np.ndarray] = {name: np.zeros(8, np.int32) for name in FIELDS}
    fields |= {"index": np.arange(8), "stream": np.array(stream), "unit": np.array(unit)}
    fields["next_unit"] = np.array([0, 0, 1, 1, 0, 1, 1, 1])
    return Tokens.of(fields)


UNIT_EXAMPLE = ["1.......", "11......", "111.....", "1111....", "11..1...", "11..11..", "1111111.", "11111111"]


def test_think_while_watching_example() -> None:
    assert picture(dense_mask(Rule("unit"), two_units())) == UNIT_EXAMPLE


def test_row_shift_differs_in_the_boundary_row_alone() -> None:
    shifted = UNIT_EXAMPLE.copy()
    shifted[5] = "111111.."
    assert picture(dense_mask(Rule("row_shift"), two_units())) == shifted


def test_vst_window_takes_marks_along() -> None:
    """system, <start> pad pad <end>, text, <start> pad pad <end>, text; two visual tokens in view."""
    visual = [0, 0, 1, 2, 2, 2, 2, 3, 4, 4, 4]
    ends = [-1, 2, 1, 2, 2, -1, 4, 3, 4, 4, -1]
    fields: dict[str, np.ndarray] = {name: np.zeros(11, np.int32) for name in FIELDS}
    fields |= {"index": np.arange(11), "visual_count": np.array(visual), "visual_end": np.array(ends)}
    assert picture(dense_mask(Rule("visual_window", {"budget": 2}), Tokens.of(fields))) == [
        "1..........",
        "11.........",
        "111........",
        "1111.......",
        "11111......",
        "111111.....",
        "1111111....",
        "11.11111...",  # one pad later: the first pad is out of the window, the second and the marks are not
        "1....1111..",  # the block is out, and its marks with it
        "1....11111.",
        "1....111111",
    ]


def test_a_rendered_block_leaves_with_its_marks(backbone: Backbone) -> None:
    """In a real row: after the last clip nothing of the first is in view, and all of the turns around it is."""
    budget = 6
    config = RenderConfig(rule="visual_window", rule_params={"budget": budget}, queries="kept")
    renderer = Renderer(backbone.tokenizer, backbone.spec, config)
    (row,) = rows_of(renderer, timeline(), views_of(backbone, timeline()))
    first = row.meta["segment"] == 0
    last_row = dense_mask(renderer.rule, Tokens.of(row.meta))[-1].numpy()
    vision = row.meta["visual_end"] >= 0
    text = backbone.tokenizer.decode(row.input_ids[first & ~vision])
    assert text == "<|im_start|>user\n<|im_end|>\n"
    assert not last_row[first & vision].any() and last_row[~vision].all()
    assert last_row[row.visual_index >= 0].sum() == budget


# --- block masks --------------------------------------------------------------------------------------------------


def materialise(mask: Any, L: int) -> np.ndarray:
    """(B, L, L) bool of a BlockMask: full blocks as they are, partial ones through mask_mod; all else is False."""
    block = mask.BLOCK_SIZE[0]
    B = mask.kv_num_blocks.shape[0]
    dense = torch.zeros(B, L, L, dtype=torch.bool)
    for counts, indices, full in (
        (mask.kv_num_blocks, mask.kv_indices, False),
        (mask.full_kv_num_blocks, mask.full_kv_indices, True),
    ):
        for b in range(B):
            for i in range(counts.shape[2]):
                for j in indices[b, 0, i, : counts[b, 0, i]].tolist():
                    q = torch.arange(i * block, min((i + 1) * block, L))[:, None]
                    k = torch.arange(j * block, min((j + 1) * block, L))[None, :]
                    tile = torch.ones(len(q), k.shape[1], dtype=torch.bool)
                    if not full:
                        tile = mask.mask_mod(torch.tensor(b), torch.tensor(0), q, k)
                    dense[b, i * block : i * block + len(q), j * block : j * block + k.shape[1]] = tile
    return dense.numpy()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("block", [16, 128])
def test_block_mask_equals_dense_mask(name: str, block: int) -> None:
    """Rows of three lengths, none a multiple of the block, padded to one batch."""
    rule = Rule(name, FORMULAS[name][1])
    rows = [[token for seed in range(3 * b, 3 * b + 3) for token in random_row(seed, name)] for b in range(2)]
    length = max(len(row) for row in rows) // block * block + block + 5
    fields = {field: np.stack([pad(fields_of(row)[field], field, length) for row in rows]) for field in FIELDS}
    tokens = Tokens.of(fields)
    mask = block_mask(rule, tokens, block)
    assert np.array_equal(materialise(mask, length), dense_mask(rule, tokens).numpy())
    blocks = mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum()
    assert int(blocks) < mask.kv_num_blocks.numel() * mask.kv_num_blocks.shape[2]  # something is skipped


def pad(values: np.ndarray, name: str, length: int) -> np.ndarray:
    missing = np.full(length - len(values), 0 if name == "branch" else -1, np.int32)
    return np.arange(length) if name == "index" else np.concatenate([values, missing])


def test_blocks_that_are_full_need_no_predicate() -> None:
    fields = {name: np.zeros((1, 64), np.int32) for name in FIELDS}
    fields["index"][:] = np.arange(64)
    mask = block_mask(Rule("causal"), Tokens.of(fields), 16)
    assert mask.full_kv_num_blocks[0, 0].tolist() == [0, 1, 2, 3]
    assert mask.kv_num_blocks[0, 0].tolist() == [1, 1, 1, 1]


def test_packed_samples_stay_apart_in_long_rows() -> None:
    """Long enough for any chunking of the mask: no chunk of the second sample may take it for the only one."""
    L, cut = 9000, 1000
    fields = {name: np.zeros((1, L), np.int32) for name in FIELDS}
    fields["index"][:] = np.arange(L)
    fields["sample"][:, cut:] = 1
    mask = block_mask(Rule("causal"), Tokens.of(fields))
    last = mask.kv_num_blocks[0, 0, -1] + mask.full_kv_num_blocks[0, 0, -1]
    assert int(last) == len(range(cut // 128, -(-L // 128)))
    assert not dense_mask(Rule("causal"), Tokens.of(fields)[0])[-1, :cut].any()


# --- refusals -----------------------------------------------------------------------------------------------------


def test_unknown_rule() -> None:
    with pytest.raises(VisibilityError, match="unknown visibility rule 'casual'; known: causal, last_segments"):
        Rule("casual")


@pytest.mark.parametrize(
    ("name", "params", "match"),
    [
        ("visual_window", {}, r"takes parameters \['budget'\], got \[\]"),
        ("causal", {"n": 1}, r"takes parameters \[\], got \['n'\]"),
        ("last_segments", {"n": 0}, "n must be a positive whole number, got 0"),
        ("sink_window", {"sink": -1, "window": 4}, "sink must be"),
        ("sink_window", {"sink": 0, "window": 0}, "window must be"),
        ("visual_window", {"budget": 1.5}, "budget must be a positive whole number, got 1.5"),
    ],
)
def test_wrong_parameters(name: str, params: Mapping[str, Any], match: str) -> None:
    with pytest.raises(VisibilityError, match=match):
        Rule(name, params)


@pytest.mark.parametrize("layout", ["interleaved", "split", "recurrent", "recurrent_packed"])
@pytest.mark.parametrize("name", RULES)
def test_rule_outside_its_layout(name: str, layout: str) -> None:
    rule = Rule(name, FORMULAS[name][1])
    if layout in RULES[name].layouts:
        rule.check_layout(layout)
    else:
        with pytest.raises(VisibilityError, match=f"'{name}' is not defined for layout '{layout}'; use one of"):
            rule.check_layout(layout)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name.startswith("flash")])
def test_flash_attention_is_for_plain_causal_rows(backend: str) -> None:
    for name in RULES:
        rule = Rule(name, FORMULAS[name][1])
        if name == "causal":
            check_backend(backend, rule)
        else:
            with pytest.raises(VisibilityError, match=f"{backend} ignores attention masks .* rule '{name}'"):
                check_backend(backend, rule)


def two_tokens(**changes: list[int]) -> Tokens:
    fields = {name: np.zeros((1, 2), np.int32) for name in FIELDS} | {"index": np.array([[0, 1]])}
    return Tokens.of(fields | {name: np.array([value]) for name, value in changes.items()})


def test_flash_attention_takes_one_sample_without_branches() -> None:
    causal = Rule("causal")
    assert build_mask("flash_attention_2", causal, two_tokens()) is None
    for packed_or_padded in ([0, 1], [0, -1]):
        with pytest.raises(VisibilityError, match="one unpadded sample a row"):
            build_mask("flash_attention_2", causal, two_tokens(sample=packed_or_padded))
    with pytest.raises(VisibilityError, match="branch: set queries: kept"):
        build_mask("flash_attention_2", causal, two_tokens(branch=[0, 1]))


def test_unknown_backend(backbone: Backbone) -> None:
    with pytest.raises(VisibilityError, match="unknown attention back-end 'flex'; known: whilst_sdpa"):
        build_mask("flex", Rule("causal"), two_tokens())
    with pytest.raises(VisibilityError, match="unknown attention back-end 'sdpa'"):
        set_backend(backbone.model, "sdpa")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_flash_attention_needs_a_gpu(backbone: Backbone) -> None:
    with pytest.raises(VisibilityError, match="needs a CUDA device; on this machine use whilst_sdpa"):
        set_backend(backbone.model, "flash_attention_2")


def test_masks_need_slots_in_order() -> None:
    with pytest.raises(VisibilityError, match="`index` must be a token's slot in its row"):
        dense_mask(Rule("causal"), two_tokens(index=[1, 0]))


def test_sdpa_without_a_mask(backbone: Backbone) -> None:
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(VisibilityError, match="no mask was given"):
        backbone.hidden(ids, torch.arange(4).expand(3, 1, 4), None)
    attend = backbone.core.language_model.layers[0].self_attn
    states = torch.zeros(1, 4, backbone.core.config.text_config.hidden_size)
    angles = (torch.ones(1, 4, attend.head_dim), torch.zeros(1, 4, attend.head_dim))
    with pytest.raises(VisibilityError, match="called without a mask"):
        attend(states, position_embeddings=angles, attention_mask=None)


# --- back-ends agree ----------------------------------------------------------------------------------------------


def test_eager_takes_a_float_mask(checkpoint: Path, backbone: Backbone) -> None:
    """A bool mask would be added to the scores as 0 and 1."""
    renderer = Renderer(backbone.tokenizer, backbone.spec, RenderConfig(rule="last_segments", rule_params={"n": 1}))
    views = views_of(backbone, timeline())
    (row,) = rows_of(renderer, timeline(), views)
    tokens = Tokens.of(row.meta)[None]
    mask = build_mask("eager", renderer.rule, tokens)
    assert mask.dtype == torch.float32 and mask.shape == (1, 1, len(row), len(row))
    assert torch.equal(mask[0] == 0, dense_mask(renderer.rule, tokens))
    eager = load(checkpoint, backend="eager")
    want = one_pass(backbone, renderer, row, views)
    with torch.no_grad():
        got = eager.hidden(
            torch.from_numpy(row.input_ids)[None],
            torch.from_numpy(row.positions)[:, None],
            mask,
            torch.from_numpy(row.visual_index >= 0)[None],
            row_features(row, views),
        )
    assert float((got[0] - want).abs().max()) <= 1e-5


def test_flex_takes_a_block_mask_and_no_backward_on_cpu(checkpoint: Path) -> None:
    flex = load(checkpoint, backend="whilst_flex")
    ids, positions = torch.zeros(1, 4, dtype=torch.long), torch.arange(4).expand(3, 1, 4)
    fields = {name: np.zeros((1, 4), np.int32) for name in FIELDS} | {"index": np.arange(4)[None]}
    with pytest.raises(VisibilityError, match="takes a BlockMask, got Tensor"):
        flex.hidden(ids, positions, build_mask("whilst_sdpa", Rule("causal"), Tokens.of(fields)))
    with pytest.raises(VisibilityError, match="no backward pass on CPU; train with attention: whilst_sdpa"):
        flex.hidden(ids, positions, build_mask("whilst_flex", Rule("causal"), Tokens.of(fields)))


@pytest.mark.slow
def test_flex_equals_sdpa(checkpoint: Path) -> None:
    """One row of 128 tokens in which most blocks are partial. Compiles for half a minute."""
    rule = Rule("sink_window", {"sink": 4, "window": 40})
    fields = {name: np.zeros((1, 128), np.int32) for name in FIELDS}
    fields["index"][:] = fields["order"][:] = np.arange(128)
    tokens = Tokens.of(fields)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (1, 128)))
    hidden = []
    for backend in ("whilst_sdpa", "whilst_flex"):
        backbone = load(checkpoint, backend=backend)
        with torch.no_grad():
            mask = build_mask(backend, rule, tokens)
            hidden.append(backbone.hidden(ids, torch.arange(128).expand(3, 1, 128), mask))
    assert float((hidden[0] - hidden[1]).abs().max()) <= 1e-5
