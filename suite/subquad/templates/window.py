"""Softmax over a window of neighbours: a start for attention that sees a subset of all pairs.

Dimensions: B batch, H query heads, Hk key/value heads, L seq_len, D head dim, R query rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
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

ROWS = 128  # queries of one block: the only ones whose scores exist at a time


@dataclass(frozen=True)
class LocalMine(Variant):
    """Query i sees the `window` keys up to its own; not causal: those at most window // 2 away."""

    name: ClassVar[str] = "local_mine"
    family: ClassVar[str] = "local"
    # Softmax over a subset of pairs is "restricted"; `mask` is its whole definition.
    computes: ClassVar[Computes] = "restricted"
    # Where the definition comes from: authors, year, title, arXiv id, section.
    source: ClassVar[str] = "a window of neighbours, to be replaced by your source"
    # What it cannot run; a refusal that depends on more than that goes into `unmet`.
    supports: ClassVar[Supports] = Supports(cross=False)

    # Parameters are fields with defaults; each is an option of `subquad run`.
    window: int = 64

    def __post_init__(self) -> None:
        at_least("window", self.window, 1)

    def reach(self, w: Workload) -> tuple[int, int]:
        """How many keys before and after its own a query sees."""
        before, after = (self.window - 1, 0) if w.causal else (self.window // 2, self.window // 2)
        return min(before, w.seq_len - 1), min(after, w.seq_len - 1)

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        """The definition, bool [R, L]: change it first. Conformance holds the rest against it."""
        before, after = self.reach(w)
        distance = rows[:, None] - torch.arange(w.key_len, device=rows.device)
        return (distance <= before) & (distance >= -after)

    def visible_pairs(self, w: Workload) -> int:
        """The sum of `mask` in closed form: it gives the FLOPs, at any length."""
        before, after = self.reach(w)
        cut = before * (before + 1) // 2 + after * (after + 1) // 2
        return w.seq_len * (before + 1 + after) - cut

    def prepare(self, w: Workload) -> AttentionFn:
        """Set-up stands here; only the function that it returns is timed.

        Block after block of queries on the keys that any of them sees: O(L window) in time.
        """
        before, after = self.reach(w)
        steps = []
        for start in range(0, w.seq_len, ROWS):
            stop = min(start + ROWS, w.seq_len)
            keys = slice(max(0, start - before), min(w.seq_len, stop + after))
            rows = torch.arange(start, stop, device=w.device)
            steps.append((slice(start, stop), keys, self.mask(w, rows)[:, keys].contiguous()))

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            blocks = [
                F.scaled_dot_product_attention(
                    q[:, :, rows],
                    k[:, :, keys],
                    v[:, :, keys],
                    attn_mask=mask,
                    enable_gqa=w.kv_heads is not None,
                )
                for rows, keys, mask in steps
            ]
            return torch.cat(blocks, dim=2)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Peak beyond inputs and outputs: the blocks before they are joined, and one block's scores.

        A backward pass keeps the blocks and makes gradients of their keys.
        """
        before, after = self.reach(w)
        met = min(w.seq_len, ROWS + before + after)
        outputs = w.batch * w.heads * w.seq_len * w.head_dim * w.element_bytes
        scores = w.batch * w.heads * min(ROWS, w.seq_len) * met * 4
        return outputs + scores if w.phase == "forward" else 3 * outputs + 2 * scores

    def cost(self, w: Workload) -> Cost:
        """FLOPs follow from `visible_pairs`; the exponent is the growth of time in L you promise."""
        return replace(super().cost(w), exponent=1.0)

    def limits(self) -> list[Limit]:
        """Settings at which it must equal another: a window over everything is full attention."""
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(LocalMine(window), FullNaive(), Workload(2, 2, n, 16, causal))
            for n, window, causal in ((150, 150, True), (150, 300, False))
        ]
