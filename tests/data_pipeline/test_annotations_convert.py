"""From annotations to a graph: times, what is known when, names, order, and the counts of what was left out."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.annotations import (
    READERS,
    Annotation,
    AnnotationError,
    VideoAnnotations,
    convert,
    read_durations,
    to_source,
)
from data_pipeline.annotations.phrases import base_form, clause, clean, third_person
from data_pipeline.annotations.record import Entity, Triple
from data_pipeline.annotations.relations import predicate
from data_pipeline.annotations.yields import markdown, tabulate
from data_pipeline.graph import validate_graph
from data_pipeline.source import Exchange, Rejected, Source, SynthError, from_record, to_record

FIXTURES = Path(__file__).parent / "fixtures" / "annotations"
COOK = Entity("c", "person", "cook")
SETTINGS: dict[str, Any] = {"segment_seconds": 2.0, "videos": "videos", "span_clue": 1.0}


def step(start: float, end: float, text: str, id: str = "", **more: Any) -> Annotation:
    return Annotation("v", start, end, text, more.pop("kind", "span"), id or text, actor=COOK, **more)


def video(*annotations: Annotation, **more: Any) -> VideoAnnotations:
    values: dict[str, Any] = {"duration": 20.0, "licence": "MIT", "annotations": annotations} | more
    return VideoAnnotations("v", "made", **values)


def source(annotated: VideoAnnotations, **more: Any) -> Source:
    made = to_source(annotated, **SETTINGS | more)
    assert isinstance(made, Source), made
    validate_graph(made.graph)
    return made


def test_activities_hang_on_their_actor_their_order_and_their_step() -> None:
    made = source(
        video(
            step(10, 14, "Pour the Tea.", "b"),
            step(0, 8, "boils  the water", "a"),
            step(2, 4, "filling the kettle", "a0", level=1, parent="a"),
        )
    )
    says = {edge.text: edge for edge in made.graph.edges}
    assert set(says) == {
        "the cook boils the water",
        "the cook is filling the kettle",
        "the cook pours the tea",
        "after the cook boils the water, the cook pours the tea",
        "the cook is filling the kettle as a part of this: boil the water",
    }
    names = {node.id: (node.kind, node.name) for node in made.graph.nodes}
    assert names == {
        "c": ("person", "cook"),
        "a0": ("activity", "fill the kettle"),
        "a1": ("activity", "boil the water"),
        "a2": ("activity", "pour the tea"),
    }
    assert says["the cook pours the tea"].source == "b"
    part = says["the cook is filling the kettle as a part of this: boil the water"]
    assert (part.relation, part.head, part.tail, part.knowable_at) == ("part_of", "a0", "a1", 8.0)
    then = says["after the cook boils the water, the cook pours the tea"]
    assert (then.kind, then.start, then.end, then.knowable_at) == ("point", 10.0, 10.0, 14.0)


@pytest.mark.parametrize(("clue", "known"), [(1.0, 8.0), (0.0, 4.0), (0.25, 5.0)])
def test_a_span_is_known_when_the_part_span_clue_has_passed(clue: float, known: float) -> None:
    [edge] = source(video(step(4, 8, "stir")), span_clue=clue).graph.edges
    assert (edge.start, edge.end, edge.knowable_at) == (4.0, 8.0, known)


def test_points_and_states_are_known_at_once_and_a_dataset_may_say_when() -> None:
    made = source(
        video(step(3, 3, "nod", kind="point"), step(5, 9, "sit", kind="state"), step(1, 9, "sing", knowable_at=2.0))
    )
    known = {edge.text: edge.knowable_at for edge in made.graph.of("does")}
    assert known == {"the cook nods": 3.0, "the cook sits": 5.0, "the cook sings": 2.0}
    assert made.graph.as_of(6.0).of("does")[-1].end == 6.0


def test_times_are_counted_from_the_start_of_what_is_watched() -> None:
    made = source(video(step(12, 14, "stir"), start=10.0))
    assert (made.video.start, made.video.end) == (10.0, 30.0)
    assert [(edge.start, edge.end) for edge in made.graph.edges] == [(2.0, 4.0)]
    assert made.segments[0].start == 0.0 and made.segments[-1].end == 20.0


def test_what_cannot_be_is_rejected_and_counted_and_a_hair_is_clipped() -> None:
    done = convert(
        video(
            step(1, 3, "stir"),
            step(1, 3, " Stir. ", "again"),
            step(5, 4, "whisk"),
            step(6, 6, "wait"),
            step(21, 25, "serve"),
            step(18, 20.02, "eat"),
            step(20.1, 20.2, "sleep"),
            step(-0.02, -0.02, "look", kind="point"),
            step(2, 4, " . ", "empty"),
            step(2, 4, "hold the #unsure"),
            Annotation("v", 1, 2, "", "state", "self", triple=Triple(COOK, "watch", COOK)),
        ),
        **SETTINGS,
    )
    assert done.source is not None
    assert done.annotations.rejected == {
        "duplicate": 1, "backwards span": 1, "empty span": 1, "outside the video": 2, "empty text": 1,
        "annotator unsure": 1, "a thing with itself": 1,
    }  # fmt: skip
    done.annotations.check("annotations")
    assert {edge.text for edge in done.source.graph.of("does")} == {"the cook stirs", "the cook eats", "the cook looks"}
    assert done.clipped == 2 and {one.item for one in done.dropped} >= {"again", "whisk"}
    assert done.source.meta["annotations"]["made"] == 3  # type: ignore[index,call-overload]


def test_a_tolerance_of_nothing_clips_nothing() -> None:
    done = convert(video(step(1, 3, "stir"), step(18, 20.02, "eat")), **SETTINGS, tolerance=0.0)
    assert done.annotations.rejected == {"outside the video": 1} and done.clipped == 0


def test_durations_are_never_made_up() -> None:
    unknown = video(step(1, 7.5, "stir"), duration=None)
    rejected = to_source(unknown, **SETTINGS)
    assert isinstance(rejected, Rejected) and rejected.reason == "no duration"
    done = convert(unknown, **SETTINGS)
    assert done.annotations.rejected == {"video: no duration": 1}
    done.annotations.check("annotations")
    assert source(unknown, unknown_duration="last_annotation").video.end == 7.5
    assert source(unknown, durations={"v": 9.0}).video.end == 9.0
    asked = video(duration=None, exchanges=(Exchange("q", "Who?", "Ann", time=3.0, wait=4.0, window=(4.0, 6.0)),))
    assert source(asked, unknown_duration="last_annotation").video.end == 6.0
    timeless = replace(asked, exchanges=(Exchange("q", "Who?", "Ann"),))
    late = to_source(timeless, **SETTINGS, unknown_duration="last_annotation")
    assert isinstance(late, Rejected) and late.reason == "no duration"


def test_a_file_of_durations(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"v": 9}', encoding="utf-8")
    assert read_durations(tmp_path / "d.json") == {"v": 9.0}
    for wrong in ('{"v": "9"}', '{"v": 0}', "[9]"):
        (tmp_path / "d.json").write_text(wrong, encoding="utf-8")
        with pytest.raises(AnnotationError, match="d.json"):
            read_durations(tmp_path / "d.json")


def test_exchanges_are_checked_too() -> None:
    done = convert(
        video(
            exchanges=(
                Exchange("a", "Who?", "Ann", time=12.0, evidence=((11.0, 12.0),), window=(12.0, 30.02)),
                Exchange("b", "Oh well.", "", kind="silence"),
                Exchange("f", "How many?", " "),
                Exchange("c", "After ##ANSWER##?", "x", time=12.0),
                Exchange("d", "What?", "x", time=99.0),
                Exchange("e", "What?", "x", time=12.0, evidence=((14.0, 13.0),)),
            ),
            start=10.0,
        ),
        **SETTINGS,
    )
    assert done.source is not None
    [kept] = done.source.exchanges
    assert (kept.time, kept.evidence, kept.window) == (2.0, ((1.0, 2.0),), (2.0, 20.0))
    assert done.exchanges.rejected == {
        "expects silence": 1, "empty answer": 1, "refers to an answer before it": 1, "outside the video": 1,
        "backwards span": 1,
    }  # fmt: skip
    done.exchanges.check("exchanges")


def test_a_video_of_which_nothing_is_left_is_rejected() -> None:
    nothing = to_source(video(), **SETTINGS)
    assert isinstance(nothing, Rejected) and nothing.reason == "no annotations"
    bad = to_source(video(step(5, 4, "whisk")), **SETTINGS)
    assert isinstance(bad, Rejected) and (bad.reason, bad.detail) == ("nothing usable", "backwards span")
    short = to_source(video(step(0, 1, "stir"), duration=0.0), **SETTINGS)
    assert isinstance(short, Rejected) and short.reason == "bad duration"


@pytest.mark.parametrize(
    "wrong", [{"segment_seconds": 0.0}, {"span_clue": 1.5}, {"tolerance": -1.0}, {"videos": "v/{name}.mp4"}]
)
def test_a_wrong_setting_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(SynthError, match=next(iter(wrong))):
        to_source(video(step(1, 2, "stir")), **SETTINGS | wrong)


def test_video_paths_follow_the_pattern() -> None:
    assert source(video(step(1, 2, "stir"))).video.path == "videos/v.mp4"
    assert source(video(step(1, 2, "stir"), file="a/b.mkv")).video.path == "videos/a/b.mkv"
    assert source(video(step(1, 2, "stir")), videos="x/{video_id}.webm").video.path == "x/v.webm"


def test_no_name_tells_of_an_entity_that_is_still_to_come() -> None:
    dog, first, second = (Entity(id, kind, name) for id, kind, name in
                          [("e1", "animal", "dog"), ("e9", "person", "adult"), ("e2", "person", "adult")])  # fmt: skip
    made = source(
        video(
            Annotation("v", 8, 12, "", "state", "late", triple=Triple(second, "hold", dog)),
            Annotation("v", 1, 5, "", "state", "early", triple=Triple(first, "in_front_of", dog)),
        )
    )
    assert [edge.text for edge in made.graph.edges] == [
        "the adult is in front of the dog",
        "the second adult holds the dog",
    ]
    assert {node.name for node in made.graph.as_of(5.0).nodes} == {"adult", "dog"}


def test_what_becomes_known_later_changes_no_order_that_was_known() -> None:
    """`then` links what was known when its second end became known: a long span in between comes too late."""
    early = [step(0, 2, "stir"), step(6, 7, "pour")]
    alone = source(video(*early)).graph.as_of(10.0)
    beside = source(video(*early, step(4, 15, "sing"))).graph.as_of(10.0)
    assert [edge.text for edge in alone.edges] == [edge.text for edge in beside.edges]
    assert "after the cook stirs, the cook pours" in [edge.text for edge in beside.edges]


def known_by(annotated: VideoAnnotations, time: float, **more: Any) -> tuple[Source, Source]:
    """The source as of `time`, and that of those annotations alone which can be known by then."""
    whole = source(annotated, **more)
    early = {edge.source for edge in whole.graph.edges if edge.knowable_at <= time}
    kept = tuple(one for one in annotated.annotations if one.source_id in early)
    return whole.as_of(time), source(replace(annotated, annotations=kept), **more).as_of(time)


@pytest.mark.parametrize("clue", [0.0, 0.5, 1.0])
def test_a_graph_of_what_is_known_by_then_is_the_graph_as_of_then(clue: float) -> None:
    """Ids, names, order and texts: nothing that comes to be known after t shows in the graph as of t."""
    rng = random.Random(7)
    things = [Entity(f"e{k}", "person", "man" if k % 2 else "dog") for k in range(6)]
    for _ in range(50):
        annotations = []
        for k in range(12):
            start = rng.randrange(0, 18)
            if rng.random() < 0.4:
                head, tail = rng.sample(things, 2)
                triple = Triple(head, "hold", tail)
                annotations.append(Annotation("v", start, start + 2, "", "state", f"r{k}", triple=triple))
            else:
                parent = f"s{rng.randrange(12)}" if rng.random() < 0.3 else None
                end = rng.randrange(start + 1, 20)
                annotations.append(step(start, end, rng.choice(["stir", "pour"]), f"s{k}", level=k % 2, parent=parent))
        annotated = video(*annotations)
        for time in (4.0, 9.0, 13.0):
            if any(edge.knowable_at <= time for edge in source(annotated, span_clue=clue).graph.edges):
                whole, early = known_by(annotated, time, span_clue=clue)
                assert whole.graph == early.graph


def test_the_same_again_is_said_so() -> None:
    made = source(video(step(0, 2, "stir", "a"), step(4, 6, "stir", "b")))
    assert [edge.text for edge in made.graph.of("then")] == ["the cook stirs again"]


def test_sources_survive_their_file() -> None:
    made = source(video(step(0, 8, "stir"), exchanges=(Exchange("q", "Who?", "Ann", time=3.0),)))
    assert from_record(to_record(made)) == made


@pytest.mark.parametrize("name", ["activitynet_captions", "vidor", "pvsg", "youcook2", "coin"])
def test_fixtures_become_sources(name: str) -> None:
    file = "vidor" if name == "vidor" else f"{name}.json"
    made = [source(one) for one in READERS[name](FIXTURES / file) if isinstance(one, VideoAnnotations)]
    assert made and all(one.graph.edges for one in made)


def test_a_leading_space_and_a_full_stop_are_gone() -> None:
    [annotated] = READERS["activitynet_captions"](FIXTURES / "activitynet_captions.json")
    assert isinstance(annotated, VideoAnnotations)
    made = source(annotated)
    assert [edge.text for edge in made.graph.of("does")] == [
        "he picks up a hammer", "he puts the hammer down", "a man walks into a workshop",
    ]  # fmt: skip
    assert {edge.head for edge in made.graph.of("does")} == {"scene"}


# ---- Words.


@pytest.mark.parametrize(
    ("typed", "cleaned"),
    [
        ("  Stirs the\tPasta . ", "stirs the pasta"),
        ("remove groceries from bag\n- arrange grocery items", "remove groceries from bag, arrange grocery items"),
        (" . ", ""),
        ("Washing the utensils`", "washing the utensils"),
    ],
)
def test_clean(typed: str, cleaned: str) -> None:
    assert clean(typed) == cleaned


@pytest.mark.parametrize(
    ("phrase", "said", "base"),
    [
        ("add salt", "she adds salt", "add salt"),
        ("adds salt", "she adds salt", "add salt"),
        ("adding salt", "she is adding salt", "add salt"),
        ("stirring rice", "she is stirring rice", "stir rice"),
        ("lying down", "she is lying down", "lie down"),
        ("wash and dry rice", "she washes and dries rice", "wash and dry rice"),
        ("turned the light on", "she turned the light on", "turned the light on"),
        ("began to eat", "she began to eat", "began to eat"),
        ("is seen outside", "she is seen outside", "is seen outside"),
        ("slowly closes a door", "she slowly closes a door", "slowly closes a door"),
        ("noodles in a pot", "she is at this: noodles in a pot", "noodles in a pot"),
    ],
)
def test_clause_and_base_form(phrase: str, said: str, base: str) -> None:
    assert clause("she", phrase) == said
    assert base_form(phrase) == base


def test_third_person() -> None:
    assert [third_person(verb) for verb in ("stir", "wash", "dry", "play", "go", "have", "fix")] == [
        "stirs", "washes", "dries", "plays", "goes", "has", "fixes",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("relation", "said"),
    [
        ("hold", "the man holds the dog"),
        ("in_front_of", "the man is in front of the dog"),
        ("walk_front", "the man walks in front of the dog"),
        ("sit_next_to", "the man sits next to the dog"),
        ("taller", "the man is taller than the dog"),
        ("standing on", "the man is standing on the dog"),
        ("not_looking_at", "the man is not looking at the dog"),
        ("covered_by", "the man is covered by the dog"),
        ("have_it_on_the_back", "the man has the dog on the back"),
        ("move_away", "the man moves away from the dog"),
    ],
)
def test_predicate(relation: str, said: str) -> None:
    assert predicate("man", relation, "dog") == said


# ---- Yields.


def test_the_yield_table_counts_everything() -> None:
    rows = tabulate(
        {"ego4d_goalstep": [FIXTURES / "ego4d_goalstep.json"], "youcook2": [FIXTURES / "youcook2.json"]}, **SETTINGS
    )
    assert (rows[0].annotations.taken, rows[0].annotations.made, rows[0].clipped) == (5, 4, 1)
    assert rows[0].annotations.rejected == {"outside the video": 1}
    assert (rows[1].sources.taken, rows[1].sources.made, rows[1].sources.rejected) == (2, 1, {"no labels": 1})
    table = markdown(rows).split("\n")
    assert (
        len(table) == 4 and table[2] == "| ego4d_goalstep | 1 | 1 | 0 | 5 | 4 | 1 outside the video | 0 | 0 | 0 | 1 |"
    )
