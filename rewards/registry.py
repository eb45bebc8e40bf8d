"""Rewards by name, and named variants with the constants of reference implementations.

    reward = build("t_grpo", {"bonus": 0.3, "ratio": 0.8})   # an unknown name: a RewardError with the nearest

A module of rewards has REWARDS (name -> dataclass) and VARIANTS (name -> reward's name and parameters); add it below.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

from rewards import accuracy, contrast, format, grounding, judge, length, repetition, silence, temporal, timing, utility
from rewards.base import Reward, RewardError


class Family(Protocol):
    """A module of rewards."""

    @property
    def REWARDS(self) -> Mapping[str, type]: ...
    @property
    def VARIANTS(self) -> Mapping[str, tuple[str, Mapping[str, Any]]]: ...


def collected(families: Iterable[Family]) -> tuple[dict[str, type], dict[str, tuple[str, Mapping[str, Any]]]]:
    """All rewards and variants of several modules.

    Raises:
        RewardError: a name is given twice, or a variant is of a reward that nobody has.
    """
    rewards: dict[str, type] = {}
    variants: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for family in families:
        for name in (*family.REWARDS, *family.VARIANTS):
            if name in rewards or name in variants:
                raise RewardError(f"two rewards are called {name!r}; give each its own name")
            if name in family.REWARDS:
                rewards[name] = family.REWARDS[name]
            else:
                variants[name] = family.VARIANTS[name]
    for name, (of, _) in variants.items():
        if of not in rewards:
            raise RewardError(f"variant {name!r} is of {of!r}, which is no reward; {_near(of, rewards)}")
    return rewards, variants


REWARDS, VARIANTS = collected(
    (accuracy, judge, format, length, repetition, temporal, timing, silence, grounding, utility, contrast)
)


def build(name: str, parameters: Mapping[str, Any]) -> Reward:
    """The reward or variant of this name; `parameters` are fields of its dataclass, and replace those of the variant.

    Raises:
        RewardError: no such name or parameter, one that is missing, or a value of another type or out of range.
    """
    of, constants = VARIANTS.get(name, (name, {}))
    if of not in REWARDS:
        raise RewardError(f"no reward is called {name!r}; {_near(name, (*REWARDS, *VARIANTS))}")
    schema = REWARDS[of]
    hints = typing.get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema) if field.init}
    given = {**constants, **parameters}
    for key in given:
        if key not in fields:
            raise RewardError(f"{name}: unknown parameter {key!r}; {_near(key, fields)}")
    for key, field in fields.items():
        if key not in given and field.default is field.default_factory is dataclasses.MISSING:
            raise RewardError(f"{name}: missing parameter {key!r}")
    reward: Reward = schema(**{key: _typed(value, hints[key], f"{name}.{key}") for key, value in given.items()})
    return reward


def _near(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"


def _typed(value: Any, wanted: Any, key: str) -> Any:
    """The value as type `wanted`: lists become tuples, whole numbers floats; nothing else is converted."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        for member in arguments:
            if _fits(value, member):
                return _typed(value, member, key)
    elif origin is Literal:
        if _fits(value, wanted):
            return value
        if isinstance(value, str):
            raise RewardError(f"{key}: {value!r} is no choice; {_near(value, map(str, arguments))}")
    elif origin is tuple and _fits(value, wanted):
        members = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(members) == len(value):
            items = zip(value, members, strict=True)
            return tuple(_typed(item, member, f"{key}[{i}]") for i, (item, member) in enumerate(items))
    elif origin in (dict, Mapping) and _fits(value, wanted):
        return {name: _typed(item, arguments[1], f"{key}.{name}") for name, item in value.items()}
    elif wanted is float and _fits(value, wanted):
        if not math.isfinite(value):
            raise RewardError(f"{key}: must be finite, not {value!r}")
        return float(value)
    elif _fits(value, wanted):
        return value
    raise RewardError(f"{key}: must be {getattr(wanted, '__name__', None) or wanted}, not {value!r}")


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value is of the outer shape of a type."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)
    return type(value) in (int, float) if wanted is float else type(value) is wanted
