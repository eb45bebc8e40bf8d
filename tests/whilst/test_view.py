"""The page of samples: what stands in it, and in a real browser, what it shows at each moment."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.graph import Edge, Graph, make_graph, write_graphs
from data_pipeline.source import Source, write_sources
from whilst.backbones.base import load_spec
from whilst.sample import (
    Answer,
    Query,
    Sample,
    SampleError,
    Segment,
    Silence,
    Thought,
    Video,
    read_jsonl,
    write_jsonl,
    write_parquet,
)
from whilst.video import VideoError, write_video
from whilst.view import write_page
from whilst.view_page.budget import count_words, slots
from whilst.view_page.graphs import read_graphs
from whilst.view_page.lanes import clock

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


def timeline(id: str, video: str, start: float = 0.0) -> Sample:
    """Four segments of 1 s from `start` on; a standing query from 1 s on, one with options at 4 s."""

    def at(t: float) -> float:
        return start + t

    events = (
        Segment(at(0.0), at(1.0)),
        Thought(at(1.0), "a cat sits"),
        Query("q0", at(1.0), "when does <b>it</b> jump ?", "forward", window=(at(3.0), at(4.0)), knowable_at=at(3.0)),
        Silence(at(1.0), "q0"),
        Segment(at(1.0), at(2.0)),
        Thought(at(2.0), "nothing new"),
        Silence(at(2.0), "q0"),
        Segment(at(2.0), at(3.0)),
        Thought(at(3.0), "the cat jumps on to the table"),
        Answer(at(3.0), "now", "q0"),
        Segment(at(3.0), at(4.0)),
        Thought(at(4.0), "it sleeps"),
        Query("q1", at(4.0), "who ?", "backward", options=("cat & dog", "dog"), evidence=((at(0.0), at(1.0)),)),
        Answer(at(4.0), "dog", "q1"),
    )
    return Sample(id, Video(video, start, at(4.0)), events, memory="seen before", meta={"source": "cats"})


def graph() -> Graph:
    """An edge that begins at 0 s but is known at 3 s only, and an alias that is known later than its node."""
    edges = [
        Edge("sits", "cat", "on", "floor", 0.0, 4.0, "state", 1.0, "the cat sits on the floor"),
        Edge("plans", "cat", "wants", "table", 0.0, 3.0, "span", 3.0, "the cat wanted the table all along"),
        Edge("jumps", "cat", "onto", "table", 3.0, 3.0, "point", 3.0, "the cat jumps on to the table"),
        Edge("sleeps", "cat", "sleeps on", "table", 3.0, 4.0, "span", 4.0, "the cat sleeps on the table"),
        Edge("self", "cat", "licks", "cat", 3.5, 4.0, "span", 4.0, "the cat licks itself"),
    ]
    nodes = [("cat", "animal", "cat"), ("floor", "scene", 'the "floor" <x>'), ("table", "object", "table")]
    return make_graph("cats", 4.0, nodes, edges, aliases={"cat": (("Minka", 3.5),)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Samples `first` and `second` of one video of 4 s, `late` of seconds 2 to 6 of another; graphs.jsonl."""
    pictures = np.random.default_rng(0).integers(0, 255, (12, 32, 48, 3), np.uint8)
    write_video(tmp_path / "a b.mp4", pictures[:8], 2.0)
    write_video(tmp_path / "long.mp4", pictures, 2.0)
    samples = [timeline("first", "a b.mp4"), timeline("second", "a b.mp4"), timeline("late", "long.mp4", 2.0)]
    write_jsonl(samples, tmp_path / "samples.jsonl")
    write_graphs([make_graph("others", 1.0, [], []), graph()], tmp_path / "graphs.jsonl")
    return tmp_path


def browse(page: Path, place: str = "") -> str:
    """What the document is once Chromium has run its script; without the script and its data."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--enable-logging=stderr", "--dump-dom"]
    profile = page.parent / "profile"
    command = [CHROMIUM, *flags, "--virtual-time-budget=3000", f"--user-data-dir={profile}", page.as_uri() + place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "Uncaught" not in done.stderr, done.stderr
    return re.sub(r"<(script|style)\b.*?</\1>", "", done.stdout, flags=re.DOTALL)


def drawn(dom: str) -> tuple[set[str], set[str]]:
    """Node and edge ids that the drawing shows, and that the list under it says, by their texts."""
    nodes = {unescape(id) for id in re.findall(r'data-node="([^"]*)"', dom)}
    edges = {id for ids in re.findall(r'data-edges="([^"]*)"', dom) for id in json.loads(unescape(ids))}
    return nodes, edges


def part(dom: str, start: str, end: str) -> str:
    """The text from the first `start` to the next `end`, tags left out."""
    return unescape(re.sub(r"<[^>]*>", " ", dom[dom.index(start) :].partition(end)[0]))


# ---- In the browser.


@needs_chromium
@pytest.mark.parametrize("time", [0.0, 1.0, 2.5, 3.0, 3.75, 4.0])
def test_the_graph_is_that_of_the_playhead(folder: Path, time: float) -> None:
    page = write_page(folder / "samples.jsonl", folder / "p.html", ids=["first"], graphs=folder / "graphs.jsonl")
    dom = browse(page, f"#t={time}")
    known = graph().as_of(time)
    nodes, edges = drawn(dom)
    assert nodes == {node.id for node in known.nodes}
    assert edges == {edge.id for edge in known.edges}
    listed = part(dom, '<ol class="known">', "</ol>")
    for edge in graph().edges:
        assert (edge.text in listed) == (edge.knowable_at <= time), edge.id
    assert f"{len(known.nodes)} of 3 entities, {len(known.edges)} of 5 relations" in part(dom, "<h3>The graph", "</h3>")
    assert ("Minka" in part(dom, '<div class="graph">', '<div class="moves">')) == (time >= 3.5)


@needs_chromium
def test_the_panel_says_what_was_said_so_far(folder: Path) -> None:
    page = write_page(folder / "samples.jsonl", folder / "p.html", ids=["first"])
    early = part(browse(page, "#t=2.2"), '<div class="now">', '<div class="moves">')
    assert "2 of 4 segments have arrived" in early and "nothing new" in early
    assert "when does <b>it</b> jump ?" in early and "not answered yet, silent 2 times" in early
    assert "the cat jumps" not in early and "who ?" not in early
    late = part(browse(page, "#t=4"), '<div class="now">', '<div class="moves">')
    assert "it sleeps" in late and "now" in late and "dog" in late and "not answered" not in late
    assert "8 frames seen; text memory 16 words" in late  # 3 + 2 + 7 + 2 of thoughts, 2 that it starts with


@needs_chromium
def test_a_sample_that_starts_late_has_its_graph_on_the_clock_of_the_file(folder: Path) -> None:
    page = write_page(folder / "samples.jsonl", folder / "p.html", ids=["late"], graphs=folder / "graphs.jsonl")
    for time, edges in {2.9: set(), 3.0: {"sits"}, 5.0: {"sits", "plans", "jumps"}}.items():
        assert drawn(browse(page, f"#t={time}"))[1] == edges


@needs_chromium
def test_the_video_is_loaded_embedded_or_linked(folder: Path) -> None:
    pages = folder / "some pages"
    for megabytes in (1.0, 0.0):
        page = write_page(folder / "samples.jsonl", pages / "p.html", ids=["first"], embed_megabytes=megabytes)
        dom = browse(page, "#t=1")
        assert '<div class="stage" data-shows="video">' in dom


@needs_chromium
def test_what_a_browser_cannot_play_is_shown_as_frames(folder: Path) -> None:
    write_video(folder / "a.avi", np.full((8, 32, 48, 3), 90, np.uint8), 2.0)
    write_jsonl([timeline("first", "a.avi")], folder / "avi.jsonl")
    dom = browse(write_page(folder / "avi.jsonl", folder / "p.html"), "#t=2.6")
    assert '<div class="stage" data-shows="frames">' in dom and "Browsers do not play .avi files" in dom
    assert 'class="shown small" src="data:image/png' in dom and 'alt="frame at 2.5 s"' in dom.partition("moves")[0]


@needs_chromium
def test_a_large_graph_is_drawn_by_its_latest_part_and_says_so(folder: Path) -> None:
    edges = [Edge(f"e{i}", "me", "does", f"a{i}", i / 20, i / 20, "point", i / 20, f"does {i}") for i in range(60)]
    nodes = [("me", "person", "me"), *((f"a{i}", "activity", f"thing {i}") for i in range(60))]
    write_graphs([make_graph("cats", 4.0, nodes, edges)], folder / "large.jsonl")
    page = write_page(folder / "samples.jsonl", folder / "p.html", ids=["first"], graphs=folder / "large.jsonl")
    dom = browse(page, "#t=2")
    shown, _ = drawn(dom)
    assert shown == {"me", *(f"a{i}" for i in range(41 - 23, 41))}
    assert "drawn: the 24 latest entities" in dom and "41 of 60 relations" in dom


@needs_chromium
def test_a_codec_that_the_browser_lacks_is_shown_as_frames(folder: Path) -> None:
    pictures = np.full((8, 32, 48, 3), 90, np.uint8)
    write_video(folder / "old.mp4", pictures, 2.0, codec="mpeg4", pixel_format="yuv420p", options={})
    write_jsonl([timeline("first", "old.mp4")], folder / "old.jsonl")
    dom = browse(write_page(folder / "old.jsonl", folder / "p.html"), "#t=1.2")
    assert 'data-shows="frames"' in dom and "This browser cannot play it" in dom and "<video" not in dom
    assert 'alt="frame at 1 s"' in dom.partition("moves")[0]


@needs_chromium
def test_slider_buttons_and_marks_move_the_playhead(folder: Path) -> None:
    page = write_page(folder / "samples.jsonl", folder / "p.html", ids=["first", "late"])
    acts = """
    const [first, late] = document.querySelectorAll("section"), told = [];
    const tell = () => told.push(Number(first.dataset.now).toFixed(2));
    const slider = first.querySelector("input");
    slider.value = 2.25; slider.dispatchEvent(new Event("input")); tell();
    const [before, , after] = first.querySelectorAll(".moves button");
    after.click(); tell(); after.click(); tell(); after.click(); tell();
    before.click(); before.click(); tell();
    const track = first.querySelector(".asked .track"), box = track.getBoundingClientRect();
    track.dispatchEvent(new MouseEvent("click", { clientX: box.left + box.width / 8 })); tell();
    const left = parseFloat(first.querySelector(".playhead").style.left).toFixed(0);
    told.push(first.querySelector("output").textContent, left);
    told.push(first.querySelectorAll(".strip p:not(.later)").length, late.dataset.now);
    const result = document.createElement("pre");
    result.textContent = told.join(" ");
    document.body.append(result);
    """
    page.write_text(page.read_text().replace("</body>", f"<script>{acts}</script></body>"))
    dom = browse(page)
    assert part(dom, "<pre>", "</pre>").split() == [
        *["2.25", "3.00", "4.00", "4.00", "2.00", "0.50"],
        *["0.5", "s", "12", "0", "2"],
    ]


@needs_chromium
def test_samples_with_little_in_them_are_shown_too(folder: Path) -> None:
    samples = [
        Sample("nothing", Video("a b.mp4"), ()),
        Sample("asked", Video("a b.mp4"), (Query("q0", 1.0, "what ?"), Answer(1.0, "this", "q0"))),
        Sample("seen", Video("a b.mp4"), (Segment(0.0, 1.0),)),
    ]
    write_jsonl(samples, folder / "little.jsonl")
    dom = browse(write_page(folder / "little.jsonl", folder / "p.html"), "#t=1")
    assert [float(now) for now in re.findall(r'<section data-now="([^"]*)"', dom)] == [1e-6, 1.0, 1.0]
    assert "No segment, so no frame is shown." in dom and "this" in dom


# ---- The file.


def test_the_page_needs_nothing_else(folder: Path) -> None:
    page = write_page(folder / "samples.jsonl", folder / "p.html", graphs=folder / "graphs.jsonl").read_text()
    assert "://" not in page.replace("text/plain", "")
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', page)
    assert page.count("<section>") == 3 and page.count("data:video/mp4;base64,") == 2  # one copy of each video
    assert page.count('data-video="video-0"') == 2 and page.count('data-video="video-1"') == 1
    assert "<b>it</b>" not in page and "when does &lt;b&gt;it&lt;/b&gt; jump ?" in page and "cat &amp; dog" in page


def test_a_video_that_is_too_large_is_linked_and_the_page_says_so(folder: Path) -> None:
    size = (folder / "a b.mp4").stat().st_size / 1e6
    out = folder / "pages" / "p.html"
    page = write_page(folder / "samples.jsonl", out, embed_megabytes=size * 1.01).read_text()
    assert page.count("data:video/mp4;base64,") == 1 and page.count('data-video="video-0"') == 2
    assert 'src="../long.mp4"' in page and "Not embedded: " in page
    page = write_page(folder / "samples.jsonl", out, embed_megabytes=0.0).read_text()
    assert "data:video" not in page and page.count('src="../a%20b.mp4"') == 2


def test_without_frames_no_video_is_read(folder: Path) -> None:
    (folder / "a b.mp4").unlink()
    with pytest.raises(VideoError, match="there is no such file"):
        write_page(folder / "samples.jsonl", folder / "p.html", ids=["first"])
    page = write_page(folder / "samples.jsonl", folder / "p.html", ids=["first"], frames=False).read_text()
    assert "<img" not in page and "<video" not in page and "the video was not read" in page
    assert "the cat jumps on to the table" in page and "frames max" not in page


def test_parquet_is_read_too(folder: Path) -> None:
    write_parquet(read_jsonl(folder / "samples.jsonl"), folder / "samples.parquet")
    page = write_page(folder / "samples.parquet", folder / "p.html", ids=["late", "first"]).read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == ["late", "first"]


def test_a_sample_without_meta_source_takes_the_graph_of_its_own_id(folder: Path) -> None:
    sample = Sample("cats", Video("a b.mp4", 0.0, 4.0), (Segment(0.0, 4.0),))
    write_jsonl([sample], folder / "plain.jsonl")
    write_page(folder / "plain.jsonl", folder / "p.html", graphs=folder / "graphs.jsonl")
    assert '"the cat licks itself"' in (folder / "p.html").read_text()


# ---- Graphs.


def test_sources_hold_graphs_too(folder: Path) -> None:
    source = Source("cats", Video("a b.mp4", 0.0, 4.0), graph(), (Segment(0.0, 4.0),), "d", "v")
    (folder / "sources").mkdir()
    write_sources([source], folder / "sources" / "x.jsonl")
    assert read_graphs(folder / "sources", ["cats"]) == read_graphs(folder / "graphs.jsonl", ["cats"])


def spoil(change: Callable[[dict], object]) -> str:
    from data_pipeline.graph import to_record

    record = json.loads(json.dumps(to_record(graph())))
    change(record)
    return json.dumps(record) + "\n"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r.update(schema="whilst.graph/9"), "schema 'whilst.graph/9' is neither"),
        (lambda r: r.update(id="dogs"), "no graph has the id 'cats'; the first ids are: 'dogs'"),
        (lambda r: r.pop("edges"), "needs the lists nodes and edges"),
        (lambda r: r["nodes"][0].pop("name"), r"nodes\[0\].name: must be text, not None"),
        (lambda r: r["edges"][1].update(knowable_at="3"), r"edges\[1\].knowable_at: must be a number of seconds"),
        (lambda r: r["nodes"].pop(), "is no node of the graph"),
    ],
)
def test_a_graph_that_cannot_be_drawn_is_named(folder: Path, change: Callable[[dict], object], told: str) -> None:
    (folder / "bad.jsonl").write_text(spoil(change))
    with pytest.raises(SampleError, match=rf"bad.jsonl.*{told}"):
        write_page(folder / "samples.jsonl", folder / "p.html", ids=["first"], graphs=folder / "bad.jsonl")
    assert not (folder / "p.html").exists()


def test_a_folder_without_graphs_and_a_broken_line_are_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(SampleError, match="holds no .jsonl file"):
        read_graphs(folder / "empty", ["cats"])
    (folder / "bad.jsonl").write_text("{\n")
    with pytest.raises(SampleError, match="bad.jsonl:1: not JSON"):
        read_graphs(folder / "bad.jsonl", ["cats"])


# ---- Budgets.


def test_slots_count_what_is_written_and_the_time_for_it() -> None:
    made = slots(timeline("first", "x.mp4"), None, count_words())
    assert [slot.thought for slot in made] == [3, 2, 7, 2]
    assert [slot.received for slot in made] == [5, 0, 0, 2]  # options that the text does not hold are not read
    assert [slot.answer for slot in made] == [0, 0, 1, 1]
    assert [slot.seconds for slot in made] == [1.0, 1.0, 1.0, None]
    assert [slot.rate for slot in made] == [3.0, 2.0, 8.0, None]


def test_the_page_names_the_busiest_segment(folder: Path) -> None:
    page = write_page(folder / "samples.jsonl", folder / "p.html", ids=["first"]).read_text()
    assert "8 words a second must be written after the segment 2 to 3 s, the busiest one: 8 in 1 s." in page
    assert "Counted in words and frames" in page


def test_with_a_checkpoint_tokens_are_counted(folder: Path, checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    page = write_page(folder / "samples.jsonl", folder / "p.html", ids=["first"], checkpoint=checkpoint).read_text()
    data = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page)[0])
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    thoughts = ["a cat sits", "nothing new", "the cat jumps on to the table", "it sleeps"]
    assert [costs[1] for costs in data["costs"]] == [len(tokenizer.encode(text)) for text in thoughts]
    height, width = load_spec(checkpoint).frame_size(32, 48)
    assert [costs[0] for costs in data["costs"]] == [height * width // 16**2] * 4  # two frames are one patch in time
    assert data["units"] == ["visual tokens", "tokens"] and f"Tokens of {checkpoint.name}" in page


@pytest.mark.parametrize(("seconds", "told"), [(0.0, "0 s"), (12.346, "12.35 s"), (125.4, "2:05"), (3725.0, "1:02:05")])
def test_times_are_written_as_one_reads_them(seconds: float, told: str) -> None:
    assert clock(seconds) == told


def ticks(page: str) -> Sequence[str]:
    return re.findall(r"<span[^>]*>([^<]*)</span>", page[page.index('"lane axis"') :].partition('"over"')[0])[1:]


def test_the_axis_has_round_times_between_start_and_end(folder: Path) -> None:
    write_jsonl([Sample("x", Video("x.mp4"), (Segment(0.7, 47.0),))], folder / "x.jsonl")
    page = write_page(folder / "x.jsonl", folder / "p.html", frames=False).read_text()
    assert ticks(page) == ["0 s", "5 s", "10 s", "15 s", "20 s", "25 s", "30 s", "35 s", "40 s", "45 s", "47 s"]
