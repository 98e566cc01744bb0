"""The feature maps of the linear family: recurrences, zero rows, draws, series and window."""

import math
from collections.abc import Callable

import pytest
import torch

from subquad.conformance import (
    check_batch_mates_are_ignored,
    check_causal_ignores_the_future,
    check_decode,
    check_equals_its_oracle,
    check_gradient_equals_its_oracle,
    check_grouped_heads,
    check_large_scores_stay_finite,
    check_limits,
    draw,
)
from subquad.contract import Variant, Workload
from subquad.variants.linear_hedgehog import LinearHedgehog
from subquad.variants.linear_maps import LinearCosformer, LinearIdentity, LinearRelu
from subquad.variants.linear_performer import LinearPerformer, draw_directions
from subquad.variants.linear_rfa import LinearRfa
from subquad.variants.linear_taylor import LinearTaylor, series

SHORT = [
    LinearIdentity(chunk=16),
    LinearRelu(chunk=16),
    LinearCosformer(chunk=16),
    LinearRfa(features=32, chunk=16),
    LinearHedgehog(chunk=16),
    LinearTaylor(chunk=16),
    LinearTaylor(window=20, chunk=16),
]


@pytest.mark.parametrize("variant", SHORT, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_len", [None, 77])
def test_chunks_have_the_output_and_gradients_of_the_definition(
    variant: Variant, causal: bool, kv_len: int | None
) -> None:
    w = Workload(2, 4, 50, 8, causal, 2, kv_len, dtype="float64", phase="forward_backward")
    if variant.unmet(w):
        assert "window" in variant.unmet(w)[0]
        return
    inputs, extra = draw(variant, w)
    leaves = [x.requires_grad_() for x in (*inputs, *extra.values())]
    out = variant.prepare(w)(*inputs, **extra)
    expected = variant.oracle(w)(*inputs, torch.arange(50), **extra)
    torch.testing.assert_close(out, expected)
    given = torch.randn(w.query_shape, dtype=torch.float64)
    got, want = (torch.autograd.grad(x, leaves, given) for x in (out, expected))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_identity_is_the_product_of_a_query_with_a_sum_of_outer_products() -> None:
    w = Workload(1, 2, 40, 8, causal=True, dtype="float64")
    (q, k, v), _ = draw(LinearIdentity(), w)
    sums = (k[..., :, None] * v[..., None, :]).cumsum(2)  # [B, H, L, D, D]
    expected = (q[..., None, :] @ sums).squeeze(3) / math.sqrt(8)
    torch.testing.assert_close(LinearIdentity(chunk=16).prepare(w)(q, k, v), expected)


@pytest.mark.parametrize("variant", [LinearRelu(chunk=16), LinearCosformer(chunk=16)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_a_query_without_a_positive_feature_gives_zeros(variant: Variant, causal: bool) -> None:
    w = Workload(1, 2, 40, 8, causal, phase="forward_backward")
    (q, k, v), _ = draw(variant, w)
    q[:, :, 7] = -q[:, :, 7].abs()
    q[:, :, 33, 1:] = -1.0  # shares a feature with no key
    q[:, :, 33, 0], k[..., 0] = 1.0, -1.0
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = variant.prepare(w)(*leaves)
    assert not out[:, :, [7, 33]].any()
    assert out[:, :, 20].any()
    for gradient in torch.autograd.grad(out.sum(), leaves):
        assert gradient.isfinite().all()


def test_cosformer_prefers_what_is_near() -> None:
    """One positive feature, all alike: what is left is the cosine of the distance over M."""
    w = Workload(1, 1, 90, 4, causal=False, dtype="float64")
    q = torch.ones(w.query_shape, dtype=torch.float64)
    v = torch.eye(90, dtype=torch.float64)[None, None, :, [0, 30, 60, 89]]
    out = LinearCosformer(chunk=16).prepare(w)(q, q, v)
    weights = out[0, 0, 30] / out[0, 0, 30, 1]
    expected = [math.cos(math.pi / 2 * abs(30 - j) / 90) for j in (0, 30, 60, 89)]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


def test_rfa_estimates_a_gaussian_kernel_of_unit_vectors() -> None:
    w, variant = Workload(1, 1, 64, 16, causal=False, dtype="float64"), LinearRfa(features=40_000)
    (q, k, _), _ = draw(variant, w)
    weights = variant.weights(w, q, 7 * k, torch.arange(64))
    unit_q, unit_k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    expected = (unit_q @ unit_k.transpose(-2, -1) - 1).exp()
    # Each weight is a mean of 20 000 cosines, each of variance below 1/2.
    assert (weights - expected).abs().max() < 5 * math.sqrt(0.5 / 20_000)


@pytest.mark.parametrize("head_dim", [16, 64])
def test_the_sums_of_rfa_stay_well_above_zero(head_dim: int) -> None:
    """At the default settings a weight may be near zero, the sum over the keys up to any is not."""
    variant, w = LinearRfa(), Workload(2, 4, 200, head_dim, causal=True)
    (q, k, _), _ = draw(variant, w)
    weights = variant.weights(w, q, k, torch.arange(200)).tril()
    assert weights.min() > -0.1
    assert (weights.sum(-1) / torch.arange(1, 201)).min() > 0.1


def test_hedgehog_maps_each_head_by_its_own_matrix() -> None:
    """A key map of zeros makes all keys of that head alike: the mean of the values, there only."""
    w = Workload(1, 4, 30, 8, causal=False, kv_heads=2, dtype="float64")
    (q, k, v), extra = draw(LinearHedgehog(), w)
    extra["key_map"][1] = 0.0
    out = LinearHedgehog(chunk=16).prepare(w)(q, k, v, **extra)
    mean = v.mean(2, keepdim=True)
    torch.testing.assert_close(out[:, 2:], mean[:, 1:].expand(1, 2, 30, 8))
    assert (out[:, :2] - mean[:, :1]).abs().max() > 1e-3


def test_the_series_is_that_of_exp_to_second_order() -> None:
    s = torch.linspace(-0.1, 0.1, 101, dtype=torch.float64)
    assert (series(s) - s.exp()).abs().max() < 0.1**3 / 5
    assert series(torch.linspace(-300, 300, 10_001)).min() >= 0.5


def test_taylor_features_hold_each_pair_once() -> None:
    w = Workload(1, 2, 100, 64, causal=True)
    assert LinearTaylor().state_bytes(w) == 2 * (1 + 64 + 64 * 65 // 2) * 65 * 4
    windowed = LinearTaylor(window=32).state_bytes(w)
    assert windowed - LinearTaylor().state_bytes(w) == 2 * 2 * 31 * 64 * 4


def test_a_wider_window_is_nearer_to_softmax() -> None:
    from subquad.variants.full_naive import FullNaive

    w = Workload(1, 4, 128, 16, causal=True, dtype="float64")
    (q, k, v), _ = draw(LinearTaylor(), w)
    full = FullNaive().prepare(w)(q, k, v)
    off = [
        float((LinearTaylor(window=size).prepare(w)(q, k, v) - full).norm())
        for size in (0, 16, 64, 128)
    ]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-12 < off[-2]


@pytest.mark.parametrize(
    "variant", [LinearTaylor(window=1, chunk=16), LinearTaylor(window=20, chunk=16)], ids=str
)
@pytest.mark.parametrize(
    "check",
    [
        check_equals_its_oracle,
        check_gradient_equals_its_oracle,
        check_large_scores_stay_finite,
        check_causal_ignores_the_future,
        check_batch_mates_are_ignored,
        check_grouped_heads,
        check_limits,
        check_decode,
    ],
    ids=lambda c: c.name,
)
def test_taylor_conforms_with_a_window(variant: Variant, check: Callable[[Variant], None]) -> None:
    check(variant)


def test_regularised_directions_have_one_length_and_stay_orthogonal() -> None:
    rows = draw_directions(40, 16, seed=1, draw="regularised")
    torch.testing.assert_close(rows.norm(dim=1), torch.full((40,), 4.0, dtype=torch.float64))
    torch.testing.assert_close(rows[:16] @ rows[:16].T, 16 * torch.eye(16, dtype=torch.float64))


def test_independent_directions_are_normal_and_not_orthogonal() -> None:
    rows = draw_directions(4000, 16, seed=1, draw="iid")
    assert abs(rows.mean()) < 4 / math.sqrt(rows.numel())
    assert abs(rows.square().mean() - 1) < 4 * math.sqrt(2 / rows.numel())
    product = rows[:16] @ rows[:16].T
    assert (product - product.diagonal().diag()).abs().max() > 1


@pytest.mark.parametrize("name", ["orthogonal", "regularised", "iid"])
def test_performer_equals_its_definition_whatever_the_draw(name: str) -> None:
    variant = LinearPerformer(features=24, chunk=16, draw=name)
    check_equals_its_oracle(variant)
    check_gradient_equals_its_oracle(variant)
    check_decode(variant)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearRelu(0), "chunk must be >= 1, got 0"),
        (lambda: LinearRfa(features=7), r"features must be even \(a sine and a cosine each\), got 7"),
        (lambda: LinearRfa(sigma=0.0), "sigma must be > 0, got 0.0"),
        (lambda: LinearTaylor(window=-1), "window must be >= 0, got -1"),
        (lambda: LinearPerformer(draw="normal"), "draw must be one of orthogonal, regularised, iid"),
    ],
)
def test_a_wrong_parameter_is_named(make: Callable[[], Variant], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
