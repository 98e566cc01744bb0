"""Inducing points: a learned set of points reads the keys, the queries read what it found.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, L seq_len, Lk key length, D head dim,
M inducing points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from subquad.contract import (
    AttentionFn,
    Computes,
    Cost,
    Limit,
    OracleFn,
    Supports,
    TensorSpec,
    Variant,
    Workload,
    at_least,
    io_bytes,
    phase_flops,
    repeat_heads,
)
from subquad.variants.engines.blocks import KERNEL_BYTES


@dataclass(frozen=True)
class LowrankInducing(Variant):
    """softmax(Q Sᵀ / sqrt(D)) T, S = A K and T = A V the M summaries, A = softmax(I Kᵀ / sqrt(D)).

    I [H, M, D] are `points` learned queries for each head, the same for every sequence. The attention
    within an induced set attention block; its residuals, normalisation and feed-forward layers belong
    to the block around it. A summary holds keys of every position, so there is no causal form.
    """

    name: ClassVar[str] = "lowrank_inducing"
    family: ClassVar[str] = "lowrank"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Lee et al. 2018, Set Transformer, arXiv 1810.00825, section 3.1, ISAB"
    supports: ClassVar[Supports] = Supports(causal=(False,))

    points: int = 64

    def __post_init__(self) -> None:
        at_least("points", self.points, 1)

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        bound = math.sqrt(3.0)  # variance 1, as the inputs have
        shape = (w.heads, self.points, w.head_dim)
        return {"points": TensorSpec(shape, -bound, bound, learned=True)}

    def prepare(self, w: Workload) -> AttentionFn:
        # Points of query heads that share a key head are rows of one product.
        stacked = (w.batch, w.key_heads, -1, w.head_dim)
        each = (w.batch, w.heads, self.points, w.head_dim)

        def attend(q: Tensor, k: Tensor, v: Tensor, points: Tensor) -> Tensor:
            asked = points.expand(w.batch, -1, -1, -1).reshape(stacked)
            keys = F.scaled_dot_product_attention(asked, k, k).reshape(each)
            values = F.scaled_dot_product_attention(asked, k, v).reshape(each)
            return F.scaled_dot_product_attention(q, keys, values)

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, points: Tensor) -> Tensor:
            k, v = repeat_heads(k, w.heads), repeat_heads(v, w.heads)
            root = math.sqrt(w.head_dim)
            weights = (points @ k.transpose(-2, -1) / root).softmax(-1)  # [B, H, M, Lk]
            keys, values = weights @ k, weights @ v
            return (q[:, :, rows] @ keys.transpose(-2, -1) / root).softmax(-1) @ values

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Points and summaries; with gradients those of keys twice (two reads)."""
        kernel = KERNEL_BYTES // 3  # the reads of few rows take less, as measured
        summaries = 3 * w.batch * w.heads * self.points * w.head_dim
        if w.phase == "forward_backward":
            keys = 2 * w.batch * w.key_heads * w.key_len * w.head_dim
            return (3 * summaries + keys) * w.element_bytes + kernel
        return summaries * w.element_bytes + kernel

    def cost(self, w: Workload) -> Cost:
        """Three products of the points with keys and values, two of the summaries with queries."""
        forward = 2 * w.batch * w.heads * self.points * w.head_dim * (3 * w.key_len + 2 * w.seq_len)
        bytes_ = io_bytes(w) + w.heads * self.points * w.head_dim * w.element_bytes
        return Cost(phase_flops(w, forward), bytes_, self.workspace_bytes(w), exponent=1.0)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            # All keys alike, and one key only: any normalised attention is the mean of the values.
            Limit(self, FullNaive(), Workload(2, 4, 67, 16, causal=False, kv_heads=2), key_scale=0.0),
            Limit(self, FullNaive(), Workload(2, 2, 31, 16, causal=False, kv_len=1)),
        ]
