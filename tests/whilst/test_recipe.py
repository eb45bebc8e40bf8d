"""Recipes: what is read is what was written, and every mistake is named with its file, line, key and fix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from whilst.recipe import Recipe, RecipeError, load_recipe, save_resolved, stage_of


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int = 0


@dataclass(frozen=True)
class Fixed:
    seconds: float
    kind: Literal["fixed"] = "fixed"


@dataclass(frozen=True)
class Budget:
    tokens: int
    kind: Literal["budget"] = "budget"


@dataclass(frozen=True)
class Lora:
    rank: int = 1
    alpha: int = 2
    targets: tuple[str, ...] = ("q_proj",)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")


@dataclass(frozen=True, kw_only=True)
class Sft(Recipe):
    optimizer: Optimizer
    layout: Literal["interleaved", "split"] = "split"
    segmenter: Fixed | Budget = Fixed(1.0)
    lora: Lora = Lora(rank=8, alpha=16)
    maybe_lora: Lora | None = None
    clip: float | None = None
    limit: int | float = 1
    bf16: bool = False
    weights: dict[str, float] = field(default_factory=dict)
    nested: dict[str, list[Lora]] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    names: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


MINIMAL = "name: demo\nstage: sft\noptimizer: {learning_rate: 1e-5}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def load(tmp_path: Path, text: str, *overrides: str) -> Sft:
    return load_recipe(write(tmp_path / "r.yaml", MINIMAL + text), Sft, overrides)


def failure(tmp_path: Path, text: str, *overrides: str) -> str:
    """The error of the lines `text`, which start at line 4."""
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).removeprefix(str(tmp_path) + "/")


def test_every_supported_type_is_read(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        """
source: "A paper, table 2"
notes: |
  two lines
  of text
seed: 7
layout: interleaved
segmenter: {tokens: 256}
lora: {rank: 4, targets: [q_proj, v_proj]}
maybe_lora: {}
clip: 3
limit: 2.5
bf16: true
weights: {a: 1, b: -.5e+3}
nested: {x: [{rank: 2}]}
steps: [1, 2]
names: [no, 12:00:00]
extra: {any: [1, {deep: null}], flag: false}
""",
    )
    assert recipe == Sft(
        name="demo",
        stage="sft",
        source="A paper, table 2",
        notes="two lines\nof text\n",
        seed=7,
        optimizer=Optimizer(1e-5),
        layout="interleaved",
        segmenter=Budget(256),
        lora=Lora(4, 16, ("q_proj", "v_proj")),
        maybe_lora=Lora(),
        clip=3.0,
        limit=2.5,
        bf16=True,
        weights={"a": 1.0, "b": -500.0},
        nested={"x": [Lora(2)]},
        steps=[1, 2],
        names=("no", "12:00:00"),
        extra={"any": [1, {"deep": None}], "flag": False},
    )
    assert type(recipe.clip) is float
    assert type(recipe.weights["a"]) is float
    assert isinstance(recipe.optimizer.betas, tuple)


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-5", 1e-5), ("1E5", 1e5), ("-1.5e+3", -1500.0), (".5", 0.5), ("2.", 2.0), ("3", 3.0), (".inf", float("inf"))],
)
def test_floats_as_people_write_them(tmp_path: Path, written: str, value: float) -> None:
    assert load(tmp_path, f"clip: {written}\n").clip == value
    assert load(tmp_path, "", f"clip={written}").clip == value


def test_number_keeps_its_kind_in_a_union(tmp_path: Path) -> None:
    assert type(load(tmp_path, "limit: 3\n").limit) is int
    assert type(load(tmp_path, "limit: 3.0\n").limit) is float


def test_partial_mapping_keeps_the_fields_own_default(tmp_path: Path) -> None:
    assert load(tmp_path, "lora: {alpha: 3}\n").lora == Lora(rank=8, alpha=3)
    assert load(tmp_path, "", "lora.alpha=3").lora == Lora(rank=8, alpha=3)


# --- extends and overrides --------------------------------------------------------------------------------------------


def test_extends_merges_deeply_and_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write(tmp_path / "base/root.yaml", MINIMAL + "weights: {a: 1, b: 2}\nsteps: [1, 2, 3]\n")
    write(tmp_path / "base/middle.yaml", "extends: root.yaml\noptimizer: {warmup: 5}\n")
    top = write(tmp_path / "top.yaml", "extends: base/middle.yaml\nname: top\nweights: {b: 3}\nsteps: [9]\n")
    recipe = load_recipe(top, Sft)
    assert recipe.name == "top"
    assert recipe.optimizer == Optimizer(1e-5, warmup=5)
    assert recipe.weights == {"a": 1.0, "b": 3.0}
    assert recipe.steps == [9]


def test_extends_in_a_cycle_or_of_nothing(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", "extends: second.yaml\n")
    write(tmp_path / "second.yaml", "extends: ./first.yaml\n")
    with pytest.raises(RecipeError, match="cycle, cut it: .*first.yaml -> .*second.yaml -> .*first.yaml"):
        load_recipe(first, Sft)
    lonely = write(tmp_path / "lonely.yaml", "extends: gone.yaml\n")
    with pytest.raises(RecipeError, match="gone.yaml: no such recipe file; check the `extends` of .*lonely.yaml"):
        load_recipe(lonely, Sft)
    with pytest.raises(RecipeError, match="gone.yaml: no such recipe file; check the path"):
        load_recipe(tmp_path / "gone.yaml", Sft)


def test_an_inherited_mistake_names_the_file_it_is_in(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", MINIMAL + "steps: many\n")
    top = write(tmp_path / "top.yaml", "extends: base.yaml\noptimizer:\n  warmup: 2.5\n")
    with pytest.raises(RecipeError, match=r"top.yaml:3: optimizer.warmup: expected int, got 2.5"):
        load_recipe(top, Sft)
    with pytest.raises(RecipeError, match=r"base.yaml:4: steps: expected a list of int, got 'many'"):
        load_recipe(top, Sft, ["optimizer.warmup=2"])


def test_overrides_are_yaml_and_the_last_wins(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "weights: {a: 1}\n",
        "optimizer.learning_rate=2e-4",
        "optimizer.learning_rate=3e-4",
        "optimizer.betas=[0.8, 0.9]",
        "weights.c=4",
        "weights={d: 5}",
        "maybe_lora.rank=3",
        "notes=a = b",
        "clip=",
        'name="17"',
    )
    assert recipe.optimizer == Optimizer(3e-4, (0.8, 0.9))
    assert recipe.weights == {"a": 1.0, "c": 4.0, "d": 5.0}
    assert recipe.maybe_lora == Lora(rank=3)
    assert (recipe.notes, recipe.clip, recipe.name) == ("a = b", None, "17")


@pytest.mark.parametrize("override", ["clip", "=3", "optimizer..warmup=3", ".clip=3"])
def test_malformed_override(tmp_path: Path, override: str) -> None:
    assert "write it as dotted.key=value" in failure(tmp_path, "", override)


def test_mistakes_in_overrides_name_the_override(tmp_path: Path) -> None:
    assert failure(tmp_path, "", "optimizer.warmp=1").startswith(
        "override 'optimizer.warmp=1': optimizer.warmp: unknown key; did you mean optimizer.warmup?"
    )
    assert "override 'optimizer.warmup=x': optimizer.warmup: expected int, got 'x'" in failure(
        tmp_path, "", "optimizer.warmup=x"
    )
    assert failure(tmp_path, "", "steps={a: [}").startswith("override 'steps={a: [}':1: not valid YAML")
    # A key that is missing from the file is the file's mistake, whatever was overridden beside it.
    bad = write(tmp_path / "bad.yaml", "name: x\nstage: sft\noptimizer:\n  warmup: 1\n")
    with pytest.raises(RecipeError, match=r"bad.yaml:3: optimizer.learning_rate: missing required key"):
        load_recipe(bad, Sft, ["optimizer.warmup=2", "seed=3"])


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lay_out: split\n", "r.yaml:4: lay_out: unknown key; did you mean layout?"),
        ("learning_rate: 1\n", "r.yaml:4: learning_rate: unknown key; did you mean optimizer.learning_rate?"),
        ("lora:\n  rnk: 1\n", "r.yaml:5: lora.rnk: unknown key; did you mean lora.rank?"),
        ("lora: {zzz: 1}\n", "r.yaml:4: lora.zzz: unknown key; known keys here: rank, alpha, targets"),
        ("lora.rank: 1\n", "r.yaml:4: lora.rank: unknown key; dotted keys are for overrides only"),
        (
            "nested:\n  x:\n  - rank: 1\n  - rang: 2\n",
            "r.yaml:7: nested.x[1].rang: unknown key; did you mean nested.x[1]",
        ),
        ("<<: {seed: 1}\n", "r.yaml:4: <<: unknown key"),
        ("seed: '1'\n", "r.yaml:4: seed: expected int, got '1'"),
        ("seed: 1.0\n", "r.yaml:4: seed: expected int, got 1.0"),
        ("seed: true\n", "r.yaml:4: seed: expected int, got true"),
        ("seed: 010\n", "r.yaml:4: seed: expected int, got '010'"),
        ("seed:\n", "r.yaml:4: seed: expected int, got null"),
        ("clip: true\n", "r.yaml:4: clip: expected float or null, got true"),
        ("clip: 1e-5x\n", "r.yaml:4: clip: expected float or null, got '1e-5x'"),
        ("bf16: yes\n", "r.yaml:4: bf16: expected bool, got 'yes'"),
        ("bf16: 1\n", "r.yaml:4: bf16: expected bool, got 1"),
        ("notes: 3\n", "r.yaml:4: notes: expected text, got 3; put it in quotes"),
        ("notes: [a]\n", "r.yaml:4: notes: expected text, got a list"),
        ("layout: spilt\n", "expected one of 'interleaved', 'split', got 'spilt'; did you mean split?"),
        ("layout: 3\n", "r.yaml:4: layout: expected one of 'interleaved', 'split', got 3"),
        ("steps:\n- 1\n- b\n", "r.yaml:6: steps[1]: expected int, got 'b'"),
        ("steps: {a: 1}\n", "r.yaml:4: steps: expected a list of int, got a mapping"),
        ("lora: 3\n", "r.yaml:4: lora: expected a mapping with keys rank, alpha, targets, got 3"),
        ("lora:\n", "r.yaml:4: lora: expected a mapping with keys rank, alpha, targets, got null"),
        ("maybe_lora: {rank: a}\n", "r.yaml:4: maybe_lora.rank: expected int, got 'a'"),
        ("maybe_lora: {rank: 0}\n", "r.yaml:4: maybe_lora: rank must be at least 1, got 0"),
        ("lora: {rank: 0}\n", "r.yaml:4: lora: rank must be at least 1, got 0"),
        ("weights: {a: b}\n", "r.yaml:4: weights.a: expected float, got 'b'"),
        ("weights: [1]\n", "r.yaml:4: weights: expected a mapping of text to float, got a list"),
        ("weights: {1: 2}\n", "r.yaml:4: 1: keys are text; put it in quotes"),
        (
            "segmenter: {words: 1}\n",
            "r.yaml:4: segmenter: expected a mapping with keys seconds, kind or a mapping with",
        ),
        ("seed: 1\nseed: 2\n", "r.yaml:5: seed: given twice in one mapping"),
        ("seed: [1\n", "r.yaml:5: not valid YAML: expected ',' or ']'"),
        ("notes: \x00\n", "r.yaml: not valid YAML"),
        ("notes: !!python/name:os.system\n", "r.yaml:4: not valid YAML: could not determine a constructor"),
        ("---\nseed: 1\n", "r.yaml:4: not valid YAML: but found another document"),
        ("extends: [a, b]\n", "r.yaml:4: extends: expected text, got a list"),
    ],
)
def test_mistakes_name_file_line_key_and_fix(tmp_path: Path, text: str, message: str) -> None:
    assert message in failure(tmp_path, text)


def test_fixed_length_tuple_says_its_length(tmp_path: Path) -> None:
    message = failure(tmp_path, "", "optimizer.betas=[0.9]")
    assert "optimizer.betas: expected a list of 2 items (float, float), got a list; it has 1 items" in message


def test_missing_required_key_says_what_to_add(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "name: x\nstage: sft\n")
    with pytest.raises(
        RecipeError, match=r"r.yaml:1: optimizer: missing required key; add `optimizer: <a mapping with"
    ):
        load_recipe(path, Sft)
    path = write(tmp_path / "r.yaml", "stage: sft\noptimizer: {learning_rate: 1}\n")
    with pytest.raises(RecipeError, match=r"r.yaml:1: name: missing required key; add `name: <text>`"):
        load_recipe(path, Sft)


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        load_recipe(write(tmp_path / "r.yaml", text), Sft)


def test_an_unsupported_schema_is_a_programming_error(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd(Recipe):
        numbers: set[int]

    with pytest.raises(TypeError, match="numbers: schema type .* is not supported"):
        load_recipe(write(tmp_path / "r.yaml", "name: a\nstage: b\nnumbers: [1]\n"), Odd)


# --- what goes out ----------------------------------------------------------------------------------------------------


def test_resolved_copy_loads_back_equal_and_says_everything(tmp_path: Path) -> None:
    recipe = load(tmp_path, "weights: {a: 1e-9}\nmaybe_lora: {}\nsegmenter: {tokens: 3}\nextra: {a: [null, {b: 1}]}\n")
    out = tmp_path / "new" / "resolved.yaml"
    save_resolved(recipe, out)
    assert load_recipe(out, Sft) == recipe
    text = out.read_text()
    assert "extends" not in text
    assert "warmup: 0" in text
    assert text.index("name:") < text.index("seed:") < text.index("optimizer:"), "keys keep the schema's order"
    save_resolved(load_recipe(out, Sft), tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "1e-5",
        "3",
        "010",
        "no",
        "true",
        "null",
        "~",
        "",
        " ",
        "12:00:00",
        "2024-01-01",
        "a: b",
        "- x",
        "#",
        "é\n 👩‍👧\n\n",
        "'\"",
        "<<",
        "=",
        ".inf",
        "\x07\u2028",
        "x" * 500 + " y" * 200,
        "3\n",
    ],
)
def test_texts_stay_texts(tmp_path: Path, text: str) -> None:
    recipe = Sft(name="n", stage="s", notes=text, optimizer=Optimizer(1.0), extra={text: text})
    save_resolved(recipe, tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml", Sft) == recipe


@pytest.mark.parametrize("number", [1e-5, 1e22, 0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, float("-inf")])
def test_numbers_keep_every_bit(tmp_path: Path, number: float) -> None:
    save_resolved(Sft(name="n", stage="s", optimizer=Optimizer(number), limit=number), tmp_path / "r.yaml")
    back = load_recipe(tmp_path / "r.yaml", Sft)
    assert repr((back.optimizer.learning_rate, back.limit)) == repr((number, number))


@pytest.mark.parametrize("bad", [float("nan"), Path("x"), (1, 2)])
def test_what_would_not_load_back_is_refused(tmp_path: Path, bad: Any) -> None:
    recipe = Sft(name="n", stage="s", optimizer=Optimizer(1.0), extra={"bad": bad})
    with pytest.raises(RecipeError, match="r.yaml"):
        save_resolved(recipe, tmp_path / "r.yaml")
    assert not (tmp_path / "r.yaml").exists()


def test_stage_of_reads_through_extends(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "stage: grpo\nanything: 1\n")
    top = write(tmp_path / "top.yaml", "extends: base.yaml\n")
    assert stage_of(top) == "grpo"
    assert stage_of(top, ["stage=sft"]) == "sft"
    with pytest.raises(RecipeError, match="stage: missing required key"):
        stage_of(write(tmp_path / "none.yaml", "name: x\n"))
