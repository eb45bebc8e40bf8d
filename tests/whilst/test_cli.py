"""The door: its commands, one line for a mistake, a traceback for a bug."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from inspect import signature
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from train.plan import count_parameters, plan
from train.sft import SFTRecipe
from train.stage import LoraSettings, ModelSettings, prepare_model
from whilst import __version__, cli, demo
from whilst.backbones.tiny import build_tiny
from whilst.recipe import RecipeError, load_recipe
from whilst.render import RenderConfig
from whilst.sample import (
    Answer,
    Query,
    Sample,
    SampleError,
    Segment,
    Silence,
    Thought,
    Video,
    read_samples,
    write_jsonl,
)
from whilst.tiny import TinyRecipe, TinySizes
from whilst.video import VideoError, write_video

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes" / "tiny"
ARMS = ("answers_only", "thinking", "thinking_kv", "offline")


def invoke(*arguments: object) -> tuple[int, str, str, BaseException | None]:
    """Exit code, stdout, stderr, and the exception that ended it."""
    found = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    return found.exit_code, found.stdout, found.stderr, found.exception


def fails(*arguments: object) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    code, _, told, _ = invoke(*arguments)
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in told, told
    return lines[0]


def make_world(folder: Path, *overrides: str) -> Path:
    """The demo's world and samples on a small scale, through the door: a folder with data/ and words.txt."""
    counts = "counts={train: 4, validation: 1, test: 2}"
    assert invoke("world", TINY / "world.yaml", f"output={folder / 'world'}", counts, *overrides)[0] == 0
    inputs = [
        f"inputs.{split}.sources=[{folder / 'world' / f'{split}.sources.jsonl'}]"
        for split in ("train", "validation", "test")
    ]
    code, told, _, _ = invoke("synth", TINY / "samples.yaml", f"output={folder / 'samples'}", *inputs, "workers=1")
    assert code == 0 and told.strip().splitlines()[-1] == str(folder / "samples")
    return folder / "samples"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of a small world: data/train, data/test and words.txt."""
    return make_world(tmp_path_factory.mktemp("world"), "world.segments=[3, 4]")


@pytest.fixture(scope="module")
def base(world: Path) -> Path:
    """The demo's checkpoint for that world, built through the door."""
    out = world / "base"
    code, told, _, _ = invoke("tiny", TINY / "model.yaml", f"output={out}", f"words_from={world / 'words.txt'}")
    assert code == 0 and told.strip().splitlines()[-1] == str(out)
    return out


# ---- Help, versions, mistakes.


def test_help_names_every_command() -> None:
    code, told, _, _ = invoke("--help")
    assert code == 0
    for command in (*cli.STAGES, "plan", "watch", "serve", "benchmark", "score", "compare", "view", "demo"):
        assert command in told


def test_the_door_opens_without_torch() -> None:
    heavy = {"torch", "transformers", "trl", "numpy", "pyarrow", "datasets", "av", "PIL", "jinja2", "huggingface_hub"}
    script = f"import sys, whilst.cli; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_it_runs_as_a_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "whilst.cli", "--version"], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout.strip() == f"whilst {__version__}"


def test_a_bad_recipe_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("name: bad\nstage: tiny\noutput: x\nfamily: qwen3_vl\nsizes:\n  hiden: 8\n")
    told = fails("tiny", recipe)
    assert f"{recipe}:6" in told and "sizes.hiden" in told and "did you mean sizes.hidden?" in told
    assert "no such recipe file" in fails("sft", tmp_path / "none.yaml")


def test_a_real_process_ends_with_exit_code_2(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "whilst.cli", "tiny", str(tmp_path / "none.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1


def test_traceback_shows_where_it_arose(tmp_path: Path) -> None:
    for arguments in (("--traceback", "tiny", tmp_path / "no.yaml"), ("tiny", tmp_path / "no.yaml", "--traceback")):
        _, _, _, error = invoke(*arguments)
        assert isinstance(error, RecipeError)


def test_another_stage_s_recipe_is_refused() -> None:
    assert f"run it with `whilst eval {TINY / 'eval.yaml'}`" in fails("sft", TINY / "eval.yaml")


def test_a_bug_is_not_taken_for_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(cli, "stage_of", broken)
    _, _, told, error = invoke("plan", TINY / "thinking.yaml")
    assert type(error) is ValueError and "error:" not in told


# ---- tiny


def test_sizes_are_those_of_the_builder() -> None:
    given = {field.name: field.default for field in fields(TinySizes)}
    taken = signature(build_tiny).parameters
    assert given == {name: p.default for name, p in taken.items() if p.kind is p.KEYWORD_ONLY and name != "seed"}


def test_tiny_leaves_its_recipe_and_makes_its_words_tokens(base: Path, world: Path) -> None:
    from transformers import AutoTokenizer

    assert load_recipe(base / "recipe.yaml", TinyRecipe).words_from == str(world / "words.txt")
    tokenizer = AutoTokenizer.from_pretrained(base)
    for word in (world / "words.txt").read_text().split():
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1


def test_tiny_says_what_is_wrong_with_its_words(tmp_path: Path) -> None:
    override = f"output={tmp_path / 'x'}"
    assert "no such file" in fails("tiny", TINY / "model.yaml", override, f"words_from={tmp_path / 'none.txt'}")
    (tmp_path / "words.txt").write_text("ok <|im_end|>\n")
    assert "special token" in fails("tiny", TINY / "model.yaml", override, f"words_from={tmp_path / 'words.txt'}")


# ---- world, synth, doctor


def test_synth_tells_its_yields_and_writes_words(world: Path) -> None:
    assert [len(read_samples(world / "data" / split)) for split in ("train", "validation", "test")] == [4, 1, 2]
    samples = read_samples(world / "data" / "train")
    used = {word for sample in samples for text in texts(sample) for word in text.split()}
    assert used <= set((world / "words.txt").read_text().split())
    counts = json.loads((world.parent / "world" / "counts.json").read_text())["train"]
    assert counts["simulated"] == counts["videos"] + sum(counts["rejected"].values())
    report = json.loads((world / "yields.json").read_text())["splits"]["train"]
    assert report["samples"]["in"] == report["samples"]["out"] == 4 and report["queries"]["out"] == 16


def texts(sample: Sample) -> list[str]:
    """All texts of a sample."""
    return [event.text for event in sample.events if isinstance(event, Thought | Query | Answer)]


def test_the_seed_of_a_world_recipe_is_the_world_s(tmp_path: Path) -> None:
    said = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        samples = read_samples(make_world(tmp_path / name, f"seed={seed}") / "data" / "train")
        said.append([sample.events for sample in samples])
    assert said[0] == said[1] != said[2]


def test_world_refuses_a_split_that_is_none(tmp_path: Path) -> None:
    assert "counts.holdout: no such split" in fails(
        "world", TINY / "world.yaml", f"output={tmp_path}", "counts.holdout=3"
    )


def test_the_doctor_finds_the_demo_s_samples_sound(world: Path) -> None:
    for check in ("causality", "data"):
        code, told, _, _ = invoke("doctor", check, world)
        assert code == 0, told


# ---- plan


def overrides(base: Path, world: Path) -> tuple[str, str]:
    return f"model.path={base}", f"data.train={world / 'data/train'}"


@pytest.mark.parametrize("arm", ARMS)
def test_plan_of_the_demo_s_arms(arm: str, base: Path, world: Path) -> None:
    code, told, _, _ = invoke("plan", TINY / f"{arm}.yaml", *overrides(base, world))
    assert code == 0
    resolved = yaml.safe_load(told[told.index("name: ") : told.index("\nparameters")])
    assert resolved["model"]["path"] == str(base) and resolved["output"] == f"runs/demo/{arm}"
    assert "from the first 4 samples" in told and "mask on whilst_sdpa" in told
    assert ("refuses" in told) == (arm != "offline")  # FlashAttention takes plain causal alone


def test_plan_counts_the_parameters_that_training_would_train(base: Path) -> None:
    for settings in (
        ModelSettings(path=str(base)),
        ModelSettings(path=str(base), freeze_vision="tower+merger"),
        ModelSettings(path=str(base), freeze_vision="tower", lora=LoraSettings(rank=4)),
    ):
        counted, backbone = count_parameters(settings), prepare_model(settings)
        parameters = list(backbone.model.parameters())
        assert counted.total == sum(p.numel() for p in parameters)
        assert counted.trainable == sum(p.numel() for p in parameters if p.requires_grad)
        assert counted.vision == sum(p.numel() for p in backbone.core.visual.parameters())


def test_plan_without_samples_yet_says_so(base: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        TINY / "thinking.yaml", SFTRecipe, [f"model.path={base}", f"data.train={tmp_path / 'no.jsonl'}"]
    )
    assert plan(recipe).rows.nominal


def test_plan_refuses_what_does_not_go_together(base: Path, world: Path) -> None:
    told = fails("plan", TINY / "thinking.yaml", *overrides(base, world), "render.rule=causal")
    assert "not defined for layout 'recurrent_packed'" in told
    told = fails("plan", TINY / "thinking.yaml", *overrides(base, world), "model.attention=flash_attention_2")
    assert "ignores attention masks" in told


def test_plan_of_other_stages_is_their_resolved_recipe() -> None:
    code, told, _, _ = invoke("plan", TINY / "world.yaml", "world.grid=4")
    assert code == 0 and yaml.safe_load(told[: told.index("\nvideos")])["world"]["grid"] == 4


# ---- watch


@pytest.fixture(scope="module", params=[("recurrent_packed", "text_memory"), ("interleaved", "causal")])
def streaming(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained checkpoint with a streaming contract: what it says is noise, when it says it is not."""
    layout, rule = request.param
    folder = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(base, folder)
    contract = {"base": str(base), "fps": 2.0, "thinks": True, "render": asdict(RenderConfig(layout=layout, rule=rule))}
    (folder / "streaming.yaml").write_text(yaml.safe_dump(contract))
    return folder


def test_watch_answers_at_the_moment_of_the_query(streaming: Path, world: Path) -> None:
    (first, *_) = read_samples(world / "data/test")
    seconds = int(first.segments()[-1].end)
    asked = [(0.0, "now star ?"), (1.0, "which in-1 ?"), (1.5, "count in ?"), (99.0, "count out ?")]
    questions = [part for time, text in asked for part in ("--ask", f"{time:g}:{text}")]
    code, told, _, _ = invoke(
        "watch",
        first.video.path,
        "--model",
        streaming,
        *questions,
        "--json",
        "--thought-tokens",
        3,
        "--answer-tokens",
        2,
    )
    assert code == 0
    events = [json.loads(line) for line in told.splitlines()]
    said = [one for one in events if one["type"] in ("thought", "answer")]
    texts = {one["id"]: one["text"] for one in events if one["type"] == "query"}
    assert [one["time"] for one in said if one["type"] == "thought"] == [float(k + 1) for k in range(seconds)]
    assert [(one["time"], texts[one["query"]]) for one in said if one["type"] == "answer"] == asked
    # At 1.0 s the first segment has been watched and thought about, at 1.5 s nothing more.
    order = [(one["type"], one["time"]) for one in said[:5]]
    assert order == [("answer", 0.0), ("thought", 1.0), ("answer", 1.0), ("answer", 1.5), ("thought", 2.0)]
    assert {"lag", "backlog", "tokens"} <= events[1 + [one["type"] for one in events].index("answer")].keys()
    assert events[-1]["type"] == "end" and events[-1]["segments"] == seconds


def test_watch_in_words(streaming: Path, world: Path) -> None:
    (first, *_) = read_samples(world / "data/test")
    arguments = ("--ask", "1:now star ?", "--segment", 2, "--thought-tokens", 2, "--answer-tokens", 2)
    code, told, _, _ = invoke("watch", first.video.path, "--model", streaming, *arguments)
    assert code == 0
    assert told.splitlines()[0].startswith("    1.00 s  answer: now star ? -> ")
    assert told.splitlines()[1].startswith("    2.00 s  thought:")


def test_watch_of_itself_and_by_the_real_clock(streaming: Path, world: Path) -> None:
    (first, *_) = read_samples(world / "data/test")
    arguments = ("watch", first.video.path, "--model", streaming, "--thought-tokens", 2, "--answer-tokens", 2)
    code, told, _, _ = invoke(
        *arguments, "--proactive", "tell-when star ?", "--threshold", 1, "--realtime", "--speed", 50, "--ask", "1:now ?"
    )
    assert code == 0
    seconds = int(first.segments()[-1].end)
    assert told.count("answer: tell-when star ? -> ") == seconds and told.count("answer: now ? -> ") == 1
    last = told.splitlines()[-1]
    assert (
        f"end: {seconds} segments, {seconds} thoughts, 2 queries, silent 0 times, at most " in last and "late" in last
    )


def test_watch_takes_questions_on_stdin_and_ends_though_it_stays_open(streaming: Path, world: Path) -> None:
    (first, *_) = read_samples(world / "data/test")
    command = [sys.executable, "-m", "whilst.cli", "watch", first.video.path, "--model", str(streaming), "--stdin"]
    command += ["--json", "--realtime", "--speed", "2", "--thought-tokens", "2", "--answer-tokens", "2"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write("now ?\n\nwhich in-1 ?\n")
        process.stdin.flush()
        events = [json.loads(line) for line in process.stdout]
        assert process.wait(60) == 0
    assert [one["text"] for one in events if one["type"] == "query"] == ["now ?", "which in-1 ?"]
    assert sorted(one["query"] for one in events if one["type"] == "answer") == ["q1", "q2"]
    assert events[-1]["type"] == "end"


def test_watch_with_a_policy_and_states(streaming: Path, world: Path) -> None:
    (first, *_) = read_samples(world / "data/test")
    arguments = ("watch", first.video.path, "--model", streaming, "--thought-tokens", 2, "--answer-tokens", 2)
    assert invoke(*arguments, "--states", "--proactive", "tell-when ?")[0] == 0
    assert "policy.name: 'none' is not one of" in fails(*arguments, "--policy", "{name: none}")
    code, _, told, _ = invoke(*arguments, "--policy", "{name")
    assert code == 2 and "not YAML" in told
    code, _, told, _ = invoke(*arguments, "--states", "--threshold", 0.5)
    assert code == 2 and "--states and --threshold" in told
    assert "threshold is a probability" in fails(*arguments, "--threshold", 2)
    code, _, told, _ = invoke(*arguments, "--speed", 2)
    assert code == 2 and "--speed needs --realtime" in told


def test_watch_of_a_folder_and_of_a_url(streaming: Path, world: Path, tmp_path: Path) -> None:
    from PIL import Image

    for k in range(4):
        Image.fromarray(np.full((32, 48, 3), 60 * k, np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "frames.json").write_text('{"fps": 2.0}')
    write_video(tmp_path / "a.mp4", np.full((4, 32, 48, 3), 9, np.uint8), 2.0)
    for source in (tmp_path, (tmp_path / "a.mp4").as_uri()):
        code, told, _, _ = invoke("watch", source, "--model", streaming, "--thought-tokens", 2)
        assert code == 0 and "end: 2 segments, 2 thoughts, 0 queries" in told
    assert "cannot be opened" in fails("watch", "rtsp://127.0.0.1:9/none", "--model", streaming)
    assert "leave the speed out" in fails(
        "watch", (tmp_path / "a.mp4").as_uri(), "--model", streaming, "--realtime", "--speed", 2
    )


def test_what_was_said_before_the_decoder_died_stays(
    streaming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", np.full((8, 32, 48, 3), 9, np.uint8), 2.0)

    def dies(*_: object) -> Iterator[tuple[float, np.ndarray]]:
        for k in range(5):
            yield k / 2, np.full((32, 48, 3), 9, np.uint8)
        raise VideoError("a.mp4: damaged at 2.5 s")

    monkeypatch.setattr("whilst.pace.stream_frames", dies)
    code, told, errors, _ = invoke("watch", tmp_path / "a.mp4", "--model", streaming, "--thought-tokens", 2)
    assert code == 2 and errors.strip().splitlines()[-1] == "error: a.mp4: damaged at 2.5 s"
    assert told.count("thought:") == 2 and told.splitlines()[-1].endswith("failed: a.mp4: damaged at 2.5 s")


# ---- serve


def test_serve_tells_its_address_and_serves(streaming: Path, world: Path) -> None:
    videos = Path(read_samples(world / "data/test")[0].video.path).parent
    command = [sys.executable, "-m", "whilst.cli", "serve", "--model", str(streaming), "--videos", str(videos)]
    with subprocess.Popen([*command, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            with urlopen(address, timeout=60) as answer:
                assert b"<title>Whilst" in answer.read()
        finally:
            process.terminate()


def test_serve_warns_of_an_open_host(streaming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whilst.serve.Server.serve_forever", lambda self: None)
    code, told, errors, _ = invoke("serve", "--model", streaming, "--videos", tmp_path, "--port", 0)
    assert code == 0 and told.startswith("http://127.0.0.1:") and "warning" not in errors
    arguments = ("serve", "--model", streaming, "--videos", tmp_path, "--port", 0, "--host", "0.0.0.0")
    assert "warning: 0.0.0.0 is open to your network" in invoke(*arguments)[2]
    assert "no such folder" in fails("serve", "--model", streaming, "--videos", tmp_path / "none")


# ---- benchmark, score, compare


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


# ---- watch: mistakes


def test_watch_says_what_is_missing(streaming: Path, base: Path, world: Path, tmp_path: Path) -> None:
    video = read_samples(world / "data/test")[0].video.path
    assert "there is no such file" in fails("watch", tmp_path / "none.mp4", "--model", streaming)
    assert "streaming.yaml is missing" in fails("watch", video, "--model", base)


@pytest.mark.parametrize("text", ["now star ?", "x:now ?", "-1:now ?", "1:", "inf:now ?"])
def test_a_query_without_a_time_is_refused(text: str) -> None:
    code, _, told, _ = invoke("watch", "a.mp4", "--model", "m", "--ask", text)
    assert code == 2 and "SECONDS:QUERY" in told


# ---- view


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Two samples with every kind of event, on a video of 3 s at 2 fps."""
    images = np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3), np.uint8)
    write_video(tmp_path / "a.mp4", images, 2.0)
    events = (
        Query("q0", 0.0, "what <b>next</b> ?", kind="forward", window=(2.0, 3.0), options=("red & blue", "none")),
        Segment(0.0, 1.0),
        Thought(1.0, "a thought of the first"),
        Silence(1.0, "q0"),
        Segment(1.0, 3.0),
        Query("q1", 3.0, "which one ?", evidence=((0.0, 1.0),), knowable_at=1.0),
        Answer(3.0, "this one", "q1"),
        Answer(3.0, "red & blue", "q0"),
    )
    path = tmp_path / "samples.jsonl"
    write_jsonl(
        [Sample(name, Video("a.mp4", 0.0, 3.0), events, memory="seen before") for name in ("first", "second")], path
    )
    return path


def test_view_writes_a_page(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "view.html"
    code, told, _, _ = invoke("view", samples, "-o", out)
    assert code == 0 and told.strip() == str(out)
    page = out.read_text()
    assert page.count("<section>") == 2 and page.count("<img") == 2 * 6
    for text in ("a thought of the first", "which one ?", "this one", "seen before", "knowable at 1 s"):
        assert text in page
    assert "what &lt;b&gt;next&lt;/b&gt; ?" in page and "<b>next</b>" not in page and "red &amp; blue" in page
    assert "http" not in page  # one file that needs nothing else


def test_view_shows_the_chosen_samples(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    assert invoke("view", samples, "--id", "second", "-o", out)[0] == 0
    assert "<h2>second</h2>" in out.read_text() and "<h2>first</h2>" not in out.read_text()
    assert invoke("view", samples, "--limit", 1, "-o", out)[0] == 0
    assert out.read_text().count("<section>") == 1


def test_view_says_what_is_missing(samples: Path, tmp_path: Path) -> None:
    assert "no sample has the id 'third'; the first ids are: first, second" in fails("view", samples, "--id", "third")
    assert "none.jsonl" in fails("view", tmp_path / "none.jsonl")
    (tmp_path / "a.mp4").unlink()
    assert "a.mp4: there is no such file" in fails("view", samples)
    samples.write_text("{}\n")
    assert f"{samples}:1" in fails("view", samples)


# ---- demo


FEW = "counts: {train: 1, validation: 1, test: 1}\n"


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


def test_choose_keeps_the_order_of_ids() -> None:
    from whilst.view import choose

    made = [Sample(name, Video("v.mp4"), (Segment(0.0, 1.0),)) for name in "abc"]
    assert [sample.id for sample in choose(made, ["c", "a"], "x")] == ["c", "a"]
    assert choose(made, [], "x") == made
    with pytest.raises(SampleError, match="x: no sample has the id 'd'"):
        choose(made, ["d"], "x")
