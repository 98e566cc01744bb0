"""Deviation from full softmax attention, in float64, on sampled query rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from subquad.contract import Variant, Workload, causal_mask, repeat_heads, softmax_attention
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
        out = variant.prepare(w)(inputs.q, inputs.k, inputs.v, **inputs.extra)[:, :, rows]
        full = full_attention(w, inputs, rows)
        mean = mean_of_visible(w, inputs.v, rows)
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
    mask = causal_mask(w, rows) if w.causal else None
    q, k, v = inputs.q[:, :, rows].double(), inputs.k.double(), inputs.v.double()
    return softmax_attention(q, k, v, mask)


def mean_of_visible(w: Workload, v: Tensor, rows: Tensor) -> Tensor:
    """Mean of the values each row may see, float64 [B, H, R, D]: attention that looks at nothing."""
    v = repeat_heads(v.double(), w.heads)
    if not w.causal:
        return v.mean(dim=-2, keepdim=True).expand(-1, -1, len(rows), -1)
    seen = rows + (w.key_len - w.seq_len) + 1
    return v.cumsum(dim=-2)[:, :, seen - 1] / seen[:, None]
