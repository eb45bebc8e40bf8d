"""Draws follow the distribution, and each stream draws by its own seed: not by the streams beside it."""

from collections import Counter

import numpy as np
import pytest
import torch

from whilst.sampling import Sampling


def test_draws_follow_the_distribution() -> None:
    scores = torch.log(torch.tensor([[0.5, 0.25, 0.0, 0.25]])).repeat(4000, 1)
    sampling = Sampling([(i,) for i in range(4000)], temperature=1.0)
    drawn = np.bincount(sampling(scores, [True] * 4000), minlength=4) / 4000
    assert drawn[2] == 0  # no mass, never drawn
    assert np.abs(drawn - [0.5, 0.25, 0.0, 0.25]).max() < 0.03  # 4 standard deviations
    assert sampling.take(0)[0] in (pytest.approx(np.log(0.5)), pytest.approx(np.log(0.25)))
    assert sampling.take(0) == ()


def test_temperature_sharpens_draws_and_logprobs() -> None:
    scores = torch.log(torch.tensor([[0.8, 0.2]]))
    sampling = Sampling([(0,)], temperature=0.5)
    (token,) = sampling(scores, [True])
    # squared and normalised: 0.64 / 0.68 and 0.04 / 0.68
    assert sampling.take(0)[0] == pytest.approx(np.log([0.64, 0.04][token] / 0.68))
    greedy = Sampling([(0,)], temperature=0.0)
    assert list(greedy(scores, [True])) == [0] and greedy.take(0)[0] == pytest.approx(np.log(0.8))


def test_streams_that_wait_draw_nothing() -> None:
    scores = torch.zeros(2, 50)
    both, late = Sampling([(1,), (2,)], 1.0), Sampling([(1,), (2,)], 1.0)
    late(scores, [True, False])
    first = both(scores, [True, True])[1]
    assert late(scores, [False, True])[1] == first
    assert late.take(0) and len(late.take(1)) == 1


def test_a_stream_draws_by_its_own_seed() -> None:
    scores = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]])
    sampler = Sampling([(0,)], 0.5)
    counts = Counter(sampler(scores, [True])[0] for _ in range(4000))
    shares = torch.softmax(scores[0] / 0.5, -1)  # .016, .117, 0, .867
    assert counts[2] == 0
    # Three standard deviations of the largest variance, .117 * .883 over 4000 draws, are .015.
    assert all(abs(counts[i] / 4000 - float(shares[i])) < 0.016 for i in range(4))
    rows = [Sampling(seeds, 1.0) for seeds in ([(0,), (1,)], [(0,), (0,)])]
    drew = [[sampler(scores.expand(2, -1), [True, True]) for _ in range(20)] for sampler in rows]
    assert any(a != b for a, b in drew[0]) and all(a == b for a, b in drew[1])
    assert [a for a, _ in drew[0]] == [a for a, _ in drew[1]]
