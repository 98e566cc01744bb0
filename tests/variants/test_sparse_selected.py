"""sparse_block_topk, sparse_nsa and sparse_routing: what is chosen, and that only that is seen."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.conformance import assert_gate, draw
from subquad.contract import Variant, Workload, softmax_attention
from subquad.oracle import relative_error
from subquad.variants.engines.selected_blocks import Blocks, Tiles, selected_pairs, top, top_blocks
from subquad.variants.sparse_block_topk import SparseBlockTopk, block_means, choose
from subquad.variants.sparse_nsa import SparseNsa, compress, importance
from subquad.variants.sparse_routing import SparseRouting, route


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(
    "scores",
    [
        normal(5, 40),
        normal(5, 40).round(),  # many ties
        torch.zeros(2, 9, dtype=torch.float64) * torch.tensor([[1.0], [-1.0]]),  # 0 and -0
        torch.tensor([[1.0, 1.0 + 1e-12, math.inf, -math.inf, -3.0, -2.0]], dtype=torch.float64),
    ],
)
def test_top_is_a_sort_with_ties_to_the_lowest_index(scores: Tensor) -> None:
    for row, found in zip(scores.float().tolist(), top(scores, scores.shape[1]), strict=True):
        assert found.tolist() == sorted(range(len(row)), key=lambda i: (-row[i], i))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_blocks_are_chosen_as_by_hand(causal: bool, count: int) -> None:
    scores, own = normal(4, 30, 6), torch.arange(30) // 5
    found = top_blocks(scores, own, count, causal)
    assert found.shape == (4, 30, count)
    for head in range(4):
        for i in range(30):
            t = i // 5
            others = [u for u in range(6) if (u < t if causal else u != t)]
            best = sorted(others, key=lambda u: -float(scores[head, i, u]))[:count]
            assert found[head, i].tolist() == best + [-1] * (count - len(best))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n", [5, 37, 64])
def test_each_row_meets_each_of_its_blocks_once(shared: bool, n: int) -> None:
    w = Workload(2, 4, n, 4, causal=False, kv_heads=2)
    cut = Blocks.of(w, 8, 4, shared)
    chosen = cut.choose(lambda at, width: normal(4, cut.chosen_by, at.stop - at.start, width))
    tiles = Tiles.of(cut, chosen)
    met = [
        (int(row), int(block))
        for rows, block, empty in zip(tiles.rows, tiles.blocks, tiles.empty, strict=True)
        for row in rows[~empty]
    ]
    wanted = set()
    for x in range(4):
        for c in range(cut.chosen_by):
            for i in range(n):
                row = (x * cut.chosen_by + c) * n + i
                seen = {i // cut.size, *(u for u in chosen[x, c, i].tolist() if u >= 0)}
                wanted |= {(row, x * cut.count + u) for u in seen}
    assert len(met) == len(set(met))
    assert set(met) == wanted
    # A slot that is present holds its own row.
    at = tiles.rows.flatten()[tiles.slots]
    assert torch.equal(at, torch.arange(len(at))[:, None].expand_as(at))


def test_empty_slots_repeat_a_row_of_the_same_head() -> None:
    w = Workload(2, 2, 37, 4, causal=True)
    cut = Blocks.of(w, 8, 3, shared=False)
    inputs, _ = draw(SparseBlockTopk(), w)
    tiles = Tiles.of(cut, choose(cut, *inputs[:2]))
    assert bool(tiles.empty.any())
    assert torch.equal(tiles.rows // 37, (tiles.blocks // cut.count)[:, None].expand_as(tiles.rows))


def test_topk_sees_the_blocks_whose_mean_points_its_way() -> None:
    n, block = 32, 4
    w = Workload(1, 1, n, n, causal=True, dtype="float64")
    # The keys of block u point along u; the queries of block 7 look for blocks 2 and 5.
    k = torch.zeros(w.key_shape, dtype=torch.float64)
    k[0, 0, torch.arange(n), torch.arange(n) // block] = 1.0
    q = torch.zeros(w.query_shape, dtype=torch.float64)
    q[..., 2], q[..., 5] = 2.0, 1.0
    weights = SparseBlockTopk(block, 3).prepare(w)(q, k, torch.eye(n, dtype=torch.float64)[None, None])
    seen = (weights[0, 0, 30] > 0).nonzero().flatten().tolist()
    assert seen == [8, 9, 10, 11, 20, 21, 22, 23, 28, 29, 30]


def test_the_last_mean_is_that_of_a_shorter_block() -> None:
    x = torch.arange(7.0)[:, None].expand(1, 1, 7, 2)
    assert block_means(x, 3)[0, 0, :, 0].tolist() == [1.0, 4.0, 6.0]


@pytest.mark.parametrize("n", [1, 63, 100])
@pytest.mark.parametrize("seen", [1, 3, 50])
def test_causal_pairs_are_counted_exactly(n: int, seen: int) -> None:
    w = Workload(1, 1, n, n, causal=True, dtype="float64")
    zeros = torch.zeros(w.query_shape, dtype=torch.float64)
    values = torch.eye(n, dtype=torch.float64)[None, None]
    weights = SparseBlockTopk(8, seen).prepare(w)(zeros, zeros, values)
    assert int((weights > 0).sum()) == selected_pairs(w, 8, seen)


SMALL = [
    (SparseBlockTopk(8, 3), False),
    (SparseBlockTopk(8, 3), True),
    (SparseBlockTopk(5, 1), True),
    (SparseNsa(8, 3, 10), True),
    (SparseNsa(5, 1, 1), True),
    (SparseNsa(16, 9, 30), True),
    (SparseRouting(3), False),
    (SparseRouting(50), False),
]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(("variant", "causal"), SMALL, ids=str)
def test_many_small_blocks_keep_the_definition(variant: Variant, causal: bool, dtype: str) -> None:
    for n in (64, 101):
        w = Workload(2, 4, n, 8, causal, kv_heads=2, dtype=dtype)
        assert_gate(variant, w)
        assert_gate(variant, Workload(2, 4, n, 8, causal, 2, dtype=dtype, phase="forward_backward"))


@pytest.mark.parametrize(("variant", "causal"), SMALL, ids=str)
def test_a_mate_of_nan_changes_no_gradient(variant: Variant, causal: bool) -> None:
    w = Workload(2, 4, 45, 8, causal, kv_heads=2, phase="forward_backward")
    inputs, extra = draw(variant, w)
    attend = variant.prepare(w)

    def gradients(mate: float | None) -> list[Tensor]:
        leaves = [x.clone() for x in inputs]
        for x in leaves:
            if mate is not None:
                x[1] = mate
        leaves = [x.requires_grad_() for x in leaves]
        out = attend(*leaves, **extra)
        return [x[0] for x in torch.autograd.grad(out[0].square().sum(), leaves)]

    for got, want in zip(gradients(math.nan), gradients(None), strict=True):
        torch.testing.assert_close(got, want)


def test_heads_in_turns_and_heads_at_once_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    w = Workload(2, 4, 70, 8, causal=True, kv_heads=2)
    variant = SparseBlockTopk(8, 3)
    inputs, _ = draw(variant, w)
    at_once = variant.prepare(w)(*inputs)
    monkeypatch.setattr("subquad.variants.engines.selected_blocks.CPU_PARTS", 1)
    monkeypatch.setattr("subquad.variants.engines.selected_blocks.CPU_SCORES", 1)
    torch.testing.assert_close(variant.prepare(w)(*inputs), at_once)


def test_nsa_shares_blocks_within_a_group_and_takes_the_first() -> None:
    q, keys, own = normal(1, 2, 20, 4), normal(1, 5, 4, seed=1), torch.arange(20) // 4
    weights = importance(q, keys, own)
    assert weights[..., 0].isposinf().all()
    by_hand = sum((q[0, g, 18] @ keys[0, :4].T / 2.0).softmax(-1) for g in range(2))
    torch.testing.assert_close(weights[0, 18, 1:4], by_hand[1:])  # type: ignore[index]
    assert top_blocks(weights, own, 2, causal=True)[0, 18, 0] == 0


def test_nsa_compressed_branch_meets_sums_of_earlier_blocks() -> None:
    variant, w = SparseNsa(4, 2, 8), Workload(1, 2, 18, 8, causal=True, dtype="float64")
    (q, k, v), extra = draw(variant, w)
    extra["gates"] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(1, 2, 18, 3)
    out = variant.prepare(w)(q, k, v, **extra)
    assert not out[:, :, :4].any()
    keys, values = (
        torch.stack([x[0, :, 4 * u : 4 * u + 4].mul(c[..., None]).sum(1) for u in range(4)], 1)[None]
        for x, c in ((k, extra["compress_k"]), (v, extra["compress_v"]))
    )
    torch.testing.assert_close(compress(k, extra["compress_k"]), keys)
    for i in (4, 7, 8, 17):
        t = i // 4
        expected = softmax_attention(q[:, :, i : i + 1], keys[:, :, :t], values[:, :, :t])
        torch.testing.assert_close(out[:, :, i : i + 1], expected)


def test_nsa_chunks_of_the_compressed_branch_join() -> None:
    for block in (64, 200, 700):  # chunks of 512, 400 and 700 rows after the first block
        assert_gate(SparseNsa(block, 2, 16), Workload(1, 2, 900, 4, causal=True, kv_heads=1))


def test_routing_takes_the_nearest_and_is_balanced() -> None:
    x, centroids = normal(1, 1, 50, 8), normal(1, 7, 8, seed=1)
    taken = route(x, centroids)
    assert taken.shape == (1, 1, 7, 8)
    centred = x[0, 0] - x[0, 0].mean(1, keepdim=True)
    scores = centroids[0] @ (centred / centred.pow(2).mean(1, keepdim=True).add(1e-5).sqrt()).T
    assert torch.equal(taken[0, 0].sort(-1).values, scores.topk(8).indices.sort(-1).values)


def test_routing_averages_clusters_and_leaves_out_who_none_took() -> None:
    w, variant = Workload(1, 1, 12, 4, causal=False, dtype="float64"), SparseRouting(3)
    (q, k, v), extra = draw(variant, w)
    out = variant.prepare(w)(q, k, v, **extra)[0, 0]
    took, gave = (route(x, extra["centroids"])[0, 0].tolist() for x in (q, k))
    times = [sum(i in cluster for cluster in took) for i in range(12)]
    assert {0, 1, 2} <= set(times)  # the draw has all three cases
    for i in range(12):
        expected = torch.zeros(4, dtype=torch.float64)
        for queries, keys in zip(took, gave, strict=True):
            if i in queries:
                expected += (q[0, 0, i] @ k[0, 0, keys].T / 2.0).softmax(-1) @ v[0, 0, keys] / times[i]
        torch.testing.assert_close(out[i], expected)


def test_similar_tokens_meet() -> None:
    """Keys in tight groups, one centroid to each: routing loses next to nothing, where 1/8 is read."""
    groups = 8
    w = Workload(1, 1, 128, 16, causal=False, dtype="float64")
    centre = 8.0 * torch.linalg.qr(normal(16, 16)).Q[:groups]
    k = centre.repeat(16, 1)[None, None] + 0.01 * normal(1, 1, 128, 16)
    v = normal(1, 1, 128, 16, seed=1)
    near = {"centroids": centre[None]}
    full = softmax_attention(k, k, v)
    assert relative_error(SparseRouting(groups).prepare(w)(k, k, v, **near), full) < 1e-3
    elsewhere = {"centroids": normal(1, groups, 16, seed=2)}
    assert relative_error(SparseRouting(groups).prepare(w)(k, k, v, **elsewhere), full) > 0.1


def test_causal_routing_is_refused_in_words() -> None:
    (reason,) = SparseRouting().unmet(Workload(1, 1, 8, 4, causal=True))
    assert reason == "causal=true (which positions a cluster takes depends on the future)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseBlockTopk(block=0), "block must be >= 1, got 0"),
        (lambda: SparseBlockTopk(blocks=0), "blocks must be >= 1, got 0"),
        (lambda: SparseNsa(window=0), "window must be >= 1, got 0"),
        (lambda: SparseRouting(0), "clusters must be >= 1, got 0"),
    ],
)
def test_a_wrong_parameter_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
