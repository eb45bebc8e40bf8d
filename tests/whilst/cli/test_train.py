"""`whilst tiny` through the door. Trainings have tests of their own (tests/train)."""

from dataclasses import fields
from inspect import signature
from pathlib import Path

from tests.whilst.cli.command import TINY, fails
from whilst.backbones.tiny import build_tiny
from whilst.recipe import load_recipe
from whilst.tiny import TinyRecipe, TinySizes


def test_sizes_are_those_of_the_builder() -> None:
    given = {field.name: field.default for field in fields(TinySizes)}
    taken = signature(build_tiny).parameters
    assert given == {name: p.default for name, p in taken.items() if p.kind is p.KEYWORD_ONLY and name != "seed"}


def test_tiny_leaves_its_recipe_and_makes_its_words_tokens(base: Path, world: Path) -> None:
    from transformers import AutoTokenizer

    assert load_recipe(base / "recipe.yaml", TinyRecipe).words_from == str(world / "words.txt")
    tokenizer = AutoTokenizer.from_pretrained(base)
    for word in (world / "words.txt").read_text().split():
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1


def test_tiny_says_what_is_wrong_with_its_words(tmp_path: Path) -> None:
    override = f"output={tmp_path / 'x'}"
    assert "no such file" in fails("tiny", TINY / "model.yaml", override, f"words_from={tmp_path / 'none.txt'}")
    (tmp_path / "words.txt").write_text("ok <|im_end|>\n")
    assert "special token" in fails("tiny", TINY / "model.yaml", override, f"words_from={tmp_path / 'words.txt'}")
