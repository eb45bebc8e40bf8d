"""The synth stage from end to end: what it writes, that nothing is done twice or lost, and that every runner agrees."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from data_pipeline.annotations import READERS, Annotation, VideoAnnotations
from data_pipeline.builders import BUILDERS
from data_pipeline.builders.script import Plan
from data_pipeline.engine import build as building
from data_pipeline.engine.jobs import Job, perform, phases
from data_pipeline.engine.recipe import SynthRecipe
from data_pipeline.engine.tools import Tools
from data_pipeline.source import Rejected, Source, SynthError, scan_sources, write_sources
from data_pipeline.synth import report_table, run, show
from data_pipeline.text.endpoint import EndpointError
from tests.data_pipeline.faulty_server import FaultyServer
from tests.data_pipeline.runs import PROGRAM, ROOT, fingerprints, small, start, workers, write_recipe, write_world
from tests.data_pipeline.worlds import world_sources
from whilst.recipe import RecipeError, load_recipe, save_resolved
from whilst.sample import Answer, Query, Thought, Video, read_samples

STEPS = ("data", "sources", "state", "words.txt", "rejected.jsonl", "yields.json", "README.md", "recipe.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 worlds in 3 shards."""
    folder = tmp_path_factory.mktemp("finished")
    run(small(folder, formats=["parquet", "jsonl"]))
    return folder / "run"


# ---- What is written.


def test_the_output_holds_everything(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == sorted(STEPS)
    names = [f"train-{k:05d}-of-00003" for k in range(3)]
    assert sorted(path.name for path in (finished / "data").iterdir()) == sorted(
        f"{name}.{kind}" for name in names for kind in ("parquet", "jsonl")
    )
    samples = read_samples(finished / "data" / "train")
    sources = {one.id: one for name in names for one in scan_sources(finished / "sources" / f"{name}.jsonl")}
    assert {sample.id for sample in samples} == set(sources) and len(sources) == 12
    for sample in samples:  # both kinds of file name the video from a folder beside each other
        assert sample.video.path == os.path.normpath(finished / "sources" / sources[sample.id].video.path)
    assert [s.id for s in read_samples(finished / "data" / f"{names[0]}.jsonl")] == [s.id for s in samples[:4]]


def test_the_figures_add_up_to_what_is_there(finished: Path) -> None:
    report = json.loads((finished / "yields.json").read_text())
    samples = read_samples(finished / "data" / "train")
    assert report["splits"]["train"] == report["all"] and report["exports"] == {}
    for level, count in (("sources", 12), ("samples", 12), ("queries", sum(len(s.queries()) for s in samples))):
        counted = report["all"][level]
        assert counted["out"] == count and counted["in"] == count + sum(counted["rejected"].values())
    thoughts = sum(isinstance(event, Thought) for sample in samples for event in sample.events)
    assert report["all"]["statistics"]["events: thought"] == thoughts


def test_the_words_are_those_of_the_samples(finished: Path) -> None:
    words: set[str] = set()
    for sample in read_samples(finished / "data" / "train"):
        for event in sample.events:
            if isinstance(event, (Thought, Query, Answer)):
                words |= set(event.text.split())
    assert (finished / "words.txt").read_text().splitlines() == sorted(words)


def test_datasets_loads_the_folder_offline(finished: Path, tmp_path: Path) -> None:
    program = "import sys, datasets; d = datasets.load_dataset(sys.argv[1]); print(d['train'].num_rows, list(d))"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path), "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(finished)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["12", "['train']"], done.stderr


def test_the_card_says_where_it_comes_from(finished: Path) -> None:
    card = (finished / "README.md").read_text()
    header, _, text = card.removeprefix("---\n").partition("\n---\n")
    assert "path: data/train-*.parquet" in header and "license_name: Apache-2.0" in header
    assert "| world | Apache-2.0 | 12 |" in text and "whilst.sample/1" in text and "seed 0" in text
    assert "builder:" in text and "| train | samples | 12 | 12 |" in text


def test_the_table_has_every_split_and_reason(finished: Path) -> None:
    report = json.loads((finished / "yields.json").read_text())
    report["splits"]["train"]["samples"] = {"in": 15, "out": 12, "rejected": {"no chain": 2, "cut off": 1}}
    console = Console(width=120, file=io.StringIO())
    show(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "no chain" in text and "cut off" in text and "15" in text
    assert len(report_table(report).rows) == 5


# ---- Nothing twice, nothing lost.


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    recipe = small(tmp_path)
    first = run(recipe)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.name != "lock"}
    assert run(recipe) == first
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    "lost", ["data/train-00001-of-00003.parquet", "state/publish/train-00001.manifest.json", "words.txt"]
)
def test_what_is_lost_or_damaged_is_made_again(tmp_path: Path, lost: str) -> None:
    recipe = small(tmp_path)
    run(recipe)
    wanted = fingerprints(tmp_path / "run")
    (tmp_path / "run" / lost).unlink()
    run(recipe)
    assert fingerprints(tmp_path / "run") == wanted
    if lost.endswith(".parquet"):
        data = (tmp_path / "run" / lost).read_bytes()
        (tmp_path / "run" / lost).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        run(recipe)
        assert fingerprints(tmp_path / "run") == wanted


def test_another_recipe_or_input_is_refused(tmp_path: Path) -> None:
    run(small(tmp_path))
    assert run(small(tmp_path, "workers=2", "notes=said later"))["all"]["samples"]["out"] == 12
    with pytest.raises(SynthError, match=r"other values of builder\.world\.queries_per_video, seed"):
        run(small(tmp_path, "seed=1", "builder.world.queries_per_video=2"))
    world = tmp_path / "world.sources.jsonl"
    world.write_text(world.read_text() + "\n")
    with pytest.raises(SynthError, match="made from other inputs"):
        run(small(tmp_path))


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "data").mkdir(parents=True)
    with pytest.raises(SynthError, match="holds data but no recipe"):
        run(small(tmp_path))


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run" / "state").mkdir(parents=True)
    recipe = small(tmp_path)
    (tmp_path / "run" / "recipe.yaml").write_text((tmp_path / "recipe.yaml").read_text())
    with open(tmp_path / "run" / "state" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SynthError, match="another run is at work here"):
            run(recipe)
    run(recipe)


def test_a_job_before_the_one_it_needs_is_refused(tmp_path: Path) -> None:
    recipe = small(tmp_path)
    with pytest.raises(SynthError, match=r"gather/train\.manifest\.json: not there"):
        perform(recipe, Job("publish", "train", 0), Tools(recipe))


def test_the_bytes_do_not_depend_on_folder_workers_or_runner(tmp_path: Path) -> None:
    made = []
    for name, overrides in (("a", ()), ("b", ("workers=2",)), ("c", ("executor={name: datatrove}", "workers=2"))):
        if name == "c":
            pytest.importorskip("datatrove", reason="datatrove is not installed")
        folder = tmp_path / name
        folder.mkdir()
        run(small(folder, *overrides, formats=["parquet", "jsonl"]))
        made.append(fingerprints(folder / "run", "logs", "state", "recipe.yaml", "README.md"))
    assert len(made[0]) == 12 and made[0] == made[1] == made[2]


def test_a_split_each_and_empty_shards(tmp_path: Path) -> None:
    write_world(tmp_path / "two.jsonl", 2)
    inputs = {"train": {"sources": [str(tmp_path / "world.sources.jsonl")], "shards": 2, "limit": 5}}
    write_sources([replace(one, id=f"other-{one.id}") for one in world_sources(2)], tmp_path / "other.sources.jsonl")
    inputs["test"] = {"sources": [str(tmp_path / "other.sources.jsonl")], "shards": 4}
    report = run(small(tmp_path, inputs=inputs))
    assert report["splits"]["train"]["samples"]["out"] == 5 and report["splits"]["test"]["samples"]["out"] == 2
    assert report["all"]["samples"]["out"] == 7
    assert len(read_samples(tmp_path / "run" / "data" / "test")) == 2


def test_one_sample_id_in_two_shards_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = BUILDERS["world"]

    def plan(source: object, *rest: object) -> Plan:
        planned = world.plan(source, *rest)  # type: ignore[arg-type]
        planned.scripts = [replace(script, id="the same") for script in planned.scripts]
        return planned

    monkeypatch.setitem(BUILDERS, "world", replace(world, plan=plan))
    with pytest.raises(SynthError, match="sample 'the same' is made twice"):
        run(small(tmp_path, n=2))
    assert not (tmp_path / "run" / "yields.json").exists()


def test_rejections_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = BUILDERS["world"]

    def plan(source: object, *rest: object) -> Plan:
        if source.id.endswith("3"):  # type: ignore[attr-defined]
            return Plan(rejected=[Rejected(source.id, "no chain", "of 3 hops")])  # type: ignore[attr-defined]
        return world.plan(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setitem(BUILDERS, "world", replace(world, plan=plan))
    report = run(small(tmp_path))["all"]
    assert report["samples"] == {"in": 12, "out": 11, "rejected": {"no chain": 1}}
    assert report["sources"] == {"in": 12, "out": 11, "rejected": {"no sample of it is left": 1}}
    lines = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    assert lines == [
        {"split": "train", "level": "sample", "item": "train-00003", "reason": "no chain", "detail": "of 3 hops"}
    ]


def test_an_input_without_records_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "world.sources.jsonl").write_text("")
    with pytest.raises(SynthError, match=r"inputs\.train: holds no record"):
        run(small(tmp_path))


# ---- Failing.


@pytest.mark.parametrize("executor", ["local", "{name: datatrove}"])
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_failed_save_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str, workers: int
) -> None:
    """A real one: from the second step on, no file may grow beyond a size that a shard of samples exceeds."""
    if executor != "local":
        pytest.importorskip("datatrove", reason="datatrove is not installed")
    write_world(tmp_path / "world.sources.jsonl", 12)
    changes = {"output": "run", "inputs": {"train": {"sources": ["world.sources.jsonl"], "shards": 3}}}
    write_recipe(tmp_path, **changes, formats=["jsonl", "parquet"])
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("recipe.yaml", SynthRecipe)
    perform(recipe, Job("gather", "train"), Tools(recipe))
    save_resolved(recipe, "run/recipe.yaml")
    process = _limited(tmp_path, executor, workers, size=10_000)
    assert process.returncode != 0 and "File too large" in process.stderr, process.stderr[-2000:]
    run_folder = tmp_path / "run"
    assert not (run_folder / "yields.json").exists() and not list(run_folder.glob("data/train*"))
    process = _limited(tmp_path, executor, workers, size=resource.RLIM_INFINITY)
    assert process.returncode == 0, process.stderr[-2000:]
    assert len(read_samples(run_folder / "data" / "train")) == 12 and not list(run_folder.rglob("*.part"))


def _limited(folder: Path, executor: str, workers: int, size: int) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    program = folder / "program.py"
    program.write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, str(program), "recipe.yaml", f"executor={executor}", f"workers={workers}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )


def started(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A run of 40 worlds, and the workers that it has begun, which wait."""
    write_recipe(folder, 40, workers=2)
    (folder / "gate").touch()
    process = start(folder, "recipe.yaml")
    while not (found := workers(process.pid)):
        assert process.poll() is None
        time.sleep(0.01)
    return process, found


def test_a_killed_worker_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    process, found = started(tmp_path)
    os.kill(found[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and "a worker process was killed" in errors
    run(load_recipe(tmp_path / "recipe.yaml", SynthRecipe))
    assert len(read_samples(tmp_path / "run" / "data" / "train")) == 40


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    process, _ = started(tmp_path)
    process.kill()  # it alone; its workers are in the same group, but get no signal
    (tmp_path / "gate").unlink()
    process.communicate(timeout=300)  # until the last of them has let go of the pipes, as only its end does


# ---- Inputs other than files of sources.


def test_annotations_become_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*paths: object) -> Iterator[VideoAnnotations | Rejected]:
        assert [Path(str(path)).name for path in paths] == ["a.json", "b.json"]
        for name in ("one", "two", "none"):
            spans = [(0.0, 20.0, "cut the bread"), (20.0, 45.0, "spread the butter"), (50.0, 80.0, "eat the bread")]
            steps = [Annotation(name, *span, "span", f"{name}/{k}") for k, span in enumerate(spans)]
            yield VideoAnnotations(name, "kitchen", 90.0, "MIT", tuple(steps) if name != "none" else ())
        yield Rejected("three", "no labels")

    monkeypatch.setitem(READERS, "kitchen", read)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("{}")
    annotations = {
        "reader": "kitchen",
        "paths": [str(tmp_path / "a.json"), str(tmp_path / "b.json")],
        "videos": str(tmp_path / "videos"),
        "segment_seconds": 10.0,
    }
    inputs = {"train": {"annotations": annotations, "shards": 2}}
    report = run(small(tmp_path, inputs=inputs, builder={"live_narration": {}}))["all"]
    assert report["sources"]["in"] == 4 and report["sources"]["rejected"]["no labels"] == 1
    assert report["sources"]["rejected"]["no annotations"] == 1 and report["sources"]["out"] == 2
    assert report["origins"] == [["kitchen", "MIT", report["samples"]["out"]]]
    samples = read_samples(tmp_path / "run" / "data" / "train")
    assert {sample.video.path for sample in samples} == {str(tmp_path / "videos" / f"{n}.mp4") for n in ("one", "two")}
    levels = [json.loads(line)["level"] for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    assert levels.count("source") == 2


def test_videos_are_extracted_shard_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = {f"v{k}": source for k, source in enumerate(world_sources(5))}
    (tmp_path / "videos").mkdir()
    for name in worlds:
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"")
    seen: list[str] = []

    def extract(video: Video, settings: object, describer: object, **said: str) -> Source | Rejected:
        seen.append(said["video_id"])
        if said["video_id"] == "v3":
            return Rejected(said["id"], "hub and spokes")
        world = worlds[said["video_id"]]
        return replace(world, id=said["id"], video=video, dataset=said["dataset"], licence=said["licence"])

    monkeypatch.setattr("data_pipeline.extract.road.extract_source", extract)
    given = {
        "videos": [str(tmp_path / "videos" / "*.mp4")],
        "dataset": "mine",
        "licence": "CC-BY-4.0",
        "endpoint": {"base_url": "http://localhost:1/v1", "model": "m", "cache": str(tmp_path / "cache")},
    }
    recipe = small(tmp_path, inputs={"train": {"extract": given, "shards": 2}})
    assert phases(recipe)[0] == [Job("extract", "train", 0), Job("extract", "train", 1)]
    report = run(recipe)["all"]
    assert seen == ["v0", "v2", "v4", "v1", "v3"]
    assert report["sources"] == {"in": 5, "out": 4, "rejected": {"hub and spokes": 1}}
    assert report["origins"] == [["mine", "CC-BY-4.0", 4]]
    paths = {sample.id: sample.video.path for sample in read_samples(tmp_path / "run" / "data" / "train")}
    assert paths["mine-v4"] == str(tmp_path / "videos" / "v4.mp4")
    run(recipe)
    assert len(seen) == 5, "what was extracted is not extracted again"


# ---- Writers and filters.


def test_with_a_guesser_all_is_built_before_anything_is_filtered(tmp_path: Path) -> None:
    plain, guessed = tmp_path / "plain", tmp_path / "guessed"
    for folder in (plain, guessed):
        folder.mkdir()
    # Whoever asks about what has not happened is always told that it is unknown: that can be guessed.
    builder = {"world": {"queries": {"unanswerable": 1.0, "present": 1.0}}}
    run(small(plain, builder=builder))
    recipe = small(guessed, builder=builder, filters={"guesser": {"confidence": 0.9, "support": 2}})
    assert [phase[0].step for phase in phases(recipe)] == ["gather", "build", "merge", "publish", "finish"]
    report = run(recipe)["all"]
    before = json.loads((plain / "run" / "yields.json").read_text())["all"]
    assert report["queries"]["in"] == before["queries"]["in"]
    guesses = sum(count for reason, count in report["queries"]["rejected"].items() if "guesser" in reason)
    assert guesses > 0
    kept = {(s.id, q.id) for s in read_samples(guessed / "run" / "data" / "train") for q in s.queries()}
    every = {(s.id, q.id) for s in read_samples(plain / "run" / "data" / "train") for q in s.queries()}
    assert kept < every and len(every) - len(kept) == before["queries"]["out"] - report["queries"]["out"]


def test_several_sources_at_once_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
    run(small(alone))
    seen: set[int] = set()
    real = building.build

    def build(*arguments: object) -> object:
        seen.add(threading.get_ident())
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("data_pipeline.engine.jobs.build", build)
    monkeypatch.setattr(Tools, "threads", property(lambda self: 4))
    run(small(together))
    assert threading.get_ident() not in seen and len(seen) > 1
    assert fingerprints(together / "run", "state", "recipe.yaml", "README.md") == fingerprints(
        alone / "run", "state", "recipe.yaml", "README.md"
    )


def test_an_endpoint_that_fails_half_way_is_gone_on_with_and_asked_nothing_twice(tmp_path: Path) -> None:
    """The server words the thoughts; its fifth request fails for good, and stops the run."""
    fine, faulty = tmp_path / "fine", tmp_path / "faulty"
    for folder in (fine, faulty):
        folder.mkdir()
    builder = {"vst": {}}
    settings = {
        "model": "m",
        "cache": str(tmp_path / "cache"),
        "steps": ["thought"],
        "attempts": 1,
        "concurrency": 3,
    }
    with FaultyServer(["ok"] * 4 + ["500"]) as server:
        recipe = small(faulty, n=4, builder=builder, writer=settings | {"base_url": server.url})
        with pytest.raises(EndpointError, match="HTTP 500"):
            run(recipe)
        assert not (faulty / "run" / "yields.json").exists()
        before = len(server.requests)
        report = run(recipe)
        assert report["all"]["samples"]["out"] + sum(report["all"]["samples"]["rejected"].values()) == 4
        asked = [json.dumps(request.body, sort_keys=True) for request in server.requests]
        assert len(asked) > before >= 5
        assert len(asked) <= len(set(asked)) + 1, "only the request that failed is sent a second time"
        run(small(fine, n=4, builder=builder, writer=settings | {"base_url": server.url}))
        assert len(server.requests) == len(asked), "all was in the cache"
    assert fingerprints(fine / "run", "state", "recipe.yaml", "README.md") == fingerprints(
        faulty / "run", "state", "recipe.yaml", "README.md"
    )


def test_an_endpoint_s_limits_are_shared_among_workers(tmp_path: Path) -> None:
    endpoint = {
        "base_url": "http://localhost:1/v1",
        "model": "m",
        "cache": str(tmp_path / "cache"),
        "concurrency": 6,
        "budget": {"requests": 100},
    }
    two = Tools(small(tmp_path, "workers=2", writer=endpoint))
    assert two.threads == 3
    slurm = "executor={partition: main, time: '01:00:00'}"
    assert (
        Tools(small(tmp_path, "workers=2", slurm, writer=endpoint))._part(two._recipe.writer).budget.requests == 33
    )  # 3 tasks


def test_more_workers_than_an_endpoint_has_places_are_refused(tmp_path: Path) -> None:
    endpoint = {"base_url": "http://localhost:1/v1", "model": "m", "cache": "cache", "concurrency": 2}
    with pytest.raises(RecipeError, match="concurrency is 2 for 3 workers"):
        small(tmp_path, "workers=3", writer=endpoint)


def test_the_reachable_settings_of_an_endpoint_may_change_on_the_way(tmp_path: Path) -> None:
    from data_pipeline.engine.decisive import decisive

    endpoint = {"base_url": "http://localhost:1/v1", "model": "m", "cache": "cache"}
    one = decisive(small(tmp_path, writer=endpoint))
    moved = decisive(small(tmp_path, writer=endpoint | {"base_url": "http://localhost:2/v1", "concurrency": 2}))
    other = decisive(small(tmp_path, writer=endpoint | {"model": "n"}))
    assert one == moved and one != other


# ---- Recipes.


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"builder": {}}, "name one builder"),
        ({"builder": {"world": {}, "vst": {}}}, "not vst, world"),
        ({"builder": {"wrold": {}}}, "did you mean builder.world"),
        ({"inputs": {}}, "name at least one split"),
        ({"inputs": {"a-b": {"sources": ["x"], "shards": 1}}}, "inputs.a-b"),
        ({"formats": []}, "formats"),
        ({"formats": ["parquet", "parquet"]}, "none of them twice"),
        ({"exports": [{"layout": "vst"}, {"layout": "vst"}]}, "named twice"),
        ({"workers": 0}, "workers: 0"),
        ({"writer": "template"}, "writer"),
        ({"filters": {"guesser": {"mode": "endpoint"}}}, "with `guess` in its steps"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, object], fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        small(tmp_path, **changes)


def test_every_builder_has_its_settings_in_the_recipe(tmp_path: Path) -> None:
    for name, builder in BUILDERS.items():
        chosen = small(tmp_path, builder={name: {}}).builder
        assert (chosen.name, chosen.builder) == (name, builder) and type(chosen.settings) is builder.settings
