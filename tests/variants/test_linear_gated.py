"""linear_retention, linear_gla, linear_mamba2, linear_delta, linear_gated_delta: forms and ranges."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from subquad import answer
from subquad.contract import Variant, Workload
from subquad.discover import missing_requirements
from subquad.oracle import relative_error
from subquad.variants.linear_delta import (
    LinearDelta,
    LinearGatedDelta,
    solve_below,
    unit,
)
from subquad.variants.linear_fla import LinearFlaGatedDelta, LinearFlaGla, LinearFlaRetention
from subquad.variants.linear_gla import LinearGla
from subquad.variants.linear_mamba2 import LinearMamba2
from subquad.variants.linear_retention import Decays, LinearRetention

VARIANTS = [LinearRetention(), LinearGla(), LinearMamba2(), LinearDelta(), LinearGatedDelta()]
GATED = [LinearGla(), LinearMamba2(), LinearGatedDelta()]
W = Workload(1, 4, 110, 8, causal=True, kv_heads=2, kv_len=130, dtype="float64")


def inputs(variant: Variant, w: Workload) -> tuple[list[Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def normal(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator).to(w.torch_dtype)

    extra = {
        name: (s.low + (s.high - s.low) * torch.rand(s.shape, generator=generator)).to(w.torch_dtype)
        for name, s in variant.extra_inputs(w).items()
    }
    return [normal(w.query_shape), normal(w.key_shape), normal(w.key_shape)], extra


def by_hand(variant: Variant, w: Workload, qkv: list[Tensor], extra: dict[str, Tensor]) -> Tensor:
    """The recurrence of each paper for one batch element, head after head, position after position."""
    q, k, v = qkv
    out = torch.empty_like(q)
    for h in range(w.heads):
        g = h // (w.heads // w.key_heads)
        state = torch.zeros(w.head_dim, w.head_dim, dtype=q.dtype)
        for t in range(w.key_len):
            key, value = k[0, g, t], v[0, g, t]
            gates = {name: x[0, g, t] for name, x in extra.items()}
            match variant:
                case LinearRetention():
                    state = (1 - 2.0 ** (-5 - g)) * state + torch.outer(key, value)
                case LinearGla():
                    state = torch.diag(gates["alpha"]) @ state + torch.outer(key, value)
                case LinearMamba2():
                    state = gates["a"] * state + torch.outer(key, value)
                case LinearDelta():
                    key = key / key.norm()
                    erase = torch.eye(w.head_dim) - gates["beta"] * torch.outer(key, key)
                    kept = gates.get("alpha", torch.tensor(1.0)) * erase @ state
                    state = kept + gates["beta"] * torch.outer(key, value)
            i = t - (w.key_len - w.seq_len)
            if i >= 0:
                out[0, h, i] = q[0, h, i] @ state / math.sqrt(w.head_dim)
    return out


@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_positions_and_definition_agree(variant: Variant) -> None:
    qkv, extra = inputs(variant, W)
    expected = by_hand(variant, W, qkv, extra)
    rows = torch.tensor([0, 3, 77, 109])
    torch.testing.assert_close(variant.oracle(W)(*qkv, rows, **extra), expected[:, :, rows])
    for chunk in (1, 13, 64, 500):
        got = replace(variant, chunk=chunk).prepare(W)(*qkv, **extra)
        torch.testing.assert_close(got, expected, msg=lambda m, c=chunk: f"chunk={c}: {m}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_recurrent_form_agrees(variant: Variant) -> None:
    """One `token` after the other, from an empty state."""
    w = replace(W, seq_len=70, kv_len=None)
    (q, k, v), extra = inputs(variant, w)
    decoder = variant.decoder(w)
    state, parts = decoder.start(), []
    for t in range(w.seq_len):
        here = slice(t, t + 1)
        more = answer.cut(extra, frozenset(), here)
        out, state = decoder.step(state, q[:, :, here], k[:, :, here], v[:, :, here], **more)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 2), variant.prepare(w)(q, k, v, **extra))


def quadratic(variant: Variant, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Tensor]) -> Tensor:
    """The same attention as a matrix of pairs, n x n; q, k, v [B, H, n, D]."""
    n, one = q.shape[2], torch.ones(q.shape[:3], dtype=q.dtype)
    scalar = {
        "linear_retention": (1 - 2.0 ** (-5 - torch.arange(q.shape[1])))[None, :, None] * one,
        "linear_mamba2": extra.get("a"),
        "linear_gated_delta": extra.get("alpha"),
    }.get(variant.name, one)
    assert scalar is not None
    gates = extra["alpha"] if variant.name == "linear_gla" else scalar[..., None].expand_as(k)
    past = gates.log().cumsum(2)
    between = (past[:, :, :, None] - past[:, :, None]).exp()  # [B, H, n, n, D]
    causal = torch.ones(n, n, dtype=q.dtype).tril()
    q = q / math.sqrt(q.shape[-1])
    if not isinstance(variant, LinearDelta | LinearGatedDelta):
        return torch.einsum("bhid,bhjd,bhijd->bhij", q, k, between).mul(causal) @ v
    k, fade = k / k.norm(dim=-1, keepdim=True), between[..., 0]
    beta = extra["beta"][..., None]
    system = torch.eye(n, dtype=q.dtype) + (beta * (k @ k.mT) * fade).tril(-1)
    return ((q @ k.mT) * fade * causal) @ torch.linalg.solve(system, beta * v)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_quadratic_form_agrees(variant: Variant) -> None:
    w = Workload(2, 3, 40, 8, causal=True, dtype="float64")
    qkv, extra = inputs(variant, w)
    expected = variant.oracle(w)(*qkv, torch.arange(40), **extra)
    assert relative_error(quadratic(variant, *qkv, extra), expected) < 1e-12
    assert relative_error(variant.prepare(w)(*qkv, **extra), expected) < 1e-12


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_all_inputs_are_those_of_the_definition(variant: Variant) -> None:
    w = replace(W, phase="forward_backward")
    variant = replace(variant, chunk=48)  # type: ignore[call-arg]
    qkv, extra = inputs(variant, w)
    leaves = [x.requires_grad_() for x in (*qkv, *extra.values())]
    given = torch.randn(w.query_shape, dtype=torch.float64)
    rows = torch.arange(w.seq_len)
    got = torch.autograd.grad(variant.prepare(w)(*qkv, **extra), leaves, given)
    want = torch.autograd.grad(variant.oracle(w)(*qkv, rows, **extra), leaves, given)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("variant", GATED)
@pytest.mark.parametrize("low", [0.5, 1e-2, 1e-6, 1e-30])
def test_small_gates_neither_overflow_nor_lose_digits(variant: Variant, low: float) -> None:
    """A chunk's product of such gates underflows float32, and a quotient of two such is 0 / 0."""
    w = Workload(2, 2, 150, 16, causal=True, phase="forward_backward")
    qkv, extra = inputs(variant, w)
    gate = list(extra)[-1]
    chosen = torch.rand(extra[gate].shape, generator=torch.Generator().manual_seed(3)) < 0.5
    for gates in (torch.full_like(extra[gate], low), torch.where(chosen, low, extra[gate])):
        leaves = [x.requires_grad_() for x in (*qkv, *(extra | {gate: gates}).values())]

        def run(attend, tensors):  # type: ignore[no-untyped-def]
            out = attend(*tensors[:3], **dict(zip(extra, tensors[3:], strict=True)))
            return out.detach(), torch.autograd.grad(out.sum(), tensors)

        def define(*tensors, **more):  # type: ignore[no-untyped-def]
            return variant.oracle(w)(*tensors, torch.arange(w.seq_len), **more)

        out, grads = run(variant.prepare(w), leaves)
        expected, wanted = run(define, [x.detach().double().requires_grad_() for x in leaves])
        assert relative_error(out, expected) < 1e-6
        for a, b in zip(grads, wanted, strict=True):
            assert relative_error(a, b) < 2e-6, (a.shape, b.norm())


@pytest.mark.parametrize("variant", GATED)
def test_a_gate_of_zero_forgets_everything_before(variant: Variant) -> None:
    w = Workload(1, 2, 150, 8, causal=True)
    (q, k, v), extra = inputs(variant, w)
    gate = list(extra)[-1]
    extra[gate][:, :, 40] = 0.0
    out = variant.prepare(w)(q, k, v, **extra)
    tail = replace(w, seq_len=110)
    past = [x[:, :, 40:] for x in (q, k, v)]
    alone = variant.prepare(tail)(*past, **{n: x[:, :, 40:] for n, x in extra.items()})
    assert relative_error(out[:, :, 40:], alone) < 1e-6


def test_decays_are_products_of_the_factors_between() -> None:
    factors = torch.rand(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    decays = Decays.of(factors, torch.float64)
    for i in range(20):
        torch.testing.assert_close(decays.since[:, i, 0], factors[:, : i + 1].prod(1))
        torch.testing.assert_close(decays.until[:, i, 0], factors[:, i + 1 :].prod(1))
        for j in range(20):
            expected = factors[:, j + 1 : i + 1].prod(1) if j <= i else torch.zeros(3).double()
            torch.testing.assert_close(decays.within[:, i, j], expected)


def test_retention_decays_are_those_of_the_paper() -> None:
    w = Workload(1, 8, 4, 4, causal=True, kv_heads=4)
    expected = torch.tensor([31 / 32, 63 / 64, 127 / 128, 255 / 256], dtype=torch.float64)
    torch.testing.assert_close(LinearRetention().gammas(w), expected)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100])
def test_the_triangular_solve_reads_only_below_the_diagonal(size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    lower = torch.randn(2, size, size, generator=generator, dtype=torch.float64) / size
    right = torch.randn(2, size, 5, generator=generator, dtype=torch.float64)
    whole = torch.eye(size, dtype=torch.float64) + lower.tril(-1)
    got = solve_below(lower + 1e3 * torch.ones(size, size).triu(), right)
    torch.testing.assert_close(whole @ got, right)


def test_the_delta_rule_overwrites_what_a_key_held() -> None:
    """One key again and again with beta 1: the state answers with the newest value alone."""
    w = Workload(1, 1, 150, 8, causal=True, dtype="float64")
    (_, k, v), _ = inputs(LinearDelta(), w)
    k = k[:, :, :1].expand(w.key_shape).contiguous()
    beta = torch.ones(1, 1, 150, dtype=torch.float64)
    out = LinearDelta().prepare(w)(unit(k), k, v, beta=beta)
    torch.testing.assert_close(out, v / math.sqrt(8))


@pytest.mark.parametrize("variant", [LinearDelta(), LinearGatedDelta()])
def test_the_length_of_a_key_does_not_matter_and_may_be_zero(variant: Variant) -> None:
    w = Workload(1, 2, 100, 8, causal=True, phase="forward_backward")
    (q, k, v), extra = inputs(variant, w)
    attend = variant.prepare(w)
    torch.testing.assert_close(attend(q, 7.0 * k, v, **extra), attend(q, k, v, **extra))
    k[:, :, 10:20] = 0.0
    leaves = [x.requires_grad_() for x in (q, k, v, *extra.values())]
    out = attend(q, k, v, **extra)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_state_is_one_matrix_and_does_not_grow(variant: Variant) -> None:
    short, long = (variant.cost(Workload(1, 8, n, 64, True, kv_heads=2)) for n in (1000, 8000))
    assert short.state_bytes == long.state_bytes == 2 * 64 * 64 * 4
    assert long.flops == 8 * short.flops
    assert short.workspace_bytes == long.workspace_bytes


@pytest.mark.parametrize("cls", [LinearFlaGla, LinearFlaRetention, LinearFlaGatedDelta])
def test_the_kernels_say_what_they_need(cls: type[Variant]) -> None:
    w = Workload(1, 2, 64, 64, causal=True, dtype="bfloat16", device="cuda")
    assert cls().unmet(w) == []
    assert "device=cpu (supports cuda)" in cls().unmet(replace(w, device="cpu"))
    assert cls().supports.phases == ("forward", "forward_backward")
    assert cls().cost(w).state_bytes is None
    missing = missing_requirements(cls())
    assert all("flash-linear-attention>=" in text for text in missing)


def test_the_retention_kernel_has_its_own_decays() -> None:
    w = Workload(1, 2, 64, 64, causal=True, dtype="bfloat16", device="cuda")
    assert any("gamma=0.5" in reason for reason in LinearFlaRetention(gamma=0.5).unmet(w))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearRetention(chunk=0), "chunk must be >= 1, got 0"),
        (lambda: LinearDelta(chunk=0), "chunk must be >= 1, got 0"),
        (lambda: LinearRetention(gamma=1.5), r"gamma must be in \(0, 1\], got 1.5"),
    ],
)
def test_a_wrong_parameter_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
