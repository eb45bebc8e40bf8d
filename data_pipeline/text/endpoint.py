"""Texts by a language model behind an OpenAI-compatible server (vLLM, llama.cpp, or a hosted one).

    write = Endpoint(EndpointSettings(base_url="http://localhost:8000/v1", model="Qwen3-32B", cache="runs/cache"),
                     templates=templates(seed=0))
    write(Task("thought", {"new": ["the red circle goes into the box"], "known": [], "previous": ""}, key="train-3/2"))

Every reply is constrained by a JSON schema (`schemas.py`) and checked again. What fails is tried again, with back-off
and another seed. A model that keeps replying badly costs this one text (`TextRejected`, with its reason); a server that
keeps failing stops the run (`EndpointError`), for otherwise its faults would decide what is in the dataset. What was
answered is in the cache (`cache.py`): a run that is started again, or a second one, does not ask for it again.

The API is that of POST /chat/completions with `response_format`: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx
import tenacity

from data_pipeline.source import draw
from data_pipeline.text.cache import Cache, key_of, without_images
from data_pipeline.text.limits import Budget, Gate, Meter, Usage, share
from data_pipeline.text.prompts import messages
from data_pipeline.text.schemas import TEXTS, BadReply, Schema, accepted, parsed
from data_pipeline.text.server import Completion, EndpointError, Fault, Server
from data_pipeline.text.task import Task, TextRejected, Write

OWN_FIELDS = ("model", "messages", "temperature", "max_tokens", "seed", "response_format")


@dataclass(frozen=True)
class EndpointSettings:
    """How to reach a server, and how much to ask of it; readable from YAML.

    base_url: up to and with /v1. `key_variable`: the name of the environment variable that holds the key; None: the
    server wants none. `cache`: the folder of the request cache. `steps`: what the model writes, beside guesses; the
    templates write the rest, and thoughts in which nothing is new. `extra`: more fields of the request, such as
    `top_p` or `chat_template_kwargs`.

    One request may take `timeout_seconds` in all. It is tried up to `attempts` times; before the second try it waits
    about `backoff_seconds`, then twice that, and so on up to `longest_wait_seconds`, or as long as the server says.
    `when_failing`: what a server that fails at every attempt does: `stop` the run, or `reject` this one text (which
    makes the dataset depend on the faults; for a request that a server cannot take).
    """

    base_url: str
    model: str
    cache: str
    key_variable: str | None = None
    steps: tuple[str, ...] = ("thought", "question", "reply", "reasoning")
    temperature: float = 0.7
    max_tokens: int = 512
    timeout_seconds: float = 120.0
    attempts: int = 6
    backoff_seconds: float = 1.0
    longest_wait_seconds: float = 120.0
    concurrency: int = 8
    requests_per_minute: float | None = None
    budget: Budget = field(default_factory=Budget)
    when_failing: Literal["stop", "reject"] = "stop"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        url = httpx.URL(self.base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"base_url {self.base_url!r}: write it as http://host:port/v1")
        if url.userinfo or url.query:
            raise ValueError(
                "base_url: holds a user, password or query; put the key into the variable key_variable names"
            )
        for step in self.steps:
            if step not in TEXTS:
                raise ValueError(f"steps: {step!r}: no such step; choose of {', '.join(TEXTS)}")
        for name in ("max_tokens", "attempts", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("timeout_seconds", "requests_per_minute"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("temperature", "backoff_seconds", "longest_wait_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in self.extra:
            if name in OWN_FIELDS:
                raise ValueError(f"extra.{name}: is set by the endpoint itself; leave it out")


def shared(settings: EndpointSettings, workers: int) -> EndpointSettings:
    """The settings for each of `workers` processes, so that all together keep to the limits.

    Raises:
        ValueError: fewer places (concurrency), requests or tokens than processes.
    """
    if settings.concurrency < workers:
        raise ValueError(f"concurrency is {settings.concurrency} for {workers} workers; give each at least one")
    rate = settings.requests_per_minute
    return replace(
        settings,
        concurrency=settings.concurrency // workers,
        requests_per_minute=None if rate is None else rate / workers,
        budget=share(settings.budget, workers),
    )


def image_part(data: bytes, media_type: str = "image/jpeg") -> dict[str, Any]:
    """An image as a part of a message's content. `data` is the encoded file."""
    url = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url}}


class Endpoint:
    """A `Write`, and `chat` for whoever needs more than one text. Safe to use from several threads.

    Texts are drawn by `seed` and the task's key. `templates` write the steps that `settings.steps` leaves out, and
    the plain wording that the model is asked to put into other words; without them it gets the facts alone.

    Raises:
        EndpointError: the environment variable of the key is not set.
    """

    def __init__(self, settings: EndpointSettings, seed: int = 0, templates: Write | None = None) -> None:
        self.settings = settings
        self._seed, self._templates = seed, templates
        self._server = Server(
            settings.base_url, _key(settings), settings.timeout_seconds, settings.longest_wait_seconds
        )
        self._cache = Cache(settings.cache)
        self._gate = Gate(settings.concurrency, settings.requests_per_minute)
        self._meter = Meter(settings.budget)

    @property
    def usage(self) -> Usage:
        """What this endpoint has spent up to now."""
        return self._meter.usage

    def __call__(self, task: Task) -> str:
        """The text of a task.

        Raises:
            TextRejected: no attempt gave an acceptable text.
            EndpointError: the server keeps failing or refuses the key, or nobody writes this step.
            BudgetError: the budget is used up.
        """
        step, facts = task.step, task.facts
        # Where nothing is new there is nothing to put into words, and the templates' wordings are known as such.
        still = step == "thought" and not facts["new"]
        asks = step in self.settings.steps or step == "guess"  # templates cannot guess
        if self._templates is not None and (still or not asks):
            return self._templates(task)
        if not asks:
            raise EndpointError(f"step {step!r}: nobody writes it; add it to `steps`, or give the endpoint `templates`")
        # A guess has no draft: it is to be found, not to be put into words.
        draft = self._templates(task) if self._templates is not None and step != "guess" else None
        asked = messages(step, {**facts, "draft": draft})
        reply = self.chat(
            asked, TEXTS[step], key=task.key, name=step, check=lambda value: accepted(step, facts, draft, value)
        )
        return accepted(step, facts, draft, reply)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        schema: Schema,
        *,
        key: str,
        name: str = "reply",
        check: Callable[[dict[str, Any]], object] | None = None,
    ) -> dict[str, Any]:
        """The JSON object with which the model replies to `messages`, which may hold images (`image_part`).

        `key` seeds the reply, `name` is that of the schema. `check` looks at an object of the schema and raises
        BadReply or TextRejected if it is not acceptable: then it is asked for again. Raises as `__call__` does.
        """
        settings = self.settings
        request = {
            "model": settings.model,
            "messages": list(messages),
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "seed": draw(self._seed, "endpoint", key).getrandbits(31),
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": name, "strict": True, "schema": dict(schema)},
            },
            **settings.extra,
        }
        digest = key_of(request)
        with self._cache.alone(digest):
            entry = self._cache.get(digest)
            if entry is not None:
                self._meter.count(Usage(cache_hits=1))
            else:
                entry = self._cache.put(digest, self._answer(request, schema, check))
        if "rejected" in entry:
            self._meter.count(Usage(rejected=1))
            raise TextRejected(entry["rejected"], entry["detail"])
        value: dict[str, Any] = entry["value"]
        return value

    def _answer(self, request: dict[str, Any], schema: Schema, check: Callable[..., object] | None) -> dict[str, Any]:
        """The cache entry of a request: a value, or why all attempts were rejected. Faults of the server raise."""
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.settings.attempts),
            wait=self._wait,
            retry=tenacity.retry_if_exception_type((Fault, BadReply)),
            before_sleep=lambda _: self._meter.count(Usage(retries=1)),
            reraise=True,
        )
        kept = {"request": without_images(request)}
        try:
            for attempt in attempts:
                with attempt:
                    # Another seed each time: the same one would give the same bad reply again.
                    seed = request["seed"] + attempt.retry_state.attempt_number - 1
                    return {"value": self._attempt(request | {"seed": seed}, schema, check)} | kept
        except BadReply as error:
            return {"rejected": error.reason, "detail": error.detail} | kept
        except Fault as error:
            said = f"{error.reason}, at the last of {self.settings.attempts} attempts: {error.detail}"
            if self.settings.when_failing == "reject":
                self._meter.count(Usage(rejected=1))
                raise TextRejected(error.reason, said) from error
            raise EndpointError(
                f"{self.settings.base_url}: {said}. What was answered is cached: mend the server (or the prompt's "
                "length) and run again, or set when_failing: reject"
            ) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, request: dict[str, Any], schema: Schema, check: Callable[..., object] | None) -> dict[str, Any]:
        with self._gate.request():
            self._meter.start()
            completion = self._server.complete(request)
        self._meter.count(Usage(**self._tokens(completion)))
        value = parsed(completion.content(), schema)
        if check is not None:
            try:
                check(value)
            except TextRejected as error:
                raise BadReply(error.reason, error.detail) from error
        return value

    def _tokens(self, completion: Completion) -> dict[str, int]:
        counts = {"prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.completion_tokens}
        if None in counts.values() and self.settings.budget.tokens is not None:
            raise EndpointError(
                "budget.tokens: the server does not say how many tokens it uses; set budget.requests instead"
            )
        return {name: count or 0 for name, count in counts.items()}

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """How long to wait before the next attempt, in seconds."""
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, BadReply):
            return 0.0  # the server is well
        if isinstance(error, Fault) and error.wait is not None:
            return error.wait
        backoff = tenacity.wait_exponential_jitter(
            multiplier=self.settings.backoff_seconds,
            max=self.settings.longest_wait_seconds,
            jitter=self.settings.backoff_seconds,
        )
        return backoff(state)


def _key(settings: EndpointSettings) -> str | None:
    if settings.key_variable is None:
        return None
    key = os.environ.get(settings.key_variable, "").strip()
    if not key:
        raise EndpointError(
            f"key_variable: the environment variable {settings.key_variable} is not set; export the key"
        )
    return key
