"""What ranks tell each other beside gradients: that one of them has failed, and what rank 0 has decided."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object


@contextmanager
def together(error: type[ValueError]) -> Iterator[None]:
    """What each rank does alone: if one fails, all stop, instead of waiting for it for ever. Ranks wait here for the
    slowest. The block must not hold anything that waits for other ranks itself.

    Raises:
        error: on the ranks on which all went well, if another failed; it says which, and why.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as caught:
        failed = caught
    told = gather_object([f"{type(failed).__name__}: {failed}" if failed else ""])
    if failed is not None:
        raise failed
    for rank, message in enumerate(told):
        if message:
            raise error(f"rank {rank} failed: {message}")


def from_rank_0(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def any_rank(flag: bool) -> bool:
    """Whether it is so on some rank. One all-reduce of four bytes."""
    state = PartialState()
    if state.num_processes == 1:
        return flag
    told = torch.tensor([int(flag)], dtype=torch.int32, device=state.device)
    torch.distributed.all_reduce(told)
    return bool(told.item())
