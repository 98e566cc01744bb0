"""Block-diagonal attention: no block knows of another."""

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
    causal_mask,
)
from subquad.variants.blocks import (
    Step,
    attention_of_steps,
    blocks_per_step,
    merged,
    steps_bytes,
)


@dataclass(frozen=True)
class LocalBlock(Variant):
    """Softmax within blocks of `block` positions, the last one shorter.

    Query i sees the key j where i // block == j // block; causal: and j <= i.
    """

    name: ClassVar[str] = "local_block"
    family: ClassVar[str] = "local"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = "Qiu et al. 2020, Blockwise self-attention, arXiv 1911.02972, section 3.1"
    supports: ClassVar[Supports] = Supports(cross=False)

    block: int = 128

    def __post_init__(self) -> None:
        at_least("block", self.block, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        starts = range(0, w.seq_len, self.block)
        sizes = [min(self.block, w.seq_len - start) for start in starts]
        steps = [
            Step(start, 1, size, start, size, causal=w.causal)
            for start, size in zip(starts, sizes, strict=True)
        ]
        return attention_of_steps(w, merged(steps, blocks_per_step(w, self.block)))

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        keys = torch.arange(w.key_len, device=rows.device)
        own = rows[:, None] // self.block == keys // self.block
        return own & causal_mask(w, rows) if w.causal else own

    def visible_pairs(self, w: Workload) -> int:
        whole, rest = divmod(w.seq_len, self.block)
        if w.causal:
            return (whole * self.block * (self.block + 1) + rest * (rest + 1)) // 2
        return whole * self.block**2 + rest**2

    def workspace_bytes(self, w: Workload) -> int:
        rows = min(w.seq_len, self.block * blocks_per_step(w, self.block))
        copied = w.phase != "forward" or (w.causal and w.kv_heads is not None)
        return steps_bytes(w, rows, rows if copied else 0)

    def cost(self, w: Workload) -> Cost:
        kept = min(self.block, w.seq_len) if w.causal else w.key_len
        state = 2 * w.batch * w.key_heads * kept * w.head_dim * w.element_bytes
        return replace(super().cost(w), exponent=1.0, state_bytes=state)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(LocalBlock(block), FullNaive(), Workload(2, 2, 150, 16, causal))
            for block in (150, 1000)
            for causal in (False, True)
        ]
