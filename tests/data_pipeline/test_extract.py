"""The road from a video to a graph, end to end: causal, counted, and the same again from the cache of an endpoint."""

import base64
import io
import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.extract.describe import Describer, Description, Known, Mention, Triple, View, parse, schema
from data_pipeline.extract.road import clips, extract, extract_source
from data_pipeline.extract.settings import ClipSettings, ExtractSettings, LinkSettings, RefineSettings, ShapeLimits
from data_pipeline.extract.vision import encoded, request, shown, vision_describer
from data_pipeline.graph import Graph, validate_graph
from data_pipeline.source import Rejected, Source, SynthError, from_record, scan_sources, to_record
from data_pipeline.text.endpoint import Endpoint, EndpointError, EndpointSettings
from data_pipeline.text.limits import Budget, BudgetError
from data_pipeline.text.schemas import BadReply, parsed
from data_pipeline.text.task import TextRejected
from data_pipeline.world.build import build_world
from tests.data_pipeline.faulty_server import FaultyServer
from tests.data_pipeline.oracle import QUIET, Noise, Oracle, clip_of
from tests.data_pipeline.worlds import BUSY
from whilst.sample import Segment, Video
from whilst.video import write_video

TWO_SECONDS = ClipSettings(segmenter="fixed", seconds=2.0, fps=2.0)
ANY_SHAPE = ShapeLimits(edges=0, hub_share=1.0, object_share=0.0)
SETTINGS = ExtractSettings(clips=TWO_SECONDS, shape=ANY_SHAPE)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Three worlds with their videos."""
    folder = tmp_path_factory.mktemp("worlds")
    build_world(BUSY, folder, "train", 3)
    return [
        replace(source, video=replace(source.video, path=str(folder / source.video.path)))
        for source in scan_sources(folder / "train.sources.jsonl")
    ]


def extracted(
    source: Source, noise: Noise = QUIET, settings: ExtractSettings = SETTINGS, end: float | None = None
) -> Graph:
    video = source.video if end is None else replace(source.video, end=end)
    return extract(video, settings, Oracle(source.graph, noise), id=source.id).graph


def as_source(source: Source, settings: ExtractSettings, describer: Describer) -> Source | Rejected:
    return extract_source(
        source.video, settings, describer, id=source.id, dataset="world", video_id=source.video_id, licence="none"
    )


def facts(graph: Graph) -> list[tuple[str, str, float, float]]:
    """Who does what to whom and when, by name."""
    return sorted((graph.name(e.head), graph.name(e.tail), e.start, e.end) for e in graph.edges)


# ---- The graph.


def test_a_true_description_gives_the_true_graph(worlds: list[Source]) -> None:
    for source in worlds:
        graph = extracted(source)
        validate_graph(graph)
        # Edges of the world that touch end to end (an object touched twice on end) are told as one that goes on.
        true, found = set(facts(source.graph)), set(facts(graph))
        longer = [(h, t, s, e) for h, t, s, e in found - true]
        for head, tail, start, end in longer:
            pieces = sorted(one for one in true if one[:2] == (head, tail) and start <= one[2] and one[3] <= end)
            assert pieces[0][2] == start and pieces[-1][3] == end
            true -= set(pieces)
        assert true <= found
        assert {node.name for node in graph.nodes} == {node.name for node in source.graph.nodes}


@pytest.mark.parametrize("noise", [QUIET, Noise()], ids=["quiet", "noisy"])
def test_the_graph_as_of_the_end_of_a_clip_is_the_graph_of_the_video_cut_there(
    worlds: list[Source], noise: Noise
) -> None:
    changed = 0
    for source in worlds:
        whole = extracted(source, noise)
        for end in np.arange(2.0, source.graph.duration, 2.0).tolist():
            cut, known = extracted(source, noise, end=end), whole.as_of(end)
            assert cut.nodes == known.nodes
            assert cut.edges == known.edges
            changed += known.edges != tuple(edge for edge in whole.edges if edge.knowable_at <= end)
    assert changed  # some edge went on after a cut, so that cutting it was put to the test


def test_what_comes_later_may_be_anything(worlds: list[Source]) -> None:
    """The first half of one world before the second half of another leaves the first half as it was."""
    source, other = worlds[0], worlds[1]
    half = 8.0
    past = tuple(edge for edge in source.graph.edges if edge.start < half)
    future = tuple(replace(e, id=f"x{e.id}") for e in other.graph.edges if half <= e.start and e.end <= 16.0)
    nodes = {node.id: node for node in (*other.graph.nodes, *source.graph.nodes)}
    mixed = replace(source.graph, nodes=tuple(nodes.values()), edges=past + future)
    one = extract(source.video, SETTINGS, Oracle(source.graph, Noise()), id="a").graph.as_of(half)
    two = extract(source.video, SETTINGS, Oracle(mixed, Noise()), id="a").graph.as_of(half)
    assert (one.nodes, one.edges) == (two.nodes, two.edges)


def test_edges_are_known_from_the_end_of_their_clip_on_and_told_as_clauses(worlds: list[Source]) -> None:
    for edge in extracted(worlds[0], Noise()).edges:
        assert edge.knowable_at % 2.0 == 0.0 or edge.knowable_at == worlds[0].graph.duration
        assert edge.start <= edge.knowable_at
        assert edge.text == edge.text.lower() and not edge.text.endswith(".")


def test_noise_is_left_out_and_counted(worlds: list[Source]) -> None:
    noise = Noise(overlay=1.0, pronoun=1.0, outside=0.3, doubled=0.5)
    source = as_source(worlds[0], SETTINGS, Oracle(worlds[0].graph, noise))
    assert isinstance(source, Source)
    assert not [n for n in source.graph.nodes if "subtitle" in n.name or "watermark" in n.name or n.name == "it"]
    found: Any = source.meta["extract"]
    for name in ("subtitle or overlay", "pronoun"):
        assert found["mentions"]["rejected"][name] >= found["clips"] - 1
    for name in ("of a rejected entity", "outside the window", "said already"):
        assert found["triples"]["rejected"][name] > 0
    for one in (found["mentions"], found["triples"], found["merges"]):
        assert one["taken"] == one["made"] + sum(one["rejected"].values())
    assert sum(found["mentions"]["by"].values()) == found["mentions"]["made"]


def test_a_source_can_be_written_and_read_again_and_its_segments_are_the_clips(worlds: list[Source]) -> None:
    source = as_source(worlds[0], SETTINGS, Oracle(worlds[0].graph, Noise()))
    assert isinstance(source, Source)
    assert from_record(json.loads(json.dumps(to_record(source)))) == source
    assert source.segments[0] == Segment(0.0, 2.0)
    assert all(a.end == b.start for a, b in zip(source.segments, source.segments[1:], strict=False))
    assert source.segments[-1].end == source.graph.duration == worlds[0].graph.duration


def test_times_count_from_the_start_of_the_span(worlds: list[Source]) -> None:
    views: list[View] = []
    video = replace(worlds[0].video, start=3.0, end=8.0)
    extract(video, SETTINGS, lambda view: views.append(view) or Description("", (), ()), id="a")  # type: ignore[func-returns-value]
    assert [(view.clips[-1].start, view.end) for view in views] == [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0)]
    assert [float(clip.frames.times[0]) for clip in views[-1].clips] == [0.0, 2.0, 4.0]


# ---- Rejections and statistics.


def test_a_video_that_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for name in ("broken.mp4", "missing.mp4"):
        video = Video(str(tmp_path / name))
        outcome = extract_source(
            video, SETTINGS, lambda view: Description("", (), ()), id=name, dataset="d", video_id=name, licence="none"
        )
        assert isinstance(outcome, Rejected) and outcome.reason == "video cannot be read" and name in outcome.detail


def test_hub_and_spokes_are_rejected_and_their_statistics_kept(worlds: list[Source], tmp_path: Path) -> None:
    def protagonist(view: View) -> Description:
        thing = f"tool{chr(97 + view.clip)}"
        start, end = view.clips[-1].start, view.end
        one = Triple("man", "takes", thing, start, end, "span", f"the man takes the {thing}")
        return Description("", (Mention("man", "person"), Mention(thing, "object")), (one,))

    settings = replace(SETTINGS, shape=ShapeLimits(), statistics=str(tmp_path))
    outcome = as_source(worlds[0], settings, protagonist)
    assert isinstance(outcome, Rejected)
    assert (outcome.reason, outcome.detail) == ("hub and spokes", "man is in 100% of edges, at most 80%")
    saved = json.loads((tmp_path / f"{worlds[0].id}.json").read_text())
    assert saved["rejected"].startswith("hub and spokes")
    assert saved["shape"]["hub"] == "man" and saved["shape"]["reach"] == 1
    assert isinstance(as_source(worlds[0], replace(settings, shape=ANY_SHAPE), protagonist), Source)
    assert json.loads((tmp_path / f"{worlds[0].id}.json").read_text())["rejected"] is None


def test_what_goes_on_through_a_clip_without_description_was_not_known_in_it(worlds: list[Source]) -> None:
    def describer(view: View) -> Description:
        if view.clip == 2:
            raise TextRejected("cut off")
        told = Triple("cup", "is on", "table", view.start, view.end, "state", "the cup is on the table")
        return Description("", (Mention("cup", "object"), Mention("table", "object")), (told,))

    whole = extract(replace(worlds[0].video, end=8.0), SETTINGS, describer, id="a").graph
    cut = extract(replace(worlds[0].video, end=6.0), SETTINGS, describer, id="a").graph
    assert (cut.nodes, cut.edges) == (whole.as_of(6.0).nodes, whole.as_of(6.0).edges)
    assert [(edge.start, edge.end) for edge in cut.edges] == [(0.0, 4.0)]


def test_a_merge_of_what_was_never_told_of_is_not_told(worlds: list[Source]) -> None:
    def describer(view: View) -> Description:
        start, end = view.clips[-1].start, view.end
        if view.clip == 0:
            return Description("", (Mention("parcel", "object"),), ())
        if view.clip == 1:
            told = Triple("crate", "stands on", "floor", start, end, "state", "the crate stands on the floor")
            return Description("", (Mention("crate", "object"), Mention("floor", "object")), (told,))
        if view.clip == 2:
            return Description("", (Mention("gift box", "object"),), (), (("n0", "n1"),))
        return Description("", (), (), (("n0", "n3"),) if view.clip == 3 else ())

    graph = extract(worlds[0].video, SETTINGS, describer, id="a").graph
    # The crate was told of, so that it is the parcel is told; the gift box was not.
    assert [(e.relation, e.text) for e in graph.edges][1:] == [("same_as", "the crate is the parcel")]
    assert {node.name for node in graph.nodes} == {"parcel", "crate", "floor"}
    assert graph.by_id["n0"].aliases == (("crate", 6.0), ("gift box", 8.0))


def test_a_clip_without_description_rejects_the_video_unless_it_is_allowed_for(worlds: list[Source]) -> None:
    oracle = Oracle(worlds[0].graph)

    def failing(view: View) -> Description:
        if view.clip == 2:
            raise TextRejected("not of the schema", "no triples")
        return oracle(view)

    outcome = as_source(worlds[0], SETTINGS, failing)
    assert isinstance(outcome, Rejected) and outcome.reason == "clip without description"
    assert "1 of" in outcome.detail and "not of the schema" in outcome.detail
    source = as_source(worlds[0], replace(SETTINGS, failed_clips=1), failing)
    assert isinstance(source, Source)
    assert source.meta["extract"]["failed_clips"] == {"not of the schema": 1}  # type: ignore[call-overload,index]
    assert not [edge for edge in source.graph.edges if edge.knowable_at == 6.0]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ClipSettings(window=0), "extract.clips.window"),
        (lambda: ClipSettings(fps=0.0), "extract.clips.fps"),
        (lambda: LinkSettings(threshold=1.5), "extract.link.threshold"),
        (lambda: LinkSettings(votes=0), "extract.link.votes"),
        (lambda: RefineSettings(overlap=0.0), "extract.refine.overlap"),
        (lambda: ShapeLimits(hub_share=2.0), "extract.shape.hub_share"),
        (lambda: ExtractSettings(failed_clips=-1), "extract.failed_clips"),
    ],
)
def test_settings_that_make_no_sense_are_named(make: Callable[[], object], named: str) -> None:
    with pytest.raises(SynthError, match=named):
        make()


# ---- Clips.


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A black scene of 3 s and a white one of 7 s, at 4 fps."""
    path = tmp_path_factory.mktemp("scenes") / "scenes.mp4"
    images = [np.full((32, 48, 3), 0 if i < 12 else 255, np.uint8) for i in range(40)]
    write_video(path, images, 4.0)
    return str(path)


def spans(path: str, **settings: Any) -> list[tuple[float, float]]:
    return [(clip.start, clip.end) for clip in clips(Video(path), ClipSettings(**settings))]


def test_clips_by_shots_by_tokens_and_fixed(scenes: str) -> None:
    assert spans(scenes, segmenter="shots", fps=4.0) == [(0.0, 3.0), (3.0, 10.0)]
    assert spans(scenes, segmenter="shots", fps=4.0, most_seconds=3.0) == [
        (0.0, 3.0),
        (3.0, 6.0),
        (6.0, 9.0),
        (9.0, 10.0),
    ]
    # 8 frames of 10 tokens a clip: 4 s at 2 fps.
    tokens = spans(scenes, segmenter="token_budget", fps=2.0, budget=80, tokens_per_frame=10.0)
    assert tokens == [(0.0, 4.0), (4.0, 8.0), (8.0, 10.0)]
    assert spans(scenes, segmenter="fixed", fps=2.0, seconds=6.0) == [(0.0, 6.0), (6.0, 10.0)]


def test_the_window_holds_the_last_clips_alone(scenes: str) -> None:
    windows: list[list[float]] = []

    def describer(view: View) -> Description:
        windows.append([clip.start for clip in view.clips])
        return Description("", (), ())

    settings = replace(SETTINGS, clips=replace(TWO_SECONDS, window=2))
    extract(Video(scenes), settings, describer, id="a")
    assert windows == [[0.0], [0.0, 2.0], [2.0, 4.0], [4.0, 6.0], [6.0, 8.0]]


# ---- The endpoint.


def test_a_request_shows_frames_with_their_times_and_says_what_is_known() -> None:
    known = (Known("n0", "object", "red circle", ("disc",), 3.0),)
    view = View("a", 3, (clip_of(2.0, 4.0), clip_of(4.0, 6.0, frames=9)), known)
    settings = ExtractSettings(clips=ClipSettings(frames=3, pixels=50))
    system, user = request(view, settings)
    assert (system["role"], user["role"]) == ("system", "user")
    texts = [part["text"] for part in user["content"] if part["type"] == "text"]
    assert texts[:4] == ["Clip 2, 2.0 s to 4.0 s:", "2.0 s", "3.0 s", "3.5 s"]
    assert texts[4] == "Clip 3 (new), 4.0 s to 6.0 s:"
    assert "n0: red circle (object), also disc, 3.0 s" in texts[-1]
    assert "The new clip is the last one, from 4.0 s to 6.0 s." in texts[-1]
    images = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
    assert len(images) == 6
    picture = Image.open(io.BytesIO(base64.b64decode(images[0].removeprefix("data:image/jpeg;base64,"))))
    assert picture.size == (50, 30)
    assert request(view, settings) == [system, user]


def test_frames_are_spread_evenly_and_png_keeps_every_pixel() -> None:
    clip = clip_of(0.0, 9.0, frames=9)
    assert [time for time, _ in shown(clip, ClipSettings(frames=3))] == [0.0, 4.0, 8.0]
    assert [time for time, _ in shown(clip, ClipSettings(frames=1))] == [0.0]
    assert len(shown(clip, ClipSettings(frames=20))) == 9
    image = clip.frames.images[0]
    back = Image.open(io.BytesIO(encoded(image, ClipSettings(image="png"))))
    assert np.array_equal(np.asarray(back), image)


def record(description: Description) -> dict[str, Any]:
    return {
        "summary": description.summary,
        "entities": [asdict(mention) for mention in description.mentions],
        "triples": [asdict(triple) for triple in description.triples],
        "same": [list(pair) for pair in description.same],
    }


def test_a_description_keeps_to_its_schema_and_comes_back_from_json(worlds: list[Source]) -> None:
    view = View("a", 0, (clip_of(0.0, 4.0),), ())
    told = replace(Oracle(worlds[0].graph, Noise())(view), same=(("n0", "n1"),))
    text = json.dumps(record(told))
    assert parse(parsed(text, schema())) == told
    with pytest.raises(BadReply):
        parsed(text, schema(relations=("sleeps on",)))


@pytest.mark.parametrize(
    "fault",
    [
        {"summary": None},
        {"entities": [{"name": "cup"}]},
        {"entities": [{"name": "cup", "kind": "crockery", "same_as": None}]},
        {"entities": [{"name": 3, "kind": "object", "same_as": None}]},
        {"triples": [{"head": "a", "relation": "b", "tail": "c", "start": "x", "end": 1, "kind": "span", "text": "t"}]},
        {"triples": [{"head": "a", "relation": "b", "tail": "c", "start": -1, "end": 1, "kind": "span", "text": "t"}]},
        {"triples": [{"head": "a", "relation": "b", "tail": "c", "start": 0, "end": 1, "kind": "era", "text": "t"}]},
        {"same": [["n0"]]},
        {"more": 1},
    ],
)
def test_what_is_no_description_is_rejected(fault: dict[str, Any]) -> None:
    good: dict[str, Any] = {"summary": "", "entities": [], "triples": [], "same": []}
    assert parse(good) == Description("", (), ())
    with pytest.raises(TextRejected, match="not a description"):
        parse(good | fault)


def seeing(source: Source, noise: Noise = QUIET) -> Callable[[dict[str, Any]], str]:
    """A model that reads from the request which clips it is shown, and knows the truth of them."""
    oracle = Oracle(source.graph, noise)

    def reply(body: dict[str, Any]) -> str:
        parts = body["messages"][1]["content"]
        assert sum(part["type"] == "image_url" for part in parts) > 0
        assert body["response_format"]["json_schema"]["schema"] == schema()
        heads = [part["text"].split() for part in parts if part.get("text", "").startswith("Clip ")]
        shown = tuple(clip_of(float(words[-5]), float(words[-2])) for words in heads)
        view = View(source.id, int(heads[-1][1]), shown, ())
        return json.dumps(record(oracle(view)))

    return reply


def endpoint(url: str, folder: Path, **settings: Any) -> Endpoint:
    return Endpoint(
        EndpointSettings(
            base_url=url, model="m", cache=str(folder), max_tokens=4096, backoff_seconds=0.0, attempts=3, **settings
        )
    )


def test_the_endpoint_road_gives_the_same_graph_and_costs_nothing_again(worlds: list[Source], tmp_path: Path) -> None:
    source = worlds[0]
    with FaultyServer(reply=seeing(source)) as server:
        describer = vision_describer(endpoint(server.url, tmp_path), SETTINGS)
        graph = extract(source.video, SETTINGS, describer, id=source.id).graph
        assert graph == extracted(source)
        asked = len(server.requests)
        assert asked == len(list(clips(source.video, TWO_SECONDS)))
        again = endpoint(server.url, tmp_path)
        assert extract(source.video, SETTINGS, vision_describer(again, SETTINGS), id=source.id).graph == graph
        assert len(server.requests) == asked and again.usage.requests == 0 and again.usage.cache_hits == asked
        # Every request was made of the past alone: those of the video cut in the middle have all been asked before.
        cut = replace(source.video, end=8.0)
        short = extract(cut, SETTINGS, vision_describer(endpoint(server.url, tmp_path), SETTINGS), id=source.id).graph
        assert len(server.requests) == asked
        assert (short.nodes, short.edges) == (graph.as_of(8.0).nodes, graph.as_of(8.0).edges)


def test_a_run_that_stops_goes_on_at_the_clip_where_it_stopped(worlds: list[Source], tmp_path: Path) -> None:
    source = worlds[0]
    with FaultyServer(reply=seeing(source)) as server:
        poor = vision_describer(endpoint(server.url, tmp_path, budget=Budget(requests=3)), SETTINGS)
        with pytest.raises(BudgetError):
            as_source(source, SETTINGS, poor)
        assert len(server.requests) == 3
        outcome = as_source(source, SETTINGS, vision_describer(endpoint(server.url, tmp_path), SETTINGS))
        assert isinstance(outcome, Source) and outcome.graph == extracted(source)
        assert len(server.requests) == len(outcome.segments)


def test_faults_of_the_server_are_tried_again_and_lasting_ones_stop_the_run(
    worlds: list[Source], tmp_path: Path
) -> None:
    source = worlds[0]
    with FaultyServer(["500", "ok", "not JSON", "429"], reply=seeing(source)) as server:
        describer = vision_describer(endpoint(server.url, tmp_path / "a"), SETTINGS)
        assert extract(source.video, SETTINGS, describer, id=source.id).graph == extracted(source)
    with (
        FaultyServer(["500"] * 9, reply=seeing(source)) as server,
        pytest.raises(EndpointError),
    ):
        as_source(source, SETTINGS, vision_describer(endpoint(server.url, tmp_path / "b"), SETTINGS))


def test_a_model_that_keeps_to_no_schema_costs_the_video_and_is_counted(worlds: list[Source], tmp_path: Path) -> None:
    with FaultyServer(reply=lambda body: json.dumps({"summary": "nothing"})) as server:
        outcome = as_source(worlds[0], SETTINGS, vision_describer(endpoint(server.url, tmp_path), SETTINGS))
    assert isinstance(outcome, Rejected) and outcome.reason == "clip without description"
    assert "not of the schema" in outcome.detail


def test_order_of_mentions_and_triples_does_not_change_who_is_who(worlds: list[Source]) -> None:
    """A model lists things in any order."""
    source = worlds[0]
    oracle, rng = Oracle(source.graph, Noise(vague=0.0)), random.Random(0)

    def shuffled(view: View) -> Description:
        told = oracle(view)
        mentions = list(told.mentions)
        rng.shuffle(mentions)
        return replace(told, mentions=tuple(mentions))

    one = extract(source.video, SETTINGS, shuffled, id=source.id)
    two = extract(source.video, SETTINGS, Oracle(source.graph, Noise(vague=0.0)), id=source.id)
    assert sorted(facts(one.graph)) == sorted(facts(two.graph))
