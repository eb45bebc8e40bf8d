"""What a request of lmms-eval asks for: a span of one video, a question, and how its answer is written.

Nothing here imports lmms-eval: its requests are tuples, dicts and strings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Settings without effect where the likeliest token is taken, or where there are no images.
WITHOUT_EFFECT = ("image_aspect_ratio", "seed", "top_k", "top_p")
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SOUNDS = (".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav")


class PluginError(ValueError):
    """A request or a setting that a stream cannot serve; names it, and the fix."""


@dataclass(frozen=True)
class Span:
    """The part of a video that is watched, in seconds of its own clock; `end` None: as far as it goes."""

    path: str
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Ask:
    """A question that is put when `span` has been watched.

    limit: most tokens of the answer, its boundary token included. until: the answer ends before the first of these.
    """

    span: Span
    text: str
    limit: int
    until: tuple[str, ...] = ()

    def cut(self, text: str) -> str:
        """An answer up to the first stop text in it."""
        return text[: min((found for stop in self.until if (found := text.find(stop)) >= 0), default=len(text))]


def span_of(visuals: Any) -> Span:
    """The one video of a request: what `doc_to_visual` gives, a path or `{path|url|video, video_start, video_end}`.

    Raises PluginError for no video, several, images, sound, or a video that is not a local file.
    """
    given = visuals if isinstance(visuals, Sequence) and not isinstance(visuals, str) else [visuals]
    if len(given) == 1 and isinstance(given[0], Sequence) and not isinstance(given[0], str):
        given = given[0]
    if len(given) != 1 or given[0] is None:
        count = 0 if not given or given[0] is None else len(given)
        raise PluginError(f"a stream shows one video, but the request holds {count} pieces: choose a task of one video")
    (visual,) = given
    if isinstance(visual, str):
        return Span(_local(visual))
    if not isinstance(visual, Mapping) or visual.get("type", "video") != "video":
        kind = visual["type"] if isinstance(visual, Mapping) and "type" in visual else type(visual).__name__
        raise PluginError(f"a stream shows one video, but the request holds {kind!r}: choose a video task")
    path = next((visual[key] for key in ("path", "url", "video") if isinstance(visual.get(key), str)), None)
    if path is None:
        raise PluginError(f"the request's video has keys {', '.join(map(str, visual))}, none of path, url, video")
    start, end = visual.get("video_start"), visual.get("video_end")
    return Span(_local(path), 0.0 if start is None else float(start), None if end is None else float(end))


def _local(path: str) -> str:
    if path.startswith("file://"):
        return path.removeprefix("file://")
    if "://" in path:
        raise PluginError(f"{path}: only local videos can be watched: download it first")
    if path.lower().endswith(IMAGES + SOUNDS):
        raise PluginError(f"{path}: a stream shows one video, not an image or sound: choose a video task")
    return path


def prompt_of(messages: Any) -> tuple[list[Any], str]:
    """The visuals and the text of chat messages (`doc_to_messages`): one user turn.

    Raises PluginError for other roles: what stands before the first segment is fixed by the checkpoint's contract.
    """
    visuals: list[Any] = []
    texts: list[str] = []
    for message in messages:
        if message["role"] != "user":
            raise PluginError(
                f"a message of role {message['role']!r}: a stream has its contract's system prompt and no earlier "
                f"turns: choose a task of one user message"
            )
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                texts.append(part["text"])
            elif part["type"] == "video":
                visuals.append(_video_part(part))
            else:
                raise PluginError(
                    f"a stream shows one video, but a message holds {part['type']!r}: choose a video task"
                )
    return visuals, "\n".join(texts)


def _video_part(part: Mapping[str, Any]) -> Any:
    """A video part carries its span itself, or in a `url` that is a dict."""
    times = {f"video_{name}": part[f"{name}_time"] for name in ("start", "end") if part.get(f"{name}_time") is not None}
    return {"path": part["url"], **times} if times else part["url"]


def settings_of(gen_kwargs: Mapping[str, Any], answer_tokens: int) -> tuple[int, tuple[str, ...]]:
    """(token limit, stop texts) of a request's generation settings; `answer_tokens` where they give no limit.

    Raises PluginError for anything but the likeliest token, and for settings that are not known here.
    """
    rest = dict(gen_kwargs)
    limit = rest.pop("max_new_tokens", None)
    until = rest.pop("until", None) or ()
    plain = {
        "temperature": (None, 0),
        "do_sample": (None, False),
        "num_beams": (None, 1),
        "repetition_penalty": (None, 1),
    }
    for name, allowed in plain.items():
        if (value := rest.pop(name, None)) not in allowed:
            raise PluginError(
                f"generation_kwargs.{name}: {value!r}: a stream takes the likeliest token; set it to {allowed[1]!r} "
                f"(--gen_kwargs {name}={allowed[1]})"
            )
    for name in WITHOUT_EFFECT:
        rest.pop(name, None)
    if rest:
        raise PluginError(f"generation_kwargs.{next(iter(rest))}: a stream does not know this setting; leave it out")
    stops = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise PluginError(f"generation_kwargs.until: {until!r}: must be a list of texts, none of them empty")
    limit = answer_tokens if limit is None else limit
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise PluginError(f"generation_kwargs.max_new_tokens: {limit!r}: must be a whole number of tokens, at least 1")
    return limit, stops


def positive(name: str, value: Any, *, whole: bool = False) -> Any:
    """`value` if it is a positive number; PluginError naming the model argument otherwise."""
    number = isinstance(value, int) or (isinstance(value, float) and not whole)
    if isinstance(value, bool) or not number or not 0 < value < math.inf:
        kind = "whole number" if whole else "number"
        raise PluginError(f"model_args.{name}: {value!r}: must be a positive {kind}")
    return value
