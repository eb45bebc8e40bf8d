"""The future-leak test: builders that look ahead are found, however they do it; those of the pipeline are clean."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data_pipeline.builders import BUILDERS
from data_pipeline.builders.asking import Asking
from data_pipeline.builders.script import Builder, Script
from data_pipeline.doctor.causality import CausalityReport, check_samples, check_source, moments
from data_pipeline.doctor.folder import check_folder, exit_code, show, write_report
from data_pipeline.doctor.futures import LATER, cut, otherwise
from data_pipeline.engine.recipe import SynthRecipe
from data_pipeline.graph import make_graph, validate_graph
from data_pipeline.queries.kinds import KINDS
from data_pipeline.source import Exchange, Source, SynthError, draw, write_sources
from data_pipeline.synth import run
from data_pipeline.text.task import Task, TextRejected
from data_pipeline.text.templates import templates
from tests.data_pipeline.worlds import world_sources
from whilst.recipe import load_recipe
from whilst.sample import Answer, Sample, Silence, Thought, read_jsonl, write_jsonl

WRITE = templates(0)
ALL = Asking({kind: 1.0 for kind in KINDS}, {"open": 1.0, "choice": 1.0, "number": 1.0, "interval": 1.0})
NO_FORWARD = replace(ALL, kinds={kind: 1.0 for kind in KINDS if kind != "forward"})

CLEAN: dict[str, dict[str, Any]] = {
    "vst": {"queries": 5, "asking": ALL, "longest": 9.0},
    "tww": {"stage": 2, "asking": NO_FORWARD},
    "timechat_online": {"asking": ALL},
    "live_dialogue": {"shortest": 5.0, "dialogues": 3},
    "live_narration": {},
    "states": {"mode": "when"},
    "tays": {},
    "text_stream": {"window": 12.0, "overlap": 6.0},
    "world": {"queries_per_video": 4},
}


@pytest.mark.parametrize("name", CLEAN)
def test_builders_of_the_pipeline_do_not_look_ahead(name: str) -> None:
    builder, report = BUILDERS[name], CausalityReport()
    settings = replace(builder.settings(), **CLEAN[name])
    for source in world_sources(6):
        report.add(check_source(source, builder, settings, WRITE, 0, cuts=6))
    assert report.leaks == []
    assert report.clean and report.futures["cut"] == report.futures["otherwise"] > 0
    assert report.compared["thought"] + report.compared["answer"] > 20


def test_exchanges_that_are_answered_later_stay_unknown() -> None:
    exchanges = (Exchange("a", "Who is it?", "Ann", time=3.0), Exchange("b", "Tell me.", "now", time=4.0, wait=9.0))
    builder, report = BUILDERS["exchanges"], CausalityReport()
    for source in world_sources(3):
        report.add(check_source(replace(source, exchanges=exchanges), builder, builder.settings(), WRITE, 0, cuts=9))
    assert report.clean and report.compared["silence"] > 0


# ---- Planted leaks: tellings that look ahead, each in its own way.


def leaky(change: Callable[[Sample, Source, Script], Sample]) -> Builder:
    builder = BUILDERS["vst"]

    def tell(source: Source, script: Script, settings: Any, write: Any, seed: int) -> Sample:
        return change(builder.tell(source, script, settings, write, seed), source, script)

    return replace(builder, tell=tell)


def thoughts(sample: Sample, text: Callable[[Thought], str]) -> Sample:
    return sample.with_events(replace(e, text=text(e)) if isinstance(e, Thought) else e for e in sample.events)


def names_the_next_event(sample: Sample, source: Source, script: Script) -> Sample:
    def text(thought: Thought) -> str:
        later = [edge.text for edge in source.graph.edges if edge.knowable_at > thought.time]
        return f"{thought.text} Soon {later[0]}." if later else thought.text

    return thoughts(sample, text)


def tells_the_length(sample: Sample, source: Source, script: Script) -> Sample:
    return thoughts(sample, lambda thought: f"{thought.text} Of {source.graph.duration:g}.")


def tells_the_end_of_the_file(sample: Sample, source: Source, script: Script) -> Sample:
    return thoughts(sample, lambda thought: f"{thought.text} Of {source.video.end}.")


def counts_all_entities(sample: Sample, source: Source, script: Script) -> Sample:
    return thoughts(sample, lambda thought: f"{thought.text} {len(source.graph.nodes)} things in all.")


def words_drawn_from_the_whole(sample: Sample, source: Source, script: Script) -> Sample:
    word = draw(len(source.graph.edges), source.graph.edges[-1].text).choice(["Well, ", "So, ", "Now, ", ""])
    return thoughts(sample, lambda thought: word + thought.text)


def knows_when_a_state_ends(sample: Sample, source: Source, script: Script) -> Sample:
    def text(thought: Thought) -> str:
        now = [e for e in source.graph.edges if e.kind == "state" and e.knowable_at <= thought.time]
        return f"{thought.text} Until {now[-1].end:g}." if now else thought.text

    return thoughts(sample, text)


def thinks_of_the_next_query(sample: Sample, source: Source, script: Script) -> Sample:
    def text(thought: Thought) -> str:
        ahead = [ask for ask in script.asks if ask.time > thought.time]
        return f"{thought.text} I remember this for later." if ahead else thought.text

    return thoughts(sample, text)


def answers_off_the_whole(sample: Sample, source: Source, script: Script) -> Sample:
    last = source.graph.edges[-1].text
    return sample.with_events(replace(e, text=last) if isinstance(e, Answer) else e for e in sample.events)


def answers_where_it_was_silent(sample: Sample, source: Source, script: Script) -> Sample:
    answers = {e.query: e for e in sample.events if isinstance(e, Answer)}
    events = [
        replace(answers[e.query], time=e.time) if isinstance(e, Silence) and e.query in answers else e
        for e in sample.events
    ]
    return sample.with_events(events)


def calls_things_by_later_names(sample: Sample, source: Source, script: Script) -> Sample:
    later = [alias for node in source.graph.nodes for alias, _ in node.aliases]
    return thoughts(sample, lambda thought: f"{thought.text} {' '.join(later)}")


def silent_thought_before_the_end(sample: Sample, source: Source, script: Script) -> Sample:
    """Leaves out the thought before the last event of the whole video."""
    last = source.graph.edges[-1].knowable_at
    return sample.with_events(
        Silence(e.time) if isinstance(e, Thought) and last - 2.0 <= e.time < last else e for e in sample.events
    )


def leaks_into_the_memory(sample: Sample, source: Source, script: Script) -> Sample:
    return replace(sample, memory=sample.memory + source.graph.edges[-1].text)


LEAKS = [
    names_the_next_event, tells_the_length, tells_the_end_of_the_file, counts_all_entities, words_drawn_from_the_whole,
    knows_when_a_state_ends, thinks_of_the_next_query, answers_off_the_whole, answers_where_it_was_silent,
    calls_things_by_later_names, silent_thought_before_the_end, leaks_into_the_memory,
]  # fmt: skip


@pytest.mark.parametrize("change", LEAKS, ids=lambda change: change.__name__)
def test_planted_leak_is_found(change: Callable[[Sample, Source, Script], Sample]) -> None:
    builder, report = leaky(change), CausalityReport()
    settings = replace(builder.settings(), queries=4, asking=ALL)
    for source in world_sources(8):
        report.add(check_source(source, builder, settings, WRITE, 0, cuts=8))
    assert report.leaks and not report.clean
    assert all(leak.variant in ("cut", "otherwise") and leak.at <= leak.time for leak in report.leaks)


def test_a_builder_that_fails_without_the_future_is_found() -> None:
    def needs_the_last_edge(sample: Sample, source: Source, script: Script) -> Sample:
        if not source.graph.edges or source.graph.edges[-1].knowable_at < source.segments[-1].end - 2.0:
            raise TextRejected("too short")
        return sample

    report = check_source(world_sources(1)[0], leaky(needs_the_last_edge), BUILDERS["vst"].settings(), WRITE, 0)
    assert any(leak.event == "sample" and "too short" in str(leak.again) for leak in report.leaks)


# ---- Futures.


def test_futures_are_valid_and_as_the_whole_up_to_their_moment() -> None:
    builder = BUILDERS["vst"]
    settings = replace(builder.settings(), queries=4, asking=ALL)
    for source in world_sources(4):
        script = builder.plan(source, settings, WRITE, 0).scripts[0]
        for time in moments(source, script, 0, 6):
            for future in (cut(source, script, time), otherwise(source, script, time, 0)):
                validate_graph(future.source.graph)
                assert future.source.graph.as_of(time).edges == source.graph.as_of(time).edges
                assert future.source.graph.as_of(time).nodes == source.graph.as_of(time).nodes
                assert all(ask.time <= time for ask in future.script.asks)
                assert future.script.segments == script.segments
            assert not cut(source, script, time).source.graph.new(time, source.graph.duration)
            other = otherwise(source, script, time, 0).source.graph
            kept = {edge.text for edge in source.graph.new(time, source.graph.duration)}
            news = other.new(time, other.duration)
            assert len(news) == len(source.graph.new(time, source.graph.duration))
            assert not kept & {edge.text for edge in news}


def test_another_future_keeps_the_order_of_edges_that_became_known_at_once() -> None:
    source = world_sources(1)[0]
    first = [edge for edge in source.graph.edges if edge.knowable_at == source.graph.edges[0].knowable_at]
    turned = (*first[::-1], *source.graph.edges[len(first) :])
    graph = replace(source.graph, edges=turned)
    assert graph != make_graph(graph.id, graph.duration, [(n.id, n.kind, n.name) for n in graph.nodes], turned)
    script = Script(source.id, source.segments)
    other = otherwise(replace(source, graph=graph), script, 5.0, 0).source
    assert other.graph.edges[: len(first)] == turned[: len(first)]
    assert other.video.end == source.video.end + LATER


# ---- A dataset.


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth")
    write_sources(world_sources(9), folder / "train.sources.jsonl")
    (folder / "recipe.yaml").write_text(
        f"name: doctored\nstage: synth\noutput: {folder / 'out'}\nformats: [jsonl]\n"
        f"inputs: {{train: {{sources: [{folder / 'train.sources.jsonl'}], shards: 2}}}}\n"
        "builder: {timechat_online: {queries: 3}}\n"
    )
    run(load_recipe(folder / "recipe.yaml", SynthRecipe))
    return folder / "out"


def test_a_dataset_is_clean_and_says_so(dataset: Path, tmp_path: Path) -> None:
    report = check_folder(dataset, cuts=4)
    assert report.clean and exit_code(report) == 0
    samples = sum(len(read_jsonl(path)) for path in (dataset / "data").glob("*.jsonl"))
    assert report.samples == report.checked == samples > 15
    write_report(report, tmp_path / "causality.json")
    record = json.loads((tmp_path / "causality.json").read_text())
    assert record["schema"] == "whilst.causality/1" and record["clean"] and record["leaks"] == []
    text = StringIO()
    show(report, Console(file=text, width=160))
    assert "clean" in text.getvalue() and str(samples) in text.getvalue()
    few = check_folder(dataset, cuts=1, limit=5)
    assert 0 < few.samples < samples


def test_a_dataset_whose_text_was_changed_is_not_clean(dataset: Path) -> None:
    path = sorted((dataset / "data").glob("*.jsonl"))[0]
    before = path.read_bytes()
    samples = read_jsonl(path)
    i = next(k for k, sample in enumerate(samples) if any(isinstance(e, Answer) for e in sample.events))
    events = [replace(e, text="the end of the world") if isinstance(e, Answer) else e for e in samples[i].events]
    options = [replace(e, options=None) if hasattr(e, "options") else e for e in events]
    samples[i] = samples[i].with_events(options)
    write_jsonl(samples, path)
    try:
        report = check_folder(dataset, cuts=4)
    finally:
        path.write_bytes(before)
    assert exit_code(report) == 1
    assert {leak.sample for leak in report.leaks} == {samples[i].id}
    assert report.leaks[0].variant == "whole" and report.leaks[0].said == "the end of the world"
    text = StringIO()
    show(report, Console(file=text, width=200))
    assert "NOT clean" in text.getvalue() and samples[i].id in text.getvalue()


def test_a_sample_that_is_not_planned_is_not_passed_as_checked() -> None:
    builder, source = BUILDERS["vst"], world_sources(1)[0]
    settings = builder.settings()
    script = builder.plan(source, settings, WRITE, 0).scripts[0]
    sample = replace(builder.tell(source, script, settings, WRITE, 0), id="somebody-elses")
    report = check_samples([sample], source, builder, settings, WRITE, 0)
    assert (report.samples, report.checked) == (1, 0) and not report.clean
    assert report.unchecked[0][0] == "somebody-elses"
    assert not CausalityReport().clean  # nothing checked is nothing shown


def test_a_folder_without_what_is_needed_is_an_error(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(SynthError, match="recipe.yaml: missing"):
        check_folder(tmp_path)
    sources = sorted((dataset / "sources").glob("*.jsonl"))[0]
    kept = sources.read_bytes()
    sources.write_bytes(b"\n".join(kept.splitlines()[1:]) + b"\n")
    try:
        with pytest.raises(SynthError, match="has no source"):
            check_folder(dataset)
    finally:
        sources.write_bytes(kept)


def test_a_writer_is_asked_the_same_for_the_same_past() -> None:
    """An endpoint's replies are cached by what it is asked: a re-run costs nothing where nothing leaks."""
    asked: dict[str, set[str]] = {}

    def listening(task: Task) -> str:
        asked.setdefault(task.key, set()).add(json.dumps(dict(task.facts), sort_keys=True))
        return WRITE(task)

    source, builder = world_sources(1)[0], BUILDERS["vst"]
    check_source(source, builder, builder.settings(), listening, 0, cuts=3)
    end = moments(source, builder.plan(source, builder.settings(), WRITE, 0).scripts[0], 0, 3)[0]
    early = [facts for key, facts in asked.items() if key.split("/")[-1].replace(".", "").isdigit()
             and float(key.split("/")[-1]) <= end]  # fmt: skip
    assert early and all(len(facts) == 1 for facts in early)
