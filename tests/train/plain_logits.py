"""What a model says of a clip and text by its stock forward: plain transformers alone, nothing of this repository.

python tests/train/plain_logits.py FOLDER,OUT [BASE,ADAPTER,OUT ...]     # logits of each folder to OUT
"""

from __future__ import annotations

import sys
from typing import Any

import torch


def inputs(config: Any) -> dict[str, torch.Tensor]:
    """A row of text around a clip of two frames, 16 patches and 4 visual tokens."""
    vision = config.vision_config
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    clip = [config.vision_start_token_id, *[config.video_token_id] * 4, config.vision_end_token_id]
    ids = torch.tensor([[*range(20, 30), *clip, *range(30, 50)]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.video_token_id).int() * 2,
        "pixel_values_videos": torch.randn(16, width, generator=torch.Generator().manual_seed(0)),
        "video_grid_thw": torch.tensor([[1, 4, 4]]),
    }


def logits(model: Any, config: Any) -> torch.Tensor:
    """(1, L, V), in the dtype of the model."""
    model.eval()
    with torch.no_grad():
        return model(**inputs(config)).logits


def main(asked: list[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    torch.set_num_threads(1)
    for one in asked:
        base, *adapter, out = one.split(",")
        model: Any = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
        if adapter:
            model = PeftModel.from_pretrained(model, adapter[0])
        torch.save(logits(model, model.config), out)
    assert not {"whilst", "train"} & set(sys.modules)


if __name__ == "__main__":
    main(sys.argv[1:])
