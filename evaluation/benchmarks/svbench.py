"""SVBench: chains of open questions about one scene after the other. yzy-bupt/SVBench @9867645.

    <video>.json   [{images, chain: {questions: [...], answers: [...]}, qac_timestamps_start, qac_timestamps_end}], an
                   entry of {} for a scene without a chain
    linkage file   [{chain_1, chain_2, relationship: {chainBefore: [...], chainAfter: [...], relationship}}] (not read)

Seen: the code that writes and judges these files. Not seen: the files; the unit of the time stamps (taken as seconds,
or MM:SS). `annotations` is the folder of chains, or one of its files; the name of a file is its video, <video>.mp4. The
questions of a chain are put in their order at the end of its scene, with all since the start visible.

Every published score is a language model's: 0 to 10 for an answer (`single`), and for a dialogue or a stream semantic
accuracy, contextual coherence, logical consistency, temporal understanding (-1: does not apply), informational
completeness and an overall one. So there is no `official` judge of replies; `scores_of` reads what a judge wrote and
`mean_scores` sums it up. `strict` is the exact words, which open answers hardly ever have: a floor, no accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import Benchmark, BenchmarkError, Given, Rejected, Total, Verdict, mean
from evaluation.benchmarks.choices import files_of, put_at, streams
from evaluation.benchmarks.reading import DURATIONS, SEGMENTS, Ask, asked_once, duration_of, load_json
from evaluation.benchmarks.strict import CUT_OFF, SILENT, judge_words, shown
from evaluation.proactive import Figure
from whilst.sample import Query, Sample

NAME = "svbench"
SINGLE = ("Accuracy",)
DIMENSIONS = (
    "Semantic Accuracy", "Contextual Coherence", "Logical Consistency", "Temporal Understanding",
    "Informational Completeness", "Overall Evaluation",
)  # fmt: skip


def read(
    annotations: Path, videos: str = "", segment_seconds: float | None = None, durations: str | None = None
) -> Iterator[Sample | Rejected]:
    """One sample a video, with the questions of all its chains."""
    seconds = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    for video, scene, entry in _scenes(annotations):
        for made in _asks(f"{Path(video).stem}/{scene}", entry, scene, seconds(video)):
            if isinstance(made, Rejected):
                yield made
            else:
                by_video.setdefault(video, []).append(made)
    yield from streams(NAME, by_video, videos=videos, segment_seconds=segment_seconds, end=seconds)


def _scenes(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Video, number and entry of every scene that has one; {} stands for a scene without a chain."""
    for file in files_of(path):
        found = load_json(file)
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise BenchmarkError(f"{file}: must be a list of scenes; name a file of QA chains")
        for scene, entry in enumerate(found):
            if entry:
                yield f"{file.stem}.mp4", scene, entry


def _asks(id: str, entry: Mapping[str, Any], scene: int, end: float | None) -> Iterator[Ask | Rejected]:
    chain = entry.get("chain")
    questions, answers = (chain.get(name) if isinstance(chain, dict) else None for name in ("questions", "answers"))
    if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
        yield Rejected(id, "chain: questions and answers must be lists of one length")
        return
    time = put_at(entry.get("qac_timestamps_end"), end)
    for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        name = f"{id}/{i}"
        if not isinstance(question, str) or not isinstance(answer, str) or not question.strip() or not answer.strip():
            yield Rejected(name, "chain: a question or an answer is no text")
        elif isinstance(time, str):
            yield Rejected(name, f"qac_timestamps_end: {time}")
        else:
            query = Query(name, time, prompts.brief(question), NAME)
            yield asked_once(query, answer, {"question": question, "answer": answer, "scene": scene, "number": i})


def count_queries(annotations: Path) -> int:
    """Questions of a file or folder; a chain that is no list counts as one."""
    total = 0
    for _, _, entry in _scenes(annotations):
        chain = entry.get("chain")
        questions, answers = (chain.get(name) if isinstance(chain, dict) else None for name in ("questions", "answers"))
        whole = isinstance(questions, list) and isinstance(answers, list) and len(questions) == len(answers)
        total += len(questions) if whole and isinstance(questions, list) else 1
    return total


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """The exact words, but for case, white space and a last full stop."""
    answer = sample.answers_to(query.id)[0].text
    credit, reason = judge_words(given, answer)
    return [Verdict(sample.video.path, sample.id, query.id, NAME, credit, shown(given), reason)]


def replied(verdicts: Sequence[Verdict]) -> float:
    """Share of questions with a finished reply."""
    said = [v.reason not in (SILENT, CUT_OFF) and not v.reason.startswith("failed") for v in verdicts]
    return sum(said) / len(said) if said else 0.0


# ---- Scores, from what a judge wrote.


def scores_of(judged: str, names: Sequence[str] = DIMENSIONS, *, as_published: bool = False) -> dict[str, int | None]:
    """The score after each name in a judge's text; None: none stands there.

    as_published: the released pattern takes digits alone, so that -1 (does not apply) is read as 1; else it is -1.
    """
    digits = r"(\d+)" if as_published else r"(-?\d+)"
    scores: dict[str, int | None] = {}
    for name in names:
        found = re.search(rf"{re.escape(name)}.*?Score\D*?{digits}", judged, re.DOTALL)
        scores[name] = int(found[1]) if found else None
    return scores


def mean_scores(rows: Sequence[Mapping[str, int | None]]) -> dict[str, Figure]:
    """Mean of each score over the rows that have it; -1 (does not apply) and None (not read) are left out, and counted
    in the definition. Raises BenchmarkError for a score that is none of -1 to 10."""
    out = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        found = [row.get(name) for row in rows]
        if bad := [score for score in found if score is not None and not -1 <= score <= 10]:
            raise BenchmarkError(f"{name}: {bad[0]} is no score; a judge gives 0 to 10, or -1 where it does not apply")
        scores = [score for score in found if score is not None and score >= 0]
        left = f"{found.count(-1)} that it does not apply to and {found.count(None)} unread ones left out"
        value = sum(scores) / len(scores) if scores else None
        out[name] = Figure(value, f"mean of a judge's scores, 0 to 10, over {len(scores)} of {len(found)}; {left}")
    return out


BENCHMARK = Benchmark(
    name=NAME,
    source="yzy-bupt/SVBench (data: yzy666/SVBench)",
    licence="none stated",
    tested_on="fixtures in the documented format",
    track="asked",
    read=read,
    strict=strict,
    official=None,
    totals={
        "exact": Total("share of questions answered in the exact words: a floor; published scores need a judge", mean),
        "replied": Total("share of questions with a finished reply", replied),
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS},
    count=count_queries,
    contains=("YT-Temporal-1B", "YouCook2", "MovieChat", "Panda-70M", "Ego4D", "ActivityNet"),
)
