"""Deviation from full softmax attention, in float64, on sampled query rows.

Dimensions: B batch, H query heads, Hk key/value heads, R sampled query rows, Lk key length, D head dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad import answer
from subquad.contract import (
    AttentionFn,
    OracleFn,
    Variant,
    Workload,
    causal_mask,
    repeat_heads,
    softmax_attention,
)
from subquad.inputs.family import InputFamily
from subquad.oracle import relative_error
from subquad.probes.matrix import full_weights, weights_of
from subquad.probes.subject import Inputs, draw, sample_rows
from subquad.record import Deviation
from subquad.settings import FidelitySettings

Figures = dict[str, float | None]


def measure(
    variant: Variant, w: Workload, family: InputFamily, seed: int, settings: FidelitySettings
) -> Deviation:
    """How far `variant` is from full attention on `family`, and how far a plain mean would be.

    Ragged batches, decoding and more than `thorough_len` keys are measured by their output alone, on
    one draw of inputs.
    """
    refused = not_applicable(variant) or "; ".join(family.unmet(w))
    if refused:
        return Deviation(family.label, reason=refused)
    thorough = w.phase != "decode" and w.lengths is None and w.key_len <= settings.thorough_len
    attend = answer.attention(variant, w)
    count = min(settings.rows, w.seq_len)
    outputs: list[_Output] = []
    figures: dict[str, Any] = {}
    for number, inputs in enumerate(
        _draws(variant, w, family, seed, settings.draws if thorough else 1)
    ):
        rows = sample_rows(w, settings.rows, seed + number)
        output = _output(attend, w, inputs, rows)
        if output is None:
            return Deviation(family.label, count, reason="the output is not finite")
        if thorough and not outputs:
            figures = _of_first_draw(variant, w, attend, inputs, rows, settings)
        outputs.append(output)
    deviations = [o.deviation for o in outputs]
    of_means = [o.mean_deviation for o in outputs]
    low, high = log_interval(deviations)
    least, most = log_interval(deviations, of_means)
    return Deviation(
        family.label,
        rows=count,
        deviation=mean(deviations),
        mean_deviation=mean(of_means),
        draws=len(outputs),
        low=low,
        high=high,
        skill_low=None if most is None else 1.0 - most,
        skill_high=None if least is None else 1.0 - least,
        cosine=mean([o.cosine for o in outputs]) if thorough else None,
        **figures,
    )


def not_applicable(variant: Variant) -> str:
    """Why a deviation from full attention says nothing of this variant; empty where it does.

    A control is a yardstick, whatever it computes.
    """
    if variant.computes != "different" or variant.family == "control":
        return ""
    return f"not applicable: {variant.name} computes a function of its own"


def _draws(
    variant: Variant, w: Workload, family: InputFamily, seed: int, draws: int
) -> Iterator[Inputs]:
    """Draws of inputs; a single one where the family gives the same again, as captured does."""
    specs = variant.extra_inputs(w)
    first = draw(family, w, seed, specs)
    yield first
    for number in range(1, draws):
        inputs = draw(family, w, seed + number, specs)
        if all(a.equal(b) for a, b in ((inputs.q, first.q), (inputs.k, first.k), (inputs.v, first.v))):
            return
        yield inputs


@dataclass(frozen=True)
class _Output:
    """How far the output of one draw is from full attention's."""

    deviation: float
    mean_deviation: float
    cosine: float


def _output(attend: AttentionFn, w: Workload, inputs: Inputs, rows: Tensor) -> _Output | None:
    """None where the output is not finite."""
    with torch.no_grad():
        out = attend(inputs.q, inputs.k, inputs.v, **inputs.extra)[:, :, rows].double()
        full = full_attention(w, inputs, rows)
        deviation = relative_error(out, full)
        if not math.isfinite(deviation):
            return None
        mean_deviation = relative_error(mean_of_visible(w, inputs, rows), full)
        cosine = float(F.cosine_similarity(out, full, dim=-1).mean())
        return _Output(deviation, mean_deviation, cosine)


def _of_first_draw(
    variant: Variant,
    w: Workload,
    attend: AttentionFn,
    inputs: Inputs,
    rows: Tensor,
    settings: FidelitySettings,
) -> dict[str, Any]:
    """What takes many calls: gradients, matrix, and draws of the variant's own."""
    figures: dict[str, Any] = {}
    with torch.no_grad():
        found = weights_of(attend, w, inputs, rows)
        if found is not None:
            top = min(settings.top, w.key_len)
            full = full_weights(w, inputs, rows)
            figures |= matrix_figures(found, full, top, rounding(w)) | {"top": top}
    derived = replace(w, phase="forward_backward")
    if not answer.unmet(variant, derived):
        figures |= gradient_errors(answer.attention(variant, derived), derived, inputs, rows)
    first = own_seed(variant)
    if first is not None:
        own = range(first, first + settings.seeds)
        figures |= _of_own_draws(variant, own, w, inputs, rows)
    return figures


def own_seed(variant: Variant) -> int | None:
    """The parameter `seed` of a random method; None where there is none."""
    found = {f.name: getattr(variant, f.name) for f in fields(variant)}.get("seed")
    return found if isinstance(found, int) else None


def _of_own_draws(
    variant: Variant, seeds: Sequence[int], w: Workload, inputs: Inputs, rows: Tensor
) -> dict[str, Any]:
    outputs = []
    with torch.no_grad():
        for seed in seeds:
            again: Variant = replace(variant, seed=seed)  # type: ignore[call-arg]
            attend = answer.attention(again, w)
            out = attend(inputs.q, inputs.k, inputs.v, **inputs.extra)[:, :, rows]
            if not out.isfinite().all():
                return {"reason": f"no bias and spread: the output of seed={seed} is not finite"}
            outputs.append(out.double())
        bias, spread = bias_and_spread(torch.stack(outputs), full_attention(w, inputs, rows))
    return {"seeds": len(seeds), "bias": bias, "spread": spread}


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def log_interval(
    values: Sequence[float], over: Sequence[float] = ()
) -> tuple[float | None, float | None]:
    """95 % t interval, on its logarithm, of the mean of values >= 0: never below zero.

    With `over`, of its ratio to the mean of those, value by value: where both rise and fall together
    the ratio is known better than either. The standard error of the logarithm is the relative one
    (delta method). (None, None) for one value, and for a ratio to zero.
    """
    n = len(values)
    over = over or [1.0] * n
    centre, below = mean(values), mean(over)
    if n < 2 or below == 0.0:
        return None, None
    if centre == 0.0:
        return 0.0, 0.0
    apart = [v / centre - o / below for v, o in zip(values, over, strict=True)]
    half = t_quantile(n - 1) * math.sqrt(math.fsum(a * a for a in apart) / (n - 1) / n)
    return centre / below * math.exp(-half), centre / below * math.exp(half)


def t_quantile(df: int) -> float:
    """Two-sided 95 % quantile of Student's t.

    SciPy has it too, but every child would import it anew: a third of a second.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, df) < 0.95 else (low, angle)
    return math.sqrt(df) * math.tan(low)


def _within(angle: float, df: int) -> float:
    """P(|t| <= sqrt(df) tan(angle)) by its finite sums: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4."""
    total, term = 0.0, math.cos(angle) if df % 2 else 1.0
    for power in range(df % 2, df - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if df % 2 else total


def rounding(w: Workload) -> float:
    """How far the weights of a row, rounded to the workload's dtype, may sum beside 1."""
    accumulator = torch.promote_types(w.torch_dtype, torch.float32)
    own, sums = torch.finfo(w.torch_dtype).eps, torch.finfo(accumulator).eps
    return 2 * own + 8 * math.sqrt(w.key_len) * sums


def matrix_figures(found: Tensor, full: Tensor, top: int, tolerance: float) -> Figures:
    """Figures of a matrix of weights against full attention's, both float64 [B, H, R, Lk].

    `kl` and `entropy_gap` are None unless every row sums to 1 and holds nothing below 0, within
    `tolerance`.
    """
    sums, sizes = found.sum(-1), found.abs().sum()
    figures: Figures = {
        "map_error": relative_error(found, full),
        "row_sum": float(sums.mean()),
        "negative_share": float(found.clamp(max=0).abs().sum() / sizes) if sizes else None,
        "kl": None,
        "entropy_gap": None,
        "mass_recall": mass_recall(found, full, top),
    }
    if float((sums - 1).abs().max()) <= tolerance and float(found.min()) >= -tolerance:
        p = found.clamp(min=0)
        p = p / p.sum(-1, keepdim=True)
        entropy = torch.special.entr(p).sum(-1)
        # A key whose weight in full attention underflows counts with the smallest there is.
        logs = full.clamp(min=torch.finfo(full.dtype).tiny).log()
        figures["kl"] = float((-(p * logs).sum(-1) - entropy).mean())
        figures["entropy_gap"] = float((entropy - torch.special.entr(full).sum(-1)).mean())
    return figures


def mass_recall(found: Tensor, full: Tensor, top: int) -> float:
    """Full attention's weight on the `top` heaviest keys of `found`, over that on its own `top`.

    Mean over rows. Keys of one weight share the places that are left to them, and a key without a
    positive weight is not chosen: who cannot tell keys apart is not credited for the order they are in.
    """
    least = found.topk(top, dim=-1).values[..., -1:].clamp(min=0)
    above = found > least
    tied = (found == least) & (found > 0)
    left = (top - above.sum(-1)).clamp(min=0)
    share = left / tied.sum(-1).clamp(min=1)
    mass = (full * above).sum(-1) + share * (full * tied).sum(-1)
    return float((mass / full.topk(top, dim=-1).values.sum(-1)).mean())


def gradient_errors(attend: AttentionFn, w: Workload, inputs: Inputs, rows: Tensor) -> dict[str, Any]:
    """Relative errors dq, dk, dv of the gradients of a fixed random linear function of the `rows`.

    Against those of full attention in float64. An input that the variant does not look at has gradient
    zero. None where full attention's own is zero (a single key); a reason where one is not finite.
    """
    shape = (w.batch, w.heads, len(rows), w.head_dim)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).to(w.torch_dtype).to(w.device)
    tensors = [x.detach() for x in (inputs.q, inputs.k, inputs.v)]
    extra = {name: x.detach() for name, x in inputs.extra.items()}

    def of_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, **extra)[:, :, rows]

    def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return full_attention(w, Inputs(q, k, v, {}), rows)

    actual = _gradients(of_rows, tensors, weight)
    if not all(x.isfinite().all() for x in actual):
        return {"reason": "a gradient is not finite"}
    expected = _gradients(reference, [x.double() for x in tensors], weight)
    errors = [relative_error(a, e) for a, e in zip(actual, expected, strict=True)]
    return {
        name: error if math.isfinite(error) else None
        for name, error in zip(("dq", "dk", "dv"), errors, strict=True)
    }


def _gradients(attend: AttentionFn, tensors: Sequence[Tensor], weight: Tensor) -> Sequence[Tensor]:
    leaves = [x.clone().requires_grad_() for x in tensors]
    with torch.enable_grad():
        out = attend(*leaves)
        if not out.requires_grad:
            return [torch.zeros_like(x) for x in leaves]
        found: Sequence[Tensor] = torch.autograd.grad(
            out, leaves, weight.to(out.dtype), materialize_grads=True
        )
    return found


def bias_and_spread(outputs: Tensor, full: Tensor) -> tuple[float, float]:
    """Relative bias and spread of a random method: M outputs [M, ...] against `full` [...].

    The mean of M outputs scatters by spread² / M around the mean of all, which is taken off its squared
    distance to `full`. What is left may be negative where there is no bias: that is told as 0.
    """
    count, size = len(outputs), float(full.square().sum())
    centre = outputs.mean(0)
    spread2 = float((outputs - centre).square().sum()) / (count - 1) / size
    bias2 = float((centre - full).square().sum()) / size - spread2 / count
    return math.sqrt(max(0.0, bias2)), math.sqrt(spread2)


def full_attention(w: Workload, inputs: Inputs, rows: Tensor) -> Tensor:
    """Full softmax attention of the query rows `rows` in float64, [B, H, R, D]."""

    def definition(w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            return softmax_attention(q[:, :, rows], k, v, causal_mask(w, rows) if w.causal else None)

        return attend

    return _in_float64(definition, w, inputs, rows)


def mean_of_visible(w: Workload, inputs: Inputs, rows: Tensor) -> Tensor:
    """Mean of the values each row may see, float64 [B, H, R, D]: attention that looks at nothing."""

    def definition(w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            v = repeat_heads(v, w.heads)
            if not w.causal:
                return v.mean(dim=-2, keepdim=True).expand(-1, -1, len(rows), -1)
            seen = rows + (w.key_len - w.seq_len) + 1
            return v.cumsum(dim=-2)[:, :, seen - 1] / seen[:, None]

        return attend

    return _in_float64(definition, w, inputs, rows)


def _in_float64(
    definition: Callable[[Workload], OracleFn], w: Workload, inputs: Inputs, rows: Tensor
) -> Tensor:
    q, k, v = (x.double() for x in (inputs.q, inputs.k, inputs.v))
    return answer.for_rows(definition, w)(q, k, v, rows)
