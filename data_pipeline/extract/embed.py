"""Names of like meaning: a sentence encoder on this machine, read by transformers. Optional; nothing is fetched."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from data_pipeline.extract.link import Similar
from data_pipeline.source import SynthError


def encoder(folder: str | Path) -> Similar:
    """The cosine of two names under the encoder in `folder` (any that `transformers.AutoModel` reads).

    Mean of the last hidden states over the tokens, normalised: the pooling of the MiniLM sentence encoders. Depends on
    the two names alone; each is encoded once, alone, so that the figure does not depend on what else is in a batch.

    Raises:
        SynthError: the folder is not there, or holds no such model.
    """
    if not (Path(folder) / "config.json").is_file():
        raise SynthError(f"{folder}: no config.json: link.embedder must be the folder of a local sentence encoder")
    import torch  # takes seconds to import, and most runs have no encoder
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModel.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise SynthError(f"{folder}: link.embedder cannot be read by transformers.AutoModel: {error}") from error

    @lru_cache(maxsize=65536)
    def encoded(name: str) -> torch.Tensor:
        with torch.inference_mode():
            hidden = model(**tokenizer(name, return_tensors="pt", truncation=True)).last_hidden_state
        return torch.nn.functional.normalize(hidden[0].mean(0), dim=0)

    def similar(name: str, other: str) -> float:
        return float(encoded(name) @ encoded(other))

    return similar
