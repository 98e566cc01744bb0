"""Block-diagonal attention: no block knows of another."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.contract import (
    PHASES,
    AttentionFn,
    Computes,
    Cost,
    Decoder,
    Limit,
    Supports,
    Variant,
    Workload,
    at_least,
    causal_mask,
)
from subquad.variants.engines.blocks import (
    Step,
    attention_of_steps,
    blocks_in_place,
    blocks_per_step,
    merged,
    steps_bytes,
    steps_in_place_bytes,
)
from subquad.variants.engines.kv_cache import KvCache


class PartCache(KvCache):
    """A cache of which a query sees a part, the slots `visible(position)`."""

    @abstractmethod
    def visible(self, position: int) -> slice:
        """The slots that the query at `position` sees, its own among them."""

    def step(
        self, state: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        keys, values, at = state
        slot, seen = self.slot(at), self.visible(at)
        keys[:, :, slot] = k[:, :, 0]
        values[:, :, slot] = v[:, :, 0]
        out = self.attend(q, keys[:, :, seen], values[:, :, seen], **extra)
        return out, (keys, values, at + 1)


class _BlockCache(PartCache):
    """The block of the newest position; the next block takes its place."""

    def slot(self, position: int) -> int:
        return position % self.slots

    def visible(self, position: int) -> slice:
        return slice(0, self.slot(position) + 1)

    def _oldest(self, length: int) -> int:
        return (length - 1) // self.slots * self.slots


@dataclass(frozen=True)
class LocalBlock(Variant):
    """Softmax within blocks of `block` positions, the last one shorter.

    Query i sees the key j where i // block == j // block; causal: and j <= i.
    """

    name: ClassVar[str] = "local_block"
    family: ClassVar[str] = "local"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = "Qiu et al. 2020, Blockwise self-attention, arXiv 1911.02972, section 3.1"
    supports: ClassVar[Supports] = Supports(phases=PHASES, cross=False)

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
        limit = blocks_per_step(w, self.block)
        if not w.causal:
            limit = blocks_in_place(w, self.block, self.block)
        return attention_of_steps(w, merged(steps, limit))

    def decoder(self, w: Workload) -> Decoder:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=w.kv_heads is not None)

        return _BlockCache(
            w, lambda length: self.prepare(replace(w, seq_len=length)), attend, window=self.block
        )

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
        if not w.causal:
            rows = min(self.block, w.seq_len)
            return steps_in_place_bytes(w, rows, rows)
        rows = min(w.seq_len, self.block * blocks_per_step(w, self.block))
        copied = w.phase != "forward" or w.kv_heads is not None
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
