"""The eval stage on tiny checkpoints: which jobs a recipe asks for, what readers read, and what the report holds."""

import json
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation import audit, controls
from evaluation.benchmarks.base import Benchmark, Given, Total, Verdict, mean, mean_of_tasks
from evaluation.predict import EvaluationError
from evaluation.recipe import EvalRecipe, Job, Reading, asked_controls, check_readers, named_jobs
from evaluation.run import learning_curve, reward_curve, run, run_job
from whilst.checkpoint import CONTRACT, read_contract
from whilst.recipe import RecipeError, load_recipe, save_resolved
from whilst.render_config import RenderConfig
from whilst.sample import Query, Sample, read_samples

ARMS = {"thinking": "t", "kv": "k", "lazy": "l", "better": "b"}
TEXT = RenderConfig(layout="recurrent_packed", rule="text_memory")
KV = RenderConfig(layout="interleaved", rule="last_segments", rule_params={"n": 1})
SILENT = RenderConfig(layout="recurrent", rule="causal")


def recipe(**changes: Any) -> EvalRecipe:
    given: dict[str, Any] = {"name": "e", "stage": "eval", "output": "out", "samples": "s", "arms": ARMS}
    return EvalRecipe(**given | changes)


def test_jobs_have_names() -> None:
    asked = recipe(
        control_arm="thinking",
        kv_arm="kv",
        control_arms={"better": ("thoughts_shuffled", "thoughts_greedy")},
        temperature={"better": 1.0},
        readers={"lazy_reads_better": Reading("lazy", "better")},
    )
    assert named_jobs(asked) == {
        **{arm: Job(arm) for arm in ARMS},
        **{f"thinking/{name}": Job("thinking", name) for name in controls.CONTROLS},
        "better/thoughts_shuffled": Job("better", "thoughts_shuffled"),
        "better/thoughts_greedy": Job("better", "thoughts_greedy"),
        "kv/thoughts_swapped": Job("kv", "thoughts_swapped"),
        "lazy_reads_better": Job("lazy", writer="better"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control_arm": "x"}, "control_arm: 'x' must be one of arms: better, kv, lazy, thinking"),
        ({"kv_arm": "x"}, "kv_arm: 'x' must be one of arms"),
        ({"control_arms": {"x": ()}}, "control_arms: 'x' must be one of arms"),
        ({"control_arms": {"lazy": ("text",)}}, "control_arms.lazy: 'text' must be one of thoughts_shuffled"),
        ({"control_arms": {"lazy": ("thoughts_greedy",)}}, "control_arms.lazy: 'thoughts_greedy' must be one of"),
        ({"temperature": {"x": 1.0}}, "temperature: 'x' must be one of arms"),
        ({"policies": {"x": ()}}, "policies: 'x' must be one of arms"),
        ({"policies": {"kv": ({"name": "x"},)}}, "policies.kv: policy.name: 'x' is not one of unbounded"),
        ({"temperature": {"lazy": 0.0}}, "temperature.lazy: 0.0: must be above 0"),
        ({"readers": {"r": Reading("lazy", "x")}}, "readers.r: 'x' must be one of arms"),
        ({"readers": {"lazy": Reading("lazy", "better")}}, "readers: lazy: names of arms; give each its own"),
        ({"gains": {"better": "x"}}, "gains: 'x' must be one of thinking, kv, lazy, better"),
        ({"gains": {"better/text_only": "lazy"}}, "gains: 'better/text_only' must be one of"),
    ],
)
def test_a_bad_recipe_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_an_arm_is_served_with_its_policies(new_arm: Callable[..., str], sample_file: str, tmp_path: Path) -> None:
    """One checkpoint as three arms: the policy of its contract, the recipe's, and one that keeps all."""
    kept = ({"name": "sink_window", "window": 4, "vision_seconds": 1.0},)
    arms = {name: new_arm(name, KV) for name in ("whole", "served", "asked")}
    contract = read_contract(arms["served"])
    save_resolved(replace(contract, policy=kept), Path(arms["served"], CONTRACT))
    asked = recipe(
        output=str(tmp_path / "out"),
        samples=sample_file,
        arms=arms,
        policies={"asked": kept, "whole": ({"name": "unbounded"},)},
        audit_samples=1,
        ledger_samples=1,
        stream_seconds=10.0,
    )
    report = run(asked)
    said = {
        arm: [[text for _, text, _ in e["thoughts"]] for e in report["episodes"][arm]]
        for arm in ("whole", "served", "asked")
    }
    assert said["served"] == said["asked"] != said["whole"]
    assert report["settings"]["contracts"]["served"]["policy"] == report["settings"]["contracts"]["asked"]["policy"]
    assert all(not found["leaks"] for found in report["audit"].values())
    again = run(replace(asked, policies={"asked": kept}))
    assert again["cache"]["whole"]["made"] == 3 and again["cache"]["asked"]["made"] == 0  # the manifest holds policies


def test_a_recipe_reads_from_yaml(tmp_path: Path) -> None:
    asked = recipe(
        control_arms={"better": ("thoughts_shuffled",)},
        readers={"r": Reading("lazy", "better")},
        gains={"better": "lazy", "r": "lazy", "better/thoughts_shuffled": "lazy"},
        temperature={"lazy": 0.5},
        policies={"kv": ({"name": "sink_window", "window": 4}, {"name": "drop_similar", "ratio": 0.5})},
    )
    save_resolved(asked, tmp_path / "eval.yaml")
    assert load_recipe(tmp_path / "eval.yaml", EvalRecipe) == asked
    with pytest.raises(RecipeError, match="gains: 'nobody' must be one of"):
        load_recipe(tmp_path / "eval.yaml", EvalRecipe, ["gains={better: nobody}"])


# ---- Checkpoints on disk


FEW: dict[str, Any] = {"bootstrap_draws": 20, "thought_tokens": 3, "answer_tokens": 3}


def test_a_reader_answers_from_what_another_arm_writes(
    new_arm: Callable[..., str], sample_file: str, tmp_path: Path
) -> None:
    arms = {name: new_arm(name, TEXT, seed=seed) for seed, name in enumerate(("one", "two"))}
    reading = {f"{reader} of {writer}": Reading(reader, writer) for reader in arms for writer in arms}
    asked = recipe(
        arms=arms, samples=sample_file, output=str(tmp_path / "out"), readers=reading, temperature={"two": 1.0}, **FEW
    )
    check_readers(asked)
    jobs = named_jobs(asked)
    done = {name: run_job(asked, jobs[name]) for name in (*arms, *reading)}

    def thoughts(name: str) -> Any:
        return [[text for _, text, _ in episode.thoughts] for episode in done[name].episodes]

    def replies(name: str) -> Any:
        return [[reply.text for reply in episode.replies] for episode in done[name].episodes]

    assert thoughts("one") != thoughts("two")
    for reader in arms:
        for writer in arms:
            name = f"{reader} of {writer}"
            assert thoughts(name) == thoughts(writer), "word for word, drawn ones too"
            assert (replies(name) == replies(reader)) == (reader == writer)
            assert done[name].shares is None and done[name].thoughts is None, "they are the writer's, not its own"
    assert replies("one of two") != replies("two"), "who answers makes a difference"


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (Reading("kv", "text"), "readers.r: arm 'kv' has layout 'interleaved', .* needs text memory"),
        (Reading("text", "quiet"), "readers.r: arm 'quiet' does not think"),
        (Reading("quiet", "text"), "readers.r: arm 'quiet' does not think"),
    ],
)
def test_readers_need_text_memory_and_writers_thoughts(
    reading: Reading, message: str, new_arm: Callable[..., str], sample_file: str
) -> None:
    arms = {"kv": new_arm("kv", KV), "text": new_arm("text", TEXT), "quiet": new_arm("quiet", SILENT, thinks=False)}
    asked = recipe(arms=arms, samples=sample_file, readers={"r": reading})
    with pytest.raises(EvaluationError, match=message):
        run(asked)
    check_readers(replace(asked, readers={"r": Reading("text", "kv")}))  # what a KV arm writes can be read by others


def test_the_report_of_an_arm_that_learnt_from_rewards(
    new_arm: Callable[..., str], sample_file: str, tmp_path: Path
) -> None:
    log = [{"step": i, "reward": 0.1 * i, "told": 0.3, "loss": 0.0, "rewards/accuracy": 0.2} for i in (1, 2)]
    supervised = [{"step": 1, "loss": 2.0, "mean_token_accuracy": 0.5}, {"step": 1, "train_runtime": 7.0}]
    arms = {
        "answers_only": new_arm("answers_only", TEXT, thinks=False),
        "lazy": new_arm("lazy", TEXT, seed=1, log=supervised),
        "grpo": new_arm("grpo", TEXT, seed=2, log=log),
    }
    asked = recipe(
        arms=arms,
        samples=sample_file,
        output=str(tmp_path / "out"),
        control_arm="lazy",
        control_arms={"grpo": ("thoughts_shuffled", "thoughts_greedy")},
        temperature={"grpo": 1.0},
        readers={"lazy_reads_grpo": Reading("lazy", "grpo")},
        gains={"grpo": "lazy", "lazy_reads_grpo": "lazy", "grpo/thoughts_greedy": "lazy"},
        **FEW,
    )
    report = run(asked)
    assert json.loads((tmp_path / "out/report.json").read_text())["gains"] == report["gains"]
    assert set(report["arms"]) == set(arms) and set(report["readers"]) == {"lazy_reads_grpo"}
    assert report["control_arm"] == "lazy" and set(report["controls"]) == set(controls.CONTROLS)
    assert report["controls_by_arm"]["lazy"] == report["controls"]
    assert set(report["controls_by_arm"]["grpo"]) == {"thoughts_shuffled", "thoughts_greedy"}
    assert {name: gain["baseline"] for name, gain in report["gains"].items()} == asked.gains
    for name, found in report["gains"].items():
        figures = report["arms"].get(name) or report["readers"].get(name) or report["controls_by_arm"]["grpo"][name[5:]]
        difference = figures["backward"]["accuracy"] - report["arms"]["lazy"]["backward"]["accuracy"]
        assert found["backward"]["gain"] == pytest.approx(difference) and found["backward"]["n"] == 3
    assert set(report["thought_shares"]) == {"lazy", "grpo", "grpo/thoughts_greedy"}
    assert report["thought_shares"]["lazy"]["true"]["share"] == pytest.approx(2 / 3)
    assert report["thoughts"]["answers_only"] is None
    assert report["reward_curves"] == {"grpo": [{"step": i, "reward": 0.1 * i, "told": 0.3} for i in (1, 2)]}
    assert report["curves"] == {"answers_only": [], "lazy": supervised[:1], "grpo": []}
    page = (tmp_path / "out/report.html").read_text()
    assert "Reward: from" not in page and "grpo: from 0.1 at step 1 to 0.2 at 2" in page
    assert "<h2>Gains</h2>" in page and "lazy answers from what grpo writes" in page


def test_curves_of_a_folder_without_a_trainer_state(tmp_path: Path) -> None:
    assert learning_curve(str(tmp_path)) == reward_curve(str(tmp_path)) == []


# ---- Controls, benchmarks and what is measured


def test_controls_are_asked_for_by_one_key() -> None:
    every = tuple(controls.REGISTRY)
    assert asked_controls(recipe()) == dict.fromkeys(ARMS, ())
    assert asked_controls(recipe(controls="all")) == dict.fromkeys(ARMS, every)
    assert asked_controls(recipe(controls=("text_only",))) == dict.fromkeys(ARMS, ("text_only",))
    by_arm = recipe(controls={"lazy": "all", "kv": ("kv_as_text",)})
    assert asked_controls(by_arm) == {"lazy": every, "kv": ("kv_as_text",)}
    assert named_jobs(by_arm)["kv/kv_as_text"] == Job("kv", "kv_as_text")


@pytest.mark.parametrize("given", ["all", ["text_only", "kv_as_text"], {"kv": "all", "lazy": ["text_only"]}])
def test_controls_read_from_yaml(given: Any, tmp_path: Path) -> None:
    save_resolved(recipe(), tmp_path / "eval.yaml")
    asked = load_recipe(tmp_path / "eval.yaml", EvalRecipe, [f"controls={json.dumps(given)}"])
    assert asked_controls(asked) == asked_controls(recipe(controls=given))


def test_every_control_is_there_or_listed_as_not_valid(
    new_arm: Callable[..., str], sample_file: str, tmp_path: Path
) -> None:
    arms = {"text": new_arm("text", TEXT), "kv": new_arm("kv", KV), "quiet": new_arm("quiet", SILENT, thinks=False)}
    given: dict[str, Any] = {"arms": arms, "samples": sample_file, "controls": "all", "filler": "."}
    report = run(recipe(output=str(tmp_path / "out"), control_arm="text", **given, **FEW))
    for arm in arms:
        there, not_valid = set(report["controls_by_arm"][arm]), set(report["controls_not_valid"][arm])
        assert there | not_valid == set(controls.REGISTRY) and not there & not_valid
        assert all(report["controls_not_valid"][arm].values()), "each with a reason"
        assert set(report["control_deltas"][arm]) == there
        for name, by_kind in report["control_deltas"][arm].items():
            own, other = report["arms"][arm], report["controls_by_arm"][arm][name]
            if name != "oracle_evidence":  # that one leaves queries without evidence out
                for kind, delta in by_kind.items():
                    expected = own[kind]["accuracy"] - other[kind]["accuracy"]
                    assert delta["gain"] == pytest.approx(expected) and delta["videos"] == 3, (name, kind)
    assert "keeps keys and values" in report["controls_not_valid"]["kv"]["thoughts_dropped"]
    assert {"kv_as_text", "thoughts_swapped"} <= set(report["controls_by_arm"]["kv"])
    assert report["left_out"]["text/oracle_evidence"] == {"no evidence is given": 3}
    assert report["control_deltas"]["text"]["oracle_evidence"]["all"]["n"] == 3
    constants = report["controls_by_arm"]["text"]["constant_answers"]
    assert constants["backward"]["accuracy"] == 1.0, "all three have the same answer, and the best constant is of all"
    assert constants["forward"]["accuracy"] == 0.0, "a constant speaks too early"
    page = (tmp_path / "out/report.html").read_text()
    for name in controls.REGISTRY:
        assert name in page
    assert "keeps keys and values" in page


def test_a_control_that_is_named_must_be_valid(new_arm: Callable[..., str], sample_file: str, tmp_path: Path) -> None:
    arms = {"kv": new_arm("kv", KV)}
    asked = recipe(arms=arms, samples=sample_file, output=str(tmp_path / "out"), control_arm="kv")
    with pytest.raises(EvaluationError, match="kv/thoughts_shuffled: layout 'interleaved' keeps keys and values"):
        run(asked)
    assert not (tmp_path / "out").exists(), "before anything is watched"


TOY = Benchmark(
    name="toy",
    source="a toy",
    licence="none",
    tested_on="fixtures",
    track="asked",
    read=lambda: iter(()),
    strict=lambda sample, query, given: [judged(sample, query, given, lambda got: got == "red-circle")],
    official=lambda sample, query, given: [judged(sample, query, given, lambda got: True)],
    totals={
        "overall": Total("mean over tasks of the mean credit", mean_of_tasks),
        "micro": Total("mean credit", mean),
    },
)


def judged(sample: Sample, query: Query, given: Sequence[Given], right: Callable[[str], bool]) -> Verdict:
    failure = next((one.failure for one in given if one.failure), "")
    credit = float(bool(given) and not failure and right(given[-1].text))
    reason = "" if credit else f"failed: {failure}" if failure else "wrong"
    return Verdict(sample.video.path, sample.id, query.id, query.kind or "?", credit, given[-1].text, reason)


def test_a_benchmark_judges_by_both_rules(
    new_arm: Callable[..., str], sample_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = types.ModuleType("evaluation.benchmarks.all")
    known.BENCHMARKS = {"toy": TOY}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "evaluation.benchmarks.all", known)
    monkeypatch.setattr("evaluation.benchmarks.all", known, raising=False)
    arms = {"text": new_arm("text", TEXT)}
    given: dict[str, Any] = {"arms": arms, "samples": sample_file, "output": str(tmp_path / "out"), **FEW}
    with pytest.raises(EvaluationError, match="scorer: 'ovo' must be exact or one of toy"):
        run(recipe(scorer="ovo", **given))
    broken = Path(read_samples(sample_file)[2].video.path)
    broken.write_bytes(b"no video")
    report = run(recipe(scorer="toy", controls=("constant_answers",), **given))
    found = report["benchmark"]
    assert found["definitions"] == {"overall": "mean over tasks of the mean credit", "micro": "mean credit"}
    overall = found["totals"]["text"]["overall"]
    assert overall["official"]["value"] == pytest.approx(2 / 3), "the failed sample counts as wrong"
    assert overall["gap"] == pytest.approx(overall["official"]["value"] - overall["strict"]["value"])
    assert overall["strict"]["n"] == overall["official"]["n"] == 6 and overall["strict"]["videos"] == 3
    assert set(found["tasks"]["text"]) == {"backward", "forward"} <= set(report["arms"]["text"])
    assert report["reasons"]["text"]["failed"] == 2 and list(report["failures"]["text"]) == ["c"]
    assert report["arms"]["text"]["all"]["accuracy"] == found["totals"]["text"]["micro"]["strict"]["value"]
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text()
        assert "mean over tasks of the mean credit" in text and "toy" in text and str(broken) in text


def test_ages_ledger_tokens_and_audit_are_in_the_report(
    new_arm: Callable[..., str], sample_file: str, tmp_path: Path
) -> None:
    arms = {"text": new_arm("text", TEXT), "kv": new_arm("kv", KV)}
    measured: dict[str, Any] = {"ledger_samples": 1, "stream_seconds": 10.0}
    report = run(recipe(arms=arms, samples=sample_file, output=str(tmp_path / "out"), **measured, **FEW))
    text = (tmp_path / "out/report.md").read_text()
    for arm in arms:
        assert report["audit"][arm]["causal"] and report["audit"][arm]["compared"] > 0
        ages = report["evidence_age"][arm]
        assert (ages["queries"], ages["with_evidence"], ages["without_evidence"]) == (6, 3, 3)
        assert sum(found["n"] for found in ages["by_length"]) == 6
        ledger = report["ledger"][arm]
        assert ledger["ahead"]["queries"] == ledger["after"]["queries"] > 0
        assert ledger["simulated"]["deadline"]["source"] == "simulated" != ledger["ahead"]["source"]
        long = report["stream_cost"][arm]
        assert (long["segments"], long["video_seconds"]) == (10, 10.0), "three segments, again and again"
        assert long["trends"]["entries"]["n"] == 10 and "10 segments, 10 s of video" in text
        tokens = report["tokens"][arm]
        assert 0 < tokens["thought_tokens"] <= 27 and tokens["video_seconds"] == 9.0
    lines = [json.loads(line) for line in (tmp_path / "out/scored.jsonl").read_text().splitlines()]
    assert [line["job"] for line in lines] == ["text"] * 6 + ["kv"] * 6
    assert {line["sample"] for line in lines} == set("abc") and {line["credit"] for line in lines} <= {0.0, 1.0}
    assert report["samples"] == {"hash": report["samples"]["hash"], "n": 3, "queries": 6, "videos": 3}
    assert report["cache"]["text"] == {"reused": 0, "made": 3, "failed": 0, "notes": []}


def test_a_leak_fails_the_run_after_the_report(
    new_arm: Callable[..., str], sample_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak = audit.Leak("a", 11.0, "frames", 0, 11.0, None, "texts", "x", "y")
    found = audit.Audit(1, 1, 1, 1, (leak,), ())
    monkeypatch.setattr("evaluation.measures.audit_streams", lambda *_, **__: found)
    asked = recipe(arms={"text": new_arm("text", TEXT)}, samples=sample_file, output=str(tmp_path / "out"), **FEW)
    with pytest.raises(audit.CausalityError, match="the audit found 1 leaks .* depends on what comes after"):
        run(asked)
    assert json.loads((tmp_path / "out/report.json").read_text())["audit"]["text"]["causal"] is False
    for name in ("report.html", "report.md"):
        assert "depends on what comes after 11 s" in (tmp_path / "out" / name).read_text()
