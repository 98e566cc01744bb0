"""Sliding-window attention with sinks: the first keys stay visible to all.

Dimensions: n seq_len, W window, s sinks, G query heads per key head.
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
    causal_mask,
)
from subquad.variants.engines.blocks import ROWS, Step, attention_of_steps, blocks_per_step, steps_bytes
from subquad.variants.engines.kv_cache import softmax_cache
from subquad.variants.local_window import LocalWindow


@dataclass(frozen=True)
class LocalSinks(Variant):
    """Softmax over the first s = `sinks` keys and a window of W = `window` positions.

    Causal: query i sees the keys j <= i where j < s or i - j < W. Not causal: the keys where j < s
    or |i - j| <= W // 2. Positions are those of the whole sequence, not of the cache.
    """

    name: ClassVar[str] = "local_sinks"
    family: ClassVar[str] = "local"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = "Xiao et al. 2023, StreamingLLM, arXiv 2309.17453, section 3.2"
    supports: ClassVar[Supports] = Supports(phases=PHASES, cross=False)

    window: int = 256
    sinks: int = 4

    def __post_init__(self) -> None:
        at_least("window", self.window, 1)
        at_least("sinks", self.sinks, 0)

    def prepare(self, w: Workload) -> AttentionFn:
        return attention_of_steps(w, self.steps(w))

    def steps(self, w: Workload) -> list[Step]:
        """Steps that cover every query row of `w` once."""
        masks: dict[tuple[int, ...], Tensor] = {}
        pending: list[Tensor] = []  # keys of neighbouring blocks that have one mask
        steps: list[Step] = []
        shapes = [self._shape(w, start) for start in range(0, w.seq_len, ROWS)]
        for i, shape in enumerate(shapes):
            start = i * ROWS
            size, sinks, before, after = shape
            own = torch.arange(start - before, start + after)
            keys = torch.cat([torch.arange(sinks), own])
            if shape not in masks:
                rows = torch.arange(start, start + size)
                visible = self.mask(w, rows)[:, keys]
                mask = torch.zeros(visible.shape).masked_fill(~visible, -math.inf)
                mask = mask.repeat(w.heads // w.key_heads, 1)
                masks[shape] = mask.to(w.device, w.torch_dtype)
            pending.append(keys)
            if shapes[i + 1 : i + 2] == [shape] and len(pending) < self._blocks_per_step(w):
                continue
            # Where the sinks are part of the window, or there are none, keys are read in place.
            blocks = len(pending)
            index = torch.cat(pending).to(w.device) if sinks else None
            first = start - (blocks - 1) * ROWS
            steps.append(Step(first, blocks, size, first - before, len(keys), masks[shape], index))
            pending = []
        return steps

    def decoder(self, w: Workload) -> Decoder:
        return softmax_cache(self, w, self.window, self.sinks)

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        visible = LocalWindow(self.window).mask(w, rows)
        visible[:, : self.sinks] = True
        return visible & causal_mask(w, rows) if w.causal else visible

    def visible_pairs(self, w: Workload) -> int:
        window = LocalWindow(self.window)
        # Key j < s is seen from outside the window by the queries from j + before + 1 on.
        first = w.seq_len - 1 - window.reach(w)[0]
        count = min(self.sinks, max(0, first))
        outside = count * first - count * (count - 1) // 2
        if not w.causal:  # and by those up to j - after - 1
            later = max(0, min(self.sinks, w.seq_len) - 1 - window.reach(w)[1])
            outside += later * (later + 1) // 2
        return window.visible_pairs(w) + outside

    def workspace_bytes(self, w: Workload) -> int:
        blocks = min(self._blocks_per_step(w), -(-w.seq_len // ROWS))
        before, after = LocalWindow(self.window).reach(w)
        keys = min(self.sinks + before + ROWS + after, w.seq_len)
        inside = self.sinks == 0 or keys == w.seq_len
        gathered = 0 if inside and w.phase == "forward" else blocks * keys
        return steps_bytes(w, min(blocks * ROWS, w.seq_len), gathered)

    def cost(self, w: Workload) -> Cost:
        kept = min(self.window + self.sinks, w.seq_len) if w.causal else w.key_len
        state = 2 * w.batch * w.key_heads * kept * w.head_dim * w.element_bytes
        return replace(super().cost(w), exponent=1.0, state_bytes=state)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            limit
            for causal in (False, True)
            for w in (Workload(2, 2, 150, 16, causal),)
            for limit in (
                Limit(LocalSinks(32, sinks=0), LocalWindow(32), w),
                Limit(LocalSinks(300, sinks=4), FullNaive(), w),
                Limit(LocalSinks(1, sinks=150), FullNaive(), w),
            )
        ]

    def _blocks_per_step(self, w: Workload) -> int:
        """Like `blocks_per_step`, with less where keys are copied."""
        return max(1, blocks_per_step(w, ROWS) // (4 if self.sinks else 1))

    def _shape(self, w: Workload, start: int) -> tuple[int, int, int, int]:
        """Rows of the block at `start`, sinks before its window, and the window around `start`."""
        before, after = LocalWindow(self.window).reach(w)
        size = min(ROWS, w.seq_len - start)
        low = max(0, start - before)
        high = min(w.seq_len, max(start + size + after, self.sinks))
        if low <= self.sinks:
            return size, 0, start, high - start
        return size, self.sinks, start - low, high - start
