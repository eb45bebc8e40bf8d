"""The lmms-eval plug-in: its tasks, and runs of the real package.

The real one is run where this interpreter has it, or by the one that WHILST_LMMS_EVAL_PYTHON names; else those tests
are skipped.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from evaluation.benchmarks.base import BenchmarkError, Given, Verdict
from evaluation.benchmarks.ovo_bench import BENCHMARK as OVO
from evaluation.benchmarks.ovo_bench import CATEGORIES
from evaluation.lmms_plugin import scoring, tasks_path
from evaluation.lmms_plugin.asks import Ask, PluginError, Span
from evaluation.lmms_plugin.streams import Settings, answer
from evaluation.predict import predict
from whilst.backbones.tiny import build_tiny
from whilst.checkpoint import CONTRACT, load_checkpoint
from whilst.clips import segment_clips
from whilst.sample import Sample
from whilst.video import write_video

HERE = Path(__file__).parent
REAL_OVO = HERE.parents[2] / "shared/data/ovo_bench/ovo_bench_new.json"
FPS = 2.0

# ---- Tasks.

ANNOTATIONS: list[dict[str, Any]] = [
    {"id": 1, "task": "EPM", "video": "a.mp4", "realtime": 3.2, "question": "who?", "options": ["x", "y"], "gt": 0},
    {"id": 2, "task": "ASI", "video": "a.mp4", "realtime": 5.5, "question": "then?", "options": ["x", "y"], "gt": 1},
    {"id": 3, "task": "OCR", "video": "a.mp4", "realtime": 8, "question": "what?", "options": ["x", "y"], "gt": 1},
    {"id": 4, "task": "OCR", "video": "b.mp4", "realtime": 4, "question": "what?", "options": ["x", "y", "z"], "gt": 0},
    {"id": 5, "task": "ATR", "video": "b.mp4", "realtime": 6, "question": "how?", "options": ["x", "y"], "gt": 0},
    {"id": 6, "task": "SSR", "video": "b.mp4", "all_steps": ["cut", "mix"], "start_time": [0, 2], "end_time": [2, 4],
     "test_info": [{"realtime": 1.5, "step": "cut", "type": 1}, {"realtime": 1.7, "step": "cut", "type": 0},
                   {"realtime": 3.5, "step": "mix", "type": 1}, {"realtime": 6, "step": "mix", "type": 0}]},
    {"id": 7, "task": "REC", "video": "a.mp4", "activity": "jump", "start_times": [1, 5], "end_times": [2, 6],
     "test_info": [{"realtime": 2, "count": 1}, {"realtime": 4, "count": 1}, {"realtime": 8, "count": 2}]},
    {"id": 8, "task": "CRR", "video": "a.mp4", "question": "why?", "answer": "so", "ask_time": 1, "clue_time": 5,
     "test_info": [{"realtime": 2, "type": 0}, {"realtime": 6, "type": 1}]},
]  # fmt: skip
REALTIME: list[dict[str, Any]] = [
    {"task": "real_time", "subtask": "Counting", "question": "how many?", "answer": "two", "video": "a.mp4",
     "candidates": ["one", "two", "three", "four"], "start": 0.0, "end": 4.0},
    {"task": "real_time", "subtask": "Causal Reasoning", "question": "why?", "answer": "p", "video": "b.mp4",
     "candidates": ["p", "q"], "start": 0.0, "end": 6.0},
]  # fmt: skip


@pytest.fixture
def ovo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> scoring.Loaded:
    """The tiny annotations, loaded as the tasks load them."""
    (tmp_path / "ovo.json").write_text(json.dumps(ANNOTATIONS))
    monkeypatch.setenv("FILES", str(tmp_path / "ovo.json"))
    monkeypatch.setenv("VIDEOS", str(tmp_path))
    return scoring.load(OVO, "FILES", "VIDEOS")


def test_every_question_is_a_document(ovo: scoring.Loaded) -> None:
    counts = [len(scoring.documents(ovo, tasks)) for tasks in CATEGORIES.values()]
    assert counts == [2, 3, 4 + 3 + 2]
    documents = scoring.documents(ovo)
    assert len(set(documents["id"])) == len(documents) == 14
    first = documents[0]
    assert scoring.doc_to_visual(first) == [
        {"type": "video", "path": first["video"], "video_start": 0.0, "video_end": first["end"]}
    ]
    with pytest.raises(PluginError, match="holds no question of XYZ"):
        scoring.documents(ovo, ["XYZ"])


def replies_by(documents: Any, seed: int) -> list[str]:
    """Replies of all sorts, many right."""
    rng = random.Random(seed)
    said = ("A", "B", "yes", "no", "Yes", "No", "1", "2", "", "ABCDE", "A. x", "no, yes", "1 or 2")
    return [rng.choice(said) for _ in documents]


def whole_verdicts(loaded: scoring.Loaded, documents: Any, replies: Sequence[str], strict: bool) -> list[Verdict]:
    """As our own evaluation judges: all replies to a query together."""
    said: dict[tuple[str, str], list[Given]] = {}
    for doc, reply in zip(documents, replies, strict=True):
        said.setdefault((doc["sample"], doc["query"]), []).append(Given(doc["end"], reply))
    judge = loaded.benchmark.strict if strict else loaded.benchmark.official
    assert judge is not None
    verdicts: list[Verdict] = []
    for (name, query_id), given in said.items():
        sample = loaded.samples[name]
        verdicts += judge(sample, next(q for q in sample.queries() if q.id == query_id), given)
    return verdicts


@pytest.mark.parametrize("seed", range(5))
def test_totals_of_judged_documents_are_those_of_the_benchmark(ovo: scoring.Loaded, seed: int) -> None:
    """Two polls in one second (SSR, "cut") included."""
    documents = scoring.documents(ovo)
    replies = replies_by(documents, seed)
    judged = [scoring.judged(ovo, doc, reply) for doc, reply in zip(documents, replies, strict=True)]
    for metric, strict in (("strict", True), ("official", False)):
        verdicts = whole_verdicts(ovo, documents, replies, strict)
        for name, total in OVO.totals.items():
            assert scoring.total(ovo, name, [one[metric] for one in judged]) == pytest.approx(total.of(verdicts))
    assert [one[doc["task"]] for one, doc in zip(judged, documents, strict=True)] == [one["strict"] for one in judged]


@pytest.mark.skipif(not REAL_OVO.exists(), reason=f"{REAL_OVO} is not here")
def test_the_real_annotations_are_3035_documents(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FILES", str(REAL_OVO))
    monkeypatch.setenv("VIDEOS", str(tmp_path))
    loaded = scoring.load(OVO, "FILES", "VIDEOS")
    assert [len(scoring.documents(loaded, tasks)) for tasks in CATEGORIES.values()] == [631, 837, 1567]


def test_files_must_be_named_and_readable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FILES", raising=False)
    with pytest.raises(PluginError, match="FILES is not set: set FILES to JoeLeelyf/OVO-Bench"):
        scoring.load(OVO, "FILES", "VIDEOS")
    monkeypatch.setenv("FILES", str(tmp_path / "gone.json"))
    monkeypatch.setenv("VIDEOS", str(tmp_path))
    with pytest.raises(BenchmarkError, match=r"gone\.json: no such file"):
        scoring.load(OVO, "FILES", "VIDEOS")


def test_nothing_of_lmms_eval_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, evaluation, evaluation.lmms_plugin; print(any(m.startswith('lmms_eval') for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parents[1], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_tasks_folder_is_printed() -> None:
    command = [sys.executable, "-m", "evaluation.lmms_plugin"]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == tasks_path()
    assert len(list(tasks_path().glob("*/*.yaml"))) == 6


# ---- The real package.


def interpreter() -> str | None:
    """The interpreter that has lmms-eval; None: there is none."""
    named = os.environ.get("WHILST_LMMS_EVAL_PYTHON")
    return named or (sys.executable if importlib.util.find_spec("lmms_eval") is not None else None)


real = pytest.mark.skipif(
    interpreter() is None, reason="lmms-eval is not here; WHILST_LMMS_EVAL_PYTHON may name an interpreter that has it"
)

STOCK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {output}
doc_to_text: !function lmms_eval.tasks.ovobench.utils.{text}
doc_to_visual: !function lmms_eval.tasks.ovobench.utils.ovo_doc_to_visual
doc_to_target: task
process_results: !function lmms_eval.tasks.ovobench.utils.{results}
generation_kwargs: {{max_new_tokens: 8, temperature: 0, do_sample: false}}
metric_list:
  - {{metric: {metric}, aggregation: !function lmms_eval.tasks.ovobench.utils.{total}, higher_is_better: true}}
lmms_eval_specific_kwargs: {{default: {{data_dir: {chunks}}}}}
"""
OTHER = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {output}
doc_to_text: question
doc_to_choice: [A, B]
doc_to_target: 0
doc_to_visual: !function utils.{visual}
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def says_one_word(folder: Path) -> None:
    """Change a tiny checkpoint so that whatever it writes is one of six words, by what it has seen, and ends there.

    The words are three opposite pairs of directions, so one of them always has a score above 0, which is that of all
    other tokens. Their embeddings are long and lie along another direction, which is the boundary token's: behind a
    word, and nowhere else, that one wins.
    """
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    boundary = next(token["id"] for token in added if token["content"] == "<|im_end|>")
    words = [vocabulary[word] for word in ("A", "B", "yes", "no", "1", "2")]
    weights = load_file(folder / "model.safetensors")
    head, table = weights["lm_head.weight"], weights["model.language_model.embed_tokens.weight"]
    basis, _ = np.linalg.qr(np.random.default_rng(9).standard_normal((head.shape[1], 4)))
    head[:] = 0.0
    for pair in range(3):
        head[words[2 * pair]], head[words[2 * pair + 1]] = 10 * basis[:, pair], -10 * basis[:, pair]
    head[boundary] = basis[:, 3]
    table[words] = 1000 * basis[:, 3]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, two videos, their chunks as lmms-eval's own OVO-Bench wants them, annotation files and tasks."""
    folder = tmp_path_factory.mktemp("lmms")
    out = build_tiny("qwen3_vl", folder / "checkpoint", ("yes", "no"), layers=2)
    says_one_word(out)
    (out / CONTRACT).write_text(f"base: {out}\nfps: {FPS}\nthinks: true\nrender: {{layout: recurrent}}\n")
    rng = np.random.default_rng(0)
    images = {n: rng.integers(0, 256, (s * 4, 32, 48, 3), dtype=np.uint8) for n, s in (("a", 8), ("b", 6))}
    for sub in ("videos", "chunks", "one_video", "tasks"):
        (folder / sub).mkdir()
    for name, video in images.items():
        write_video(folder / "videos" / f"{name}.mp4", video, 4.0)
    (folder / "one_video" / "a.mp4").write_bytes((folder / "videos" / "a.mp4").read_bytes())
    for row in ANNOTATIONS:
        video = images[row["video"][0]]
        for j, test in enumerate(row.get("test_info", [row])):
            name = f"{row['id']}_{j}.mp4" if "test_info" in row else f"{row['id']}.mp4"
            write_video(folder / "chunks" / name, video[: int(np.ceil(test["realtime"])) * 4], 4.0)
    (folder / "ovo.json").write_text(json.dumps(ANNOTATIONS))
    (folder / "streaming.json").write_text(json.dumps(REALTIME))
    _write_tasks(folder)
    (folder / "said.json").write_text(json.dumps(_said()))
    return folder


def _write_tasks(folder: Path) -> None:
    for name, tasks, output in (("backward", ("EPM", "ASI"), "generate_until"),
                                ("forward", ("SSR", "REC"), "generate_until_multi_round")):  # fmt: skip
        rows = folder / f"{name}.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in ANNOTATIONS if row["task"] in tasks))
        kind = "forward" if name == "forward" else "back_real"
        (folder / "tasks" / f"stock_{name}.yaml").write_text(
            STOCK.format(
                name=f"stock_{name}", rows=rows, output=output, chunks=folder / "chunks", metric=f"{kind}_acc",
                text=f"ovo_{kind}_doc_to_text", results=f"ovo_{kind}_process_results", total=f"ovo_{kind}_acc",
            )
        )  # fmt: skip
    (folder / "other.jsonl").write_text(json.dumps({"question": "who?"}) + "\n")
    video = str(folder / "videos" / "a.mp4")
    (folder / "tasks" / "utils.py").write_text(
        f"def video(doc): return [{video!r}]\n\n\ndef image(doc): return ['a.png']\n"
    )
    for name, output, visual in (("choice", "multiple_choice", "video"), ("image", "generate_until", "image")):
        text = OTHER.format(name=name, rows=folder / "other.jsonl", output=output, visual=visual)
        (folder / "tasks" / f"{name}.yaml").write_text(text)


def _said() -> dict[str, Any]:
    """Made-up replies to the annotations, many times over, as lmms-eval's scorer takes them."""
    rng = random.Random(1)
    words = ("A", "B", "The B", "yes", "Yes", "No", "N", "Y", "1", "2", "12", "1 or 2", "", "YesNo", "ABCDE")
    choice, forward = [], []
    for _ in range(20):
        for row in json.loads(json.dumps(ANNOTATIONS)):
            if "test_info" in row:
                for test in row["test_info"]:
                    test["response"] = rng.choice(words)
                forward.append(row)
            else:
                letter = "ABC"[row["gt"]]
                choice.append(
                    {"id": row["id"], "task": row["task"], "response": rng.choice(words), "ground_truth": letter}
                )
    return {"choice": choice, "forward": forward}


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, Any]:
    """What the real package did with the checkpoint."""
    python = interpreter()
    assert python is not None
    entry = place / "entry" / "whilst_plugin-0.dist-info"  # as the installed project has it, see setup.py
    entry.mkdir(parents=True)
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: whilst-plugin\nVersion: 0\n")
    (entry / "entry_points.txt").write_text("[lmms_eval.models]\nwhilst = evaluation.lmms_plugin:manifest\n")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(entry.parent), str(HERE.parents[1]))),
        "HF_HOME": str(place / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "WHILST_OVO_BENCH": str(place / "ovo.json"),
        "WHILST_OVO_BENCH_VIDEOS": str(place / "videos"),
        "WHILST_STREAMING_BENCH": str(place / "streaming.json"),
        "WHILST_STREAMING_BENCH_VIDEOS": str(place / "videos"),
    }
    command = [python, str(HERE / "lmms_run.py"), str(place)]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    result: dict[str, Any] = json.loads((place / "found.json").read_text())
    result["printed"] = done.stdout + done.stderr
    return result


@pytest.fixture(scope="module")
def ours(place: Path) -> tuple[dict[str, str], dict[str, float], dict[str, float]]:
    """Our own evaluation of the same: replies by document, strict and official totals."""
    checkpoint = load_checkpoint(place / "checkpoint")
    samples = [
        s for s in OVO.read(place / "ovo.json", str(place / "videos"), segment_seconds=2) if isinstance(s, Sample)
    ]
    clips = [segment_clips(sample, FPS) for sample in samples]
    episodes = predict(checkpoint, samples, clips, thought_tokens=4, answer_tokens=128)
    replies, strict, official = {}, [], []
    for sample, episode in zip(samples, episodes, strict=True):
        for query in sample.queries():
            said = [reply for reply in episode.replies if reply.query == query.id]
            assert all(reply.finished for reply in said)
            replies |= {f"{sample.id}/{query.id}/{turn}": reply.text for turn, reply in enumerate(said)}
            given = [Given(reply.time, reply.text, reply.finished) for reply in said]
            strict += OVO.strict(sample, query, given)
            assert OVO.official is not None
            official += OVO.official(sample, query, given)
    totals = [{name: total.of(v) for name, total in OVO.totals.items()} for v in (strict, official)]
    return replies, totals[0], totals[1]


@real
@pytest.mark.slow
def test_the_real_package_finds_model_and_tasks(found: Mapping[str, Any]) -> None:
    assert found["version"] == "0.7.3"
    assert "evaluation.lmms_plugin:manifest" in found["entry_points"]
    assert found["models"] and found["manifest"]
    ours = [name for name in found["tasks"] if name.startswith("whilst_")]
    assert ours == [
        "whilst_ovo_backward", "whilst_ovo_bench", "whilst_ovo_forward", "whilst_ovo_realtime",
        "whilst_streaming_bench_realtime", "whilst_streaming_bench_realtime_60s",
    ]  # fmt: skip


@real
@pytest.mark.slow
@pytest.mark.parametrize("interface", ["chat", "simple"])
def test_the_real_package_gives_the_figures_of_our_own_evaluation(
    found: Mapping[str, Any], ours: tuple[dict[str, str], dict[str, float], dict[str, float]], interface: str
) -> None:
    run = found[interface]
    replies, strict, official = ours
    assert run["backend"].endswith(f"({interface})")
    got = {one["doc"]: one["reply"] for of_task in run["replies"].values() for one in of_task}
    assert got == replies
    assert len(set(replies.values())) > 1
    for category in CATEGORIES:
        figures = run["results"][f"whilst_ovo_{category}"]
        assert figures["strict,none"] == pytest.approx(strict[category])
        assert figures["official,none"] == pytest.approx(official[category])
    overall = run["results"]["whilst_ovo_bench"]
    assert overall["strict,none"] == pytest.approx(strict["overall"])
    assert overall["official,none"] == pytest.approx(official["overall"])
    assert 0 < strict["overall"] < 1
    work = run["throughput"]
    tokens = [one["tokens"] for of_task in run["replies"].values() for one in of_task]
    assert all(count["reasoning_tokens"] > 0 for count in tokens)
    assert work["total_gen_tokens"] == work["avg_thought_tokens"] + sum(count["output_tokens"] for count in tokens)
    assert (work["avg_requests"], work["avg_streams"], work["avg_failed"], work["avg_cut_off"]) == (14, 2, 0, 0)


@real
@pytest.mark.slow
def test_the_command_line_of_the_real_package_gives_the_same_figures(found: Mapping[str, Any]) -> None:
    for name, figures in found["command"].items():
        figures_of_run = found["chat"]["results"][name]
        assert {k: v for k, v in figures.items() if isinstance(v, float)} == {
            k: v for k, v in figures_of_run.items() if isinstance(v, float)
        }
    assert found["command"].keys() == found["chat"]["results"].keys()


@real
@pytest.mark.slow
def test_the_real_package_runs_streaming_bench(found: Mapping[str, Any]) -> None:
    run = found["streaming"]
    whole, last = (run["replies"][f"whilst_streaming_bench_realtime{end}"] for end in ("", "_60s"))
    assert [one["reply"] for one in whole] == [one["reply"] for one in last]  # no video is longer than 60 s
    for name, said in (("", whole), ("_60s", last)):
        right = [one["verdicts"]["strict"]["reply"] == one["verdicts"]["strict"]["gold"] for one in said]
        figures = run["results"][f"whilst_streaming_bench_realtime{name}"]
        assert figures["strict,none"] == pytest.approx(np.mean(right))
        assert {"Counting,none", "Causal Reasoning,none", "official,none"} <= figures.keys()


@real
@pytest.mark.slow
def test_the_real_package_runs_its_own_ovo_bench_in_rounds(found: Mapping[str, Any], place: Path) -> None:
    """Chunks, prompts, rounds and scores are lmms-eval's; replies are those of a stream over each chunk."""
    checkpoint = load_checkpoint(place / "checkpoint")
    tests = [row for row in ANNOTATIONS if row["task"] in ("SSR", "REC")]
    for interface in ("chat", "simple"):
        run = found[f"stock_{interface}"]
        rounds = [one["reply"] for one in run["replies"]["stock_forward"]]
        assert [len(replies) for replies in rounds] == [len(row["test_info"]) for row in tests]
    assert found["stock_chat"]["replies"] == found["stock_simple"]["replies"]
    asked = [
        Ask(Span(str(place / "chunks" / f"{row['id']}_{j}.mp4")), prompt, 8)
        for row, prompts in zip(tests, found["prompts"], strict=True)
        for j, prompt in enumerate(prompts)
    ]
    replies, _ = answer(checkpoint, asked, Settings(FPS, 2.0, 4))
    assert [reply.text for reply in replies] == [text for texts in rounds for text in texts]


@real
@pytest.mark.slow
def test_replies_survive_the_response_cache_of_the_real_package(found: Mapping[str, Any]) -> None:
    first, again = found["cached"]
    assert [one["reply"] for one in first["replies"]["stock_forward"]] == [
        one["reply"] for one in found["stock_chat"]["replies"]["stock_forward"]
    ]
    assert [one["reply"] for one in again["replies"]["stock_forward"]] == [
        one["reply"] for one in first["replies"]["stock_forward"]
    ]


@real
@pytest.mark.slow
def test_the_real_package_gets_clear_errors(found: Mapping[str, Any]) -> None:
    for name, said in (
        ("sampled", "PluginError: task whilst_ovo_backward, doc 0: generation_kwargs.temperature: 0.7"),
        ("unknown", "generation_kwargs.beams: a stream does not know this setting"),
        ("likelihood", "PluginError: task choice: log-likelihoods"),
        ("image", "PluginError: task image, doc 0: a stream shows one video, but a message holds 'image'"),
        ("missing", "VideoError: "),
        ("unset", "PluginError: WHILST_OVO_BENCH is not set"),
    ):
        assert said in found[name], name
    assert "b.mp4" in found["missing"]


@real
@pytest.mark.slow
def test_failures_are_counted_in_the_real_package(
    found: Mapping[str, Any], ours: tuple[dict[str, str], dict[str, float], dict[str, float]]
) -> None:
    """All that asks about the missing video is empty, wrong, printed and counted; the rest is as before."""
    run = found["counted"]
    got = {one["doc"]: one for of_task in run["replies"].values() for one in of_task}
    failed = [name for name in got if name.startswith("b.mp4")]
    assert run["throughput"]["avg_failed"] == len(failed) == 6
    for name, one in got.items():
        assert one["reply"] == ("" if name in failed else ours[0][name])
        if name in failed:
            assert one["verdicts"]["strict"]["credit"] == 0
    assert found["printed"].count("empty reply, it failed") == len(failed)


@real
@pytest.mark.slow
def test_the_real_scorer_agrees_with_the_official_judge(found: Mapping[str, Any], place: Path) -> None:
    """An independent oracle: lmms-eval's own scorer of OVO-Bench, reply by reply."""
    said = json.loads((place / "said.json").read_text())
    [*samples] = [s for s in OVO.read(place / "ovo.json") if isinstance(s, Sample)]
    queries = {query.id: (sample, query) for sample in samples for query in sample.queries()}
    assert OVO.official is not None
    choice = []
    for row in said["choice"]:
        sample, query = queries[str(row["id"])]
        choice += [v.credit for v in OVO.official(sample, query, [Given(query.time, row["response"])])]
    assert choice == found["scorer"]["choice"]
    forward: dict[str, list[float]] = {"REC": [], "SSR": [], "CRR": []}
    for row in said["forward"]:
        credits: dict[int, float] = {}
        for sample, query in (queries[name] for name in queries if name.partition("/")[0] == str(row["id"])):
            items = sample.meta["items"]
            assert isinstance(items, Mapping)
            item: Any = items[query.id]
            given = [
                Given(time, row["test_info"][part]["response"])
                for time, part in zip(item["times"], item["tests"], strict=True)
            ]
            credits |= {verdict.part: verdict.credit for verdict in OVO.official(sample, query, given)}
        forward[row["task"]] += [credits[part] for part in range(len(row["test_info"]))]
    assert forward == found["scorer"]["forward"]
    assert 0 < sum(forward["SSR"]) < len(forward["SSR"])


@real
@pytest.mark.slow
def test_the_real_package_has_the_signatures_that_are_relied_on(found: Mapping[str, Any]) -> None:
    expected = {
        "ModelManifest": ["model_id", "simple_class_path", "chat_class_path", "aliases"],
        "GenerationResult": ["text", "token_counts"],
        "TokenCounts": ["input_tokens", "output_tokens", "reasoning_tokens"],
        "generate_until": ["self", "requests"],
        "generate_until_multi_round": ["self", "requests"],
        "loglikelihood": ["self", "requests"],
        "clean": ["self"],
        "doc_to_messages": ["self", "doc", "round_idx", "previous_output", "previous_round_info"],
        "log_metrics": ["total_elapsed_time", "total_gen_tokens", "avg_speed", "additional_metrics"],
    }
    assert {name: found["signatures"][name] for name in expected} == expected
    assert {"include_path", "include_defaults"} <= set(found["signatures"]["TaskManager"])
    assert {"arguments", "metadata", "task_name", "doc_id"} <= set(found["signatures"]["Instance"])
