"""Work that ranks share, with a thread for each: every piece is done once, and all end alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from train import shares as module
from train.shares import Meeting, shares
from train.stopping import Interrupted

RANKS = 4


class Failed(ValueError):
    pass


def on_ranks(pieces: int, do: Callable[[int, int], None]) -> list[list[int] | str]:
    """Of each rank: its pieces, or how it ended otherwise."""
    store = HashStore()

    def rank(number: int) -> list[int] | str:
        own = []
        try:
            with shares(pieces, Failed, at=Meeting(store, number, RANKS)) as taken:
                for piece in taken:
                    do(number, piece)
                    own.append(piece)
        except (Exception, Interrupted) as error:
            return f"{type(error).__name__}: {error}"
        return own

    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(rank, range(RANKS)))


@pytest.mark.parametrize("pieces", [0, 1, 50])
def test_every_piece_is_done_once_whatever_the_speed_of_ranks(pieces: int) -> None:
    others_are_done = threading.Event()
    done: list[int] = []

    def do(rank: int, piece: int) -> None:
        if piece == 0:  # its rank is slow: the others do all the rest
            assert pieces == 1 or others_are_done.wait(60)
        done.append(piece)
        if len(done) == pieces - 1:
            others_are_done.set()

    found = on_ranks(pieces, do)
    assert sorted(piece for own in found for piece in own) == list(range(pieces))
    assert pieces == 0 or [0] in found


def test_an_error_reaches_ranks_that_work_and_ranks_that_wait() -> None:
    def do(rank: int, piece: int) -> None:
        if piece == 1:
            raise ZeroDivisionError("a bug")

    found = on_ranks(3, do)
    assert sorted(map(str, found))[-1] == "ZeroDivisionError: a bug"
    (which,) = [rank for rank, own in enumerate(found) if str(own).startswith("Zero")]
    assert [own for rank, own in enumerate(found) if rank != which] == [
        f"Failed: rank {which} failed: ZeroDivisionError: a bug"
    ] * (RANKS - 1)


@pytest.mark.parametrize("waits", [False, True])
def test_one_rank_that_is_asked_stops_all(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it works, or while it waits for one that does."""
    asked, told = threading.local(), threading.Event()
    monkeypatch.setattr(module, "asked", lambda: getattr(asked, "yes", False) or (waits and slow(told)))
    busy: dict[int, bool] = {}

    def slow(event: threading.Event) -> bool:
        """Whether this thread waits for the one that holds piece 0."""
        return threading.get_ident() not in busy and len(done) == 9 and not event.set()

    done: list[int] = []

    def do(rank: int, piece: int) -> None:
        if piece == 0:
            busy[threading.get_ident()] = True
            assert not waits or told.wait(60)
        if piece == 3 and not waits:
            asked.yes = True
        done.append(piece)

    found = on_ranks(10, do)
    assert [str(own).split(":")[0] for own in found] == ["Interrupted"] * RANKS
    assert 0 in done and 3 in done
