"""Strict scoring on hand-made replies, and the bootstrap over videos."""

from collections.abc import Callable

import pytest

from evaluation.predict import Episode, Reply
from evaluation.scores import Scored, gain, interval, score, summary, tells, thought_accuracy, thought_shares
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought, Video


def episode(*replies: Reply, sample: str = "a") -> Episode:
    return Episode(sample, replies=list(replies))


def outcomes(sample: Sample, *replies: Reply) -> dict[str, bool]:
    return {item.query: item.right for item in score([sample], [episode(*replies)])}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("red-circle", True),
        (" red-circle\n", True),
        ("red-circle .", False),
        ("a red-circle", False),
        ("Red-circle", False),
        ("red", False),
        ("", False),
    ],
)
def test_replies_are_compared_whole(sample: Sample, text: str, right: bool) -> None:
    assert outcomes(sample, Reply("b0", 12.0, text, True))["b0"] is right


def test_an_unfinished_reply_is_wrong(sample: Sample) -> None:
    assert outcomes(sample, Reply("b0", 12.0, "red-circle", False))["b0"] is False
    replies = [Reply("f0", t, "", True) for t in (11.0, 12.0, 13.0)]
    assert outcomes(sample, *replies, Reply("f0", 14.0, "now", False))["f0"] is False


def test_a_second_reply_does_not_mend_the_first(sample: Sample) -> None:
    assert outcomes(sample, Reply("b0", 12.0, "unknown", True), Reply("b0", 13.0, "red-circle", True))["b0"] is False


def forward(*said: tuple[float, str]) -> bool:
    events = (
        Segment(0.0, 1.0),
        Query("f", 1.0, "tell-when out ?", "forward", window=(3.0, 4.0)),
        Silence(1.0, "f"),
        Segment(1.0, 2.0),
        Silence(2.0, "f"),
        Segment(2.0, 3.0),
        Answer(3.0, "now", "f"),
    )
    replies = [Reply("f", time, text, True) for time, text in said]
    return outcomes(Sample("a", Video("v.mp4", 0.0, 5.0), events), *replies)["f"]


def test_a_standing_query_is_answered_in_its_window_and_not_before() -> None:
    assert forward((1.0, ""), (2.0, ""), (3.0, "now"))
    assert forward((3.0, "now"), (2.0, ""), (1.0, "")), "the order of the list does not matter"
    assert not forward((4.0, "now"), (3.0, "later")), "the first in time counts"
    assert forward((1.0, ""), (2.0, ""), (4.0, "now")), "the window's end belongs to it"
    assert not forward((1.0, ""), (2.0, "now"), (3.0, "now")), "one early reply spoils it"
    assert not forward((1.0, "wait"), (2.0, ""), (3.0, "now")), "whatever it says"
    assert not forward((1.0, ""), (2.0, ""), (3.0, ""))
    assert not forward((1.0, ""), (2.0, ""), (3.0, "later"), (4.0, "now"))
    assert not forward((1.0, ""), (2.0, ""), (4.5, "now")), "too late"
    assert not forward()


def test_what_is_not_right_has_a_reason(sample: Sample, new_sample: Callable[..., Sample]) -> None:
    def reasons(*replies: Reply) -> dict[str, str]:
        return {item.query: item.reason for item in score([sample], [episode(*replies)])}

    quiet = [Reply("f0", t, "", True) for t in (11.0, 12.0, 13.0)]
    good = [*quiet, Reply("f0", 14.0, "now", True), Reply("b0", 12.0, "red-circle", True)]
    assert reasons(*good) == {"f0": "", "b0": ""}
    assert reasons(*good[:4], Reply("b0", 12.0, "red", True)) == {"f0": "", "b0": "wrong"}
    assert reasons(*good[:4], Reply("b0", 12.0, "red", False)) == {"f0": "", "b0": "cut off"}
    assert reasons(*good[:4], Reply("b0", 12.0, " ", True)) == {"f0": "", "b0": "no reply"}
    assert reasons(Reply("f0", 11.0, "now", True), *good[1:]) == {"f0": "too early", "b0": ""}
    broken = score([sample, new_sample("b")], [episode(*good)], {"b": "videos/b.mp4: cannot be read"})
    assert [item.reason for item in broken] == ["", ""] + ["failed: videos/b.mp4: cannot be read"] * 2
    assert [item.right for item in broken] == [True, True, False, False], "the denominator does not shrink"
    assert [item.sample for item in broken] == ["a", "a", "b", "b"]


def test_every_query_is_scored_once(new_sample: Callable[..., Sample]) -> None:
    samples = [new_sample(name, n) for name, n in (("a", 4), ("b", 2), ("c", 6))]
    stray = [episode(Reply("b0", 12.0, "red-circle", True), sample="z"), episode(Reply("zz", 12.0, "x", True))]
    nothing = score(samples, [])
    assert [(item.video, item.query) for item in nothing] == [
        (s.video.path, q.id) for s in samples for q in s.queries()
    ]
    assert nothing == score(samples, stray), "replies to what was not asked count for nothing"
    assert not any(item.right or item.finished or item.got for item in nothing)
    # several episodes a sample, as under last_frames
    parts = [episode(Reply("b0", 12.0, "red-circle", True)), episode(Reply("f0", 14.0, "now", True))]
    assert all(item.right for item in score(samples[:1], parts))


def test_kinds_and_finer_kinds(sample: Sample) -> None:
    assert [(i.kind, i.subkind, i.expected) for i in score([sample], [])] == [
        ("forward", "forward", "now"),
        ("backward", "which_in", "red-circle"),
    ]
    plain = Sample("p", Video("p.mp4"), (Query("q", 0.0, "who ?"), Answer(0.0, "me", "q")))
    assert [(i.kind, i.subkind) for i in score([plain], [])] == [("other", "other")]


def made(rights: dict[str, list[bool]], kind: str = "backward", subkind: str = "count") -> list[Scored]:
    return [
        Scored(video, str(i), kind, subkind, "x", "x", right, True)
        for video, of_video in rights.items()
        for i, right in enumerate(of_video)
    ]


def test_accuracy_weighs_queries_and_the_bootstrap_draws_videos() -> None:
    assert interval(made({"a": [True] * 3, "b": [False]}), 100, 0)["accuracy"] == 0.75
    # queries of a video stand and fall together: two videos say no more than two coins, however many their queries
    two = interval(made({"a": [True] * 50, "b": [False] * 50}), 1000, 0)
    assert (two["n"], two["accuracy"], two["ci_low"], two["ci_high"]) == (100, 0.5, 0.0, 1.0)
    many = interval(made({f"{i}": [i % 2 == 0] for i in range(100)}), 1000, 0)
    assert many["accuracy"] == 0.5 and 0.38 < many["ci_low"] < 0.43 and 0.57 < many["ci_high"] < 0.62
    for right in (True, False):
        assert interval(made({"a": [right] * 3, "b": [right]}), 100, 0) == {
            "n": 4,
            "accuracy": float(right),
            "ci_low": float(right),
            "ci_high": float(right),
            "videos": 2,
        }


def test_the_bootstrap_is_deterministic() -> None:
    scored = made({f"{i}": [i % 3 == 0, i % 2 == 0, i % 5 == 0][: 1 + i % 3] for i in range(30)})
    assert interval(scored, 500, 7) == interval(scored, 500, 7)
    assert interval(scored, 500, 7) != interval(scored, 500, 8)
    with pytest.raises(ValueError, match="no query to score"):
        interval([], 100, 0)


def test_summary_conserves_queries() -> None:
    scored = (
        made({"a": [True, False], "b": [True]})
        + made({"a": [False]}, "backward", "which_in")
        + made({"c": [True, True]}, "order", "order")
    )
    figures = summary(scored, 200)
    assert {kind: figure["n"] for kind, figure in figures.items()} == {
        "all": 6,
        "backward": 4,
        "backward/count": 3,
        "backward/which_in": 1,
        "order": 2,
    }
    assert figures["backward"]["accuracy"] == 0.5 and figures["order"]["accuracy"] == 1.0
    assert all(f["ci_low"] <= f["accuracy"] <= f["ci_high"] for f in figures.values())


def test_thoughts_are_right_word_for_word(sample: Sample) -> None:
    texts = ["in-1 red-circle .", "none", "in-3 red-circle .", "none ."]
    thinking = Episode("a", [(11.0 + i, text, True) for i, text in enumerate(texts)])
    assert thought_accuracy([sample], [thinking], "none .") == 0.75
    assert thought_accuracy([sample], [Episode("a")], "none .") is None


def test_silence_is_as_right_as_the_idle_phrase(sample: Sample) -> None:
    # gold: in-1 red-circle . | none . | in-3 red-circle . | none .
    silent = Episode("a", [(11.0 + i, "", True) for i in range(4)])
    assert thought_accuracy([sample], [silent], "none .") == 0.5
    assert thought_accuracy([sample], [silent], "nothing .") == 0.0, "where the samples say it otherwise"
    cut = Episode("a", [(11.0 + i, "none .", False) for i in range(4)])
    assert thought_accuracy([sample], [cut], "none .") == 0.0


@pytest.mark.parametrize(
    ("text", "says"),
    [("", False), (" \n", False), ("none .", False), (" none .\n", False), ("none", True), (".", True)],
)
def test_a_thought_tells_something_unless_it_is_empty_or_idle(text: str, says: bool) -> None:
    assert tells(text, "none .") is says


def wrote(name: str, *texts: str | None, cut: int | None = None) -> Episode:
    """An episode with a thought a segment; None: none was written; `cut`: the one that the token limit cut."""
    return Episode(name, [(11.0 + i, text, i != cut) for i, text in enumerate(texts) if text is not None])


def test_shares_of_thoughts_by_hand(new_sample: Callable[..., Sample]) -> None:
    # Each sample: in-1 red-circle . | none . | in-3 red-circle . | none . : two of four segments tell something.
    samples = [new_sample(name) for name in "abc"]
    episodes = [
        wrote("a", "in-1 red-circle .", "none .", "", ""),  # told 1, right 1 of 2, false 0 of 2
        wrote("b", "in-1 blue-square .", "in-2 red-circle .", "in-3 red-circle .", "none ."),  # told 3, 1 of 2, 1 of 2
        wrote("c", None, "", "in-3 red-circle .", "none", cut=2),  # told 2, 0 of 2 (cut), 1 of 2
    ]
    shares = thought_shares(samples, episodes, "none .", draws=200)
    assert shares is not None
    assert {name: (share["n"], share["share"]) for name, share in shares.items()} == {
        "told": (12, 6 / 12),
        "true": (12, 6 / 12),
        "correct": (6, 2 / 6),
        "false_alarms": (6, 2 / 6),
    }
    # Videos are drawn whole: each has the same true share, so drawing changes nothing; not so what was told.
    assert shares["true"]["ci_low"] == shares["true"]["ci_high"] == 0.5
    assert shares["told"]["ci_low"] == 1 / 4 and shares["told"]["ci_high"] == 3 / 4
    assert thought_shares(samples, episodes, "none .", draws=200) == shares


def test_shares_of_arms_that_are_silent_or_do_not_think(sample: Sample) -> None:
    silent = thought_shares([sample], [wrote("a", "", "", "", "")], "none .")
    assert silent is not None and silent["told"]["share"] == silent["correct"]["share"] == 0.0
    assert thought_shares([sample], [Episode("a")], "none .") is None
    # A sample's own silence in place of a thought is a segment in which nothing happens.
    quiet = sample.with_events(Silence(e.time) if isinstance(e, Thought) else e for e in sample.events)
    shares = thought_shares([quiet], [wrote("a", "x", "", "", "")], "none .")
    assert shares is not None and set(shares) == {"told", "true", "false_alarms"}
    assert shares["true"]["share"] == 0.0 and shares["false_alarms"]["share"] == 0.25


def test_a_gain_is_paired() -> None:
    # One of ten videos flips to right: the others cancel out, whatever their accuracy.
    before = made({f"{i}": [i % 2 == 0, True] for i in range(10)})
    after = made({f"{i}": [i % 2 == 0 or i == 1, True] for i in range(10)})
    found = gain(after, before, 2000, 0)["backward"]
    assert (found["n"], found["gain"]) == (20, 1 / 20)
    assert found["ci_low"] == 0.0 and found["ci_high"] <= 0.15
    own = interval(after, 2000, 0)
    assert own["ci_high"] - own["ci_low"] > found["ci_high"] - found["ci_low"]
    back = gain(before, after, 2000, 0)["backward"]
    assert (back["gain"], back["ci_low"], back["ci_high"]) == (-found["gain"], -found["ci_high"], 0.0)
    none = {"n": 20, "gain": 0.0, "ci_low": 0.0, "ci_high": 0.0, "videos": 10, "p": 1.0}
    assert gain(after, after)["all"] == none and found["p"] == back["p"] == 1.0, "one video says nothing"
    every = gain(made({"a": [True] * 3, "b": [True]}), made({"a": [False] * 3, "b": [False]}))["all"]
    assert every == {"n": 4, "gain": 1.0, "ci_low": 1.0, "ci_high": 1.0, "videos": 2, "p": 0.5}


def test_a_gain_has_the_groups_of_a_summary() -> None:
    scored = made({"a": [True, False]}) + made({"a": [True]}, "order", "order")
    assert list(gain(scored, scored)) == list(summary(scored)) == ["all", "backward", "backward/count", "order"]


def test_a_gain_over_other_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="the same queries"):
        gain(made({"a": [True]}), made({"b": [True]}))
    with pytest.raises(ValueError, match="the same queries"):
        gain(made({"a": [True]}), made({"a": [True, True]}))
