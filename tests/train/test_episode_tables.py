"""Episodes as a table, as a page and as figures, on two episodes made by hand."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from rewards.base import Scored
from rewards.mix import Mixed
from train.episode_tables import (
    EpisodeRow,
    TableError,
    Tally,
    combine,
    log_to_wandb,
    metrics,
    records,
    verdicts,
    write_page,
    write_table,
)
from whilst.clips import SegmentClip
from whilst.episode import Episode, Turn
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought, Video

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


def sample() -> Sample:
    """Three segments of 1 s. `door` is put at 2 s (silence) and 3 s; `cup`, of options, at 3 s."""
    return Sample(
        "train-7",
        Video("videos/a.mp4"),
        (
            Segment(0.0, 1.0),
            Thought(1.0, "a cup"),
            Segment(1.0, 2.0),
            Query("door", 2.0, "when does the <door> open ?", "forward", window=(3.0, 3.0)),
            Silence(2.0, "door"),
            Segment(2.0, 3.0),
            Answer(3.0, "now", "door"),
            Query("cup", 3.0, "which cup ?", "backward", options=("red", "blue"), evidence=((0.0, 1.0),)),
            Answer(3.0, "A", "cup"),
        ),
    )


def think(time: float, text: str, *ids: int, finished: bool = True) -> Turn:
    return Turn("thought", time, int(time) - 1, None, text, ids, finished)


def reply(time: float, query: str, text: str, *ids: int, finished: bool = True) -> Turn:
    return Turn("answer", time, int(time) - 1, query, text, ids, finished)


GOOD = Episode(
    sample(),
    (
        think(1.0, "a red cup", 5, 6, 7),
        think(2.0, ""),
        reply(2.0, "door", ""),
        think(3.0, "the door opens", 8, 9),
        reply(3.0, "door", "Now.", 4, 2),
        reply(3.0, "cup", "red", 5),
    ),
)
# says the same twice, is cut off once, speaks too early, and is never asked about the cup
BAD = Episode(
    sample(),
    (
        think(1.0, "cup cup", 7, 7),
        think(2.0, "cup cup", 7, 7),
        reply(2.0, "door", "now", 4),
        think(3.0, "</script><b>\nso so so", 1, 1, 1, 1, finished=False),
        reply(3.0, "door", "now", 4, finished=False),
    ),
    rollout=1,
    perturbation="no_memory",
)


def mixed(total: float, **terms: Scored | None) -> Mixed:
    return Mixed(total, terms)


def graded(**kinds: tuple[float, float]) -> Scored:
    """An accuracy's parts: (mean, queries) by kind; the score is the mean over queries."""
    n = sum(count for _, count in kinds.values())
    parts = {f"accuracy/{kind}": mean for kind, (mean, _) in kinds.items()}
    parts |= {f"queries/{kind}": count for kind, (_, count) in kinds.items()}
    return Scored(sum(mean * count for mean, count in kinds.values()) / n, parts)


ROWS = [
    EpisodeRow(10, 3, GOOD, mixed(1.25, accuracy=graded(forward=(1, 1), backward=(1, 1)), length=Scored(0.25)), 0.75),
    EpisodeRow(10, 3, BAD, mixed(-0.5, accuracy=graded(forward=(0, 1), backward=(0, 1)), judge=None), -0.75, gap=3e-5),
]


# --- Verdicts -----------------------------------------------------------------------------------------------------


def test_every_poll_has_its_verdict() -> None:
    good = [(one.query.id, one.time, one.gold, one.right) for one in verdicts(GOOD)]
    assert good == [("door", 2.0, "", True), ("door", 3.0, "now", True), ("cup", 3.0, "A", True)]
    bad = verdicts(BAD)
    assert [one.right for one in bad] == [False, False, False]  # too early; right words, but cut off; never put
    assert [one.turn for one in bad] == [BAD.turns[2], BAD.turns[4], None]


@pytest.mark.parametrize(
    ("text", "right"),
    [("A", True), ("(a)", True), ("red", True), ("Red.", True), ("B", False), ("", False), ("A or B", False)],
)
def test_an_option_is_right_by_letter_or_text(text: str, right: bool) -> None:
    episode = Episode(sample(), (reply(3.0, "cup", text, 1),))
    assert verdicts(episode)[-1].right == right


def test_the_answer_may_stand_in_a_box() -> None:
    episode = Episode(sample(), (reply(3.0, "door", r"I see it: \boxed{now}", 1), reply(3.0, "cup", "A", 1)))
    assert [one.right for one in verdicts(episode, "boxed")] == [False, True, False]
    assert [one.right for one in verdicts(episode)] == [False, False, True]


def test_silence_and_speech_are_told_apart() -> None:
    """A silence is right where the sample is silent, and wrong where it is not; two polls at one time stay apart."""
    twice = sample().with_events((*sample().events, Answer(3.0, "again", "door")))
    episode = Episode(twice, (reply(3.0, "door", ""), reply(3.0, "door", "again", 3)))
    assert [(one.gold, one.right) for one in verdicts(episode)] == [
        *[("", False), ("now", False), ("A", False), ("again", True)]
    ]


# --- Tables -------------------------------------------------------------------------------------------------------


def test_a_record_says_what_happened() -> None:
    good, bad = records(ROWS)
    assert list(good) == list(bad)
    parts = {"accuracy/forward": 1, "accuracy/backward": 1, "queries/forward": 1, "queries/backward": 1}
    assert json.loads(good.pop("parts")) == {"accuracy": parts}
    assert good == {
        "step": 10,
        "sample": "train-7",
        "video": "videos/a.mp4",
        "group": 3,
        "rollout": 0,
        "perturbation": "",
        "turns": 6,
        "thoughts": "1 s: a red cup\n2 s: (silence)\n3 s: the door opens",
        "queries": "2 s: door: when does the <door> open ?\n3 s: cup: which cup ?",
        "replies": "2 s: door: (silence)\n3 s: door: Now.\n3 s: cup: red",
        "gold": "2 s: door: (silence)\n3 s: door: now\n3 s: cup: A",
        "reward": 1.25,
        "score/accuracy": 1.0,
        "score/length": 0.25,
        "score/judge": None,
        "advantage": 0.75,
        "tokens": 14,  # 3 + 0 + 0 + 2 + 2 + 1 sampled, and six boundary tokens
        "thought_tokens": 8,
        "unfinished": 0,
        "gap": None,
    }
    assert (bad["rollout"], bad["perturbation"], bad["unfinished"], bad["gap"]) == (1, "no_memory", 2, 3e-5)
    assert bad["thoughts"].splitlines()[2] == "3 s: </script><b> so so so"  # one line a turn
    assert (bad["tokens"], bad["thought_tokens"]) == (13, 10)  # 3 + 3 + 2 + 4 + 1: two are without a boundary token
    assert bad["score/judge"] is None and bad["score/length"] is None


def test_the_table_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = write_table(ROWS, tmp_path)
    assert path == tmp_path / "episodes" / "step-00010.parquet"
    assert pq.read_table(path).to_pylist() == records(ROWS)
    write_table(ROWS[:1], tmp_path)  # again, after a resume: it is replaced
    assert pq.read_table(path).num_rows == 1 and [file.name for file in path.parent.iterdir()] == [path.name]


def test_tables_of_a_run_are_one_dataset(tmp_path: Path) -> None:
    """A score or gap that is null in all of one step keeps its type."""
    # the first file decides the types of a dataset
    first = replace(ROWS[0], step=9, gap=None, mixed=mixed(0.0, accuracy=None, length=None, judge=None))
    for rows in ([first], ROWS):
        write_table(rows, tmp_path)
    table = pyarrow.dataset.dataset(tmp_path / "episodes").to_table()
    assert table.num_rows == 3 and table["score/judge"].null_count == 3 and table["gap"].null_count == 2
    assert table["step"].to_pylist() == [9, 10, 10]


def test_a_table_is_of_one_step(tmp_path: Path) -> None:
    for rows, told in (([], "not of none"), ([ROWS[0], replace(ROWS[1], step=11)], r"not of \[10, 11\]")):
        with pytest.raises(TableError, match=told):
            write_table(rows, tmp_path)
        with pytest.raises(TableError, match=told):
            write_page(rows, [() for _ in rows], tmp_path)
    assert not list(tmp_path.iterdir())


def test_wandb_gets_the_table_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(TableError, match="no W&B run is under way"):
        log_to_wandb(ROWS)
    run = wandb.init(project="test", dir=tmp_path)
    try:
        log_to_wandb(ROWS)
        assert run.summary["train/global_step"] == 10
    finally:
        run.finish()
    (file,) = tmp_path.rglob("episodes_*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"] == list(records(ROWS)[0])
    assert table["data"] == [list(record.values()) for record in records(ROWS)]


# --- The page -----------------------------------------------------------------------------------------------------


def clips() -> tuple[SegmentClip, ...]:
    """Two frames a segment, grey levels 0, 30, 60, ..."""
    levels = np.arange(6).reshape(3, 2) * 30
    return tuple(
        SegmentClip(
            segment,
            np.broadcast_to(level[:, None, None, None], (2, 32, 48, 3)).astype(np.uint8),
            (segment.start, segment.start + 0.5),
            2.0,
        )
        for segment, level in zip(sample().segments(), levels, strict=True)
    )


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return write_page(ROWS, [clips(), clips()], tmp_path)


def plain(html: str) -> str:
    """Without tags; runs of blanks are one."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def test_the_page_shows_each_episode(page: Path) -> None:
    assert page.name == "step-00010.html" and [file.name for file in page.parent.iterdir()] == [page.name]
    text = page.read_text()
    heads = re.findall("<h2>(.*?)</h2>", text)
    assert heads == ["train-7, group 3, rollout 0", "train-7, group 3, rollout 1, no_memory"]
    assert "Episodes of step 10" in text and "2 episodes." in text and "://" not in text
    scores = text.split('<div class="scores">')[1:]
    good, bad = (plain(part.partition('<div class="scene')[0]) for part in scores)
    assert "reward 1.25 accuracy 1 accuracy/forward 1" in good and "length 0.25" in good and "advantage +0.75" in good
    assert "step 10: 6 turns, 14 tokens" in good and "gap" not in good
    assert "\u2713 2 s forward when does the <door> open ? (silence) (silence)" in good
    assert "\u2713 3 s backward which cup ? red A" in good and "\u2717" not in good
    assert "judge does not apply" in bad and "advantage -0.75" in bad and "largest log-prob gap 3e-05" in bad
    assert "\u2717 2 s forward when does the <door> open ? now (silence)" in bad and "\u2713" not in bad
    assert "\u2717 3 s backward which cup ? (never put) A" in bad


def test_what_a_policy_writes_stays_text(page: Path) -> None:
    """It may write markup: the page shows it and does not run it."""
    text = page.read_text()
    assert "<b>\nso so so" not in text and "&lt;/script&gt;&lt;b&gt;" in text
    # the JSON of the samples, the style and the script of the page, nothing else
    assert text.count("<script") == text.count("</script>") == 3


def test_the_strip_has_frames_and_a_note_under_each_turn(page: Path) -> None:
    good, bad = page.read_text().split("<section>")[1:]
    columns = [plain(cell) for cell in re.findall(r"<td>(.*?)</td>", good.partition('class="strip"')[2])[:3]]
    assert columns[0] == "thought 1 s a red cup 4 tokens"
    assert columns[1].startswith("silence 2 s nothing is said 1 token query 2 s when does")
    assert columns[1].endswith("silence 2 s (to: when does the <door> open ?) \u2713 right 1 token")
    assert good.partition('class="strip"')[2].count("data:image/png") == 6
    told = plain(bad.partition('class="strip"')[2].partition("</table>")[0])
    assert "now (to: when does the <door> open ?) \u2717 wrong; the sample: (silence) 2 tokens" in told
    assert "\u2717 cut off; the sample: now 1 token, cut off by the limit" in told
    assert "so so so 4 tokens, cut off by the limit" in told


@needs_chromium
@pytest.mark.parametrize(("place", "now"), [("#t=2.5", "2.5"), ("", "3")])
def test_the_page_runs_in_a_browser(page: Path, tmp_path: Path, place: str, now: str) -> None:
    """It opens at the end, where all of an episode is in the past, or where it is asked to."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--enable-logging=stderr", "--dump-dom", "--virtual-time-budget=3000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}"]
    command = [CHROMIUM, *flags, page.as_uri() + place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "Uncaught" not in done.stderr, done.stderr
    assert done.stdout.count('<div class="stage" data-shows="frames">') == 2
    assert done.stdout.count(f'data-now="{now}"') == 2
    panels = [plain(part.partition('<div class="moves">')[0]) for part in done.stdout.split('<div class="now">')[1:]]
    if place:
        assert "2 of 3 segments have arrived" in panels[0] and "not answered yet, silent 1 time" in panels[0]
        assert "cup cup 2 s" in panels[1] and "now 2 s" in panels[1]
    else:
        assert not re.findall('class="[^"]*later', done.stdout.partition("<script")[0])
        assert "3 of 3 segments have arrived" in panels[0] and "Now. 3 s" in panels[0]


# --- Figures ------------------------------------------------------------------------------------------------------


def test_the_figures_of_both_episodes() -> None:
    means = metrics([GOOD, BAD], [row.mixed for row in ROWS]).means()
    expected: Mapping[str, float] = {
        "reward": (1.25 - 0.5) / 2,
        "reward/accuracy": 0.5,
        "reward/accuracy/accuracy/forward": 0.5,
        "reward/accuracy/accuracy/backward": 0.5,
        "reward/length": 0.25,  # of one episode: it does not exist in the other
        "accuracy/forward": 0.5,
        "accuracy/backward": 0.5,
        "turns": 5.5,  # 6 and 5
        "tokens/thought": 18 / 6,  # 4 + 1 + 3 and 3 + 3 + 4
        "tokens/answer": 9 / 5,  # 1 + 3 + 2 and 2 + 1
        "told": 5 / 6,  # 2 and 3 of 3 segments
        "distinct_thoughts": 4 / 5,  # 2 of 2 and 2 of 3
        "unfinished": 2 / 11,
    }
    assert means == pytest.approx(expected)


def test_accuracy_weighs_queries_not_episodes() -> None:
    """One of one and one of four right: 2 / 5, where the mean over episodes would be 0.625."""
    scores = [mixed(1.0, a=graded(backward=(1.0, 1))), mixed(0.25, a=graded(backward=(0.25, 4)))]
    means = metrics([GOOD, BAD], scores).means()
    assert means["accuracy/backward"] == pytest.approx(0.4) == means["reward/a/accuracy/backward"]
    assert means["reward/a"] == pytest.approx(0.625)
    assert not any("queries" in name for name in means)


def test_the_first_term_with_a_kind_gives_its_accuracy() -> None:
    """A second, more lenient accuracy beside it stays under its own name."""
    score = mixed(0.0, strict=graded(backward=(0.0, 1)), soft=graded(backward=(1.0, 1), forward=(1.0, 2)))
    means = metrics([GOOD], [score]).means()
    assert means["accuracy/backward"] == 0.0 and means["accuracy/forward"] == 1.0
    assert means["reward/soft/accuracy/backward"] == 1.0


def test_ranks_add_up_to_the_whole() -> None:
    """Any split over ranks, one of them empty, gives the figures of all; means of means would not."""
    episodes, scores = [GOOD, BAD, BAD, GOOD, BAD], [ROWS[i].mixed for i in (0, 1, 1, 0, 1)]
    whole = metrics(episodes, scores)
    parts = [metrics(episodes[a:b], scores[a:b]) for a, b in ((0, 1), (1, 1), (1, 5))]
    assert combine(parts).means() == pytest.approx(whole.means())
    averaged = np.mean([part.means()["told"] for part in (parts[0], parts[2])])
    assert not math.isclose(averaged, whole.means()["told"])
    assert metrics([], []) == combine([]) == Tally() and Tally().means() == {}


def test_what_there_is_none_of_has_no_figure() -> None:
    """No segment, no thought, no reply: shares of them do not exist, rather than being 0."""
    quiet = Episode(Sample("x", Video("x.mp4"), ()), ())
    assert metrics([quiet], [mixed(0.5, none=None)]).means() == {"reward": 0.5, "turns": 0.0}
    blank = Episode(sample(), (think(1.0, "  \n", 1),))
    means = metrics([blank], [mixed(0.0)]).means()
    assert means["told"] == 0.0 and "distinct_thoughts" not in means and "tokens/answer" not in means
