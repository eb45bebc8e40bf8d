"""What EpisodeGRPOTrainer relies on in TRL and transformers: an upgrade that changes it fails here, not in a run."""

import inspect
from importlib.metadata import version
from typing import Any

import torch
import trl.trainer.grpo_trainer as upstream
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from train.checkpoints import WholeCheckpoints
from train.grpo_trainer import EpisodeGRPOTrainer

# What is overridden on purpose; anything else of ours that upstream also has would be overridden by accident.
OVERRIDDEN = {
    "__init__",
    "get_train_dataloader",
    "train",
    "log",
    "_prepare_inputs",
    "_get_per_token_logps_and_entropies",
    "_compute_loss",
    "_get_grad_norm",
}
OVERRIDDEN_FOR_CHECKPOINTS = {"_get_output_dir", "_load_from_checkpoint", "_run_epoch", "_save_checkpoint"}


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("trl") == "1.16.0"


def test_nothing_is_overridden_by_accident() -> None:
    known = set(dir(GRPOTrainer))
    own = {name for name in vars(EpisodeGRPOTrainer) if not (name.startswith("__") and name != "__init__")}
    assert own & known == OVERRIDDEN
    assert {name for name in vars(WholeCheckpoints) if not name.startswith("__")} & known == OVERRIDDEN_FOR_CHECKPOINTS
    source = inspect.getsource(EpisodeGRPOTrainer)
    taken = {"_inputs", "_logps", "_resume", "_shown", "_gaps", "_reference", "per_generation", "recipe", "backbone"}
    assert all(f"self.{name}" in source for name in taken)
    assert not [name for name in taken if f"self.{name} " in inspect.getsource(GRPOTrainer)]


def test_signatures() -> None:
    assert parameters(GRPOTrainer._compute_loss) == ["self", "model", "inputs"]
    assert parameters(GRPOTrainer._prepare_inputs) == ["self", "generation_batch"]
    forward = parameters(GRPOTrainer._get_per_token_logps_and_entropies)
    assert forward[:7] == [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
    ]  # fmt: skip
    assert parameters(Trainer._get_output_dir) == ["self", "trial"]
    assert parameters(GRPOTrainer._save_checkpoint) == ["self", "model", "trial"]
    assert parameters(GRPOTrainer.log) == ["self", "logs", "start_time"]
    assert parameters(Trainer._get_grad_norm) == ["self", "model", "grad_norm"]
    assert parameters(Trainer._load_from_checkpoint) == ["self", "resume_from_checkpoint", "model"]
    assert parameters(Trainer.train) == ["self", "resume_from_checkpoint", "trial", "ignore_keys_for_eval"]
    assert "gather_deepspeed3_params" in parameters(unwrap_model_for_generation)
    assert parameters(add_fused_lm_head) == ["model", "temperature", "cast_lm_head_to_fp32", "outputs"]
    assert {"log_probs", "entropy"} <= {field for field in FusedCausalLMOutput.__dataclass_fields__}


def test_the_loss_reads_what_we_give_it_and_nothing_else() -> None:
    """Keys of a micro-batch that upstream's loss takes; a new one would be missing in ours."""
    source = inspect.getsource(GRPOTrainer._compute_loss)
    read = {part.split('"')[1] for part in source.split("inputs[")[1:]}
    assert read == {
        "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask", "advantages",
        "ref_per_token_logps", "importance_sampling_ratio", "num_items_in_batch",
    }  # fmt: skip
    asked = {part.split('"')[1] for part in source.split("inputs.get(")[1:]}
    images = {name for name in asked if name in parameters(GRPOTrainer._get_per_token_logps_and_entropies)}
    optional = {"old_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio"}
    assert asked - images <= optional


def test_dapo_divides_a_masked_sum_by_our_number() -> None:
    """What `Weighing` builds on: sum(loss * mask) over num_items_in_batch, whatever the mask holds."""
    source = inspect.getsource(GRPOTrainer._compute_loss)
    branch = source[source.index('elif self.loss_type in ["cispo", "dapo", "vespo"]:') :]
    branch = branch[: branch.index("elif self.loss_type ==", 10)]
    assert 'inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes' in branch
    assert "normalizer * self.current_gradient_accumulation_steps / self.args.steps_per_generation" in branch
    assert "loss = (per_token_loss * mask).sum() / normalizer" in branch
    assert "is_cispo_clipped" in source and "torch.clamp(coef_1, max=self.epsilon_high)" in source


def test_upstream_counts_its_steps_as_ours_does() -> None:
    assert "self._step += 1" in inspect.getsource(GRPOTrainer.training_step)
    assert "self._step % generate_every == 0 or self._buffered_inputs is None" in inspect.getsource(
        GRPOTrainer._prepare_inputs
    )


def test_config_has_the_fields_that_recipes_set() -> None:
    fields = GRPOConfig.__dataclass_fields__
    for name in (
        "num_generations", "steps_per_generation", "num_iterations", "temperature", "loss_type", "epsilon",
        "importance_sampling_level", "epsilon_high", "delta", "beta", "use_bias_correction_kl", "max_completion_length",
    ):  # fmt: skip
        assert name in fields


def test_the_fused_head_takes_a_bias_that_is_no_parameter() -> None:
    """The ban of vision tokens: a bias of the head, without gradient, in log-probs and entropy alike."""

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 6, bias=False)

    function = upstream.__dict__.get("_ChunkedLogProbFunction") or __import__("trl.kernels", fromlist=["x"])
    function = getattr(function, "ChunkedLogProbFunction", function)
    torch.manual_seed(0)
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    bias = torch.tensor([0.0, 0.0, -1e9, 0.0, 0.0, 0.0])
    targets = torch.tensor([0, 1, 3])
    logps, entropy, *_ = function.apply(hidden, weight, bias, targets, 0.7, 2, None, 1.0, ("log_probs", "entropy"))
    rest = [0, 1, 3, 4, 5]
    expected = torch.log_softmax((hidden @ weight.T)[:, rest] / 0.7, -1)
    assert torch.allclose(logps, expected[range(3), [0, 1, 2]], atol=1e-5)
    assert torch.allclose(entropy, -(expected.exp() * expected).sum(-1), atol=1e-5)
    (logps.sum() + entropy.sum()).backward()
    assert torch.isfinite(weight.grad).all() and not weight.grad[2].any()
