"""The streaming contract beside a checkpoint's weights: what inference must know, read back as it was written."""

from pathlib import Path

import pytest

from whilst.checkpoint import CONTRACT, Contract, load_checkpoint, read_contract
from whilst.policies import Chain, PolicyError, SinkWindow
from whilst.recipe import RecipeError, save_resolved
from whilst.render_config import RenderConfig

POLICY = (
    {"name": "drop_similar", "threshold": 0.5},
    {"name": "sink_window", "sink": 4, "window": 16, "vision_seconds": 2.0},
)


def test_a_contract_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    for policy in ((), POLICY[:1], POLICY):
        contract = Contract("base", 2.0, True, RenderConfig(memory_tokens=9), max_pixels=4096, policy=policy)
        save_resolved(contract, tmp_path / CONTRACT)
        assert read_contract(tmp_path) == contract


def test_a_checkpoint_is_served_with_its_policy(checkpoint: Path) -> None:
    file = checkpoint / CONTRACT
    try:
        for policy, kind in (((), type(None)), (POLICY[1:], SinkWindow), (POLICY, Chain)):
            save_resolved(Contract(str(checkpoint), 2.0, True, RenderConfig(), policy=policy), file)
            assert type(load_checkpoint(checkpoint).policy) is kind
    finally:
        file.unlink()


def test_a_policy_that_does_not_fit_is_refused_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="is not defined for layout 'recurrent'"):
        Contract("base", 2.0, True, RenderConfig(layout="recurrent"), policy=POLICY)
    fine = Contract("base", 2.0, True, RenderConfig(layout="interleaved"), policy=POLICY)
    save_resolved(fine, tmp_path / CONTRACT)
    text = (tmp_path / CONTRACT).read_text(encoding="utf-8")
    (tmp_path / CONTRACT).write_text(text.replace("sink_window", "sink"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"streaming.yaml.*policy.name: 'sink' is not one of"):
        read_contract(tmp_path)
