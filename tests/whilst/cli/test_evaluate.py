"""`whilst benchmark`, `score`, `compare` and `demo` through the door."""

import json
from pathlib import Path

import pytest

from tests.whilst.cli.command import TINY, fails, invoke
from whilst import demo
from whilst.sample import read_samples

FEW = "counts: {train: 1, validation: 1, test: 1}\n"


def test_benchmark_and_score_say_what_is_wrong(tmp_path: Path) -> None:
    assert "nothing_bench" in fails("benchmark", "nothing_bench", tmp_path / "a.json", "-o", tmp_path / "out")
    (tmp_path / "a.json").write_text("[]")
    code, _, told, _ = invoke("benchmark", "ovo_bench", tmp_path / "a.json", "nothing")
    assert code == 2 and "write an option as KEY=VALUE" in told
    assert "is no option of it" in fails("benchmark", "ovo_bench", tmp_path / "a.json", "x=1", "-o", tmp_path / "out")
    assert "none.json" in fails("score", "ovo_bench", tmp_path / "none.json", tmp_path / "r.jsonl")


def test_benchmark_and_score_of_a_small_file(tmp_path: Path) -> None:
    row = {
        "id": 1, "task": "EPM", "video": "v.mp4", "realtime": 12.0, "question": "Who ?", "options": ["a", "b"], "gt": 0
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps([row]))
    out, report = tmp_path / "out", tmp_path / "report.json"
    arguments = ("benchmark", "ovo_bench", tmp_path / "a.json", "segment_seconds=4", "--videos", tmp_path, "-o", out)
    code, told, errors, _ = invoke(*arguments, "--json", report)
    assert code == 0, errors
    assert told.strip().endswith(str(out)) and json.loads(report.read_text())["kind"] == "conversion"
    (sample,) = read_samples(out / "samples.jsonl")
    (query,) = sample.queries()
    (tmp_path / "r.jsonl").write_text(json.dumps({"query": query.id, "text": "A"}) + "\n")
    code, told, errors, _ = invoke("score", "ovo_bench", out / "samples.jsonl", tmp_path / "r.jsonl", "--json", report)
    assert code == 0, errors
    assert "strict" in told and "official" in told and json.loads(report.read_text())["benchmark"] == "ovo_bench"


def test_compare_says_what_is_missing(tmp_path: Path) -> None:
    assert "give the output folder of `whilst eval`" in fails("compare", tmp_path, tmp_path)


def test_the_demo_runs_stage_by_stage(tmp_path: Path) -> None:
    """The model needs the words that only the samples tell, and they the world."""
    out = tmp_path / "out"
    (tmp_path / "world.yaml").write_text(f"extends: {TINY / 'world.yaml'}\noutput: {out / 'world'}\n{FEW}")
    (tmp_path / "another.yaml").write_text(f"extends: {TINY / 'world.yaml'}\noutput: {out / 'another'}\n{FEW}")
    sources = f"{{sources: [{out / 'world' / 'train.sources.jsonl'}], shards: 1}}"
    (tmp_path / "a_sample.yaml").write_text(
        f"name: s\nstage: synth\noutput: {out / 'samples'}\ninputs: {{train: {sources}}}\nbuilder: {{world: {{}}}}\n"
    )
    (tmp_path / "a_model.yaml").write_text(
        f"extends: {TINY / 'model.yaml'}\noutput: {out / 'model'}\nwords_from: {out / 'samples' / 'words.txt'}\n"
    )
    (tmp_path / "base.yaml").write_text("no: recipe\n")
    seconds = demo.run(tmp_path, out)
    assert list(seconds) == ["another", "world", "a_sample", "a_model"] and all(value > 0 for value in seconds.values())
    assert (out / "model" / "model.safetensors").is_file() and (out / "logs" / "another.log").is_file()


def test_a_failed_job_shows_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\nstage: world\noutput: x\ncounts: {train: 0}\n")
    with pytest.raises(demo.DemoError, match="exit code 2") as caught:
        demo.run(tmp_path, tmp_path / "out")
    assert "give at least 1 or leave the split out" in str(caught.value)


def test_a_folder_without_recipes_is_refused(tmp_path: Path) -> None:
    assert "eval.yaml: no such recipe file" in fails("demo", "--recipes", tmp_path)
    with pytest.raises(demo.DemoError, match="no recipes here"):
        demo.jobs_of(tmp_path, tmp_path)
    (tmp_path / "odd.yaml").write_text("name: odd\nstage: grill\n")
    with pytest.raises(demo.DemoError, match="stage 'grill'"):
        demo.jobs_of(tmp_path, tmp_path)
