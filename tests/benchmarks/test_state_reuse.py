"""The benchmark of state reuse at tiny sizes: it runs, its check can fail, and its last line is what docs read."""

import json

import pytest

from benchmarks import state_reuse
from benchmarks._streams import clips
from evaluation.predict import Episode, Reply
from whilst.sample import Segment


def test_the_last_line_is_what_docs_read(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(state_reuse.main(state_reuse.CONFIGS[:1], 1, 4, 2, 1, ("spread",)))
    assert list(found) == ["name", "ratio", "target", "holds", "details"]
    assert found["ratio"] > 0 and found["target"] == state_reuse.TARGET and isinstance(found["holds"], bool)
    (setting,) = found["details"]["settings"]
    assert setting["queries"] == 2 and setting["tokens_written"]["stream_a_query"] > 0
    assert len({len(line) for line in capsys.readouterr().out.splitlines()[-3:]}) == 1


@pytest.mark.parametrize(("place", "after"), [("spread", [2, 4, 6, 8]), ("end", [8, 8, 8, 8])])
def test_each_query_alone_watches_its_video_up_to_it(place: state_reuse.Place, after: list[int]) -> None:
    sample = state_reuse.many_queries("v", 8, 4, place, 0)
    assert [query.time for query in sample.queries()] == after
    samples, shown = state_reuse.alone([sample], [clips(sample, 32, 32)])
    assert sorted(len(own) for own in shown) == after and [len(own) for own in shown] == sorted(after, reverse=True)
    for one, own in zip(samples, shown, strict=True):
        (query,) = one.queries()
        assert one.segments() == tuple(clip.segment for clip in own)
        assert one.segments()[-1].end == query.time and isinstance(one.events[0], Segment)


def test_a_different_reply_is_noticed() -> None:
    ours = [Episode("v", replies=[Reply("q0", 1.0, "a", True), Reply("q1", 2.0, "b", True)])]
    theirs = [
        Episode("v/q1", replies=[Reply("q1", 2.0, "b", True)]),
        Episode("v/q0", replies=[Reply("q0", 1.0, "a", True)]),
    ]
    assert state_reuse.check_equal(ours, theirs) == 2
    theirs[0].replies[0] = Reply("q1", 2.0, "c", True)
    with pytest.raises(AssertionError, match="v/q1"):
        state_reuse.check_equal(ours, theirs)
    with pytest.raises(AssertionError, match="v/q0"):
        state_reuse.check_equal(ours, theirs[:1])
