"""One-dimensional neighbourhood attention by NATTEN (CUDA only)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import (
    AttentionFn,
    Computes,
    Cost,
    Limit,
    Supports,
    Variant,
    Workload,
    at_least,
)


@dataclass(frozen=True)
class LocalNatten(Variant):
    """Softmax over the W = `window` nearest positions, by natten's na1d, its own choice of kernel.

    Not causal: query i sees W keys around it, and near an end of the sequence the W keys nearest to
    that end, so that the window keeps its size. Causal: the keys i - W + 1 .. i. W is odd, so that
    the middle is no matter of convention; a longer one than the sequence covers all of it.

    The operator takes [B, L, H, D]; tensors go in and out as transposed views.
    """

    name: ClassVar[str] = "local_natten"
    family: ClassVar[str] = "local"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = (
        "Hassani et al. 2022, Neighborhood attention, arXiv 2204.07143, section 3.1; natten na1d"
    )
    supports: ClassVar[Supports] = Supports(
        dtypes=("float32", "bfloat16", "float16"), devices=("cuda",), grouped=False, cross=False
    )
    requires: ClassVar[tuple[str, ...]] = ("natten>=0.20",)

    window: int = 255

    def __post_init__(self) -> None:
        at_least("window", self.window, 3)
        if self.window % 2 == 0:
            raise ValueError(f"window must be odd, got {self.window}")

    def prepare(self, w: Workload) -> AttentionFn:
        from natten import na1d

        size = min(self.window, w.seq_len)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            # Its kernels read rows of all heads of a position, so the transposed views are copied.
            q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
            out: Tensor = na1d(q, k, v, kernel_size=size, is_causal=w.causal)
            return out.transpose(1, 2)

        return attend

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        keys = torch.arange(w.key_len, device=rows.device)
        size = min(self.window, w.seq_len)
        if w.causal:
            distance = rows[:, None] - keys
            return (distance >= 0) & (distance < size)
        first = (rows - self.window // 2).clamp(0, w.seq_len - size)[:, None]
        return (keys >= first) & (keys < first + size)

    def visible_pairs(self, w: Workload) -> int:
        size = min(self.window, w.seq_len)
        return w.seq_len * size - (size * (size - 1) // 2 if w.causal else 0)

    def workspace_bytes(self, w: Workload) -> int:
        """Copies of q, k and v, the log-sum-exp of each row, and gradients in both layouts."""
        query = w.batch * w.heads * w.seq_len * w.head_dim * w.element_bytes
        copies = 3 if w.phase == "forward" else 8
        return copies * query + 4 * w.batch * w.heads * w.seq_len

    def cost(self, w: Workload) -> Cost:
        return replace(super().cost(w), exponent=1.0, state_bytes=None)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive
        from subquad.variants.local_window import LocalWindow

        return [
            Limit(LocalNatten(301), FullNaive(), Workload(2, 2, 150, 32, False, device="cuda")),
            Limit(LocalNatten(33), LocalWindow(33), Workload(2, 2, 150, 32, True, device="cuda")),
        ]

    def unmet(self, w: Workload) -> list[str]:
        reasons = super().unmet(w)
        if w.seq_len < 2:
            reasons.append(f"seq_len={w.seq_len} (a window of natten has 2 positions at least)")
        return reasons
