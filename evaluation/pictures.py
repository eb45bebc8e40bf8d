"""What the report shows and its JSON cannot hold: frames of one episode, and the rows whose masks are drawn."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.report import MaskPicture, Pictures
from evaluation.timeline import Timeline
from whilst.backbones.base import load_spec
from whilst.checkpoint import read_contract
from whilst.clips import segment_clips, shapes
from whilst.render import Renderer
from whilst.sample import Sample


def take_pictures(arms: Mapping[str, str], sample: Sample | None) -> Pictures:
    """The frames of a sample, which every arm has watched, and its rendered row for each arm's layout; none of it
    where there is no such sample."""
    if sample is None:
        return Pictures()

    from transformers import AutoTokenizer

    masks = {}
    clips = []
    for arm, path in arms.items():
        contract = read_contract(path)
        clips = segment_clips(sample, contract.fps)
        spec = load_spec(path, min_pixels=contract.min_pixels, max_pixels=contract.max_pixels)
        renderer = Renderer(AutoTokenizer.from_pretrained(path), spec, contract.render)
        shown = sample if contract.thinks else sample.without_thoughts()
        masks[arm] = MaskPicture(renderer.rows(shown, shapes(clips, spec))[0], renderer.rule)
    return Pictures(Timeline(sample, clips), masks)
