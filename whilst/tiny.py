"""The `tiny` stage: a recipe for a small checkpoint with random weights, built offline (whilst.backbones.tiny).

    whilst tiny recipes/tiny/model.yaml

Its words become single tokens, so what is said in the demo's world stays short.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from whilst.backbones.tiny import THINK_TOKENS, Family, build_tiny
from whilst.recipe import Recipe, RecipeError, save_resolved


@dataclass(frozen=True)
class TinySizes:
    """Sizes as `build_tiny` takes them, with its defaults. Patches in pixels, timestamps in seconds."""

    hidden: int = 64
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None
    intermediate: int = 192
    vision_depth: int = 1
    vision_hidden: int = 48
    vision_heads: int = 4
    vision_intermediate: int = 96
    patch: int = 8
    merge: int = 2
    temporal_patch: int = 2
    deepstack_layers: tuple[int, ...] = (0,)
    timestamp_seconds: int = 64
    initializer_range: float = 0.1


@dataclass(frozen=True, kw_only=True)
class TinyRecipe(Recipe):
    """One tiny checkpoint. `words_from` is a text file with one word a line, each of which becomes one token."""

    output: str
    family: Family
    words_from: str | None = None
    sizes: TinySizes = TinySizes()


def read_words(path: str | Path) -> list[str]:
    """The words of a file, one a line; RecipeError where there is no such file. A word is cut where the tokenizer will
    cut it: around <think> and </think>, which texts hold."""
    if not Path(path).is_file():
        raise RecipeError(f"words_from: {path}: no such file; `whilst synth` writes words.txt beside its samples")
    own = "|".join(map(re.escape, THINK_TOKENS))
    return list(dict.fromkeys(re.sub(own, " ", Path(path).read_text(encoding="utf-8")).split()))


def run(recipe: TinyRecipe) -> Path:
    """Build the checkpoint and return its folder, which also gets recipe.yaml (resolved).

    Raises:
        RecipeError: a missing words file, or sizes and words that `build_tiny` refuses.
    """
    words = read_words(recipe.words_from) if recipe.words_from is not None else []
    try:
        out = build_tiny(recipe.family, recipe.output, words, seed=recipe.seed, **asdict(recipe.sizes))
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name}: {error}") from error
    save_resolved(recipe, out / "recipe.yaml")
    return out
