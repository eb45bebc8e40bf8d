"""A describer that asks a vision-language model behind an OpenAI-compatible endpoint.

    describer = vision_describer(Endpoint(settings), ExtractSettings())

Each clip is one request: the frames of the window with their times, the known entities, and the schema of a
description. The request depends on the video up to the end of the clip and on earlier replies alone, so with a request
cache a run that was killed goes on at the clip where it stopped, and a second run asks nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from PIL import Image

from data_pipeline.extract.describe import Describer, Description, View, parse, schema
from data_pipeline.extract.settings import KINDS, ClipSettings, ExtractSettings
from data_pipeline.text.endpoint import image_part
from data_pipeline.text.prompts import messages
from whilst.segmenters import Clip

QUALITY = 90  # of JPEG


class Chat(Protocol):
    """What is asked of an endpoint: `data_pipeline.text.endpoint.Endpoint.chat`."""

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        schema: Mapping[str, Any],
        *,
        key: str,
        name: str = ...,
        check: Callable[[dict[str, Any]], object] | None = ...,
    ) -> dict[str, Any]:
        """The JSON object of a reply, or TextRejected."""
        ...


def vision_describer(endpoint: Chat, settings: ExtractSettings) -> Describer:
    """The describer of a model that sees images. Whatever it raises is the endpoint's: see `Endpoint.chat`."""
    wanted = schema(settings.refine.relations)

    def describe(view: View) -> Description:
        asked = request(view, settings)
        reply = endpoint.chat(asked, wanted, key=f"{view.video}/clip-{view.clip}", name="extract", check=parse)
        return parse(reply)

    return describe


def request(view: View, settings: ExtractSettings) -> list[dict[str, Any]]:
    """The messages for a view: frames with their times first, then what is known and what is wanted."""
    facts = {
        "kinds": [kind for kind in KINDS if kind != "text"],
        "relations": list(settings.refine.relations),
        "known": [asdict(entity) | {"last_seen": round(entity.last_seen, 2)} for entity in view.known],
        "clips": len(view.clips),
        "start": round(view.start, 2),
        "new_start": round(view.clips[-1].start, 2),
        "end": round(view.end, 2),
    }
    parts: list[dict[str, Any]] = []
    for number, clip in enumerate(view.clips, start=view.clip + 1 - len(view.clips)):
        new = " (new)" if number == view.clip else ""
        times = f"{round(clip.start, 2)} s to {round(clip.end, 2)} s"
        parts.append({"type": "text", "text": f"Clip {number}{new}, {times}:"})
        for time, image in shown(clip, settings.clips):
            parts.append({"type": "text", "text": f"{round(time, 2)} s"})
            parts.append(image_part(encoded(image, settings.clips), f"image/{settings.clips.image}"))
    return messages("extract", facts, parts)


def shown(clip: Clip, settings: ClipSettings) -> list[tuple[float, np.ndarray]]:
    """(time, image) of at most `frames` frames of a clip, evenly spread; first and last are among them from 2 on."""
    count = min(settings.frames, len(clip.frames))
    chosen = np.linspace(0, len(clip.frames) - 1, count).round().astype(int) if count > 1 else [0]
    return [(float(clip.frames.times[i]), clip.frames.images[i]) for i in chosen]


def encoded(image: np.ndarray, settings: ClipSettings) -> bytes:
    """An image (H, W, 3) as JPEG or PNG, its longer side at most `pixels`; the same bytes for the same image."""
    picture = Image.fromarray(image)
    picture.thumbnail((settings.pixels, settings.pixels))
    file = io.BytesIO()
    if settings.image == "jpeg":
        picture.save(file, "JPEG", quality=QUALITY)
    else:
        picture.save(file, "PNG")
    return file.getvalue()
