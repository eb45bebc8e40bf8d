"""Texts by an endpoint, against a server that fails as told: nothing is lost, and nothing is asked twice."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.text import server as server_module
from data_pipeline.text.cache import Cache, CacheError, key_of
from data_pipeline.text.endpoint import Endpoint, EndpointSettings, image_part, shared
from data_pipeline.text.limits import Budget, BudgetError, Gate, Meter, Usage, share
from data_pipeline.text.schemas import TEXTS, BadReply
from data_pipeline.text.server import EndpointError, Fault, Server
from data_pipeline.text.task import Task, TextRejected
from tests.data_pipeline.faulty_server import BAD_REPLIES, FAULTS, SERVER_FAULTS, FaultyServer, echo
from whilst.recipe import load_recipe, save_resolved

NEWS = "the red circle goes into the box"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def thought(news: str = NEWS, key: str = "a/0", previous: str = "") -> Task:
    return Task("thought", {"new": [news], "known": [], "previous": previous}, key)


def all_seen(endpoint: Endpoint, server: FaultyServer, script: Sequence[str]) -> bool:
    """Whether the server has seen all requests, less at most those that timed out in no fault of the script: a machine
    that stands still for a moment may let a request's time pass before it is sent."""
    seen = len(server.requests)
    late = endpoint.usage.retries - sum(name != "ok" for name in script[:seen])
    return 0 <= endpoint.usage.requests - seen <= late


def settings(url: str, cache: Path, **changes: Any) -> EndpointSettings:
    """Patient, so that a slow machine alone makes no fault, and without waits between attempts."""
    given = {"timeout_seconds": 60.0, "attempts": 3, "backoff_seconds": 0.0} | changes
    return EndpointSettings(base_url=url, model="m", cache=str(cache), **given)


# ---- One text.


def test_a_text_and_what_is_sent_for_it(tmp_path: Path) -> None:
    with FaultyServer() as server:
        endpoint = Endpoint(settings(server.url, tmp_path, temperature=0.3, max_tokens=77, extra={"top_p": 0.9}))
        assert endpoint(thought()) == NEWS
    [received] = server.requests
    body = received.body
    assert received.path == "/v1/chat/completions"
    assert "Authorization" not in received.headers
    assert (body["model"], body["temperature"], body["max_tokens"], body["top_p"]) == ("m", 0.3, 77, 0.9)
    assert isinstance(body["seed"], int)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"] == {"name": "thought", "strict": True, "schema": TEXTS["thought"]}
    assert endpoint.usage == Usage(requests=1, prompt_tokens=10, completion_tokens=5)


def test_seeds_follow_the_key_of_the_task_and_that_of_the_run(tmp_path: Path) -> None:
    with FaultyServer() as server:
        for i, (seed, key) in enumerate([(0, "a"), (0, "a"), (0, "b"), (1, "a")]):
            Endpoint(settings(server.url, tmp_path / str(i)), seed)(thought(key=key))
    seeds = [received.body["seed"] for received in server.requests]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3


def test_chat_with_an_image(tmp_path: Path) -> None:
    data = b"\xff\xd8 not really a picture"
    with FaultyServer(reply=lambda body: '{"n": 3}') as server:
        endpoint = Endpoint(settings(server.url, tmp_path))
        asked = [{"role": "user", "content": [image_part(data), {"type": "text", "text": "how many?"}]}]
        assert endpoint.chat(asked, SCHEMA, key="v/0", name="count") == {"n": 3}
        assert endpoint.chat(asked, SCHEMA, key="v/0", name="count") == {"n": 3}
        other = [{"role": "user", "content": [image_part(data + b"!"), {"type": "text", "text": "how many?"}]}]
        endpoint.chat(other, SCHEMA, key="v/0", name="count")
    assert [received.body["messages"] for received in server.requests] == [asked, other]
    url = image_part(data)["image_url"]["url"]
    for path in tmp_path.rglob("*.json"):  # the cache tells images by their hash
        assert url.partition(",")[2] not in path.read_text()


def test_what_the_caller_checks_is_asked_again(tmp_path: Path) -> None:
    replies = iter(['{"n": 1}', '{"n": 2}', '{"n": 3}'])

    def odd(value: dict[str, Any]) -> None:
        if value["n"] < 3:
            raise (TextRejected if value["n"] == 1 else BadReply)("too small", str(value["n"]))

    with FaultyServer(reply=lambda body: next(replies)) as server:
        endpoint = Endpoint(settings(server.url, tmp_path))
        assert endpoint.chat([{"role": "user", "content": "x"}], SCHEMA, key="k", check=odd) == {"n": 3}
    assert len({received.body["seed"] for received in server.requests}) == 3  # the same seed would say the same


# ---- Faults of the server: tried again, then the run stops. Bad replies: tried again, then this text is rejected.


@pytest.mark.parametrize("fault", [*SERVER_FAULTS, "drip headers", *BAD_REPLIES])
def test_a_fault_is_tried_again(fault: str, tmp_path: Path) -> None:
    patience = 1.0 if fault in ("hang", "drip", "drip headers") else 60.0
    with FaultyServer([fault]) as server:
        endpoint = Endpoint(settings(server.url, tmp_path, timeout_seconds=patience, attempts=6))
        assert endpoint(thought()) == NEWS
        assert endpoint.usage.retries >= 1
        assert endpoint.usage.requests == endpoint.usage.retries + 1 and all_seen(endpoint, server, [fault])
        assert endpoint.usage.rejected == 0


@pytest.mark.parametrize("fault", ["429", "500", "503", "400", "drop", "half body", "half JSON", "not JSON"])
def test_a_server_that_keeps_failing_stops_the_run(fault: str, tmp_path: Path) -> None:
    with FaultyServer([fault] * 3) as server:
        endpoint = Endpoint(settings(server.url, tmp_path))
        with pytest.raises(EndpointError, match="at the last of 3 attempts.*run again"):
            endpoint(thought())
        assert len(server.requests) == 3
        assert endpoint(thought()) == NEWS  # nothing of the failure is remembered


def test_a_server_that_is_not_there_stops_the_run(tmp_path: Path) -> None:
    with FaultyServer() as server:
        pass
    with pytest.raises(EndpointError, match="no connection"):
        Endpoint(settings(server.url, tmp_path))(thought())


def test_a_failing_server_may_cost_one_text_instead(tmp_path: Path) -> None:
    with FaultyServer(["500"] * 3) as server:
        endpoint = Endpoint(settings(server.url, tmp_path, when_failing="reject"))
        with pytest.raises(TextRejected) as rejected:
            endpoint(thought())
        assert rejected.value.reason == "HTTP 500"
        assert endpoint.usage.rejected == 1
        assert endpoint(thought()) == NEWS


@pytest.mark.parametrize(("fault", "reason"), BAD_REPLIES.items())
def test_a_model_that_keeps_replying_badly_costs_one_text(fault: str, reason: str, tmp_path: Path) -> None:
    with FaultyServer([fault] * 3) as server:
        endpoint = Endpoint(settings(server.url, tmp_path))
        for _ in range(2):  # the second time from the cache: another attempt would give another dataset
            with pytest.raises(TextRejected) as rejected:
                endpoint(thought())
            assert rejected.value.reason == reason
        assert endpoint(thought("the blue square leaves", key="a/1")) == "the blue square leaves"
    assert len(server.requests) == 4
    assert endpoint.usage.rejected == 2


@pytest.mark.parametrize("fault", ["404", "redirect"])
def test_a_wrong_address_is_not_tried_again(fault: str, tmp_path: Path) -> None:
    with FaultyServer([fault]) as server, pytest.raises(EndpointError, match=r"check base_url"):
        Endpoint(settings(server.url, tmp_path))(thought())
    assert len(server.requests) == 1


def test_the_scripts_of_these_tests_name_every_fault() -> None:
    assert set(SERVER_FAULTS) | set(BAD_REPLIES) <= FAULTS.keys()


# ---- Waiting.


def test_retry_after_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    with FaultyServer(["429, wait 7", "500", "500", "500"]) as server:
        endpoint = Endpoint(settings(server.url, tmp_path, attempts=5, backoff_seconds=1.0))
        monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
        assert endpoint(thought()) == NEWS
    assert waits[0] == 7.0
    assert 2.0 <= waits[1] <= 3.0 and 4.0 <= waits[2] <= 5.0 and 8.0 <= waits[3] <= 9.0  # and up to a second by chance


def test_a_bad_reply_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    with FaultyServer(["truncated"]) as server:
        endpoint = Endpoint(settings(server.url, tmp_path, backoff_seconds=30.0))
        monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
        endpoint(thought())
    assert sum(waits) == 0.0


def test_a_server_that_asks_for_a_long_wait_stops_the_run(tmp_path: Path) -> None:
    with FaultyServer(["429, wait an hour"]) as server:
        endpoint = Endpoint(settings(server.url, tmp_path, when_failing="reject"))
        with pytest.raises(EndpointError, match="3600 s, longer than longest_wait_seconds"):
            endpoint(thought())


@pytest.mark.parametrize(
    ("header", "wait"),
    [("2.5", 2.5), ("-3", 0.0), ("soon", None), ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0)],
)
def test_retry_after_may_be_a_date(header: str, wait: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module.time, "time", lambda: 1795348800.0)  # Sun, 22 Nov 2026 12:00:00 GMT
    monkeypatch.setitem(FAULTS, "told", lambda handler, body: handler.send(503, "", retry_after=header))
    with FaultyServer(["told"]) as server, pytest.raises(Fault) as fault:
        Server(server.url, None, 60.0, 120.0).complete({"messages": []})
    assert fault.value.wait == wait


# ---- Nothing is lost, and a second run costs nothing.


def test_many_texts_through_a_faulty_server_and_again_for_nothing(tmp_path: Path) -> None:
    rng = random.Random(0)
    names = ["ok", *(set(FAULTS) & {*SERVER_FAULTS, *BAD_REPLIES} - {"hang", "drip"})]
    script = [*rng.choices(sorted(names), k=150), "hang", "drip"]
    rng.shuffle(script)
    tasks = [thought(f"event {i} happens", key=f"v/{i}") for i in range(120)]
    with FaultyServer(script) as server:
        given = settings(server.url, tmp_path, attempts=40, timeout_seconds=2.0, concurrency=8)
        first = Endpoint(given)
        with ThreadPoolExecutor(12) as pool:
            texts = list(pool.map(first, tasks))
        assert texts == [f"event {i} happens" for i in range(120)]
        assert first.usage.requests == 120 + first.usage.retries and all_seen(first, server, script)
        assert first.usage.retries >= len([name for name in script if name != "ok"])
    second = Endpoint(given)  # whatever it sent now would fail
    assert [second(task) for task in tasks] == texts
    assert second.usage == Usage(cache_hits=120)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    tasks = [thought(key=f"v/{i}") for i in range(10)]
    with FaultyServer(["ok"] * 6 + ["500"] * 100) as server:
        endpoint = Endpoint(settings(server.url, tmp_path))
        with pytest.raises(EndpointError):
            [endpoint(task) for task in tasks]
    with FaultyServer() as server:  # at another address
        endpoint = Endpoint(settings(server.url, tmp_path))
        assert [endpoint(task) for task in tasks] == [NEWS] * 10
        assert (endpoint.usage.cache_hits, len(server.requests)) == (6, 4)


def test_what_two_threads_want_at_once_is_asked_once(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def write(_: int) -> str:
        both.wait()
        return endpoint(thought())

    with FaultyServer() as server:
        endpoint = Endpoint(settings(server.url, tmp_path))
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(write, range(2))) == [NEWS] * 2
    assert len(server.requests) == 1


@pytest.mark.parametrize("change", [{"model": "other"}, {"temperature": 0.1}, {"max_tokens": 9}, {"extra": {"a": 1}}])
def test_another_request_is_not_in_the_cache(change: dict[str, Any], tmp_path: Path) -> None:
    with FaultyServer() as server:
        given = settings(server.url, tmp_path)
        Endpoint(given)(thought())
        Endpoint(replace(given, **change))(thought())
    assert len(server.requests) == 2


def test_the_first_entry_stays(tmp_path: Path) -> None:
    one, other = Cache(tmp_path), Cache(tmp_path)
    key = key_of({"a": 1, "b": 2})
    assert key == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})
    assert one.get(key) is None
    assert one.put(key, {"value": {"text": "first"}})["value"] == {"text": "first"}
    assert other.put(key, {"value": {"text": "second"}})["value"] == {"text": "first"}
    assert other.get(key) == one.get(key)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{key}.json"]


@pytest.mark.parametrize("text", ["", '{"schema": "whilst.reply/1", "val', '{"schema": "other/1"}', "[]"])
def test_a_broken_entry_is_named(text: str, tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), key_of({})
    cache.put(key, {"value": {}})
    path = tmp_path / key[:2] / f"{key}.json"
    path.write_text(text)
    with pytest.raises(CacheError, match=f"{path}: not .*delete this file"):
        cache.get(key)


def test_an_entry_that_was_never_finished_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = key_of({})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.link", killed)
        with pytest.raises(KeyboardInterrupt):
            Cache(tmp_path).put(key, {"value": {}})
    assert Cache(tmp_path).get(key) is None


# ---- The key.


def test_the_key_is_sent_and_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sk-very-secret-4711"
    monkeypatch.setenv("WHILST_TEST_KEY", secret)
    caplog.set_level(logging.DEBUG)
    with FaultyServer(["500", "truncated", "ok", "wrong key"]) as server:
        endpoint = Endpoint(settings(server.url, tmp_path, key_variable="WHILST_TEST_KEY"))
        assert endpoint(thought()) == NEWS
        with pytest.raises(EndpointError, match=r"HTTP 401: .*incorrect: Bearer \*\*\*") as error:
            endpoint(thought(key="a/1"))
    assert {received.headers["Authorization"] for received in server.requests} == {f"Bearer {secret}"}
    assert len(server.requests) == 4  # a refused key is not tried again
    shown = [caplog.text, repr(endpoint), repr(endpoint.settings), str(error.value), str(vars(endpoint))]
    shown += [path.read_text() for path in tmp_path.rglob("*.json")]
    assert not [text for text in shown if secret in text]


@pytest.mark.parametrize("value", [None, "", " "])
def test_a_key_that_is_not_set_is_an_error(value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("WHILST_TEST_KEY", raising=False)
    else:
        monkeypatch.setenv("WHILST_TEST_KEY", value)
    with pytest.raises(EndpointError, match="WHILST_TEST_KEY is not set"):
        Endpoint(settings("http://127.0.0.1:1/v1", tmp_path, key_variable="WHILST_TEST_KEY"))


# ---- Limits.


def test_a_budget_of_requests_is_exact_and_counts_retries(tmp_path: Path) -> None:
    tasks = [thought(key=f"v/{i}") for i in range(20)]
    with FaultyServer(["500"] * 2) as server:
        given = settings(server.url, tmp_path, budget=Budget(requests=7), concurrency=4)
        endpoint = Endpoint(given)
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(endpoint, task) for task in tasks]
        assert {type(one.exception()) for one in found} == {type(None), BudgetError}
        assert len(server.requests) == 7
        again = Endpoint(replace(given, budget=Budget(requests=15)))
        assert [again(task) for task in tasks] == [NEWS] * 20
        assert len(server.requests) == 7 + again.usage.requests == 22


def test_a_budget_of_tokens(tmp_path: Path) -> None:
    with FaultyServer() as server:
        endpoint = Endpoint(settings(server.url, tmp_path, budget=Budget(tokens=31)))
        for i in range(3):  # 15 tokens each: the third is under way before they are used up
            endpoint(thought(key=f"v/{i}"))
        with pytest.raises(BudgetError, match=r"budget.tokens: 45 of 31"):
            endpoint(thought(key="v/3"))
        assert endpoint(thought(key="v/2")) == NEWS  # what is cached costs nothing


def test_a_budget_of_tokens_needs_a_server_that_counts(tmp_path: Path) -> None:
    with FaultyServer(["no usage"] * 2) as server:
        assert Endpoint(settings(server.url, tmp_path))(thought()) == NEWS
        with pytest.raises(EndpointError, match=r"set budget.requests instead"):
            Endpoint(settings(server.url, tmp_path / "b", budget=Budget(tokens=99)))(thought())


def test_concurrency_is_kept(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def slow(body: dict[str, Any]) -> str:
        both.wait(60)  # two are let through at once
        time.sleep(0.02)  # and time for a third, which must not come
        return echo(body)

    with FaultyServer(reply=slow) as server:
        endpoint = Endpoint(settings(server.url, tmp_path, concurrency=2))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(endpoint, [thought(key=f"v/{i}") for i in range(24)]))
    assert server.most_at_once == 2


def test_requests_are_spaced_evenly() -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += seconds

    gate = Gate(1, 120.0, clock=lambda: now[0], sleep=sleep)
    for _ in range(3):
        with gate.request():
            pass
    now[0] += 10.0  # a pause saves up no turns
    for _ in range(2):
        with gate.request():
            pass
    assert slept == [0.5, 0.5, 0.5]


def test_processes_share_limits() -> None:
    given = EndpointSettings(
        base_url="http://h/v1", model="m", cache="c", concurrency=9, requests_per_minute=60.0, budget=Budget(100, None)
    )
    part = shared(given, 4)
    assert (part.concurrency, part.requests_per_minute, part.budget) == (2, 15.0, Budget(25, None))
    with pytest.raises(ValueError, match="9 for 10 workers"):
        shared(given, 10)
    with pytest.raises(ValueError, match="requests is 0"):
        share(Budget(requests=3), 4)


def test_a_meter_loses_no_count() -> None:
    meter = Meter(Budget())
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2000):
            pool.submit(meter.start)
            pool.submit(meter.count, Usage(retries=1, prompt_tokens=3))
    assert meter.usage == Usage(requests=2000, retries=2000, prompt_tokens=6000)


# ---- Settings.


@dataclass(frozen=True)
class Holder:
    writer: EndpointSettings


YAML = """
writer:
  base_url: https://api.example.org/v1
  model: some/model
  cache: runs/cache
  key_variable: SOME_KEY
  steps: [thought]
  requests_per_minute: 300.0
  budget: {requests: 50}
  when_failing: reject
  extra: {chat_template_kwargs: {enable_thinking: false}}
"""


def test_settings_are_readable_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(YAML)
    holder = load_recipe(tmp_path / "a.yaml", Holder)
    assert holder.writer.budget == Budget(requests=50)
    assert holder.writer.extra == {"chat_template_kwargs": {"enable_thinking": False}}
    save_resolved(holder, tmp_path / "b.yaml")
    assert load_recipe(tmp_path / "b.yaml", Holder) == holder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_url": "localhost:8000"}, "write it as http://host:port/v1"),
        ({"base_url": "http://me:secret@h/v1"}, "belongs into an environment variable|key_variable"),
        ({"steps": ("thougt",)}, "no such step"),
        ({"attempts": 0}, "attempts is 0"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout_seconds": 0.0}, "timeout_seconds is 0.0"),
        ({"requests_per_minute": -1.0}, "requests_per_minute is -1.0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"extra": {"seed": 3}}, "extra.seed"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        EndpointSettings(**{"base_url": "http://h/v1", "model": "m", "cache": "c"} | change)
    assert "secret" not in str(error.value)


def test_a_budget_of_nothing_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="tokens is 0"):
        Budget(tokens=0)
