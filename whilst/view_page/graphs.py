"""Graphs for the page, as plain JSON: lines of schema whilst.graph/1, or of whilst.source/1, which holds such a graph.

The pipeline that makes them is a stage, which nothing here may import; the page needs few of their fields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from whilst.sample import SampleError, json_lines
from whilst.timeline import is_seconds

GRAPH, SOURCE = "whilst.graph/1", "whilst.source/1"
_NODE = ("id", "kind", "name")
_EDGE = ("id", "head", "relation", "tail", "kind", "text")
_TIMES = ("start", "end", "knowable_at")


def read_graphs(path: Path, wanted: Collection[str]) -> dict[str, dict[str, Any]]:
    """The graphs with these ids, by id: {"nodes": [...], "edges": [...]}, times in seconds from the start of the video.

    `path` is a file of graphs or sources, one a line, or a folder of such files (`*.jsonl`). Only what is wanted is
    kept, and reading stops when all of it is there.

    Raises:
        SampleError: a line of another schema, a graph that lacks a field, or an id that is in none of the files.
    """
    found: dict[str, dict[str, Any]] = {}
    some: list[str] = []
    for where, record in _records(path):
        if len(found) == len(set(wanted)):
            break
        schema = record.get("schema") if isinstance(record, dict) else None
        if not isinstance(record, dict) or schema not in (GRAPH, SOURCE):
            raise SampleError(f"{where}: schema {schema!r} is neither {GRAPH!r} nor {SOURCE!r}; give a file of those")
        if len(some) < 5:
            some.append(repr(record.get("id")))
        if record.get("id") in wanted:
            found[record["id"]] = _drawn(record.get("graph") if schema == SOURCE else record, where)
    missing = [one for one in wanted if one not in found]
    if missing:
        have = ", ".join(some) or "none"
        raise SampleError(f"{path}: no graph has the id {missing[0]!r}; the first ids are: {have}")
    return found


def _records(path: Path) -> Iterator[tuple[str, object]]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise SampleError(f"{path}: the folder holds no .jsonl file; give the file with the graphs")
    for file in files:
        for line, record in json_lines(file):
            if isinstance(record, SampleError):
                raise SampleError(f"{file}:{line}: {record}")
            yield f"{file}:{line}", record


def _drawn(graph: object, where: str) -> dict[str, Any]:
    """What the page draws of a graph."""
    if not isinstance(graph, dict) or not all(isinstance(graph.get(name), list) for name in ("nodes", "edges")):
        raise SampleError(f"{where}: graph: needs the lists nodes and edges; write it with the data pipeline")
    nodes = [_picked(node, _NODE, (), f"{where}: nodes[{i}]") for i, node in enumerate(graph["nodes"])]
    for kept, node in zip(nodes, graph["nodes"], strict=True):
        kept["aliases"] = node.get("aliases", [])
    edges = [_picked(edge, _EDGE, _TIMES, f"{where}: edges[{i}]") for i, edge in enumerate(graph["edges"])]
    known = {node["id"] for node in nodes}
    for i, edge in enumerate(edges):
        if not {edge["head"], edge["tail"]} <= known:
            raise SampleError(f"{where}: edges[{i}]: {edge['head']!r} or {edge['tail']!r} is no node of the graph")
    return {"nodes": nodes, "edges": edges}


def _picked(record: object, texts: tuple[str, ...], times: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise SampleError(f"{where}: must be an object, not {record!r}")
    for name in texts:
        if not isinstance(record.get(name), str):
            raise SampleError(f"{where}.{name}: must be text, not {record.get(name)!r}")
    for name in times:
        if not is_seconds(record.get(name)):
            raise SampleError(f"{where}.{name}: must be a number of seconds, not {record.get(name)!r}")
    return {name: record[name] for name in (*texts, *times)}


def on_the_clock_of(graph: dict[str, Any], start: float) -> dict[str, Any]:
    """The same graph with times on the clock of the video file, whose part from `start` (seconds) on is watched."""
    edges = [edge | {name: edge[name] + start for name in _TIMES} for edge in graph["edges"]]
    nodes = [node | {"aliases": [[name, time + start] for name, time in node["aliases"]]} for node in graph["nodes"]]
    return {"nodes": nodes, "edges": edges}
