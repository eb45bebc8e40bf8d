"""The prompts: one Jinja file a step, with a block `system` and a block `user`.

    messages("thought", {"new": ["the red circle goes into the box"], "known": [], "previous": "", "draft": None})

Facts are data: they are filled in, never read as a template. A fact that a prompt names and the task lacks is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateNotFound, UndefinedError

from data_pipeline.source import SynthError


@cache
def _prompts() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def messages(step: str, facts: Mapping[str, Any], parts: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """The messages of a step: system and user. `parts`, such as images, stand before the text of the user's message.

    Raises:
        SynthError: there is no prompt for this step, or a fact that it needs is missing.
    """
    try:
        template = _prompts().get_template(f"{step}.jinja")
    except TemplateNotFound as error:
        raise SynthError(f"step {step!r}: there is no prompt {step}.jinja; write it beside the others") from error
    try:
        context = template.new_context({**facts, "facts": dict(facts)})
        system, user = ("".join(template.blocks[name](context)).strip() for name in ("system", "user"))
    except UndefinedError as error:
        raise SynthError(f"step {step!r}: {step}.jinja: {error}; give it as a fact of the task") from error
    except KeyError as error:
        raise SynthError(f"step {step!r}: {step}.jinja has no block {error}; it needs `system` and `user`") from error
    content: str | list[dict[str, Any]] = user
    if parts:
        content = [*map(dict, parts), {"type": "text", "text": user}]
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]
