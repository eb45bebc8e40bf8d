"""The parts of the engine: files and manifests, dealing out inputs, building, filtering and writing a shard."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.builders.world import BUILDER, WorldSettings
from data_pipeline.engine import finish
from data_pipeline.engine.build import Outcome, build, in_order, outcome_from_json
from data_pipeline.engine.decisive import differing
from data_pipeline.engine.files import committing, read_manifest, write_manifest, write_text
from data_pipeline.engine.inputs import AnnotationInput, Input, deal, gathered, stamps
from data_pipeline.engine.publish import filtered, write_shard
from data_pipeline.engine.shards import ROWS, read_shard, writing
from data_pipeline.engine.tally import Tally, from_json
from data_pipeline.filters import Filtered
from data_pipeline.source import Rejected, Source, SynthError, Yield, scan_sources, write_sources
from data_pipeline.text.task import Task, TextRejected
from tests.data_pipeline.worlds import world_sources
from whilst.sample import Sample, SampleError, read_parquet, write_parquet

SOURCES = world_sources(6)


def silent(task: Task) -> str:
    raise AssertionError("the world's builder writes its own words")


def built(source: Source, builder: Builder = BUILDER) -> Outcome:
    return build(source, builder, WorldSettings(), silent, 0)


def samples(n: int) -> list[Sample]:
    return [built(source).samples[0] for source in SOURCES[:n]]


# ---- Files.


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path, "a/one", "before")
    with pytest.raises(OSError, match="full"), committing(tmp_path, ["a/one", "a/two"]) as parts:
        for part in parts:
            part.write_text("after")
        raise OSError("the disk is full")
    assert (tmp_path / "a/one").read_text() == "before"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["one"]
    with committing(tmp_path, ["a/one", "a/two"]) as parts:
        for part in parts:
            part.write_text("after")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["one", "two"]
    assert (tmp_path / "a/one").read_text() == "after"


def test_a_file_that_was_not_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), committing(tmp_path, ["one", "two"]) as [one, _]:
        one.write_text("x")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_attempt_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".one.4711.part").write_text("half")
    (tmp_path / ".one-more.4711.part").write_text("another job's")
    write_text(tmp_path, "one", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".one-more.4711.part", "one"]


@pytest.mark.parametrize("damage", ["removed", "shorter", "same length"])
def test_a_manifest_holds_only_while_its_files_do(tmp_path: Path, damage: str) -> None:
    write_text(tmp_path, "data/one", "abc")
    made = write_manifest(tmp_path, "state/m.json", "key", ["data/one"], {"n": 1})
    assert read_manifest(tmp_path, "state/m.json", "key") == made
    if damage == "removed":
        (tmp_path / "data/one").unlink()
    else:
        (tmp_path / "data/one").write_text("ab" if damage == "shorter" else "abd")
    assert read_manifest(tmp_path, "state/m.json", "key") is None


def test_a_manifest_of_another_key_is_an_error_and_none_is_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path, "state/m.json", "key") is None
    write_manifest(tmp_path, "state/m.json", "key", [], {})
    with pytest.raises(SynthError, match=r"m\.json: made from other inputs"):
        read_manifest(tmp_path, "state/m.json", "another")


def test_differing_names_the_keys() -> None:
    assert differing({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 3}) == ["a.c", "d", "e"]


# ---- Inputs.


def test_sources_are_dealt_out_in_turn_with_paths_relative_to_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    path = tmp_path / "world" / "train.sources.jsonl"
    write_sources(SOURCES[:5], path)
    found = gathered(Input(shards=2, sources=(str(path),)))
    parts = [tmp_path / "run" / "sources" / name for name in ("0", "1")]
    parts[0].parent.mkdir(parents=True)
    tally, counts = deal(found, parts, tmp_path / "rejected", tmp_path / "run" / "sources")
    assert counts == [3, 2] and (tally.sources.taken, tally.sources.made) == (5, 5)
    first = list(scan_sources(parts[0]))
    assert [source.id for source in first] == [SOURCES[k].id for k in (0, 2, 4)]
    assert first[0].video.path == f"../../world/{SOURCES[0].video.path}"
    assert first[0].graph == SOURCES[0].graph and (tmp_path / "rejected").read_text() == ""


def test_rejected_records_are_counted_and_kept(tmp_path: Path) -> None:
    found = iter([SOURCES[0], Rejected("x", "no duration", "none given"), SOURCES[1]])
    tally, counts = deal(found, [tmp_path / "0"], tmp_path / "rejected", tmp_path)
    tally.check("input")
    assert counts == [2] and tally.sources.taken == 3 and tally.sources.rejected == {"no duration": 1}
    assert json.loads((tmp_path / "rejected").read_text()) == {
        "level": "source", "item": "x", "reason": "no duration", "detail": "none given",
    }  # fmt: skip


def test_two_sources_with_one_id_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=f"source '{SOURCES[0].id}' comes twice"):
        deal(iter([SOURCES[0], SOURCES[1], SOURCES[0]]), [tmp_path / "0"], tmp_path / "rejected", tmp_path)


def test_a_limit_counts_sources_not_rejections(tmp_path: Path) -> None:
    path = tmp_path / "sources.jsonl"
    write_sources(SOURCES, path)
    assert len(list(gathered(Input(shards=1, sources=(str(path),), limit=4)))) == 4
    assert len(list(gathered(Input(shards=1, sources=(str(path),), limit=99)))) == len(SOURCES)


def test_a_broken_line_names_the_input_s_own_file(tmp_path: Path) -> None:
    path = tmp_path / "sources.jsonl"
    write_sources(SOURCES[:1], path)
    path.write_text(path.read_text() + '{"schema": "whilst.source/1", "id": "b"}\n')
    with pytest.raises(SynthError, match=r"sources\.jsonl:2: a field is missing"):
        list(gathered(Input(shards=1, sources=(str(path),))))


def test_a_split_takes_the_videos_that_it_lists_and_counts_the_others(tmp_path: Path) -> None:
    file, only, without = (tmp_path / name for name in ("captions.json", "train.txt", "held_out.txt"))
    told = {"duration": 10.0, "timestamps": [[0.0, 5.0]], "sentences": ["A man walks away."]}
    file.write_text(json.dumps({f"v_{name}": told for name in "abcd"}))
    only.write_text("v_a\nv_b\nv_c\n")
    without.write_text("v_c\nv_x\n")
    everything = AnnotationInput("activitynet_captions", (str(file),), "videos", 2.0)

    def taken(**chosen: str) -> list[tuple[str, str]]:
        given = Input(shards=1, annotations=replace(everything, **chosen))
        assert {path for path, _, _ in stamps(given)} == {str(file), *chosen.values()}
        found = list(gathered(given))
        assert len(found) == 4
        return [(one.item, one.reason) if isinstance(one, Rejected) else (one.video_id, "") for one in found]

    assert [reason for _, reason in taken()] == [""] * 4
    assert taken(only=str(only))[2:] == [("v_c", ""), ("v_d", "not in only")]
    assert taken(without=str(without))[2:] == [("v_c", "in without"), ("v_d", "")]
    both = taken(only=str(only), without=str(without))
    assert both == [("v_a", ""), ("v_b", ""), ("v_c", "in without"), ("v_d", "not in only")]
    without.write_text("\n")
    with pytest.raises(SynthError, match=r"held_out\.txt: holds no video id; write one a line"):
        taken(without=str(without))


def test_inputs_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    annotations = AnnotationInput("ego4d_goalstep", ("x.json",), "videos", 2.0)
    for given, fault in (
        ({"shards": 1}, "one of sources, annotations and extract, not none"),
        ({"shards": 1, "sources": ("a",), "annotations": annotations}, "not sources, annotations"),
        ({"shards": 1, "sources": ()}, "at least one file"),
        ({"shards": 0, "sources": ("a",)}, "shards: 0"),
        ({"shards": 1, "sources": ("a",), "limit": 0}, "limit: 0"),
    ):
        with pytest.raises(ValueError, match=fault):
            Input(**given)
    with pytest.raises(ValueError, match="reader: 'ego5d' is not one of"):
        AnnotationInput("ego5d", ("x.json",), "videos", 2.0)
    with pytest.raises(SynthError, match="no such input"):
        stamps(Input(shards=1, sources=(str(tmp_path / "none.jsonl"),)))


# ---- Building.


def test_an_outcome_survives_being_kept() -> None:
    source = SOURCES[0]
    outcome = built(source)
    assert outcome.samples[0].id == source.id and outcome.tally.samples.made == 1
    kept = outcome_from_json(json.loads(json.dumps(outcome.to_json())))
    assert kept.samples == outcome.samples and kept.rejected == outcome.rejected
    assert kept.tally.to_json() == outcome.tally.to_json()


def test_a_sample_whose_text_is_rejected_takes_its_queries_along() -> None:
    def tell(*_: object) -> Sample:
        raise TextRejected("cut off", "longer than max_tokens")

    outcome = built(SOURCES[0], replace(BUILDER, tell=tell))
    assert not outcome.samples and outcome.tally.samples.rejected == {"cut off": 1}
    assert outcome.rejected == [("sample", Rejected(SOURCES[0].id, "cut off", "longer than max_tokens"))]
    assert (outcome.tally.queries.made, outcome.tally.queries.rejected) == (0, {"sample rejected": 3})
    outcome.tally.check("source")


def test_a_plan_without_words_is_a_rejection() -> None:
    def plan(*_: object) -> Plan:
        raise TextRejected("no content")

    outcome = built(SOURCES[0], replace(BUILDER, plan=plan))
    assert outcome.tally.samples.rejected == {"no content": 1} and not outcome.samples


def test_a_builder_that_miscounts_is_an_error() -> None:
    def nothing(*_: object) -> Plan:
        return Plan()

    def one_too_many(*_: object) -> Plan:
        return Plan([Script("a", SOURCES[0].segments)], queries=Yield(1, 1))

    def lost(*_: object) -> Plan:
        return Plan([Script("a", SOURCES[0].segments)], queries=Yield(1, 0))

    for plan, fault in ((nothing, "no script and no reason"), (one_too_many, "counts 1 queries"), (lost, "1 unacc")):
        with pytest.raises(SynthError, match=fault):
            built(SOURCES[0], replace(BUILDER, plan=plan))


@pytest.mark.parametrize("threads", [1, 4])
def test_work_is_done_in_order_and_not_far_ahead(threads: int) -> None:
    taken: list[int] = []
    gate = threading.Event()

    def items() -> object:
        for k in range(40):
            taken.append(k)
            yield k

    def work(k: int) -> int:
        if k % 2 == 0 and threads > 1:
            gate.wait(0.01)  # the later one is ready first
        return k * k

    results = in_order(work, items(), threads)  # type: ignore[arg-type]
    assert next(results) == 0 and len(taken) <= 2 * threads
    assert list(results) == [k * k for k in range(1, 40)]


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_comes_in_its_turn(threads: int) -> None:
    def work(k: int) -> int:
        if k == 5:
            raise TextRejected("bad")
        return k

    results = in_order(work, range(40), threads)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(TextRejected):
        next(results)


# ---- Filtering.


def passed(sample: Sample, source: Source) -> Filtered:
    count = len(sample.queries())
    return Filtered(sample, Yield(count, count), [])


def test_what_filters_take_out_is_counted_where_it_belongs() -> None:
    source = SOURCES[0]

    def one_less(sample: Sample, source: Source) -> Filtered:
        gone = sample.queries()[0].id
        events = [one for one in sample.events if gone not in (getattr(one, "query", ""), getattr(one, "id", ""))]
        counted = Yield(3, 2)
        counted.rejected["leak"] += 1
        return Filtered(sample.with_events(events), counted, [Rejected(f"{sample.id}/{gone}", "leak")])

    def none_left(sample: Sample, source: Source) -> Filtered:
        counted = Yield(3, 0)
        counted.rejected["leak"] += 3
        return Filtered(None, counted, [Rejected(sample.id, "no query is left")])

    whole, less, none = (filtered(source, built(source), apply).outcome for apply in (passed, one_less, none_left))
    assert (whole.tally.queries.made, less.tally.queries.made, none.tally.queries.made) == (3, 2, 0)
    assert less.tally.queries.rejected == {"leak": 1} and less.rejected[0][0] == "query"
    assert whole.tally.sources.made == 1 and whole.tally.statistics["events: query"] == 3
    assert none.tally.samples.rejected == {"no query is left": 1} and none.rejected[-1][0] == "sample"
    assert none.tally.sources.rejected == {"no sample of it is left": 1} and not none.tally.origins


def test_a_filter_that_loses_a_query_is_an_error() -> None:
    source = SOURCES[0]

    def loses(sample: Sample, source: Source) -> Filtered:
        return Filtered(sample, Yield(3, 2), [])

    def gives_no_reason(sample: Sample, source: Source) -> Filtered:
        counted = Yield(3, 0)
        counted.rejected["leak"] += 3
        return Filtered(None, counted, [])

    for apply, fault in ((loses, "bug of the filters"), (gives_no_reason, "without a reason")):
        with pytest.raises(SynthError, match=fault):
            filtered(source, built(source), apply)


def test_an_invalid_sample_stops_the_run() -> None:
    outcome = built(SOURCES[0])
    outcome.samples[0] = outcome.samples[0].with_events(reversed(outcome.samples[0].events))
    with pytest.raises(SynthError, match=r"events\[\d+\].* a bug of the builder"):
        filtered(SOURCES[0], outcome, passed)


# ---- Shards.


def test_a_shard_holds_what_the_samples_writer_writes(tmp_path: Path) -> None:
    some = samples(3)
    with writing(("parquet", "jsonl"), [tmp_path / "a.parquet", tmp_path / "a.jsonl"]) as writer:
        for sample in some:
            writer.add(sample)
    write_parquet(some, tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "a.parquet") == pq.read_table(tmp_path / "b.parquet")
    assert list(read_shard(tmp_path / "a.parquet")) == list(read_shard(tmp_path / "a.jsonl")) == some
    assert [sample.id for sample in read_parquet(tmp_path / "a.parquet")] == [sample.id for sample in some]


def test_a_shard_is_written_piece_by_piece_and_may_be_empty(tmp_path: Path) -> None:
    [sample] = samples(1)
    with writing(("parquet",), [tmp_path / "a.parquet"]) as writer:
        for k in range(ROWS + 1):
            writer.add(replace(sample, id=f"s{k}"))
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2
    assert [one.id for one in read_shard(tmp_path / "a.parquet")] == [f"s{k}" for k in range(ROWS + 1)]
    with writing(("parquet", "jsonl"), [tmp_path / "e.parquet", tmp_path / "e.jsonl"]):
        pass
    assert read_parquet(tmp_path / "e.parquet") == [] and (tmp_path / "e.jsonl").read_text() == ""


def test_a_shard_takes_no_invalid_sample(tmp_path: Path) -> None:
    [sample] = samples(1)
    with pytest.raises(SampleError, match="sample 'train-00000'"), writing(("jsonl",), [tmp_path / "a"]) as writer:
        writer.add(sample.with_events(reversed(sample.events)))


def test_beside_a_shard_lie_its_words_and_ids(tmp_path: Path) -> None:
    published = [filtered(source, built(source), passed) for source in SOURCES[:3]]
    paths = [tmp_path / name for name in ("shard.jsonl", "rejected", "words.txt", "ids.txt")]
    tally = write_shard(iter(published), ("jsonl",), paths[:1], *paths[1:])
    words = (tmp_path / "words.txt").read_text().splitlines()
    said = {word for one in published for sample in one.outcome.samples for word in _texts(sample).split()}
    assert words == sorted(said) and "?" in words
    assert [json.loads(line) for line in (tmp_path / "ids.txt").read_text().splitlines()] == [s.id for s in SOURCES[:3]]
    assert from_json(json.loads(json.dumps(tally.to_json()))) == tally
    assert tally.samples.made == 3 and tally.origins == {("world", "Apache-2.0"): 3}


def _texts(sample: Sample) -> str:
    texts = [getattr(event, "text", "") for event in sample.events]
    return " ".join([*texts, *(option for query in sample.queries() for option in query.options or ())])


# ---- Finishing.


@pytest.mark.parametrize("at_once", [2, 128])
def test_sorted_files_are_merged_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(finish, "OPEN", at_once)
    paths = []
    for k in range(7):
        paths.append(tmp_path / str(k))
        paths[-1].write_text("".join(f"{line}\n" for line in sorted(f"{n:03d}" for n in range(k, 70, 7))))
    assert list(finish._merged(paths)) == [f"{n:03d}" for n in range(70)]
    assert list(finish._twice(paths)) == []
    paths[6].write_text(paths[6].read_text() + "069\n")
    assert list(finish._twice(paths)) == ["069"]


def test_a_tally_that_does_not_add_up_is_an_error() -> None:
    tally = Tally(samples=Yield(3, 2))
    with pytest.raises(SynthError, match="split train: samples: 3 in, 2 out, 0 rejected: 1 unaccounted"):
        tally.check("split train")
