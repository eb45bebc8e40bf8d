"""What an endpoint is asked and what it may say: prompts, drafts by the templates, and checks of the texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.source import SynthError
from data_pipeline.text.endpoint import Endpoint
from data_pipeline.text.prompts import messages
from data_pipeline.text.schemas import TEXTS
from data_pipeline.text.server import EndpointError
from data_pipeline.text.task import Task, TextRejected
from tests.data_pipeline.faulty_server import FaultyServer
from tests.data_pipeline.test_endpoint import NEWS, settings, thought

# ---- Templates beside the model.


def plain(task: Task) -> str:
    return f"plain {task.step} 3"


def test_templates_write_what_the_model_does_not(tmp_path: Path) -> None:
    with FaultyServer(reply=lambda body: '{"text": "by the model: the red circle goes into the box"}') as server:
        given = settings(server.url, tmp_path, steps=("thought",))
        endpoint = Endpoint(given, templates=plain)
        assert endpoint(thought()) == f"by the model: {NEWS}"
        assert endpoint(Task("question", {}, "q")) == "plain question 3"
        nothing = Task("thought", {"new": [], "known": [], "previous": ""}, "a/1")
        assert endpoint(nothing) == "plain thought 3"  # there is nothing to put into words
        assert len(server.requests) == 1
        assert endpoint(Task("guess", {"question": "who?", "options": []}, "g")) == f"by the model: {NEWS}"
        with pytest.raises(EndpointError, match="'question': nobody writes it"):
            Endpoint(given)(Task("question", {}, "q"))


def test_the_model_is_given_the_plain_wording_but_no_help_with_a_guess(tmp_path: Path) -> None:
    tasks = [
        thought(),
        Task("question", {"kind": "order", "subkind": "before", "answer_edge": "e7"}, "q"),
        Task("reply", {"about": "next", "begun": ["flour is added"]}, "r"),
        Task("reasoning", {"clauses": ["a", "b"], "question": "what?", "answer": "plain"}, "s"),
        Task("guess", {"question": "who?", "options": ["a", "b"]}, "g"),
    ]
    with FaultyServer(reply=lambda body: '{"text": "plain 3: flour, the red circle goes into the box"}') as server:
        endpoint = Endpoint(settings(server.url, tmp_path), templates=plain)
        for task in tasks[:-1]:
            assert endpoint(task).startswith("plain 3")
        with FaultyServer(reply=lambda body: '{"text": "a"}') as other:
            Endpoint(settings(other.url, tmp_path), templates=plain)(tasks[-1])
    asked = [received.body["messages"][1]["content"] for received in server.requests]
    assert [f"plain {task.step} 3" in text for task, text in zip(tasks, asked, strict=False)] == [True] * 4
    assert "e7" not in asked[1]  # what the reply rests on stays unseen
    guess = other.requests[0].body["messages"][1]["content"]
    assert "plain" not in guess and "who?" in guess and "- b" in guess


@pytest.mark.parametrize(
    ("task", "text", "reason"),
    [
        (thought(), "At 12 s the red circle goes into the box.", "number of its own"),
        (thought(previous="The red circle moves."), "the red  circle moves", "repeats the thought before"),
        (thought(), "The note.", "leaves out what is new"),
        (thought(), "The red circle sits still, as it always did.", "leaves out what is new"),
        (
            Task("reply", {"about": "current", "now": ["flour is added"]}, "r"),
            "You are a star!",
            "says nothing of the facts",
        ),
        (Task("question", {}, "q"), "Which one was it?", "number left out"),
        (Task("question", {"entity": "one"}, "q"), "Which box had number 3?", "leaves out what is asked for"),
        (Task("question", {}, "q"), "The 3 answers.", "says nothing of the facts"),
        (Task("question", {}, "q"), "Which of the 4 was number 3?", "number of its own"),
        (
            Task("reasoning", {"clauses": ["flour is added"], "question": "what?", "answer": "Flour"}, "r"),
            "Something is added, so it is sugar.",
            "answer left out",
        ),
    ],
)
def test_what_a_text_must_not_say(task: Task, text: str, reason: str, tmp_path: Path) -> None:
    with FaultyServer(reply=lambda body: json.dumps({"text": text})) as server:
        endpoint = Endpoint(settings(server.url, tmp_path), templates=lambda task: "Which one was number 3?")
        with pytest.raises(TextRejected) as rejected:
            endpoint(task)
    assert rejected.value.reason == reason
    assert len(server.requests) == 3


# ---- Prompts.


def test_every_step_has_a_prompt() -> None:
    facts: dict[str, dict[str, Any]] = {
        "thought": {"new": ["a cat sits"], "known": ["a dog runs"], "previous": "A dog runs."},
        "question": {"kind": "backward", "subkind": "which_in", "format": "choice", "options": ["x"], "ordinal": 2},
        "reply": {"about": "current", "change": "ask", "begun": [], "now": ["flour is added"]},
        "reasoning": {"clauses": ["flour is added"], "question": "what?", "answer": "flour"},
        "guess": {"question": "what?", "options": []},
    }
    assert facts.keys() == TEXTS.keys()
    for step, given in facts.items():
        system, user = messages(step, given | {"draft": None})
        assert 'one field, "text"' in system["content"]
        for value in given.values():
            for text in value if isinstance(value, list) else [value]:
                assert step == "question" or str(text) in user["content"] or step == "reply"
        assert "None" not in user["content"] and "[]" not in user["content"]


def test_a_missing_fact_and_an_unknown_step_are_errors() -> None:
    with pytest.raises(SynthError, match="thought.jinja: 'new' is undefined"):
        messages("thought", {"known": [], "previous": "", "draft": None})
    with pytest.raises(SynthError, match="no prompt poem.jinja"):
        messages("poem", {})


def test_facts_are_data() -> None:
    sneaky = "{{ 7 * 7 }}{% block system %} a <b> & c"
    user = messages("thought", {"new": [sneaky], "known": [], "previous": "", "draft": None})[1]["content"]
    assert f"- {sneaky}" in user
    assert "49" not in user
