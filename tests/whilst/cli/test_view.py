"""`whilst view` through the door. The page is tested in tests/whilst/test_view.py."""

from pathlib import Path

import numpy as np
import pytest

from tests.whilst.cli.command import fails, invoke
from whilst.sample import Answer, Query, Sample, SampleError, Segment, Silence, Thought, Video, write_jsonl
from whilst.video import write_video


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Two samples with every kind of event, on a video of 3 s at 2 fps."""
    images = np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3), np.uint8)
    write_video(tmp_path / "a.mp4", images, 2.0)
    events = (
        Query("q0", 0.0, "what <b>next</b> ?", kind="forward", window=(2.0, 3.0), options=("red & blue", "none")),
        Segment(0.0, 1.0),
        Thought(1.0, "a thought of the first"),
        Silence(1.0, "q0"),
        Segment(1.0, 3.0),
        Query("q1", 3.0, "which one ?", evidence=((0.0, 1.0),), knowable_at=1.0),
        Answer(3.0, "this one", "q1"),
        Answer(3.0, "red & blue", "q0"),
    )
    path = tmp_path / "samples.jsonl"
    write_jsonl(
        [Sample(name, Video("a.mp4", 0.0, 3.0), events, memory="seen before") for name in ("first", "second")], path
    )
    return path


def test_view_writes_a_page(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "view.html"
    code, told, _, _ = invoke("view", samples, "-o", out)
    assert code == 0 and told.strip() == str(out)
    page = out.read_text()
    assert page.count("<section>") == 2 and page.count("<img") == 2 * 6
    for text in ("a thought of the first", "which one ?", "this one", "seen before", "knowable at 1 s"):
        assert text in page
    assert "what &lt;b&gt;next&lt;/b&gt; ?" in page and "<b>next</b>" not in page and "red &amp; blue" in page
    assert "http" not in page  # one file that needs nothing else


def test_view_shows_the_chosen_samples(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    assert invoke("view", samples, "--id", "second", "-o", out)[0] == 0
    assert "<h2>second</h2>" in out.read_text() and "<h2>first</h2>" not in out.read_text()
    assert invoke("view", samples, "--limit", 1, "-o", out)[0] == 0
    assert out.read_text().count("<section>") == 1


def test_view_says_what_is_missing(samples: Path, tmp_path: Path) -> None:
    assert "no sample has the id 'third'; the first ids are: first, second" in fails("view", samples, "--id", "third")
    assert "none.jsonl" in fails("view", tmp_path / "none.jsonl")
    (tmp_path / "a.mp4").unlink()
    assert "a.mp4: there is no such file" in fails("view", samples)
    samples.write_text("{}\n")
    assert f"{samples}:1" in fails("view", samples)


def test_choose_keeps_the_order_of_ids() -> None:
    from whilst.view import choose

    made = [Sample(name, Video("v.mp4"), (Segment(0.0, 1.0),)) for name in "abc"]
    assert [sample.id for sample in choose(made, ["c", "a"], "x")] == ["c", "a"]
    assert choose(made, [], "x") == made
    with pytest.raises(SampleError, match="x: no sample has the id 'd'"):
        choose(made, ["d"], "x")
