"""Sliding-window attention.

Dimensions: n seq_len, W window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
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
)
from subquad.variants.engines.blocks import (
    ROWS,
    Step,
    attention_of_steps,
    blocks_in_place,
    merged,
    steps_in_place_bytes,
)
from subquad.variants.engines.kv_cache import softmax_cache


@dataclass(frozen=True)
class LocalWindow(Variant):
    """Softmax over a window of W = `window` positions around the query.

    Causal: query i sees the keys i - W + 1 .. i, W of them. Not causal: |i - j| <= W // 2.
    """

    name: ClassVar[str] = "local_window"
    family: ClassVar[str] = "local"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = "Beltagy, Peters, Cohan 2020, Longformer, arXiv 2004.05150, section 3.1"
    supports: ClassVar[Supports] = Supports(phases=PHASES, cross=False)

    window: int = 256

    def __post_init__(self) -> None:
        at_least("window", self.window, 1)

    def reach(self, w: Workload) -> tuple[int, int]:
        """How many keys before and after its own a query sees."""
        before, after = (self.window - 1, 0) if w.causal else (self.window // 2, self.window // 2)
        return min(before, w.seq_len - 1), min(after, w.seq_len - 1)

    def prepare(self, w: Workload) -> AttentionFn:
        return attention_of_steps(w, self.steps(w))

    def decoder(self, w: Workload) -> Decoder:
        return softmax_cache(self, w, self.window)

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        before, after = self.reach(w)
        distance = rows[:, None] - torch.arange(w.key_len, device=rows.device)
        return (distance <= before) & (distance >= -after)

    def visible_pairs(self, w: Workload) -> int:
        before, after = self.reach(w)
        cut = before * (before + 1) // 2 + after * (after + 1) // 2
        return w.seq_len * (before + 1 + after) - cut

    def workspace_bytes(self, w: Workload) -> int:
        return steps_in_place_bytes(w, min(ROWS, w.seq_len), self._span(w))

    def cost(self, w: Workload) -> Cost:
        kept = min(self.window, w.seq_len) if w.causal else w.key_len
        state = 2 * w.batch * w.key_heads * kept * w.head_dim * w.element_bytes
        return replace(super().cost(w), exponent=1.0, state_bytes=state)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(LocalWindow(window), FullNaive(), Workload(2, 2, n, 16, causal))
            for n, window, causal in ((150, 150, True), (150, 1000, True), (150, 300, False))
        ]

    def steps(self, w: Workload) -> list[Step]:
        """Steps that cover every query row of `w` once."""
        n, group = w.seq_len, w.heads // w.key_heads
        before, after = self.reach(w)
        left = min(-(-before // 16) * 16, n)  # aligned, at the price of a few masked keys
        rows = torch.arange(min(ROWS, n))[:, None]
        offset = torch.arange(-left, len(rows) + after)  # of a key from its block's first row
        hidden = (rows - offset > before) | (rows - offset < -after)
        base = torch.zeros(hidden.shape).masked_fill(hidden, -math.inf).to(w.torch_dtype)
        # Every block's mask is a part of this one, so masks take O(W) and not O(n W).
        base = base.expand(group, -1, -1).contiguous().to(w.device)
        inside = base.flatten(0, 1)
        steps: list[Step] = []
        for start in range(0, n, ROWS):
            size = min(ROWS, n - start)
            low, high = max(0, start - left), min(n, start + size + after)
            columns = slice(left + low - start, left + high - start)
            if size < len(rows):
                mask = base[:, :size, columns].flatten(0, 1).contiguous()
            else:
                mask = inside[:, columns]
            steps.append(Step(start, 1, size, low, high - low, mask))
        return merged(steps, blocks_in_place(w, ROWS, self._span(w)))

    def _span(self, w: Workload) -> int:
        """The most keys that a block meets."""
        before, after = self.reach(w)
        return min(w.seq_len, -(-before // 16) * 16 + ROWS + after)
