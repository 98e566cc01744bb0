"""What gaussian inputs promise: their scale, and nothing else."""

from __future__ import annotations

import math

import pytest

from subquad.contract import Workload
from subquad.inputs.gaussian import Gaussian

LARGE = Workload(batch=2, heads=4, seq_len=512, head_dim=32, causal=False)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_queries_and_keys_have_the_scale_and_values_are_standard(scale):
    for x, expected in zip(Gaussian(scale).draw(LARGE, 0), (scale, scale, 1.0), strict=True):
        # Standard errors: of the mean s / sqrt(n), of the deviation s / sqrt(2 n). Five of them.
        n = x.numel()
        assert abs(x.mean().item()) < 5 * expected / math.sqrt(n)
        assert abs(x.std().item() - expected) < 5 * expected / math.sqrt(2 * n)


def test_scale_multiplies_and_draws_the_same_numbers():
    q, k, v = Gaussian(1.0).draw(LARGE, 3)
    q2, k2, v2 = Gaussian(2.0).draw(LARGE, 3)
    assert q2.equal(2 * q)
    assert k2.equal(2 * k)
    assert v2.equal(v)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_is_not_positive_and_finite_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale must be > 0 and finite, got"):
        Gaussian(scale)
