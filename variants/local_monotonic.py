"""Local attention around an aligned position (local-m).

Dimensions: L queries, Lk keys, D half window.
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
from subquad.variants.engines.blocks import ROWS, Step, attention_of_steps, steps_bytes
from subquad.variants.local_window import LocalWindow


@dataclass(frozen=True)
class LocalMonotonic(Variant):
    """Softmax over the keys p - D .. p + D with D = `half_window`, p the position aligned with a query.

    Query t is aligned with p = floor(t Lk / L), which is t where there are as many keys as queries, and
    never later than the last key it may see when causal: then only keys up to t + Lk - L count.
    """

    name: ClassVar[str] = "local_monotonic"
    family: ClassVar[str] = "local"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = (
        "Luong, Pham, Manning 2015, arXiv 1508.04025, section 3.2 (local-m; D = 10 in section 4.1)"
    )
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    half_window: int = 10

    def __post_init__(self) -> None:
        at_least("half_window", self.half_window, 0)

    def prepare(self, w: Workload) -> AttentionFn:
        steps = self._window(w).steps(w) if w.kv_len is None else self._steps(w)
        return attention_of_steps(w, steps)

    def decoder(self, w: Workload) -> Decoder:
        return self._window(w).decoder(w)

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        keys = torch.arange(w.key_len, device=rows.device)
        center = rows * w.key_len // w.seq_len
        visible = (keys - center[:, None]).abs() <= self.half_window
        return visible & causal_mask(w, rows) if w.causal else visible

    def visible_pairs(self, w: Workload) -> int:
        return sum(high - low for low, high in self._windows(w))

    def workspace_bytes(self, w: Workload) -> int:
        if w.kv_len is None:
            return self._window(w).workspace_bytes(w)
        rows = self._rows(w)
        span = rows * w.key_len // w.seq_len + 2 * self.half_window + 1
        return steps_bytes(w, rows, 0 if w.phase == "forward" else min(span, w.key_len))

    def cost(self, w: Workload) -> Cost:
        state = self._window(w).cost(w).state_bytes if w.kv_len is None else None
        return replace(super().cost(w), exponent=1.0, state_bytes=state)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            limit
            for causal in (False, True)
            for w in (Workload(2, 2, 150, 16, causal),)
            for limit in (
                Limit(LocalMonotonic(150), FullNaive(), w),
                Limit(LocalMonotonic(190), FullNaive(), replace(w, kv_len=190)),
                Limit(LocalMonotonic(10), LocalWindow(11 if causal else 21), w),
            )
        ]

    def _window(self, w: Workload) -> LocalWindow:
        """The window that this is where there are as many keys as queries."""
        return LocalWindow(self.half_window + 1 if w.causal else 2 * self.half_window + 1)

    def _windows(self, w: Workload) -> list[tuple[int, int]]:
        """The first visible key of each query, and the one after the last."""
        ahead = w.key_len - w.seq_len if w.causal else w.key_len
        centers = [t * w.key_len // w.seq_len for t in range(w.seq_len)]
        return [
            (max(0, p - self.half_window), min(w.key_len, p + self.half_window + 1, t + ahead + 1))
            for t, p in enumerate(centers)
        ]

    def _rows(self, w: Workload) -> int:
        """Rows of a block: the more keys a query moves on, the fewer."""
        return min(w.seq_len, ROWS, max(8, ROWS * w.seq_len // w.key_len))

    def _steps(self, w: Workload) -> list[Step]:
        windows, rows, group = self._windows(w), self._rows(w), w.heads // w.key_heads
        steps = []
        for start in range(0, w.seq_len, rows):
            own = windows[start : start + rows]
            low, high = own[0][0], own[-1][1]
            visible = self.mask(w, torch.arange(start, start + len(own)))[:, low:high]
            mask = torch.zeros(visible.shape).masked_fill(~visible, -math.inf).repeat(group, 1)
            mask = mask.to(w.device, w.torch_dtype)
            steps.append(Step(start, 1, len(own), low, high - low, mask))
        return steps
