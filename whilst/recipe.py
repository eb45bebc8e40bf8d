"""Recipes: one YAML file a stage, read into the stage's own frozen dataclasses.

    recipe = load_recipe("recipes/vst/sft.yaml", SftRecipe, ["optimizer.learning_rate=1e-5"])

- `extends: base.yaml` (path relative to the file that says so) takes everything from another recipe. Mappings merge key
  by key; any other value, lists too, is replaced. Overrides (`a.b=3`, the value is YAML) merge last in the same way.
- Nothing is guessed. An unknown key, a missing key or a value of another type is a `RecipeError` that names the file
  and line where it stands, its dotted key, and what would be right.
- Scalars follow YAML 1.2: `1e-5` is a float, `no` and `12:00:00` are text, only `true` and `false` are booleans.
- `save_resolved` writes the recipe as it was run: one file, no `extends`, defaults spelled out, which loads back equal.

Schemas are dataclasses whose fields are bool, int, float, str, None, Literal, Any, Union, list, tuple, dict with text
keys, or such dataclasses again. A ValueError from a schema's `__post_init__` is reported with file and key as well.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml  # type: ignore[import-untyped]

from whilst.hardware import Launch

T = TypeVar("T")


class RecipeError(ValueError):
    """A recipe that cannot be read as its stage's schema; the message names file, line, key and fix."""


@dataclasses.dataclass(frozen=True)
class Twin:
    """How a recipe is made tiny (whilst/twin.py): which builder makes its samples, and what is overridden."""

    builder: str = "world"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the builder
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the recipe, by dotted key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every stage's recipe has. Stages subclass it (frozen, kw_only) and add their own fields.

    `name` is unique among recipes and names the outputs; `stage` says which program runs it; `source` is what is
    reproduced (paper, section, released config) and `notes` the known deviations, both free text. `launch` is the
    hardware it asks for, `twin` how a tiny one of it is made.
    """

    name: str
    stage: str
    source: str = ""
    notes: str = ""
    seed: int = 0
    launch: Launch = dataclasses.field(default_factory=Launch)
    twin: Twin = dataclasses.field(default_factory=Twin)


@dataclasses.dataclass(frozen=True)
class _Located:
    """A YAML value and where it was written: kept through merging, so that an error names the file to mend."""

    value: Any  # a scalar, list[_Located] or dict[str, _Located]
    where: str  # "file.yaml:12" or "override 'a.b=3'"


# --- reading ----------------------------------------------------------------------------------------------------------


def load_recipe(path: str | Path, schema: type[T], overrides: Sequence[str] = ()) -> T:
    """Read the YAML file at `path`, with what it extends and the `overrides` ("a.b=3"), as an instance of `schema`.

    Raises:
        RecipeError: see the module's docstring.
    """
    tree = _read_with_overrides(Path(path), overrides)
    recipe = _convert(tree, schema, "")
    assert isinstance(recipe, schema)
    return recipe


def stage_of(path: str | Path, overrides: Sequence[str] = ()) -> str:
    """The `stage` of a recipe, for a caller who must choose the schema by it. Reads `extends`, checks no other key."""
    tree = _read_with_overrides(Path(path), overrides)
    if "stage" not in tree.value:
        raise RecipeError(f"{tree.where}: stage: missing required key; add `stage: <text>`")
    return str(_convert(tree.value["stage"], str, "stage"))


def key_of(path: str | Path, dotted: str, overrides: Sequence[str] = ()) -> Any:
    """What the recipe at `path` gives under a dotted key, `extends` and `overrides` included, whatever its stage; None
    where it gives nothing. Defaults of a stage are not known here."""
    tree: Any = _unlocated(_read_with_overrides(Path(path), overrides))
    for key in dotted.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def writer_of(output: str, beside: Path) -> Path | None:
    """The recipe that writes the folder `output`, of those in the folder of `beside` and under the one above it."""
    near = sorted(beside.parent.glob("*.yaml"))
    for path in [*near, *(p for p in sorted(beside.parent.parent.glob("*/*.yaml")) if p not in near)]:
        try:
            if key_of(path, "output") == output and stage_of(path) in ("sft", "grpo", "tiny"):
                return path
        except RecipeError:  # a fragment without a stage, or another project's file
            continue
    return None


def save_resolved(recipe: Any, path: str | Path) -> None:
    """Write `recipe` to `path` as one YAML file that `load_recipe(path, type(recipe))` reads as an equal recipe.

    Raises:
        RecipeError: the recipe holds something YAML cannot carry, and would load back different. Nothing is written.
    """
    try:
        text = yaml.dump(_plain(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    except yaml.representer.RepresenterError as error:
        raise RecipeError(
            f"{path}: {type(recipe).__name__} holds what YAML cannot carry: {error.args[-1]!r}"
        ) from error
    if _convert(_parse(text, str(path)), type(recipe), "") != recipe:
        raise RecipeError(f"{path}: {type(recipe).__name__} does not load back equal; use only the types schemas allow")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def _read_with_overrides(path: Path, overrides: Sequence[str]) -> _Located:
    tree = _read(path, ())
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys, where = dotted.strip().split("."), f"override {override!r}"
        if not equals or not all(keys):
            raise RecipeError(f"{where}: write it as dotted.key=value")
        tree = _set(tree, keys, _located(_unlocated(_parse(text, where)), where))
    return tree


def _set(tree: _Located, keys: Sequence[str], value: _Located) -> _Located:
    """`tree` with `value` merged in at the path `keys`. Mappings on the way keep the place where they were written."""
    inner = tree.value if isinstance(tree.value, dict) else {}
    where = tree.where if isinstance(tree.value, dict) else value.where
    child = inner.get(keys[0], _Located(None, value.where))
    child = _set(child, keys[1:], value) if keys[1:] else _merge(child, value)
    return _Located(inner | {keys[0]: child}, where)


def _read(path: Path, extended_by: tuple[Path, ...]) -> _Located:
    """The file's mapping merged over the one it extends, and that over the next."""
    if not path.is_file():
        said = f"the `extends` of {extended_by[-1]}" if extended_by else "the path"
        raise RecipeError(f"{path}: no such recipe file; check {said}")
    chain = (*extended_by, path.resolve())
    if path.resolve() in extended_by:
        cycle = " -> ".join(str(link) for link in chain)
        raise RecipeError(f"{path}: extends: these recipes extend each other in a cycle, cut it: {cycle}")
    tree = _parse(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(tree.value, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values, this is {_shown(tree)}")
    if "extends" not in tree.value:
        return tree
    keys = dict(tree.value)
    base = _convert(keys.pop("extends"), str, "extends")
    return _merge(_read(path.parent / base, chain), _Located(keys, tree.where))


def _merge(base: _Located, over: _Located) -> _Located:
    """`over` on top of `base`: mappings merge key by key, everything else is replaced."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(base.value)
    for key, value in over.value.items():
        merged[key] = _merge(merged[key], value) if key in merged else value
    return _Located(merged, over.where)


# --- YAML -------------------------------------------------------------------------------------------------------------

# The scalars of YAML 1.2's core schema. PyYAML's own rules are YAML 1.1's, which read 1e-5 as text, `no` as False,
# 12:00:00 as 43200 and 010 as 8.
_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|", ["~", "n", ""]),
    ("tag:yaml.org,2002:bool", r"true|false", list("tf")),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


class _Dumper(yaml.SafeDumper):
    """Has the loader's rules, because they decide which texts need quotes."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def _parse(text: str, file: str) -> _Located:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return _Located(None, file) if node is None else _locate(node, loader, file)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{file}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error


def _locate(node: yaml.Node, loader: _Loader, file: str) -> _Located:
    where = f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        return _Located([_locate(item, loader, file) for item in node.value], where)
    if not isinstance(node, yaml.MappingNode):
        return _Located(loader.construct_object(node), where)
    keys: dict[str, _Located] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)
        line = f"{file}:{key_node.start_mark.line + 1}"
        if not isinstance(key, str):
            raise RecipeError(f"{line}: {key!r}: keys are text; put it in quotes")
        if key in keys:
            raise RecipeError(f"{line}: {key}: given twice in one mapping; keep one")
        keys[key] = dataclasses.replace(_locate(value_node, loader, file), where=line)
    return _Located(keys, where)


# --- values to types --------------------------------------------------------------------------------------------------


def _convert(given: _Located, wanted: Any, key: str) -> Any:
    """The value of `given` as type `wanted`; `key` is its dotted name, for errors."""
    value, origin, arguments = given.value, typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return _unlocated(given)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(given, wanted, key)
    if origin is Literal:
        for choice in arguments:
            if value == choice and type(value) is type(choice):
                return choice
        near = difflib.get_close_matches(str(value), [str(choice) for choice in arguments], 1)
        raise _wrong(given, wanted, key, f"; did you mean {near[0]}?" if near else "")
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return _convert_dataclass(given, wanted, key)
    container = origin or wanted
    if container in (list, tuple, Sequence):
        return _convert_items(given, wanted, key)
    if container in (dict, Mapping):
        key_type, item = arguments or (str, Any)
        if key_type is not str:
            raise TypeError(f"{key}: schema type {wanted} is not supported: keys of a mapping are text")
        if not isinstance(value, dict):
            raise _wrong(given, wanted, key)
        return {name: _convert(inner, item, _dotted(key, name)) for name, inner in value.items()}
    if wanted is float and type(value) is int:
        return float(value)
    if wanted in (bool, int, float, str, type(None)):
        if type(value) is not wanted:
            raise _wrong(
                given, wanted, key, "; put it in quotes" if wanted is str and _shape(given) == "scalar" else ""
            )
        return value
    raise TypeError(f"{key}: schema type {wanted} is not supported; see the docstring of {__name__}")


def _convert_dataclass(given: _Located, wanted: type, key: str) -> Any:
    if not isinstance(given.value, dict):
        raise _wrong(given, wanted, key)
    hints = typing.get_type_hints(wanted)
    fields = {field.name: field for field in dataclasses.fields(wanted) if field.init}
    for name, inner in given.value.items():
        if name not in fields:
            raise RecipeError(f"{inner.where}: {_dotted(key, name)}: unknown key; {_suggest(name, key, wanted)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        default = field.default_factory() if callable(field.default_factory) else field.default
        if name in given.value:
            inner = given.value[name]
            if {type(default)} == _members(hints[name]) - {type(None)} and dataclasses.is_dataclass(default):
                # The keys that are not given keep this field's default, which need not be the nested class's own.
                inner = _merge(_located(_plain(default), inner.where), inner)
            values[name] = _convert(inner, hints[name], _dotted(key, name))
        elif default is dataclasses.MISSING:
            needed = _describe(hints[name])
            raise RecipeError(f"{given.where}: {_dotted(key, name)}: missing required key; add `{name}: <{needed}>`")
    try:
        return wanted(**values)
    except ValueError as error:
        raise RecipeError(f"{given.where}: {key or wanted.__name__}: {error}") from error


def _convert_items(given: _Located, wanted: Any, key: str) -> Any:
    """A list as list[T], tuple[T, ...], Sequence[T] (a tuple) or tuple[A, B]."""
    if not isinstance(given.value, list):
        raise _wrong(given, wanted, key)
    container, arguments = typing.get_origin(wanted) or wanted, typing.get_args(wanted) or (Any, ...)
    if container is tuple and arguments[1:] != (...,):
        if len(given.value) != len(arguments):
            raise _wrong(given, wanted, key, f"; it has {len(given.value)} items")
        item_types = list(arguments)
    else:
        item_types = [arguments[0]] * len(given.value)
    items = (
        _convert(item, of, f"{key}[{i}]") for i, (item, of) in enumerate(zip(given.value, item_types, strict=True))
    )
    return list(items) if container is list else tuple(items)


def _convert_union(given: _Located, wanted: Any, key: str) -> Any:
    """The first member that accepts the value. If none does, the error of the only member of the value's shape."""
    members = typing.get_args(wanted)
    exact = [member for member in members if member is type(given.value)]  # 3 is an int for `float | int`
    errors: list[tuple[Any, RecipeError]] = []
    for member in (*exact, *members):
        try:
            return _convert(given, member, key)
        except RecipeError as error:
            errors.append((member, error))
    same_shape = [error for member, error in errors if _shape_of_type(member) == _shape(given) != "scalar"]
    raise same_shape[0] if len(same_shape) == 1 else _wrong(given, wanted, key)


def _members(wanted: Any) -> set[Any]:
    return set(typing.get_args(wanted)) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else {wanted}


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as the dicts and lists that YAML has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _located(value: Any, where: str) -> _Located:
    """A plain value as if it had been written at `where`."""
    if isinstance(value, dict):
        return _Located({name: _located(inner, where) for name, inner in value.items()}, where)
    return _Located([_located(item, where) for item in value] if isinstance(value, list) else value, where)


def _unlocated(given: _Located) -> Any:
    if isinstance(given.value, dict):
        return {name: _unlocated(inner) for name, inner in given.value.items()}
    return [_unlocated(item) for item in given.value] if isinstance(given.value, list) else given.value


# --- words for errors -------------------------------------------------------------------------------------------------


def _wrong(given: _Located, wanted: Any, key: str, hint: str = "") -> RecipeError:
    place = f"{given.where}: {key}: " if key else f"{given.where}: "
    return RecipeError(f"{place}expected {_describe(wanted)}, got {_shown(given)}{hint}")


def _describe(wanted: Any) -> str:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(member) for member in arguments)
    if origin is Literal:
        return "one of " + ", ".join(_scalar(choice) for choice in arguments)
    if origin is tuple and arguments[1:] != (...,):
        return f"a list of {len(arguments)} items ({', '.join(_describe(item) for item in arguments)})"
    if origin in (list, tuple, Sequence):
        return f"a list of {_describe(arguments[0])}"
    if origin in (dict, Mapping):
        return f"a mapping of text to {_describe(arguments[1])}"
    if dataclasses.is_dataclass(wanted):
        return "a mapping with keys " + ", ".join(field.name for field in dataclasses.fields(wanted) if field.init)
    names: dict[Any, str] = {
        str: "text",
        type(None): "null",
        Any: "anything",
        list: "a list",
        tuple: "a list",
        dict: "a mapping",
    }
    return names[wanted] if wanted in names else str(getattr(wanted, "__name__", wanted))


def _shown(given: _Located) -> str:
    shape = _shape(given)
    return f"a {shape}" if shape != "scalar" else _scalar(given.value)


def _scalar(value: Any) -> str:
    """As YAML would write it, with texts in quotes."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)


def _shape(given: _Located) -> str:
    if isinstance(given.value, dict):
        return "mapping"
    return "list" if isinstance(given.value, list) else "scalar"


def _shape_of_type(wanted: Any) -> str:
    container = typing.get_origin(wanted) or wanted
    if dataclasses.is_dataclass(wanted) or container in (dict, Mapping):
        return "mapping"
    return "list" if container in (list, tuple, Sequence) else "scalar"


def _dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _suggest(name: str, key: str, schema: type) -> str:
    """The known key whose last part is most like `name`, at this level or below it (the higher one if two are)."""
    if "." in name:
        return "dotted keys are for overrides only: nest the keys in the file"
    known = [dotted for dotted, _ in sorted(_known_keys(schema, "", ()), key=lambda pair: pair[1])]
    likeness = [difflib.SequenceMatcher(None, name, dotted.split(".")[-1]).ratio() for dotted in known]
    if likeness and max(likeness) >= 0.6:
        return f"did you mean {_dotted(key, known[likeness.index(max(likeness))])}?"
    return "known keys here: " + ", ".join(dotted for dotted in known if "." not in dotted)


def _known_keys(schema: type, key: str, above: tuple[type, ...]) -> Iterator[tuple[str, int]]:
    """Each dotted key of `schema` and its depth; a schema inside itself is not entered again."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if field.init:
            yield _dotted(key, field.name), len(above)
            for member in _members(hints[field.name]):
                if isinstance(member, type) and dataclasses.is_dataclass(member) and member not in (*above, schema):
                    yield from _known_keys(member, _dotted(key, field.name), (*above, schema))
