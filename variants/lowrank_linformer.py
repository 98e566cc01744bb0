"""Linformer: attention over a fixed number of mixtures of the keys."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.contract import (
    AttentionFn,
    Computes,
    Cost,
    Limit,
    OracleFn,
    Supports,
    Variant,
    Workload,
    at_least,
    io_bytes,
    one_of,
    phase_flops,
    softmax_attention,
)
from subquad.variants.engines.blocks import KERNEL_BYTES
from subquad.variants.full_naive import FullNaive


@dataclass(frozen=True)
class LowrankLinformer(Variant):
    """softmax(Q (E K)ᵀ / sqrt(D)) (E V), E [R, Lk] one projection for keys, values and all heads.

    R is `rank`. E is drawn, not trained: N(0, 1/R) from `seed` (projection=gaussian, the draw of the
    paper's theorem 2), or the identity, which needs rank = kv_len and then is full attention. A
    mixture holds keys of every position, so there is no causal form.
    """

    rank: int = 256
    projection: str = "gaussian"
    seed: int = 0

    name: ClassVar[str] = "lowrank_linformer"
    family: ClassVar[str] = "lowrank"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = "Wang et al. 2020, arXiv 2006.04768, section 4, key-value sharing"
    supports: ClassVar[Supports] = Supports(causal=(False,))

    def __post_init__(self) -> None:
        at_least("rank", self.rank, 1)
        one_of("projection", self.projection, ("gaussian", "identity"))

    def draw_projection(self, w: Workload) -> Tensor:
        """E [R, Lk] in float64, rounded to the workload's dtype: the oracle sees the same matrix."""
        if self.projection == "identity":
            drawn = torch.eye(self.rank, w.key_len, dtype=torch.float64)
        else:
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randn(self.rank, w.key_len, generator=generator, dtype=torch.float64)
            drawn /= math.sqrt(self.rank)
        return drawn.to(w.torch_dtype).to(w.device)

    def prepare(self, w: Workload) -> AttentionFn:
        projection = self.draw_projection(w)
        stacked = (w.batch, w.key_heads, -1, w.head_dim)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = projection @ k, projection @ v  # [B, Hk, R, D]
            # The fused kernel writes no L x R scores; heads that share keys are rows of one product.
            out = F.scaled_dot_product_attention(q.reshape(stacked), keys, values)
            return out.view(w.query_shape)

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        projection = self.draw_projection(w)

        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            mix = projection.to(q.dtype)
            return softmax_attention(q[:, :, rows], mix @ k, mix @ v)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """The mixtures and E itself; with gradients those of the mixtures and of the queries."""
        mixtures = 2 * w.batch * w.key_heads * self.rank * w.head_dim
        queries = 0
        if w.phase == "forward_backward":
            mixtures *= 2
            queries = w.batch * w.heads * w.seq_len * w.head_dim
        return (mixtures + queries + self.rank * w.key_len) * w.element_bytes + KERNEL_BYTES

    def cost(self, w: Workload) -> Cost:
        mix = 4 * w.batch * w.key_heads * self.rank * w.key_len * w.head_dim
        attend = 4 * w.batch * w.heads * w.seq_len * self.rank * w.head_dim
        flops = phase_flops(w, mix + attend)
        return Cost(flops, io_bytes(w), self.workspace_bytes(w), exponent=1.0)

    def limits(self) -> list[Limit]:
        full = LowrankLinformer(rank=67, projection="identity")
        return [
            Limit(full, FullNaive(), Workload(1, 4, 67, 16, causal=False, kv_heads=2)),
            Limit(full, FullNaive(), Workload(1, 2, 31, 16, causal=False, kv_len=67)),
        ]

    def unmet(self, w: Workload) -> list[str]:
        reasons = super().unmet(w)
        if self.projection == "identity" and self.rank != w.key_len:
            reasons.append(f"projection=identity (needs rank = kv_len = {w.key_len}, got {self.rank})")
        return reasons
