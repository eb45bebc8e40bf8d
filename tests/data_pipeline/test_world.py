"""The world's files: videos with exact graphs, disjoint splits, the same again for the same seed."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from data_pipeline.source import scan_sources
from data_pipeline.world.build import BuildReport, Told, build_world, tell
from data_pipeline.world.config import EVENTS, WorldConfig, WorldError
from data_pipeline.world.graph import graph_of
from data_pipeline.world.simulate import World
from whilst.segmenters import clips_of
from whilst.video import probe, read_frames

DEFAULT = WorldConfig()
HARD = WorldConfig(
    segments=(5, 9),
    grid=4,
    colours=("red", "green", "blue", "yellow", "purple", "cyan"),
    shapes=("circle", "square", "triangle", "diamond", "cross"),
    events=dict.fromkeys(EVENTS, 1.0),
    seed=3,
)


def told(config: WorldConfig = DEFAULT, split: str = "train", n: int = 200) -> list[Told]:
    return list(tell(config, split, n, BuildReport()))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 videos of each split."""
    path = tmp_path_factory.mktemp("world")
    for split in ("train", "validation", "test"):
        report = build_world(WorldConfig(), path, split, 40)
        assert report.videos == 40
    return path


def test_the_files_are_sources_with_videos(built: Path) -> None:
    sources = list(scan_sources(built / "train.sources.jsonl"))
    assert [source.id for source in sources] == [f"train-{i:05d}" for i in range(40)]
    names = sorted(path.name for path in (built / "train" / "videos").iterdir())
    assert names == [f"{source.id}.mp4" for source in sources]
    for source in sources[:10]:
        path = built / source.video.path
        info = probe(path)
        assert (info.duration, info.fps, info.width, info.height) == (source.video.end, 2.0, 48, 48)
        frames = read_frames(path, 2.0, source.video.start, source.video.end)
        clips = clips_of(frames, [(segment.start, segment.end) for segment in source.segments])
        assert {len(clip.frames) for clip in clips} == {2}
        assert source.graph.duration == source.video.end == len(clips)


def test_splits_tell_different_stories_at_any_seed() -> None:
    states = {
        split: {one.world.state() for seed in (0, 1) for one in told(WorldConfig(seed=seed), split, 60)}
        for split in ("train", "validation", "test")
    }
    assert all(len(found) > 60 for found in states.values())
    assert len(set.union(*states.values())) == sum(map(len, states.values()))


def test_a_story_is_what_happens_and_not_how_it_looks() -> None:
    scenes = told(n=1)[0].world.scenes
    restaged = World(tuple(replace(scene, before=(), after=(), star="star-red") for scene in scenes))
    retold = World(tuple(reversed(scenes)))
    assert World(scenes).state() == restaged.state() != retold.state()


def test_the_same_seed_gives_the_same_files_and_another_seed_others(built: Path, tmp_path: Path) -> None:
    build_world(WorldConfig(), tmp_path, "train", 5)
    name = "train.sources.jsonl"
    assert (tmp_path / name).read_text().splitlines() == (built / name).read_text().splitlines()[:5]
    for path in (tmp_path / "train" / "videos").iterdir():
        assert path.read_bytes() == (built / "train" / "videos" / path.name).read_bytes()
    assert told(WorldConfig(seed=1), n=5)[0].source != told(n=1)[0].source


def test_nothing_is_lost_without_a_reason() -> None:
    report = BuildReport()
    n = len(list(tell(WorldConfig(segments=(2, 3)), "validation", 60, report)))
    assert n == report.videos == 60
    assert report.simulated == report.videos + report.rejected.total()
    assert set(report.rejected) == {"other split", "duplicate"}
    assert report.events.total() >= 2 * 60


def test_the_graph_says_who_did_what_when() -> None:
    for one in told(HARD, n=50):
        graph = one.source.graph.networkx()
        assert graph.number_of_edges() == sum(scene.event != "idle" for scene in one.world.scenes) + len(
            one.source.graph.of("shows")
        )
        for k, scene in enumerate(one.world.scenes):
            for entity in scene.objects:
                node = graph.nodes[entity]
                assert (node["kind"], node["name"]) == ("object", entity.replace("-", " "))
                assert node["first_seen"] <= k and k + 1 <= node["last_seen"]
            if scene.event == "enter":
                edges = graph.get_edge_data(scene.objects[0], "box").values()
                (entering,) = [edge for edge in edges if edge["relation"] == "in"]
                assert (entering["start"], entering["end"], entering["knowable_at"]) == (k, k + 1, k + 1)
                assert entering["text"] == f"the {scene.objects[0].replace('-', ' ')} goes into the box"
            if scene.event == "hide":
                assert graph.has_edge("screen", scene.objects[0])
    one = told(n=1)[0]
    assert graph_of(one.world, one.source.id) == one.source.graph


def test_the_star_is_one_state_for_as_long_as_it_stays() -> None:
    for one in told(n=50):
        shown = one.source.graph.of("shows")
        colours = [edge.tail for edge in shown for _ in range(round(edge.end - edge.start))]
        assert colours == [scene.star for scene in one.world.scenes]
        assert all(a.tail != b.tail for a, b in pairwise(shown))
        assert all(edge.knowable_at == edge.start + 1.0 for edge in shown)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segments": (0, 3)}, r"world\.segments: \(0, 3\): must be"),
        ({"segments": (5, 4)}, r"world\.segments"),
        ({"grid": 2}, r"world\.grid: 2: must be at least 3"),
        ({"colours": ("red", "mauve")}, r"world\.colours: 'mauve': must be one of red, green"),
        ({"colours": ("red", "red")}, r"world\.colours: .*twice"),
        ({"shapes": ("star",)}, r"world\.shapes: 'star': must be one of circle"),
        ({"events": {"enters": 1.0}}, r"world\.events: 'enters': must be one of enter, leave"),
        ({"events": {"enter": -1.0}}, r"world\.events\.enter: -1\.0: must be a weight >= 0"),
        ({"events": {"enter": 0.0}}, r"world\.events: .*above 0"),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        WorldConfig(**settings)  # type: ignore[arg-type]


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(WorldError, match="there is no split 'dev': choose one of train, validation, test"):
        told(split="dev", n=1)
    with pytest.raises(WorldError, match=r"only \d+ of 300 different worlds were found for train .*: ask for fewer"):
        told(WorldConfig(segments=(1, 2)), n=300)
    with pytest.raises(WorldError, match="none of enter is possible any more: add idle"):
        told(WorldConfig(segments=(9, 9), events={"enter": 1.0}), n=1)
