"""How long a segment was in training is noted down, and is what a stream is cut into."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.segments import note_segments, noted_segments, segment_seconds
from whilst.backbones.base import BackboneError
from whilst.checkpoint import Contract
from whilst.render_config import RenderConfig
from whilst.sample import Sample, Segment, Video


def sample(*ends: float) -> Sample:
    """Segments that begin where the one before has ended, the first at 0 s."""
    return Sample("a", Video("a.mp4"), tuple(Segment(a, b) for a, b in zip((0.0, *ends), ends, strict=False)))


@pytest.mark.parametrize(
    ("samples", "seconds"),
    [
        ([sample(0.5, 1.0, 1.5, 1.6)], 0.5),  # the video ends in its last segment
        ([sample(30.5)], 30.5),  # an offline sample: all of it
        ([sample(2.0, 3.1), sample(2.0, 4.0, 5.0), sample(0.9)], 2.0),
        ([sample(2.0, 5.0, 15.0, 17.0)], 3.0),  # scenes of any length
        ([sample(0.1, 0.30000000000000004, 0.4)], 0.1),
        ([], None),
        ([sample()], None),
    ],
)
def test_the_median_of_whole_segments(samples: list[Sample], seconds: float | None, tmp_path: Path) -> None:
    assert segment_seconds(samples) == seconds
    assert noted_segments(tmp_path) is None
    note_segments(samples, tmp_path)
    assert noted_segments(tmp_path) == seconds


def test_a_contract_says_how_a_stream_is_cut() -> None:
    assert Contract("base", 2.0, True, RenderConfig()).cut_seconds == 1.0
    assert Contract("base", 2.0, True, RenderConfig(), segment_seconds=0.5).cut_seconds == 0.5
    with pytest.raises(BackboneError, match="segment_seconds must be a positive number of seconds, not 0"):
        Contract("base", 2.0, True, RenderConfig(), segment_seconds=0.0)
