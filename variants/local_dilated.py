"""Dilated sliding-window attention: a window with gaps.

Dimensions: n seq_len, W window, d dilation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

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
)
from subquad.variants.engines.blocks import attention_of_parts
from subquad.variants.local_block import PartCache
from subquad.variants.local_window import LocalWindow


@dataclass(frozen=True)
class LocalDilated(Variant):
    """Softmax over W = `window` positions around the query that are d = `dilation` apart.

    Causal: query i sees the keys i, i - d, .., i - (W - 1) d. Not causal: the keys j where d divides
    i - j and |i - j| <= (W // 2) d. Positions of one residue modulo d see only each other, so each
    residue is a sequence with a window of its own, read in place with a stride.
    """

    name: ClassVar[str] = "local_dilated"
    family: ClassVar[str] = "local"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = "Beltagy, Peters, Cohan 2020, Longformer, arXiv 2004.05150, section 3.1"
    supports: ClassVar[Supports] = Supports(phases=PHASES, cross=False)

    window: int = 64
    dilation: int = 4

    def __post_init__(self) -> None:
        at_least("window", self.window, 1)
        at_least("dilation", self.dilation, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        classes = self._classes(w)
        steps = {each.seq_len: LocalWindow(self.window).steps(each) for each in set(classes)}
        parts = [(slice(r, None, self.dilation), steps[c.seq_len]) for r, c in enumerate(classes)]
        return attention_of_parts(w, parts)

    def decoder(self, w: Workload) -> Decoder:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=w.kv_heads is not None)

        return _ClassCache(
            w,
            lambda length: self.prepare(replace(w, seq_len=length)),
            attend,
            classes=min(self.dilation, w.seq_len),
            each=self._kept(w),
        )

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        distance = rows[:, None] - torch.arange(w.key_len, device=rows.device)
        if w.causal:
            near = (distance >= 0) & (distance < self.window * self.dilation)
        else:
            near = distance.abs() <= self.window // 2 * self.dilation
        return near & (distance % self.dilation == 0)

    def visible_pairs(self, w: Workload) -> int:
        return sum(LocalWindow(self.window).visible_pairs(each) for each in self._classes(w))

    def workspace_bytes(self, w: Workload) -> int:
        """That of one residue; gradients of keys in half precision are summed in float32."""
        key = w.batch * w.key_heads * w.seq_len * w.head_dim
        totals = 2 * 4 * key if w.phase != "forward" and w.element_bytes < 4 else 0
        return LocalWindow(self.window).workspace_bytes(self._classes(w)[0]) + totals

    def cost(self, w: Workload) -> Cost:
        kept = min(self.dilation, w.seq_len) * self._kept(w)
        state = 2 * w.batch * w.key_heads * kept * w.head_dim * w.element_bytes
        return replace(super().cost(w), exponent=1.0, state_bytes=state)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            limit
            for causal in (False, True)
            for w in (Workload(2, 2, 150, 16, causal),)
            for limit in (
                Limit(LocalDilated(32, 1), LocalWindow(32), w),
                Limit(LocalDilated(301, 1), FullNaive(), w),
                Limit(LocalDilated(32, 150), LocalWindow(1), w),
            )
        ]

    def _classes(self, w: Workload) -> list[Workload]:
        """The residues modulo d, each as a workload of its own."""
        n, d = w.seq_len, self.dilation
        return [replace(w, seq_len=-(-(n - r) // d), kv_len=None) for r in range(min(d, n))]

    def _kept(self, w: Workload) -> int:
        """Positions of a residue that later queries see."""
        return min(self.window, -(-w.seq_len // self.dilation))


class _ClassCache(PartCache):
    """A ring of `each` slots for every residue, one ring after the other."""

    def __init__(
        self,
        w: Workload,
        prompt: Callable[[int], AttentionFn],
        attend: AttentionFn,
        classes: int,
        each: int,
    ) -> None:
        super().__init__(w, prompt, attend)
        self.classes, self.each, self.slots = classes, each, classes * each

    def slot(self, position: int) -> int:
        turn, residue = divmod(position, self.classes)
        return residue * self.each + turn % self.each

    def visible(self, position: int) -> slice:
        turn, residue = divmod(position, self.classes)
        return slice(residue * self.each, residue * self.each + min(turn + 1, self.each))
