"""linear_elu and linear_performer: recurrences, random features, numerical range."""

import math
from itertools import pairwise

import pytest
import torch

from subquad.contract import Variant, Workload, softmax_attention
from subquad.variants.linear_elu import LinearElu, phi
from subquad.variants.linear_performer import LinearPerformer, draw_directions, exponents

VARIANTS = [LinearElu(chunk=16), LinearPerformer(features=24, chunk=16)]


def inputs(w: Workload, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(w.query_shape, generator=generator, dtype=w.torch_dtype)
    k, v = (torch.randn(w.key_shape, generator=generator, dtype=w.torch_dtype) for _ in range(2))
    return q * scale, k * scale, v


def features(variant: Variant, x: torch.Tensor) -> torch.Tensor:
    if isinstance(variant, LinearPerformer):
        return exponents(x, draw_directions(variant.features, x.shape[-1], variant.seed)).exp()
    return phi(x)


@pytest.mark.parametrize("variant", VARIANTS)
def test_causal_equals_a_recurrence_over_positions(variant: Variant) -> None:
    w = Workload(1, 2, 50, 8, causal=True, dtype="float64")
    q, k, v = inputs(w)
    queries, keys = features(variant, q), features(variant, k)
    values = torch.zeros(2, keys.shape[-1], 8, dtype=torch.float64)
    weights = torch.zeros(2, keys.shape[-1], dtype=torch.float64)
    expected = torch.empty_like(q)
    for i in range(w.seq_len):
        values += keys[0, :, i, :, None] * v[0, :, i, None, :]
        weights += keys[0, :, i]
        read, total = queries[0, :, i, None] @ values, (queries[0, :, i] * weights).sum(-1)
        expected[0, :, i] = read[:, 0] / total[:, None]
    torch.testing.assert_close(variant.prepare(w)(q, k, v), expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_len", [None, 77])
def test_gradients_are_those_of_the_definition(
    variant: Variant, causal: bool, kv_len: int | None
) -> None:
    w = Workload(
        2, 4, 50, 8, causal, kv_heads=2, kv_len=kv_len, dtype="float64", phase="forward_backward"
    )
    q, k, v = (x.requires_grad_() for x in inputs(w))
    given = torch.randn(w.query_shape, dtype=torch.float64)
    got = torch.autograd.grad(variant.prepare(w)(q, k, v), (q, k, v), given)
    want = torch.autograd.grad(variant.oracle(w)(q, k, v, torch.arange(50)), (q, k, v), given)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_later_keys_change_no_bit_even_when_much_larger(variant: Variant, scale: float) -> None:
    w = Workload(1, 2, 100, 8, causal=True)
    q, k, v = inputs(w)
    attend = variant.prepare(w)
    before = attend(q, k, v)[:, :, :41]
    k[:, :, 41:] = torch.randn_like(k[:, :, 41:]) * scale
    v[:, :, 41:] *= scale
    assert torch.equal(attend(q, k, v)[:, :, :41], before)


def test_phi_keeps_its_digits_where_it_is_small() -> None:
    x = torch.tensor([-30.0, -1.0, 0.0, 1e-3, 2.0], requires_grad=True)
    expected = torch.where(x <= 0, x.exp(), x + 1).detach()
    torch.testing.assert_close(phi(x).detach(), expected, rtol=1e-6, atol=0.0)
    (slope,) = torch.autograd.grad(phi(x).sum(), x)
    torch.testing.assert_close(slope, x.detach().clamp(max=0).exp(), rtol=1e-6, atol=0.0)


def test_directions_are_orthogonal_in_blocks_and_normal_in_length() -> None:
    rows = draw_directions(features=4000, head_dim=16, seed=1)
    block = rows[:16]
    product = block @ block.T
    torch.testing.assert_close(product, torch.diag(product.diagonal()), atol=1e-10, rtol=0.0)
    squares = rows.square().sum(1)  # chi-squared: mean D, variance 2 D
    assert abs(squares.mean() - 16) < 4 * math.sqrt(2 * 16 / 4000)
    # Uniform directions: no axis is preferred, whatever signs the QR decomposition has.
    assert rows.mean(0).abs().max() < 4.5 / math.sqrt(4000)


@pytest.mark.parametrize("count", [8, 20])  # one block; one and a part
def test_the_kernel_estimate_is_unbiased(count: int) -> None:
    dim, draws = 8, 1000
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 5, dim, generator=generator, dtype=torch.float64)
    q = q * 0.8
    directions = torch.stack([draw_directions(count, dim, seed) for seed in range(draws)])
    left, right = (
        torch.stack([exponents(x, d).exp() for d in directions]) for x in (q, k)
    )  # [draws, 5, F]
    estimates = (left * right).mean(-1)
    expected = ((q * k).sum(-1) / math.sqrt(dim)).exp()
    error = estimates.std(0) / math.sqrt(draws)
    assert ((estimates.mean(0) - expected).abs() < 4 * error).all()


@pytest.mark.parametrize("causal", [False, True])
def test_deviation_from_softmax_falls_with_the_features(causal: bool) -> None:
    w = Workload(1, 4, 64, 16, causal, dtype="float64")
    q, k, v = inputs(w, scale=0.4)
    mask = torch.ones(64, 64, dtype=torch.bool).tril() if causal else None
    full = softmax_attention(q, k, v, mask)
    deviations = [
        sum(
            float((LinearPerformer(count, seed).prepare(w)(q, k, v) - full).norm() / full.norm())
            for seed in range(4)
        )
        / 4
        for count in (16, 128, 1024)
    ]
    # A Monte Carlo estimate: eight times the features, about a third of the deviation.
    for few, many in pairwise(deviations):
        assert many < 0.6 * few
    assert deviations[-1] < 0.05


@pytest.mark.parametrize("head_dim", [16, 64, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_performer_survives_large_inputs_in_float32(head_dim: int, causal: bool) -> None:
    """exp(-|k̂|²/2) alone would underflow here, exp(w.k̂) alone overflow."""
    w = Workload(1, 2, 150, head_dim, causal, phase="forward_backward")
    q, k, v = (x.requires_grad_() for x in inputs(w, scale=5.0))
    variant = LinearPerformer(features=64)
    out = variant.prepare(w)(q, k, v)
    expected = variant.oracle(w)(q.double(), k.double(), v.double(), torch.arange(150))
    error = (out.double() - expected).norm() / expected.norm()
    assert error < 1e-3
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.sum(), (q, k, v)))


@pytest.mark.parametrize("variant", [LinearElu(), LinearPerformer()])
def test_the_state_does_not_grow(variant: Variant) -> None:
    short, long = (variant.cost(Workload(1, 2, n, 64, causal=True)) for n in (1000, 8000))
    assert short.state_bytes == long.state_bytes
    assert long.flops == 8 * short.flops
    assert short.workspace_bytes == long.workspace_bytes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearElu(0), "chunk must be >= 1, got 0"),
        (lambda: LinearPerformer(features=0), "features must be >= 1, got 0"),
    ],
)
def test_a_wrong_parameter_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
