"""What happened in a world, exactly: who did what to whom, and when."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipeline.graph import Edge, Graph, make_graph
from data_pipeline.world.config import RELATIONS, SEGMENT_SECONDS
from data_pipeline.world.simulate import SCREEN, Scene, World

BOX = "box"
STAR = "star"

# Relations, as `the {head} ...`: an object goes in or out of the box, and so on; a star shows its colour.
TEXTS = {
    "in": "the {head} goes into the {tail}",
    "out": "the {head} comes out of the {tail}",
    "touch": "the {head} touches the {tail}",
    "hide": "the {head} hides the {tail}",
    "change": "the {head} turns into the {tail}",
    "move": "the {head} moves to {tail}",
    "shows": "the {head} is {tail}",
}


def graph_of(world: World, id: str) -> Graph:
    """The graph of a simulated world.

    An event is known from the end of its segment on, when both of its frames have arrived. A colour of the star that
    stays is one state.
    """
    edges: list[Edge] = []
    entities: dict[str, None] = {}
    for k, scene in enumerate(world.scenes):
        start, end = k * SEGMENT_SECONDS, (k + 1) * SEGMENT_SECONDS
        for head, relation, tail in _happenings(scene):
            entities |= {head: None, tail: None}
            text = TEXTS[relation].format(head=_name(head), tail=_name(tail))
            edges.append(Edge(f"e{len(edges)}", head, relation, tail, start, end, "span", end, text))
    for n, (colour, start, end) in enumerate(_star(world)):
        entities |= {STAR: None, colour: None}
        text = TEXTS["shows"].format(head=STAR, tail=_name(colour))
        known = start + SEGMENT_SECONDS
        edges.append(Edge(f"s{n}", STAR, "shows", colour, start, end, "state", known, text))
    nodes = [(entity, _kind(entity), _name(entity)) for entity in entities]
    return make_graph(id, len(world.scenes) * SEGMENT_SECONDS, nodes, edges)


def _star(world: World) -> Iterator[tuple[str, float, float]]:
    """(colour, start, end) of every time for which the star stays as it is."""
    start = 0
    for k, scene in enumerate(world.scenes):
        if k + 1 == len(world.scenes) or world.scenes[k + 1].star != scene.star:
            yield scene.star, start * SEGMENT_SECONDS, (k + 1) * SEGMENT_SECONDS
            start = k + 1


def _happenings(scene: Scene) -> list[tuple[str, str, str]]:
    """(head, relation, tail); none where nothing happens."""
    if scene.event == "idle":
        return []
    relation, actor = RELATIONS[scene.event], scene.objects[0]
    if scene.event in ("enter", "leave"):
        return [(actor, relation, BOX)]
    if scene.event == "hide":
        return [(SCREEN, relation, actor)]
    if scene.event == "move":
        return [(actor, relation, f"cell-{scene.after[0][0]}")]
    return [(actor, relation, scene.objects[1])]


def _kind(entity: str) -> str:
    if entity in (BOX, STAR, SCREEN):
        return {BOX: "container", STAR: "star", SCREEN: "screen"}[entity]
    return {"star": "colour", "cell": "cell"}.get(entity.split("-")[0], "object")


def _name(entity: str) -> str:
    """`red-circle` is a red circle, `star-red` red, `cell-3` cell 3."""
    return entity.removeprefix("star-").replace("-", " ")
