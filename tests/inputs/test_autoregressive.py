"""The autoregressive family is the process that it says it is."""

from __future__ import annotations

import math

import pytest
import torch

from subquad.contract import Workload
from subquad.inputs.autoregressive import Autoregressive, ar1_

LARGE = Workload(batch=2, heads=8, seq_len=1024, head_dim=64, causal=False)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("seq_len", [1, 2, 63, 1000])
def test_equals_the_recurrence_step_by_step(rho, seq_len):
    noise = torch.randn(1, 2, seq_len, 3, generator=torch.Generator().manual_seed(0))
    expected = noise.double()
    for t in range(1, seq_len):
        expected[:, :, t] = rho * expected[:, :, t - 1] + math.sqrt(1 - rho**2) * expected[:, :, t]
    torch.testing.assert_close(ar1_(noise, rho).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95])
def test_neighbours_correlate_by_rho_and_the_variance_is_one(rho):
    for x in Autoregressive(rho).draw(LARGE, 0):
        x = x.double()
        n = x.numel()
        # x has unit variance and mean 0 by definition, so neither is estimated. Products of an AR(1)
        # correlate by rho² a step: n (1 - rho²) / (1 + rho²) of the squares are worth one each.
        independent = n * (1 - rho**2) / (1 + rho**2)
        assert abs(x.square().mean().item() - 1) < 5 * math.sqrt(2 / independent)
        # Bartlett: the variance of the lag-1 correlation of an AR(1) is (1 - rho²) / n.
        lag_1 = (x[:, :, 1:] * x[:, :, :-1]).sum() / x.square().sum()
        edge = 1 / LARGE.seq_len  # one product fewer than squares in each sequence
        assert abs(lag_1.item() - rho) < 5 * math.sqrt((1 - rho**2) / n) + rho * edge


def test_is_stationary_from_the_first_position():
    _, k, _ = Autoregressive(0.95).draw(
        Workload(batch=64, heads=16, seq_len=32, head_dim=64, causal=False), 0
    )
    for t in (0, 1, 31):
        x = k[:, :, t]
        assert abs(x.var().item() - 1) < 5 * math.sqrt(2 / x.numel())


def test_channels_heads_and_tensors_are_independent():
    q, k, v = (x.double().flatten() for x in Autoregressive(0.5).draw(LARGE, 0))
    independent = q.numel() * (1 - 0.5**2) / (1 + 0.5**2)
    for a, b in ((q, k), (k, v), (q, v)):
        assert abs((a * b).mean().item()) < 5 / math.sqrt(independent)
    x = Autoregressive(0.5).draw(LARGE, 0)[1].double()
    assert abs((x[..., 1:] * x[..., :-1]).mean().item()) < 5 / math.sqrt(independent)
    assert abs((x[:, 1:] * x[:, :-1]).mean().item()) < 5 / math.sqrt(independent)


@pytest.mark.parametrize("rho", [-0.1, 1.0, math.nan])
def test_a_rho_outside_its_range_is_refused(rho):
    with pytest.raises(ValueError, match=r"rho must be in \[0, 1\), got"):
        Autoregressive(rho)
