"""The local family: who sees whom, what their limits do not show, and what steps cost."""

from dataclasses import replace

import pytest
import torch
from torch.autograd.profiler import profile

from subquad import answer
from subquad.contract import Variant, Workload
from subquad.discover import missing_requirements
from subquad.variants.engines import blocks
from subquad.variants.engines.blocks import ROWS, Step, attention_of_steps, merged
from subquad.variants.local_adaptive_span import LocalAdaptiveSpan
from subquad.variants.local_block import LocalBlock
from subquad.variants.local_dilated import LocalDilated
from subquad.variants.local_monotonic import LocalMonotonic
from subquad.variants.local_natten import LocalNatten
from subquad.variants.local_predictive import LocalPredictive, first_key
from subquad.variants.local_sinks import LocalSinks
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


@pytest.mark.parametrize("variant", [LocalWindow(96), LocalBlock(64), LocalDilated(32, 3)])
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
    steps = LocalWindow(2 * ROWS).steps(w)
    # The first two blocks see fewer keys than the others; the third reaches to the first key.
    assert [step.blocks for step in steps] == [1, 1, 62]
    assert merged(steps[:2], limit=8) == steps[:2]


def test_masks_share_memory_when_the_window_covers_all() -> None:
    n = 4096
    steps = LocalWindow(n).steps(Workload(1, 1, n, 8, causal=True))
    storages = {s.mask.untyped_storage().data_ptr(): s.mask.untyped_storage().nbytes() for s in steps}
    assert sum(storages.values()) < 3 * ROWS * n * 4


@pytest.mark.parametrize(
    "variant", [LocalWindow(), LocalBlock(), LocalDilated(), LocalSinks(64), LocalMonotonic()]
)
def test_forward_workspace_does_not_grow(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SCORES", 2**15)  # a tile that both lengths fill on any machine
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
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


def test_a_dilated_window_has_gaps() -> None:
    assert seen(LocalDilated(2, 3), small(causal=True)) == [
        "x.....",
        ".x....",
        "..x...",
        "x..x..",
        ".x..x.",
        "..x..x",
    ]
    assert seen(LocalDilated(3, 2), small(causal=False)) == [
        "x.x...",
        ".x.x..",
        "x.x.x.",
        ".x.x.x",
        "..x.x.",
        "...x.x",
    ]


def test_sinks_stay_visible() -> None:
    assert seen(LocalSinks(2, sinks=1), small(causal=True)) == [
        "x.....",
        "xx....",
        "xxx...",
        "x.xx..",
        "x..xx.",
        "x...xx",
    ]


@pytest.mark.parametrize("n", [1, ROWS + 1, 3 * ROWS + 5])
@pytest.mark.parametrize(("window", "sinks"), [(1, 1), (ROWS, 3), (2 * ROWS, ROWS), (7, 5 * ROWS)])
@pytest.mark.parametrize("causal", [False, True])
def test_sinks_count_once_wherever_the_window_is(n: int, window: int, sinks: int, causal: bool) -> None:
    w = Workload(1, 2, n, 4, causal, kv_heads=1, dtype="float64")
    variant = LocalSinks(window, sinks)
    q = torch.randn(w.query_shape, dtype=torch.float64)
    k, v = (torch.randn(w.key_shape, dtype=torch.float64) for _ in range(2))
    rows = torch.arange(n)
    torch.testing.assert_close(variant.prepare(w)(q, k, v), variant.oracle(w)(q, k, v, rows))
    assert variant.visible_pairs(w) == int(variant.mask(w, rows).sum())


def test_a_dilated_decoder_keeps_a_ring_for_each_residue() -> None:
    w = Workload(1, 1, 50, 4, causal=True)
    state = LocalDilated(3, 4).decoder(w).start()
    assert state[0].shape == (1, 1, 12, 4)


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_follows_the_diagonal_of_cross_lengths(causal: bool) -> None:
    w = Workload(1, 1, 4, 8, causal, kv_len=8)
    mask = LocalMonotonic(1).mask(w, torch.arange(4))
    drawn = ["".join(".x"[bool(x)] for x in row) for row in mask]
    assert drawn == ["xx......", ".xxx....", "...xxx..", ".....xxx"]


def test_neighbourhoods_at_the_ends_keep_their_size() -> None:
    mask = LocalNatten(3).mask(replace(small(causal=False), device="cuda"), torch.arange(6))
    drawn = ["".join(".x"[bool(x)] for x in row) for row in mask]
    assert drawn == ["xxx...", "xxx...", ".xxx..", "..xxx.", "...xxx", "...xxx"]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [3, 5, 7, 301])
@pytest.mark.parametrize("n", [5, 6, 7])
def test_natten_pairs_are_those_of_its_mask(n: int, window: int, causal: bool) -> None:
    w = Workload(1, 1, n, 8, causal, device="cuda")
    variant = LocalNatten(window)
    assert variant.visible_pairs(w) == int(variant.mask(w, torch.arange(n)).sum())


def test_natten_refuses_a_cpu() -> None:
    assert "device=cpu (supports cuda)" in answer.unmet(LocalNatten(), small(causal=True))
    assert LocalNatten.requires == ("natten>=0.20",)
    assert isinstance(missing_requirements(LocalNatten()), list)


def test_a_span_of_each_head_ends_in_a_ramp() -> None:
    w = Workload(1, 2, 8, 8, causal=True)
    v = torch.eye(8).expand(w.query_shape)
    zeros = torch.zeros(w.query_shape)  # all scores alike, so that weights are m / sum m
    attend = LocalAdaptiveSpan(span=4, ramp=2).prepare(w)
    last = attend(zeros, zeros, v, z=torch.tensor([0.0, 2.5]))[0, :, -1]
    ramp = torch.tensor([[0, 0, 0, 0, 0, 0, 0.5, 1], [0, 0, 0, 0.25, 0.75, 1, 1, 1]])
    torch.testing.assert_close(last, ramp / ramp.sum(-1, keepdim=True))


def test_the_gradient_of_a_span_is_its_slope() -> None:
    w = Workload(1, 2, 2 * ROWS, 4, True, dtype="float64", phase="forward_backward")
    q, k, v = (torch.randn(w.query_shape, dtype=torch.float64) for _ in range(3))
    attend = LocalAdaptiveSpan(span=20, ramp=4).prepare(w)
    z = torch.tensor([3.3, 17.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: attend(q, k, v, z=z).square().sum(), z)


def test_a_predicted_window_holds_the_integers_within_reach() -> None:
    p = torch.tensor([0.2, 4.5, 9.99, 10.0], dtype=torch.float64)
    first = first_key(p, half_window=2, key_len=10)
    assert first.tolist() == [-1, 3, 8, 8]
    for at, low in zip(p[:3].tolist(), first.tolist(), strict=False):
        assert [s for s in range(-9, 20) if abs(s - at) <= 2] == list(range(low, low + 4))


def test_a_prediction_moves_with_its_gradient() -> None:
    w = Workload(1, 2, 5, 4, False, kv_len=12, kv_heads=1, dtype="float64", phase="forward_backward")
    variant = LocalPredictive(half_window=3)
    q = torch.randn(w.query_shape, dtype=torch.float64)
    k, v = (torch.randn(w.key_shape, dtype=torch.float64) for _ in range(2))
    w_p = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    v_p = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    attend = variant.prepare(w)
    assert torch.autograd.gradcheck(lambda a, b: attend(q, k, v, w_p=a, v_p=b), (w_p, v_p))


@pytest.mark.parametrize("phase", ["forward", "forward_backward"])
@pytest.mark.parametrize("gathered", [False, True])
def test_products_and_the_fused_kernel_agree(
    phase: str, gathered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = Workload(2, 4, 9 * ROWS, 8, True, kv_heads=2, phase=phase)
    steps = LocalWindow(ROWS).steps(w)
    if gathered:
        steps = [replace(s, index=overlapping_keys(s)) for s in steps]
    inputs = [torch.randn(w.query_shape), *(torch.randn(w.key_shape) for _ in range(2))]
    assert any(step.multiplies(inputs[0]) for step in steps)
    results = []
    for few in (blocks.FEW, 10**9):
        monkeypatch.setattr(blocks, "FEW", few)
        leaves = [x.requires_grad_(phase != "forward") for x in inputs]
        out = attention_of_steps(w, steps)(*leaves)
        derived = torch.autograd.grad(out.square().sum(), leaves) if out.requires_grad else ()
        results.append((out.detach(), *derived))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def overlapping_keys(step: Step) -> torch.Tensor:
    low = step.first + step.size * torch.arange(step.blocks)
    return (low[:, None] + torch.arange(step.span)).flatten()


def test_a_row_that_sees_no_key_is_zero_in_a_step_of_many_blocks() -> None:
    w = Workload(1, 1, 8 * ROWS, 8, causal=False)
    mask = torch.zeros(ROWS, ROWS)
    mask[3] = -torch.inf
    out = attention_of_steps(w, [Step(0, 8, ROWS, 0, ROWS, mask)])(*torch.randn(3, 1, 1, 8 * ROWS, 8))
    blank = out.unflatten(2, (8, ROWS))[:, :, :, 3]
    assert not blank.any()
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LocalWindow(0), "window must be >= 1, got 0"),
        (lambda: LocalBlock(0), "block must be >= 1, got 0"),
        (lambda: LocalDilated(4, 0), "dilation must be >= 1, got 0"),
        (lambda: LocalSinks(4, -1), "sinks must be >= 0, got -1"),
        (lambda: LocalAdaptiveSpan(4, 0), "ramp must be >= 1, got 0"),
        (lambda: LocalMonotonic(-1), "half_window must be >= 0, got -1"),
        (lambda: LocalPredictive(0), "half_window must be >= 1, got 0"),
        (lambda: LocalPredictive(sigma=0.0), "sigma must be > 0, got 0.0"),
        (lambda: LocalNatten(4), "window must be odd, got 4"),
    ],
)
def test_a_wrong_size_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
