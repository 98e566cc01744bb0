"""Memories and hierarchies: who sees whom, what is forgotten, and what conformance cannot know."""

import pytest
import torch

from subquad import conformance as c
from subquad.contract import Workload
from subquad.oracle import relative_error
from subquad.variants.full_naive import FullNaive
from subquad.variants.hierarchical_h1d import HierarchicalH1d, _Level, _pairs, group_means, halved
from subquad.variants.memory_compressive import MemoryCompressive, pool
from subquad.variants.memory_infini import MemoryInfini


def test_compressed_memory_sees_means_then_raw_positions_then_itself() -> None:
    variant = MemoryCompressive(segment=4, memory=4, slots=2, rate=2)
    assert variant.seen(0) == (range(0), range(0))
    assert variant.seen(4) == (range(0), range(4))
    assert variant.seen(8) == (range(2), range(4, 8))
    assert variant.seen(12) == (range(2, 4), range(8, 12))  # the two oldest means are forgotten


def test_pooling_takes_means_of_neighbours() -> None:
    x = torch.arange(7.0).view(1, 1, 7, 1)
    assert pool(x, 3, 2).flatten().tolist() == [0.5, 2.5, 4.5]


def test_a_mean_of_equal_keys_weighs_one_key() -> None:
    """Four old positions become two: with all keys alike the past weighs 2 to 3, not 4 to 3."""
    w = Workload(1, 1, 6, 1, causal=True, dtype="float64")
    variant = MemoryCompressive(segment=2, memory=0, slots=8, rate=2)
    v = torch.tensor([[[[1.0], [3.0], [5.0], [7.0], [9.0], [11.0]]]], dtype=torch.float64)
    q = k = torch.zeros_like(v)
    assert variant.prepare(w)(q, k, v).flatten().tolist() == pytest.approx(
        [1, 2, (2 + 5) / 2, (2 + 5 + 7) / 3, (2 + 6 + 9) / 3, (2 + 6 + 9 + 11) / 4]
    )


@pytest.mark.parametrize("variant", [MemoryCompressive(16, 16, 4, 2), MemoryCompressive(16, 0, 64, 16)])
@pytest.mark.parametrize("phase", ["forward", "forward_backward"])
def test_compressed_memory_at_small_settings(variant: MemoryCompressive, phase: str) -> None:
    w = Workload(2, 4, 131, 8, causal=True, kv_heads=2, phase=phase)  # type: ignore[arg-type]
    c.assert_gate(variant, w)


def test_compressed_memory_rejects_what_splits_a_group() -> None:
    with pytest.raises(ValueError, match="memory must be a multiple of rate=4, got 6"):
        MemoryCompressive(memory=6)


def test_infini_memory_holds_earlier_segments_only() -> None:
    """With an open gate a query sees earlier segments, as linear attention does, and not its own."""
    w = Workload(1, 1, 6, 4, causal=True, dtype="float64")
    (q, k, v), _ = c.draw(MemoryInfini(2), w)
    out = MemoryInfini(2).prepare(w)(q, k, v, beta=torch.tensor([60.0], dtype=torch.float64))
    assert out[0, 0, :2].abs().max() < 1e-20

    def phi(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x + 1, x.exp())

    for i, seen in ((2, 2), (3, 2), (4, 4), (5, 4)):
        weights = phi(q[0, 0, i]) @ phi(k[0, 0, :seen]).T
        torch.testing.assert_close(out[0, 0, i], weights @ v[0, 0, :seen] / weights.sum())


def test_delta_update_writes_nothing_that_is_known() -> None:
    """The same value everywhere: what the memory answers is that value, so nothing is left to add."""
    w = Workload(1, 1, 12, 4, causal=True, dtype="float64")
    (q, k, _), _ = c.draw(MemoryInfini(4), w)
    v = torch.ones(1, 1, 12, 4, dtype=torch.float64)
    beta = torch.tensor([60.0], dtype=torch.float64)
    linear = MemoryInfini(4).prepare(w)(q, k, v, beta=beta)
    delta = MemoryInfini(4, "delta").prepare(w)(q, k, v, beta=beta)
    torch.testing.assert_close(linear[:, :, 4:], v[:, :, 4:])
    assert (delta[:, :, 4:8] == linear[:, :, 4:8]).all()
    # z keeps growing where M does not, as the paper has it: the answer shrinks.
    assert (delta[:, :, 8:] < 0.99).all()


@pytest.mark.parametrize("update", ["linear", "delta"])
@pytest.mark.parametrize(
    "check", [c.check_equals_its_oracle, c.check_gradient_at_lengths, c.check_decode]
)
def test_infini_over_many_segments(update: str, check: c.Check) -> None:
    check(MemoryInfini(16, update))


def test_levels_are_a_partition_of_all_pairs() -> None:
    for n, causal in ((33, False), (100, False), (33, True), (100, True)):
        w = Workload(1, 1, n, 4, causal)
        variant = HierarchicalH1d(4)
        covered = torch.zeros(n, n, dtype=torch.int64)
        for level in range(variant.levels(w)):
            table = _Level(4, level, w)
            for block in range(table.blocks):
                for row in range(table.rows):
                    at = block * table.rows + row
                    rows = [at] if causal else range(at * 2**level, (at + 1) * 2**level)
                    for column in table.bias[block, 0, row].isfinite().nonzero().flatten().tolist():
                        group = (block - 1) * 4 + column
                        keys = slice(group * 2**level, min(n, (group + 1) * 2**level))
                        for i in rows:
                            if i < n:
                                covered[i, keys] += 1
        expected = torch.ones(n, n, dtype=torch.int64)
        assert torch.equal(covered, expected.tril() if causal else expected)


def test_pairs_of_a_level_are_counted() -> None:
    for n, causal in ((5, False), (31, True), (100, False), (257, True)):
        w = Workload(1, 1, n, 4, causal)
        for level in range(HierarchicalH1d(4).levels(w)):
            rows = n if causal else -(-n // 2**level)
            seen = _Level(4, level, w).bias[:, 0].flatten(0, 1)[:rows].isfinite()
            assert int(seen.sum()) == _pairs(4, level, w)


def test_halving_weighs_by_the_positions_held() -> None:
    x = torch.tensor([1.0, 3.0, 10.0])[:, None]
    counts = torch.tensor([2.0, 2.0, 1.0])[:, None]
    assert halved(x, counts, torch.tensor([4.0, 1.0])[:, None]).flatten().tolist() == [2.0, 10.0]
    assert group_means(torch.arange(5.0)[:, None], 2).flatten().tolist() == [0.5, 0.5, 2.5, 2.5, 4.0]


def test_hierarchy_is_exact_where_far_keys_are_alike_in_groups() -> None:
    """Keys and values constant over each 16 positions: means over up to 16 lose nothing."""
    w = Workload(1, 2, 128, 8, causal=True, dtype="float64")
    (q, k, v), _ = c.draw(FullNaive(), w)
    k, v = (x[:, :, ::16].repeat_interleave(16, 2) for x in (k, v))
    variant = HierarchicalH1d(4)
    assert variant.levels(w) == 5  # groups of 1, 2, 4, 8, 16
    out = variant.prepare(w)(q, k, v)
    torch.testing.assert_close(out, FullNaive().prepare(w)(q, k, v))


def test_a_larger_block_comes_nearer_to_full_attention() -> None:
    w = Workload(1, 2, 256, 16, causal=False)
    (q, k, v), _ = c.draw(FullNaive(), w)
    full = FullNaive().prepare(w)(q, k, v)
    errors = [relative_error(HierarchicalH1d(b).prepare(w)(q, k, v), full) for b in (4, 32, 64, 128)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-5


def test_hierarchy_is_near_linear_in_length() -> None:
    for causal, most in ((False, 2.02), (True, 2.25)):
        short, long = (
            HierarchicalH1d().cost(Workload(1, 1, n, 64, causal)).flops for n in (65536, 131072)
        )
        assert 1.9 < long / short < most


@pytest.mark.parametrize("n", [31, 33, 63, 65, 129, 200])
@pytest.mark.parametrize("causal", [False, True])
def test_hierarchy_at_lengths_around_its_blocks(n: int, causal: bool) -> None:
    w = Workload(1, 4, n, 8, causal, kv_heads=2, phase="forward_backward")
    c.assert_gate(HierarchicalH1d(8), w)


def test_odd_blocks_have_no_halves() -> None:
    with pytest.raises(ValueError, match="block must be even, got 5"):
        HierarchicalH1d(5)
