"""The benchmark of answer latency at tiny sizes: it runs, its checks hold and can fail. No time is looked at."""

import json
from dataclasses import replace

import pytest

from benchmarks import answer_latency
from evaluation.ledger import Ledger

TINY = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_latency, "SIZES", TINY)
    monkeypatch.setattr(answer_latency, "THOUGHT", 3)
    monkeypatch.setattr(answer_latency, "WIDTH", 64)


def test_the_last_line_is_what_docs_read(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(answer_latency.main((2, 3), repeats=1, at=3))
    assert list(found) == ["name", "ratio", "target", "holds", "details"]
    assert found["target"] == 15.7 and found["ratio"] > 0 and isinstance(found["holds"], bool)
    two, three, waiting = found["details"]["settings"]
    # a thought about each segment but the last: 3 words and the boundary token
    assert [r["thought_tokens"] for r in (two, three, waiting)] == [4, 8, 12]
    assert waiting["waits"] and waiting["segments"] == 3
    lines = capsys.readouterr().out.splitlines()[-8:]
    assert len({len(line) for line in lines}) == 1 and "ahead, waits" in lines[-2] and "encodes too" in lines[-3]


def test_ways_that_do_not_say_the_same_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = answer_latency.watched

    def other_answer(*args: object) -> Ledger:
        ledger = watched(*args)  # type: ignore[arg-type]
        (cost,) = ledger.queries
        return replace(ledger, queries=(replace(cost, text=cost.text + args[3]),))  # type: ignore[operator]

    def other_thoughts(*args: object) -> Ledger:
        ledger = watched(*args)  # type: ignore[arg-type]
        return replace(ledger, thoughts=(*ledger.thoughts, str(args[3])))

    for wrong, message in ((other_answer, "text of the two ways differ"), (other_thoughts, "thoughts differ")):
        monkeypatch.setattr(answer_latency, "watched", wrong)
        with pytest.raises(AssertionError, match=message):
            answer_latency.main((2,), repeats=1, at=2)
