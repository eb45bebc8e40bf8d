"""Shards in foreign layouts: what can be said is read back, the rest is counted; a killed attempt leaves nothing."""

import json
import os
from pathlib import Path

from data_pipeline.synth import run
from tests.data_pipeline.runs import fingerprints, small
from whilst.foreign import read_tww, read_vst
from whilst.sample import Thought, read_samples


def test_samples_are_exported_and_what_cannot_be_said_is_counted(tmp_path: Path) -> None:
    report = run(small(tmp_path, exports=[{"layout": "vst"}, {"layout": "tww"}, {"layout": "text_stream"}]))
    samples = {sample.id: sample for sample in read_samples(tmp_path / "run" / "data" / "train")}
    lines = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    for layout in ("vst", "tww", "text_stream"):
        counted = report["exports"][layout]
        assert counted["in"] == 12 and counted["out"] + sum(counted["rejected"].values()) == 12 and counted["out"]
        assert sum(line["reason"].startswith(layout) for line in lines) == 12 - counted["out"]
    exports = tmp_path / "run" / "exports"
    said = [s for shard in sorted((exports / "vst").glob("train-0000?-of-00003.jsonl")) for s in read_vst(shard)]
    assert len(said) == report["exports"]["vst"]["out"]
    for sample in said:
        mine = samples[sample.id]
        assert [q.text for q in sample.queries()] == [q.text for q in mine.queries()]
        assert os.path.normpath(exports / "vst" / sample.video.path) == mine.video.path
    told = [s for k in range(3) for s in read_tww(exports / "tww" / f"train-{k:05d}-of-00003")]
    assert len(told) == report["exports"]["tww"]["out"]
    assert not [event for sample in told for event in sample.events if isinstance(event, Thought)]


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    recipe = small(tmp_path, exports=[{"layout": "tww"}])
    run(recipe)
    wanted = fingerprints(tmp_path / "run")
    (tmp_path / "run" / "state" / "export" / "train-00001.manifest.json").unlink()
    left = tmp_path / "run" / "exports" / "tww" / ".train-00001-of-00003.abc.scratch"
    left.mkdir()
    (left / "0.json").write_text("{}")
    run(recipe)
    assert fingerprints(tmp_path / "run") == wanted
