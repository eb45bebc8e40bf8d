"""Evaluate checkpoints on samples, with controls, and write the report.

    whilst eval recipes/tiny/eval.yaml

Every figure of report.html stands in report.json, and report.md has the tables. Predictions are kept (`predictions/`),
so a second run only scores; `scored.jsonl` has the outcome of every query, which `whilst compare` reads. A causality
audit that finds a leak fails the run, after the report is written.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import whilst
from evaluation import controls, judging
from evaluation.audit import CausalityError
from evaluation.benchmarks.base import Benchmark
from evaluation.cache import Predicted, samples_hash, write_whole
from evaluation.evidence_age import evidence_age
from evaluation.jobs import why_not
from evaluation.judging import Judged
from evaluation.measures import measure_all
from evaluation.predict import Episode, EvaluationError
from evaluation.predictions import Done, commit, load_samples, predict_all, predictions_of
from evaluation.recipe import EvalRecipe, Job, check_readers, contract_of, named_jobs
from evaluation.scores import Scored, gain, summary, thought_accuracy, thought_shares
from whilst.sample import Sample

SCORED = "scored.jsonl"


@dataclass(frozen=True)
class Outcome:
    """One job's figures. episodes: the first few, to be shown."""

    job: Job
    judged: Judged
    predicted: list[Predicted]
    episodes: list[Episode]
    thoughts: float | None
    shares: dict[str, dict[str, float | int]] | None
    done: Done

    @property
    def scored(self) -> list[Scored]:
        return self.judged.scored

    @property
    def failures(self) -> dict[str, str]:
        return {one.sample: one.failure for one in self.predicted if one.failure}


def run_job(recipe: EvalRecipe, job: Job) -> Outcome:
    """Predict and score one job, and what it needs before."""
    jobs = {job.writer: Job(job.writer)} if job.writer is not None else {}
    name = next((known for known, one in named_jobs(recipe).items() if one == job), "job")
    done, _ = predict_all(recipe, jobs | {name: job})
    return outcome(recipe, name, job, load_samples(recipe), judging.find_benchmark(recipe.scorer), done[name])


def outcome(
    recipe: EvalRecipe, name: str, job: Job, samples: Sequence[Sample], benchmark: Benchmark | None, done: Done
) -> Outcome:
    """Score a job whose predictions are written."""
    predicted = predictions_of(recipe, name, samples)
    episodes = [episode for one in predicted for episode in one.episodes]
    own = job.writer is None and job.control in (None, controls.GREEDY)  # else its thoughts are as of the arm, or given
    left_out = [controls.LeftOut(one.sample, *item) for one in predicted for item in one.left_out]
    covered = controls.without(samples, left_out) if left_out else samples
    return Outcome(
        job,
        judging.judge(benchmark, covered, predicted),
        predicted,
        episodes[: recipe.shown_episodes],
        thought_accuracy(samples, episodes, recipe.idle_thought) if own else None,
        thought_shares(samples, episodes, recipe.idle_thought, recipe.bootstrap_draws, recipe.seed) if own else None,
        done,
    )


def run(recipe: EvalRecipe) -> dict[str, Any]:
    """Run every job and write report.json, report.html, report.md and scored.jsonl into the output folder; returns the
    report.

    Raises CausalityError where the audit of an arm finds a leak; the report is written all the same.
    """
    started = time.perf_counter()
    check_readers(recipe)
    benchmark = judging.find_benchmark(recipe.scorer)
    samples = load_samples(recipe)
    jobs, not_valid = valid_jobs(recipe, samples)
    done, manifests = predict_all(recipe, jobs)
    outcomes = {name: outcome(recipe, name, job, samples, benchmark, done[name]) for name, job in jobs.items()}
    report = assemble(recipe, outcomes, samples, benchmark)
    report |= measure_all(recipe)
    report["controls_not_valid"] = not_valid
    report["manifests"] = manifests
    report["seconds"]["evaluation"] = time.perf_counter() - started
    write_scored(Path(recipe.output, SCORED), {name: one.scored for name, one in outcomes.items()})

    from evaluation.pictures import take_pictures
    from evaluation.report import write_report

    write_report(report, Path(recipe.output), take_pictures(recipe.arms, readable(samples, outcomes)))
    leaks = [leak["message"] for found in (report.get("audit") or {}).values() for leak in found["leaks"]]
    if leaks:
        raise CausalityError(f"the audit found {len(leaks)} leaks (report: {recipe.output}/report.html): {leaks[0]}")
    return report


def readable(samples: Sequence[Sample], outcomes: Mapping[str, Outcome]) -> Sample | None:
    """The first sample that no arm failed on, for the pictures; None where there is none."""
    failed = {sample for one in outcomes.values() if one.job.control is None for sample in one.failures}
    return next((sample for sample in samples if sample.id not in failed), None)


def valid_jobs(recipe: EvalRecipe, samples: Sequence[Sample]) -> tuple[dict[str, Job], dict[str, dict[str, str]]]:
    """The jobs that say something, and by arm the controls that do not, with the reason.

    Raises EvaluationError where a control that is asked for by name in control_arm, control_arms, kv_arm or gains is
    not valid: only `controls` may ask for more than an arm's layout can have.
    """
    jobs, not_valid = {}, dict[str, dict[str, str]]()
    contracts = {arm: contract_of(recipe, arm) for arm in recipe.arms}
    needed = set(named_jobs(replace(recipe, controls=(), gains={}))) | {
        name for pair in recipe.gains.items() for name in pair
    }
    for name, job in named_jobs(recipe).items():
        reason = why_not(recipe, job, contracts[job.arm], samples)
        if reason and name in needed:
            raise EvaluationError(f"{name}: {reason}")
        if reason:
            not_valid.setdefault(job.arm, {})[str(job.control)] = reason
        else:
            jobs[name] = job
    return jobs, not_valid


def assemble(
    recipe: EvalRecipe, outcomes: Mapping[str, Outcome], samples: Sequence[Sample], benchmark: Benchmark | None
) -> dict[str, Any]:
    """The report: figures by arm and kind, controls with differences, gains, curves, failures, settings. `outcomes` are
    by the jobs' names."""
    chance = (recipe.bootstrap_draws, recipe.seed)
    figures = {name: summary(outcome.scored, *chance) for name, outcome in outcomes.items()}

    def under_control(arm: str | None) -> dict[str, Any]:
        found = [(name, o.job) for name, o in outcomes.items() if o.job.arm == arm]
        return {job.control: figures[name] for name, job in found if job.control is not None}

    whole = {arm: outcomes[arm] for arm in recipe.arms}
    controlled = {o.job.arm for o in outcomes.values() if o.job.control is not None}
    return {
        "name": recipe.name,
        "scorer": recipe.scorer,
        "definitions": DEFINITIONS | ({"kind": f"tasks of {benchmark.name}"} if benchmark else {}),
        "arms": {arm: figures[arm] for arm in recipe.arms},
        "control_arm": recipe.control_arm,
        "controls": under_control(recipe.control_arm),
        "controls_by_arm": {arm: under_control(arm) for arm in recipe.arms if arm in controlled},
        "kv_arm": recipe.kv_arm,
        "controls_kv": under_control(recipe.kv_arm),
        "control_deltas": {arm: control_deltas(outcomes, arm, *chance) for arm in recipe.arms if arm in controlled},
        "readers": {name: figures[name] for name in recipe.readers},
        "gains": {
            name: {"baseline": baseline} | gain(*on_same_queries(outcomes[name], outcomes[baseline]), *chance)
            for name, baseline in recipe.gains.items()
        },
        "benchmark": judging.about(benchmark) | by_rule(benchmark, outcomes, *chance) if benchmark else None,
        "evidence_age": {arm: ages(samples, one.scored, *chance) for arm, one in whole.items()},
        "tokens": {arm: tokens(samples, one.predicted) for arm, one in whole.items()},
        "thoughts": {arm: outcome.thoughts for arm, outcome in whole.items()},
        "thought_shares": {name: o.shares for name, o in outcomes.items() if o.shares is not None},
        "unfinished": {arm: sum(not s.finished for s in outcome.scored) for arm, outcome in whole.items()},
        "reasons": {name: judging.reasons(one.scored) for name, one in outcomes.items()},
        "failures": {name: one.failures for name, one in outcomes.items() if one.failures},
        "left_out": {name: found for name, one in outcomes.items() if (found := left_out(one))},
        "curves": {arm: learning_curve(path) for arm, path in recipe.arms.items()},
        "reward_curves": {arm: curve for arm, path in recipe.arms.items() if (curve := reward_curve(path))},
        "episodes": {arm: [asdict(e) for e in outcome.episodes] for arm, outcome in whole.items()},
        "samples": {
            "hash": samples_hash(samples),
            "n": len(samples),
            "queries": sum(len(sample.queries()) for sample in samples),
            "videos": len({sample.video.path for sample in samples}),
        },
        "cache": {name: cached(one.done) for name, one in outcomes.items()},
        "settings": asdict(recipe) | {"contracts": {arm: asdict(contract_of(recipe, arm)) for arm in recipe.arms}},
        "seconds": {
            "by_job": {name: outcome.done.seconds for name, outcome in outcomes.items()},
            "training": {arm: training_seconds(path) for arm, path in recipe.arms.items()},
        },
        "code": {"version": whilst.__version__, "commit": commit(), "python": platform.python_version()},
    }


# What the figures of a report are, in a sentence each.
DEFINITIONS = {
    "accuracy": "share of queries that are right: one reply a query, compared whole; no reply, a cut one, one that "
    "came too early and a failed sample are wrong; every query counts once (micro average)",
    "interval": "95% bootstrap over videos: a video is drawn with all its queries",
    "points": "difference of accuracies on the same queries, in percentage points; paired over videos",
    "p": "sign-flip permutation test over videos, two-sided",
    "kind": "kinds of query as the samples name them; `all` is every query once",
}


def on_same_queries(one: Outcome, other: Outcome) -> tuple[list[Scored], list[Scored]]:
    """The queries that both cover: a control may leave some out (oracle_evidence)."""
    if not any(p.left_out for o in (one, other) for p in o.predicted):
        return one.scored, other.scored
    ours, theirs = ({(s.sample, s.query) for s in o.scored} for o in (one, other))
    both = ours & theirs
    return tuple([s for s in o.scored if (s.sample, s.query) in both] for o in (one, other))  # type: ignore[return-value]


def control_deltas(outcomes: Mapping[str, Outcome], arm: str, draws: int, seed: int) -> dict[str, Any]:
    """What each control of an arm takes away: the arm minus the control by kind, paired on the same queries."""
    return {
        str(one.job.control): gain(*on_same_queries(outcomes[arm], one), draws, seed)
        for one in outcomes.values()
        if one.job.arm == arm and one.job.control is not None
    }


def by_rule(benchmark: Benchmark, outcomes: Mapping[str, Outcome], draws: int, seed: int) -> dict[str, Any]:
    """Totals and tasks of the arms and readers by the strict and the official rule."""
    shown = {name: one.judged for name, one in outcomes.items() if one.job.control is None}
    return {
        "totals": {name: judging.totals(benchmark, judged, draws, seed) for name, judged in shown.items()},
        "tasks": {name: judging.tasks(judged, draws, seed) for name, judged in shown.items()},
    }


def ages(samples: Sequence[Sample], scored: Sequence[Scored], draws: int, seed: int) -> dict[str, Any]:
    """The evidence-age curve, or why there is none."""
    asked = [(sample.id, query.id) for sample in samples for query in sample.queries()]
    if [(item.sample, item.query) for item in scored] != asked:
        return {"reason": "the scorer makes several items of a query, so a query has no one outcome"}
    unanswered = [f"{s.id}/{q.id}" for s in samples for q in s.queries() if not s.answers_to(q.id)]
    if unanswered:
        return {"reason": f"query {unanswered[0]} has no answer in its sample, so no time at which it is due"}
    return evidence_age(samples, scored, draws=draws, seed=seed)


def tokens(samples: Sequence[Sample], predicted: Sequence[Predicted]) -> dict[str, float]:
    """Tokens that were written, in all and a second of video that arrived."""
    episodes = [episode for one in predicted for episode in one.episodes]
    failed = {one.sample for one in predicted if one.failure}
    seconds = sum(s.end - s.start for sample in samples if sample.id not in failed for s in sample.segments())
    thought, answer = sum(e.thought_tokens for e in episodes), sum(e.answer_tokens for e in episodes)
    rate = {"thought_tokens_a_second": thought / seconds} if seconds else {}
    return {"thought_tokens": thought, "answer_tokens": answer, "video_seconds": seconds} | rate


def left_out(one: Outcome) -> dict[str, int]:
    """Queries that a control does not cover, by reason."""
    found: dict[str, int] = {}
    for _, reason in (item for predicted in one.predicted for item in predicted.left_out):
        found[reason] = found.get(reason, 0) + 1
    return found


def cached(done: Done) -> dict[str, Any]:
    return {"reused": done.reused, "made": done.made, "failed": done.failed, "notes": list(done.notes)}


def write_scored(file: Path, scored: Mapping[str, Sequence[Scored]]) -> None:
    """One line a job and query: what was expected, what was said, what it counts."""
    lines = [
        json.dumps({"job": name} | asdict(item) | {"credit": item.value}, ensure_ascii=False) + "\n"
        for name, of_job in scored.items()
        for item in of_job
    ]
    write_whole(file, "".join(lines))


def _trainer_state(path: str) -> dict[str, Any]:
    file = Path(path, "trainer_state.json")
    return json.loads(file.read_text()) if file.exists() else {"log_history": []}


def learning_curve(path: str) -> list[dict[str, float]]:
    """Loss and token accuracy by step, as the trainer logged them; empty where it left no state."""
    return [
        {key: entry[key] for key in ("step", "loss", "mean_token_accuracy")}
        for entry in _trainer_state(path)["log_history"]
        if "mean_token_accuracy" in entry and "loss" in entry
    ]


def reward_curve(path: str) -> list[dict[str, float]]:
    """Reward by step, with the share of segments that got a thought and the accuracy where the trainer logged them;
    empty for other training."""
    return [
        {key: entry[key] for key in ("step", "reward", "told", "accuracy") if key in entry}
        for entry in _trainer_state(path)["log_history"]
        if "reward" in entry
    ]


def training_seconds(path: str) -> float | None:
    history = _trainer_state(path)["log_history"]
    return next((entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry), None)
