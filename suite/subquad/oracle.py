"""Oracle error: how far an attention function is from its own definition, and how far it may be.

The reference is the variant's oracle in float64, on inputs rounded to the workload's dtype first, so
that only the arithmetic is judged. The allowance is measured, not chosen: twice the error of the same
definition computed plainly in the workload's dtype.

Two quantities are compared: the output, and, where the phase has a backward pass, the gradient of
sum(output * weight) with a fixed random weight. The gradient of all inputs is one vector: the parts
of it that vanish by cancellation (dQ where a query sees one key) have no relative error of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from subquad import answer
from subquad.contract import AttentionFn, Variant, Workload
from subquad.record import Gate

WEIGHT_SEED = 0x5EED
Results = dict[str, Tensor]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||, Frobenius, in float64; inf where only `expected` is 0."""
    difference = float((actual.double() - expected.double()).norm())
    size = float(expected.double().norm())
    if size == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return difference / size


def tolerance(
    dtype: torch.dtype, plain_error: float, quantity: str = "output", terms: int = 1
) -> float:
    """Twice the plain error, and never less than the rounding no order of operations avoids.

    That is two units of the result's own dtype, and four of the accumulator's (float32 at least) for
    each pass of sums, one for the output and two for the gradient. The plain form may escape these
    by luck: with one visible key its weight is x / x = 1 and its dQ is exactly 0. A sum of `terms`
    terms (the keys) that is taken one after the other is off by about sqrt(terms) eps / 2 (Higham &
    Mary 2019, A new approach to probabilistic rounding error analysis), where a plain matrix product
    sums in blocks and does better; a missing key costs about 1 / sqrt(terms) and stands far above.
    """
    passes = {"output": 1, "gradient": 2}[quantity]
    accumulator = torch.promote_types(dtype, torch.float32)
    rounding = passes * max(4.0, math.sqrt(terms) / 2) * torch.finfo(accumulator).eps
    floor = 2.0 * torch.finfo(dtype).eps + rounding
    return max(2.0 * plain_error, floor)


def draw_weight(w: Workload, rows: Tensor) -> Tensor | None:
    """Standard normal weight [B, H, R, D] of the output in the loss; None where nothing is derived."""
    if w.phase != "forward_backward":
        return None
    shape = (w.batch, w.heads, rows.numel(), w.head_dim)
    generator = torch.Generator().manual_seed(WEIGHT_SEED)
    return torch.randn(shape, generator=generator).to(w.torch_dtype).to(w.device)


def evaluate(
    attend: Callable[..., Tensor],
    inputs: tuple[Tensor, Tensor, Tensor],
    extra: Mapping[str, Tensor],
    weight: Tensor | None,
) -> Results:
    """The output of `attend` and, with a weight, the gradient of all inputs as one flat vector."""
    if weight is None:
        with torch.no_grad():
            return {"output": attend(*inputs, **extra)}
    leaves = [x.detach().requires_grad_() for x in (*inputs, *extra.values())]
    output = attend(*leaves[:3], **dict(zip(extra, leaves[3:], strict=True)))
    gradients = torch.autograd.grad(output, leaves, weight.to(output.dtype), materialize_grads=True)
    return {"output": output.detach(), "gradient": torch.cat([g.flatten() for g in gradients])}


def evaluate_oracle(
    variant: Variant,
    w: Workload,
    inputs: tuple[Tensor, Tensor, Tensor],
    rows: Tensor,
    extra: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> Results:
    """What the definition gives for the query rows `rows`, computed in `dtype`."""
    oracle = answer.definition(variant, w)

    def attend(q: Tensor, k: Tensor, v: Tensor, **more: Tensor) -> Tensor:
        return oracle(q, k, v, rows, **more)

    q, k, v = (x.to(dtype) for x in inputs)
    weight = draw_weight(w, rows)
    return evaluate(attend, (q, k, v), {name: x.to(dtype) for name, x in extra.items()}, weight)


def plain_error(
    variant: Variant,
    w: Workload,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    extra: Mapping[str, Tensor],
) -> dict[str, float]:
    """Error of the definition computed plainly in the workload's dtype, for each quantity.

    Nothing here is more exact than float64, so the error of float64 is that of float32 in proportion
    to their units of rounding. Where the plain form overflows, the error is what inputs off by one
    unit of rounding do to the definition.
    """
    reference = evaluate_oracle(variant, w, (q, k, v), rows, extra, torch.float64)
    return _plain_error(variant, w, (q, k, v), rows, extra, reference)


def gate(
    variant: Variant,
    w: Workload,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    extra: Mapping[str, Tensor],
    attend: AttentionFn | None = None,
) -> Gate:
    """Hold the variant against its definition on the query rows `rows` (int64 [R]).

    Args:
        attend: what `answer.attention(variant, w)` returned; prepared here where it is None.

    Returns:
        The error and the tolerance of the quantity that comes nearest to failing.
    """
    prepared = answer.attention(variant, w) if attend is None else attend

    def attend_rows(*inputs: Tensor, **more: Tensor) -> Tensor:
        return prepared(*inputs, **more)[:, :, rows]

    reference = evaluate_oracle(variant, w, (q, k, v), rows, extra, torch.float64)
    plain = _plain_error(variant, w, (q, k, v), rows, extra, reference)
    actual = evaluate(attend_rows, (q, k, v), extra, draw_weight(w, rows))
    gates = []
    for name, expected in reference.items():
        error = relative_error(actual[name], expected)
        allowed = tolerance(w.torch_dtype, plain[name], name, w.key_len)
        gates.append(Gate(error if math.isfinite(error) else None, allowed, len(rows)))
    return max(gates, key=_severity)


def _severity(g: Gate) -> float:
    return math.inf if g.oracle_error is None else g.oracle_error / g.tolerance


def _plain_error(
    variant: Variant,
    w: Workload,
    inputs: tuple[Tensor, Tensor, Tensor],
    rows: Tensor,
    extra: Mapping[str, Tensor],
    reference: Results,
) -> dict[str, float]:
    dtype = torch.float32 if w.torch_dtype == torch.float64 else w.torch_dtype
    scale = torch.finfo(w.torch_dtype).eps / torch.finfo(dtype).eps
    rounded = tuple(x.to(dtype) for x in inputs)
    rounded_extra = {name: x.to(dtype) for name, x in extra.items()}
    if dtype != w.torch_dtype:  # the rounding of the inputs is no error of the arithmetic
        reference = evaluate_oracle(variant, w, _triple(rounded), rows, rounded_extra, torch.float64)
    plain = evaluate_oracle(variant, w, _triple(rounded), rows, rounded_extra, dtype)
    if not all(x.isfinite().all() for x in plain.values()):
        nudged = _triple(tuple(_nudge(x, torch.finfo(dtype).eps) for x in rounded))
        plain = evaluate_oracle(variant, w, nudged, rows, rounded_extra, torch.float64)
    return {name: scale * relative_error(plain[name], reference[name]) for name in reference}


def _nudge(x: Tensor, eps: float) -> Tensor:
    """Each element one unit of rounding off, up or down at random but the same each time."""
    sign = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(WEIGHT_SEED)) * 2 - 1
    return x.double() * (1.0 + eps * sign.to(x.device))


def _triple(xs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = xs
    return q, k, v
