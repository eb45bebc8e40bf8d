"""The world's files: valid samples, exact answers, disjoint splits, the same again for the same seed."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from data_pipeline.world.build import BuildReport, Told, build_world, tell
from data_pipeline.world.config import EVENTS, KINDS, WorldConfig, WorldError, words
from data_pipeline.world.graph import graph_of, read_graphs, thoughts
from data_pipeline.world.simulate import World
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought, read_jsonl, validate
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


def stated(sample: Sample) -> list[str]:
    """All texts of a sample."""
    return [event.text for event in sample.events if isinstance(event, Thought | Query | Answer)]


def happened(one: Told, relation: str, before: float) -> list[str]:
    """The objects that went in (or out) in segments which ended before or at `before`, told from the scenes alone."""
    event = {"in": "enter", "out": "leave"}[relation]
    scenes = enumerate(one.world.scenes)
    return [scene.objects[0] for k, scene in scenes if scene.event == event and k + 1 <= before]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 videos of each split."""
    path = tmp_path_factory.mktemp("world")
    for split in ("train", "validation", "test"):
        report = build_world(WorldConfig(), path, split, 40)
        assert report.videos == 40
    return path


def test_the_files_are_samples_with_videos_and_graphs(built: Path) -> None:
    samples = read_jsonl(built / "train.jsonl")
    graphs = read_graphs(built / "train.graphs.jsonl")
    assert [sample.id for sample in samples] == list(graphs) == [f"train-{i:05d}" for i in range(40)]
    assert sorted(path.name for path in (built / "train" / "videos").iterdir()) == [f"{id}.mp4" for id in graphs]
    for sample in samples[:10]:
        info = probe(sample.video.path)
        assert (info.duration, info.fps, info.width, info.height) == (sample.video.end, 2.0, 48, 48)
        frames = read_frames(sample.video.path, 2.0, sample.video.start, sample.video.end)
        clips = clips_of(frames, [(segment.start, segment.end) for segment in sample.segments()])
        assert {len(clip.frames) for clip in clips} == {2}
        assert graphs[sample.id].duration == sample.video.end == len(clips)


def test_a_segment_ends_with_its_thought_then_the_replies_that_are_due(built: Path) -> None:
    for sample in read_jsonl(built / "train.jsonl"):
        segments = [i for i, event in enumerate(sample.events) if isinstance(event, Segment)]
        for k, i in enumerate(segments):
            segment, thought = sample.events[i], sample.events[i + 1]
            assert segment == Segment(float(k), float(k + 1))
            assert isinstance(thought, Thought)
        for i, j in pairwise([*segments, len(sample.events)]):
            later = sample.events[i + 2 : j]
            assert {event.time for event in later} <= {sample.events[i].time}
            queries = [event.id for event in later if isinstance(event, Query)]
            replies = [event.query for event in later if isinstance(event, Answer | Silence)]
            standing = [id for id in replies if id not in queries]
            assert replies[: len(standing)] == standing


def test_thoughts_tell_the_event_and_nothing_else() -> None:
    for one in told(n=50) + told(HARD, n=50):
        counts: Counter[str] = Counter()
        expected = []
        for scene in one.world.scenes:
            relation = {"enter": "in", "leave": "out"}.get(scene.event, scene.event)
            counts[relation] += 1
            ordinal = f"-{counts[relation]}" if relation in ("in", "out") else ""
            objects = scene.objects[:2] if relation == "touch" else scene.objects[:1]
            expected.append("none ." if relation == "idle" else f"{relation}{ordinal} {' '.join(objects)} .")
        assert thoughts(one.graph) == expected
        assert [event.text for event in one.sample.events if isinstance(event, Thought)] == expected


def test_answers_are_right() -> None:
    seen: Counter[str] = Counter()
    for one in told() + told(HARD, n=100):
        for query in one.sample.queries():
            subkind = one.sample.meta["subkinds"][query.id]  # type: ignore[index, call-overload]
            (answer,) = one.sample.answers_to(query.id)
            verb, *rest = query.text.removesuffix(" ?").split()
            seen[f"{query.kind} {subkind}"] += 1
            if verb == "which":
                relation, number = rest[0].rsplit("-", 1)
                objects = happened(one, relation, query.time)
                known = objects[int(number) - 1] if int(number) <= len(objects) else "unknown"
                assert answer.text == known
                assert (query.kind == "unanswerable") == (known == "unknown")
            elif verb == "count":
                assert answer.text == f"n-{len(happened(one, rest[0], query.time))}"
            elif verb == "now":
                assert answer.text == one.world.scenes[round(query.time) - 1].star
            elif verb == "before":
                objects = happened(one, rest[0], query.time)
                assert objects[objects.index(rest[1]) - 1] == answer.text
                assert objects.index(rest[1]) > 0
            elif verb == "first":
                objects = happened(one, "in", query.time)
                assert answer.text == min(rest, key=objects.index)
            else:
                assert (verb, answer.text) == ("tell-when", "now")
                assert rest[1] in happened(one, "out", answer.time)
                assert rest[1] not in happened(one, "out", answer.time - 1)
            if query.kind != "forward":
                assert answer.time == query.time
    assert set(seen) == {
        "backward which_in", "backward which_out", "backward count", "present star", "order before", "order first",
        "forward tell_when", "unanswerable unknown_in", "unanswerable unknown_out",
    }  # fmt: skip


def test_the_current_segment_alone_cannot_answer_about_the_past() -> None:
    for one in told():
        for query in one.sample.queries():
            current = query.time - 1.0
            assert query.knowable_at is not None and query.evidence
            assert query.knowable_at <= one.sample.answers_to(query.id)[0].time
            if query.kind == "order" or (query.kind == "backward" and query.text.startswith("which")):
                assert all(end <= current for _, end in query.evidence)
                assert query.knowable_at == query.evidence[-1][1]
            elif query.kind == "backward":
                assert query.evidence[0][1] <= current
            elif query.kind == "present":
                assert query.evidence == ((current, query.time),)


def test_a_standing_query_is_silent_at_every_segment_end_until_it_is_due() -> None:
    delays: Counter[int] = Counter()
    for one in told():
        forward = [query for query in one.sample.queries() if query.kind == "forward"]
        assert len(forward) <= 1
        for query in forward:
            (answer,) = one.sample.answers_to(query.id)
            silences = [e.time for e in one.sample.events if isinstance(e, Silence) and e.query == query.id]
            delay = round(answer.time - query.time)
            delays[delay] += 1
            assert delay >= 1
            assert silences == [query.time + i for i in range(1, delay)]
            assert query.window == (answer.time, min(answer.time + 1.0, one.graph.duration))
            assert query.knowable_at == answer.time
    assert len(delays) > 2


def test_every_word_is_listed() -> None:
    for config in (WorldConfig(), HARD):
        listed = words(config)
        assert len(set(listed)) == len(listed)
        used = {word for one in told(config) for text in stated(one.sample) for word in text.split()}
        assert used <= set(listed)
        assert {"none", "which", "in-1", "out-1", "n-2", "now", "unknown", "star-red", "tell-when"} <= used


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
    for name in ("train.jsonl", "train.graphs.jsonl"):
        assert (tmp_path / name).read_text().splitlines() == (built / name).read_text().splitlines()[:5]
    for path in (tmp_path / "train" / "videos").iterdir():
        assert path.read_bytes() == (built / "train" / "videos" / path.name).read_bytes()
    assert told(WorldConfig(seed=1), n=5)[0].sample != told(n=1)[0].sample


def test_nothing_is_lost_without_a_reason() -> None:
    report = BuildReport()
    n = len(list(tell(WorldConfig(segments=(2, 3)), "validation", 60, report)))
    assert n == report.videos == 60
    assert report.simulated == report.videos + report.rejected.total()
    assert set(report.rejected) == {"other split", "duplicate"}
    assert report.kinds.total() == report.subkinds.total() == 180


def test_kinds_come_by_their_weights() -> None:
    config = WorldConfig(queries={"backward": 1.0, "present": 3.0, "order": 0.0})
    kinds = Counter(query.kind for one in told(config) for query in one.sample.queries())
    assert set(kinds) == {"backward", "present"}
    assert 0.6 < kinds["present"] / kinds.total() < 0.85
    report = BuildReport()
    list(tell(WorldConfig(), "train", 300, report))
    assert set(report.kinds) == set(KINDS)
    assert min(report.kinds.values()) > 0.08 * report.kinds.total()


def test_every_sample_is_valid_and_asks_nothing_twice() -> None:
    for one in told() + told(HARD, n=100):
        validate(one.sample)
        asked = [(query.text, query.time) for query in one.sample.queries()]
        assert len(set(asked)) == len(asked) == 3


def test_the_graph_says_who_did_what_when(tmp_path: Path) -> None:
    for one in told(HARD, n=50):
        graph = one.graph.networkx()
        assert graph.number_of_edges() == sum(scene.event != "idle" for scene in one.world.scenes) + len(
            one.world.scenes
        )
        for k, scene in enumerate(one.world.scenes):
            for entity in scene.objects:
                node = graph.nodes[entity]
                assert node["kind"] == "object"
                assert node["first_seen"] <= k and k + 1 <= node["last_seen"]
            if scene.event == "enter":
                edges = graph.get_edge_data(scene.objects[0], "box").values()
                (entering,) = [edge for edge in edges if edge["relation"] == "in"]
                assert (entering["start"], entering["end"], entering["knowable_at"]) == (k, k + 1, k + 1)
            if scene.event == "hide":
                assert graph.has_edge("screen", scene.objects[0])
    one = told(n=1)[0]
    assert graph_of(one.world, one.sample.id) == one.graph


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segments": (0, 3)}, r"world\.segments: \(0, 3\): must be"),
        ({"segments": (5, 4)}, r"world\.segments"),
        ({"grid": 2}, r"world\.grid: 2: must be at least 3"),
        ({"queries_per_video": 0}, r"world\.queries_per_video"),
        ({"colours": ("red", "mauve")}, r"world\.colours: 'mauve': must be one of red, green"),
        ({"colours": ("red", "red")}, r"world\.colours: .*twice"),
        ({"shapes": ("star",)}, r"world\.shapes: 'star': must be one of circle"),
        ({"events": {"enters": 1.0}}, r"world\.events: 'enters': must be one of enter, leave"),
        ({"events": {"enter": -1.0}}, r"world\.events\.enter: -1\.0: must be a weight >= 0"),
        ({"queries": {"backward": 0.0}}, r"world\.queries: .*above 0"),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        WorldConfig(**settings)  # type: ignore[arg-type]


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(WorldError, match="there is no split 'dev': choose one of train, validation, test"):
        told(split="dev", n=1)
    with pytest.raises(WorldError, match=r"only \d+ of 300 different worlds were found for train .*: ask for fewer"):
        told(WorldConfig(segments=(1, 2), queries={"present": 1.0, "unanswerable": 1.0}), n=300)
    with pytest.raises(WorldError, match="none of enter is possible any more: add idle"):
        told(WorldConfig(segments=(9, 9), events={"enter": 1.0}), n=1)
