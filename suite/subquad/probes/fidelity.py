"""Deviation from full softmax attention, in float64, on sampled query rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from subquad import answer
from subquad.contract import OracleFn, Variant, Workload, causal_mask, repeat_heads, softmax_attention
from subquad.inputs.family import InputFamily
from subquad.oracle import relative_error
from subquad.probes.subject import Inputs, draw, sample_rows
from subquad.record import Deviation
from subquad.settings import FidelitySettings


def measure(
    variant: Variant, w: Workload, family: InputFamily, seed: int, settings: FidelitySettings
) -> Deviation:
    """How far `variant` is from full attention on `family`, and how far a plain mean would be."""
    refused = family.unmet(w)
    if refused:
        return Deviation(family.name, reason="; ".join(refused))
    inputs = draw(family, w, seed, variant.extra_inputs(w))
    rows = sample_rows(w, settings.rows, seed)
    with torch.no_grad():
        out = answer.attention(variant, w)(inputs.q, inputs.k, inputs.v, **inputs.extra)[:, :, rows]
        full = full_attention(w, inputs, rows)
        mean = mean_of_visible(w, inputs, rows)
        deviation = relative_error(out, full)
        if not math.isfinite(deviation):
            return Deviation(family.name, len(rows), reason="the output is not finite")
        return Deviation(
            inputs=family.name,
            rows=len(rows),
            deviation=deviation,
            mean_deviation=relative_error(mean, full),
        )


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
