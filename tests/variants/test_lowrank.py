"""What conformance cannot say of low-rank attention: the draws, the segments, the inverse."""

import pytest
import torch

from subquad.conformance import draw
from subquad.contract import Workload, softmax_attention
from subquad.oracle import relative_error
from subquad.variants.full_naive import FullNaive
from subquad.variants.lowrank_inducing import LowrankInducing
from subquad.variants.lowrank_linformer import LowrankLinformer
from subquad.variants.lowrank_nystrom import LowrankNystrom, iterated_inverse, segment_means

W = Workload(2, 2, 96, 16, causal=False)


def test_linformer_preserves_inner_products_on_average() -> None:
    projection = LowrankLinformer(rank=4000).draw_projection(W).double()
    assert relative_error(projection.T @ projection, torch.eye(96)) < 0.2


def test_linformer_seeds_differ() -> None:
    drawn = [LowrankLinformer(seed=s).draw_projection(W) for s in (0, 1)]
    assert not torch.equal(*drawn)


def test_linformer_identity_needs_its_rank() -> None:
    (reason,) = LowrankLinformer(rank=64, projection="identity").unmet(W)
    assert reason == "projection=identity (needs rank = kv_len = 96, got 64)"


def test_linformer_rejects_an_unknown_projection() -> None:
    with pytest.raises(ValueError, match="projection must be one of gaussian, identity, got 'dct'"):
        LowrankLinformer(projection="dct")


def test_causal_is_refused_with_the_reason() -> None:
    w = Workload(1, 1, 8, 4, causal=True)
    for variant in (LowrankLinformer(), LowrankNystrom(), LowrankInducing()):
        assert variant.unmet(w) == ["causal=true (has no causal form)"]


def test_uneven_segments_are_longer_first() -> None:
    x = torch.arange(7.0)[:, None]
    assert segment_means(x, 3).flatten().tolist() == [1.0, 3.5, 5.5]


def test_the_iteration_converges_to_the_inverse() -> None:
    a = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    found = iterated_inverse(a, torch.eye(8, dtype=torch.float64), 40)
    assert relative_error(found, torch.linalg.inv(a)) < 1e-8


def test_six_iterations_are_not_the_limit_and_more_come_nearer() -> None:
    w = Workload(1, 2, 32, 32, causal=False, dtype="float64")
    inputs, _ = draw(FullNaive(), w)
    full = FullNaive().prepare(w)(*inputs)
    errors = [
        relative_error(LowrankNystrom(32, iterations).prepare(w)(*inputs), full)
        for iterations in (6, 12, 40)
    ]
    assert errors[0] > 1e-3
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-8


def test_nystrom_cost_is_linear_in_length() -> None:
    short, long = (
        LowrankNystrom().cost(Workload(1, 8, n, 64, causal=False)).flops for n in (65536, 131072)
    )
    assert 1.9 < long / short < 2.0


def test_one_inducing_point_gives_every_query_the_same() -> None:
    (q, k, v), extra = draw(LowrankInducing(1), W)
    out = LowrankInducing(1).prepare(W)(q, k, v, **extra)
    expected = softmax_attention(extra["points"].expand(2, -1, -1, -1), k, v)
    torch.testing.assert_close(out, expected.expand_as(out))


def test_inducing_points_are_read_head_by_head() -> None:
    w = Workload(1, 4, 20, 8, causal=False, kv_heads=2)
    (q, k, v), extra = draw(LowrankInducing(8), w)
    attend = LowrankInducing(8).prepare(w)
    before = attend(q, k, v, **extra)
    points = extra["points"].clone()
    points[2] += 1.0
    after = attend(q, k, v, points=points)
    changed = (after != before).any(dim=-1).any(dim=-1)[0]
    assert changed.tolist() == [False, False, True, False]
