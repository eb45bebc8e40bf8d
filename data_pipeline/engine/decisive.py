"""Which parts of a recipe decide what is made. The others (where, by how many, how patiently) may change on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from data_pipeline.engine.files import digest
from data_pipeline.engine.recipe import SynthRecipe
from data_pipeline.text.endpoint import EndpointSettings
from whilst import __version__

FREE = {"source", "notes", "output", "workers", "executor"}
FREE_OF_ENDPOINT = {
    "base_url", "key_variable", "cache", "timeout_seconds", "backoff_seconds", "longest_wait_seconds", "concurrency",
    "requests_per_minute", "budget",
}  # fmt: skip


def decisive(recipe: SynthRecipe) -> dict[str, Any]:
    """What decides the outcome, as JSON."""
    plain = _plain(recipe)
    return {name: value for name, value in plain.items() if name not in FREE}


def base_key(recipe: SynthRecipe) -> str:
    """A digest of what decides the outcome, with the version of the program."""
    return digest([__version__, decisive(recipe)])


def differing(one: Any, other: Any, key: str = "") -> list[str]:
    """The dotted keys in which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(one.keys() | other.keys())
        return [
            found
            for name in names
            for found in differing(one.get(name), other.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if one == other else [key]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        free = FREE_OF_ENDPOINT if isinstance(value, EndpointSettings) else set()
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.name not in free}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
