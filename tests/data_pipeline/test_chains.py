"""Evidence chains: linked, in order of time, long enough, apart from one another, and the same for the same seed."""

from itertools import combinations, pairwise

import pytest

from data_pipeline.chains import Chain, chains, overlap
from data_pipeline.graph import Edge, make_graph
from tests.data_pipeline.worlds import world_sources


def link(id, head, tail, start, text=None):
    return Edge(
        id, head, "touch", tail, start, start + 1.0, "span", start + 1.0, text or f"the {head} touches the {tail}"
    )


def graph(*edges, duration=100.0):
    names = dict.fromkeys(node for edge in edges for node in (edge.head, edge.tail))
    return make_graph("g", duration, [(name, "object", name) for name in names], edges)


def test_chains_are_trails_in_order_of_time():
    for source in world_sources(20):
        by_id = {edge.id: edge for edge in source.graph.edges}
        found, _, _ = chains(source.graph, seed=3, source_id=source.id, hops=3, min_spread=4.0)
        for chain in found:
            edges = [by_id[id] for id in chain.edges]
            assert len(edges) == chain.hops >= 3 and len(chain.nodes) == chain.hops + 1
            assert len(set(chain.edges)) == chain.hops
            for edge, here, there in zip(edges, chain.nodes, chain.nodes[1:], strict=False):
                assert {edge.head, edge.tail} == {here, there}
            assert all(one.start <= other.start for one, other in pairwise(edges))
            assert chain.spread == edges[-1].start - edges[0].start >= 4.0


def test_chains_of_a_video_share_less_than_a_tenth_of_their_entities():
    shared = 0
    for source in world_sources(20):
        found, counted, _ = chains(source.graph, seed=0, source_id=source.id, max_overlap=0.1)
        assert all(overlap(one, other) < 0.1 for one, other in combinations(found, 2))
        shared += counted.rejected["entity overlap"]
        loose, _, _ = chains(source.graph, seed=0, source_id=source.id, max_overlap=1.01)
        assert len(loose) > len(found)
    assert shared > 0


def test_overlap_is_a_part_of_the_smaller_chain():
    assert overlap(Chain(("1",), ("a", "b"), 0.0), Chain(("2", "3"), ("b", "c", "d"), 0.0)) == 0.5
    assert overlap(Chain(("1",), ("a", "b"), 0.0), Chain(("2",), ("c", "d"), 0.0)) == 0.0


def test_chains_found_before_count_too():
    line = graph(link("1", "a", "b", 0.0), link("2", "b", "c", 5.0))
    found, _, _ = chains(line, seed=0, source_id="v", attempts=8)
    assert [chain.edges for chain in found] == [("1", "2")]
    again, counted, _ = chains(line, seed=0, source_id="v", attempts=8, taken=found)
    assert again == [] and counted.rejected["entity overlap"] > 0


def test_the_same_seed_gives_the_same_chains_and_another_one_others():
    source = world_sources(1)[0]
    one = chains(source.graph, seed=1, source_id="v")
    assert one == chains(source.graph, seed=1, source_id="v")
    assert one[0] != chains(source.graph, seed=2, source_id="v")[0]
    assert one[0] != chains(source.graph, seed=1, source_id="w")[0]


def test_every_attempt_is_counted():
    for source in world_sources(5):
        found, counted, statistics = chains(source.graph, seed=0, source_id=source.id, hops=3, attempts=20)
        assert counted.taken == 20 == counted.made + sum(counted.rejected.values())
        assert counted.made == len(found) == sum(n for name, n in statistics.items() if name.startswith("hops "))


def test_why_there_is_no_chain():
    line = graph(link("1", "a", "b", 0.0), link("2", "b", "c", 5.0))
    assert chains(line, seed=0, source_id="v", hops=3, attempts=4)[1].rejected == {"too few hops": 4}
    _, counted, _ = chains(line, seed=0, source_id="v", min_spread=6.0, attempts=30)
    assert counted.made == 0 and counted.rejected["too short a spread"] > 0
    empty = make_graph("g", 10.0, [], [])
    assert chains(empty, seed=0, source_id="v", attempts=3)[1].rejected == {"no edges": 3}


def test_an_edge_never_follows_one_that_starts_later():
    backwards = graph(link("1", "a", "b", 5.0), link("2", "b", "c", 0.0))
    found, _, _ = chains(backwards, seed=0, source_id="v", attempts=30)
    assert [chain.edges for chain in found] == [("2", "1")]


def test_a_hub_is_only_walked_through_where_there_is_no_other_trail():
    steps = [link(f"t{i}", f"a{i}", f"a{i + 1}", 2.0 * i) for i in range(6)]
    does = [link(f"d{i}", "actor", f"a{i}", 2.0 * i) for i in range(7)]
    found, _, statistics = chains(graph(*steps, *does), seed=0, source_id="v", max_overlap=1.01)
    assert found and all("actor" not in chain.nodes[1:-1] for chain in found if "t0" in chain.edges)
    through = [chain for chain in found if "actor" in chain.nodes[1:-1]]
    assert len(through) == statistics["through a hub"] < len(found)
    spokes, _, statistics = chains(graph(*does), seed=0, source_id="v", attempts=4, max_overlap=1.01)
    assert spokes and statistics["through a hub"] == len(spokes)


def test_the_search_stops_at_the_number_of_chains_that_are_wanted():
    source = world_sources(1)[0]
    found, counted, _ = chains(source.graph, seed=0, source_id="v", most=1)
    assert len(found) == 1 and counted.taken < 32


def test_a_chain_of_a_cut_graph_uses_nothing_later():
    source = world_sources(1)[0]
    for time in (4.0, 8.0, 12.0):
        known = {edge.id for edge in source.graph.edges if edge.knowable_at <= time}
        found, _, _ = chains(source.graph.as_of(time), seed=0, source_id="v", max_overlap=1.01)
        assert all(set(chain.edges) <= known for chain in found)


@pytest.mark.parametrize(
    "bounds", [{"hops": 0}, {"hops": 7}, {"min_spread": -1.0}, {"max_overlap": 0.0}, {"attempts": 0}]
)
def test_bounds_that_no_chain_can_meet_are_an_error(bounds):
    with pytest.raises(ValueError, match="chains of v: hops"):
        chains(graph(link("1", "a", "b", 0.0)), seed=0, source_id="v", **bounds)


def test_a_dense_graph_is_searched_in_bounded_time():
    nodes = [f"n{i}" for i in range(40)]
    edges = [link(f"{i}-{j}", nodes[i], nodes[j], float(i + j)) for i in range(40) for j in range(i)]
    _, counted, _ = chains(graph(*edges), seed=0, source_id="v", hops=6, min_spread=90.0, attempts=3)
    assert counted.taken == 3
