"""local_window and local_block: who sees whom, and that steps cost what they promise."""

import pytest
import torch
from torch.autograd.profiler import profile

from subquad.contract import Variant, Workload
from subquad.variants.blocks import ROWS, merged
from subquad.variants.local_block import LocalBlock
from subquad.variants.local_window import LocalWindow


def seen(variant: Variant, w: Workload) -> list[str]:
    """One string a query: x where it puts weight on a key, by what the attention itself gives."""
    q, k = torch.randn(w.query_shape), torch.randn(w.key_shape)
    v = torch.eye(w.seq_len, w.head_dim).expand(w.query_shape)
    weights = variant.prepare(w)(q, k, v)[0, 0, :, : w.seq_len]
    return ["".join("x" if weight > 0 else "." for weight in row) for row in weights]


def small(causal: bool) -> Workload:
    return Workload(1, 1, 6, 8, causal)


def test_causal_window_counts_the_query_itself() -> None:
    assert seen(LocalWindow(3), small(causal=True)) == [
        "x.....",
        "xx....",
        "xxx...",
        ".xxx..",
        "..xxx.",
        "...xxx",
    ]


@pytest.mark.parametrize("window", [2, 3])
def test_symmetric_window_reaches_half_to_each_side(window: int) -> None:
    assert seen(LocalWindow(window), small(causal=False)) == [
        "xx....",
        "xxx...",
        ".xxx..",
        "..xxx.",
        "...xxx",
        "....xx",
    ]


def test_a_window_of_one_sees_itself_only() -> None:
    for causal in (False, True):
        assert seen(LocalWindow(1), small(causal)) == [
            "x.....",
            ".x....",
            "..x...",
            "...x..",
            "....x.",
            ".....x",
        ]


def test_blocks_do_not_see_each_other() -> None:
    assert seen(LocalBlock(4), small(causal=False)) == ["xxxx.."] * 4 + ["....xx"] * 2
    assert seen(LocalBlock(4), small(causal=True)) == [
        "x.....",
        "xx....",
        "xxx...",
        "xxxx..",
        "....x.",
        "....xx",
    ]


@pytest.mark.parametrize("n", [ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
@pytest.mark.parametrize("window", [ROWS - 1, ROWS, ROWS + 1, 2 * ROWS])
@pytest.mark.parametrize("causal", [False, True])
def test_window_edges_fall_right_at_any_distance_from_the_block_edges(
    n: int, window: int, causal: bool
) -> None:
    w = Workload(1, 1, n, 4, causal, dtype="float64")
    variant = LocalWindow(window)
    q, k, v = (torch.randn(w.query_shape, dtype=torch.float64) for _ in range(3))
    rows = torch.arange(n)
    torch.testing.assert_close(variant.prepare(w)(q, k, v), variant.oracle(w)(q, k, v, rows))
    assert variant.visible_pairs(w) == int(variant.mask(w, rows).sum())


@pytest.mark.parametrize("variant", [LocalWindow(96), LocalBlock(64)])
def test_inputs_may_lie_in_memory_in_any_order(variant: Variant) -> None:
    w = Workload(2, 4, 300, 8, causal=True, kv_heads=2, phase="forward_backward")
    q = torch.randn(2, 300, 4, 8).transpose(1, 2).requires_grad_()
    k, v = (torch.randn(2, 300, 2, 8).transpose(1, 2).requires_grad_() for _ in range(2))
    attend, rows = variant.prepare(w), torch.arange(300)
    out, expected = attend(q, k, v), variant.oracle(w)(q, k, v, rows)
    torch.testing.assert_close(out, expected)
    for got, want in zip(
        torch.autograd.grad(out.sum(), (q, k, v)),
        torch.autograd.grad(expected.sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_alike_blocks_are_one_step() -> None:
    w = Workload(1, 1, 64 * ROWS, 8, causal=True)
    steps = LocalWindow(2 * ROWS)._steps(w)
    # The first two blocks see fewer keys than the others; the third reaches to the first key.
    assert [step.blocks for step in steps] == [1, 1, 62]
    assert merged(steps[:2], limit=8) == steps[:2]


def test_masks_share_memory_when_the_window_covers_all() -> None:
    n = 4096
    steps = LocalWindow(n)._steps(Workload(1, 1, n, 8, causal=True))
    storages = {s.mask.untyped_storage().data_ptr(): s.mask.untyped_storage().nbytes() for s in steps}
    assert sum(storages.values()) < 3 * ROWS * n * 4


@pytest.mark.parametrize("variant", [LocalWindow(), LocalBlock()])
def test_forward_workspace_does_not_grow(variant: Variant) -> None:
    peaks = [peak_beyond_output(variant, n) for n in (4096, 16384)]
    assert peaks[1] < 1.5 * peaks[0]


def peak_beyond_output(variant: Variant, n: int) -> int:
    w = Workload(1, 8, n, 16, causal=True)
    attend = variant.prepare(w)
    q, k, v = (torch.randn(w.query_shape) for _ in range(3))
    attend(q, k, v)
    with profile(profile_memory=True) as profiler:
        out = attend(q, k, v)
    current = peak = 0
    for event in profiler.kineto_results.events():
        if event.name() == "[memory]":
            current += event.nbytes()
            peak = max(peak, current)
    return peak - out.nbytes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LocalWindow(0), "window must be >= 1, got 0"),
        (lambda: LocalBlock(0), "block must be >= 1, got 0"),
    ],
)
def test_a_wrong_size_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
