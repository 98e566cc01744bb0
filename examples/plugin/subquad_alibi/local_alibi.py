"""Sliding-window attention with ALiBi.

Dimensions: B batch, H query heads, Hk key/value heads, L seq_len, D head dim, W window, R query rows.
"""

from __future__ import annotations

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
    phase_flops,
    repeat_heads,
)

ROWS = 128  # queries of one block: the only ones whose scores exist at a time


def slopes(heads: int) -> Tensor:
    """Bias per position of distance, [H] float64: the geometric sequence from 2^(-8/H) to 2^-8.

    Section 3 of the paper gives it for any number of heads that is a power of two; here for any.
    """
    return 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1, dtype=torch.float64))


@dataclass(frozen=True)
class LocalAlibi(Variant):
    """Softmax of q_i.k_j / sqrt(D) - m_h |i - j| over a window of W = `window` positions.

    m_h is `steepness` times the slope of head h. Causal: j from i - W + 1 to i; otherwise
    |i - j| <= W // 2. What the bias leaves outside falls like exp(-m_h W).
    """

    name: ClassVar[str] = "local_alibi"
    family: ClassVar[str] = "local"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = (
        "Press, Smith, Lewis 2021, Train Short, Test Long, arXiv 2108.12409, section 3"
    )
    supports: ClassVar[Supports] = Supports(cross=False)

    window: int = 256
    steepness: float = 1.0

    def __post_init__(self) -> None:
        at_least("window", self.window, 1)
        if not (math.isfinite(self.steepness) and self.steepness >= 0.0):
            raise ValueError(f"steepness must be finite and >= 0, got {self.steepness}")

    def reach(self, w: Workload) -> tuple[int, int]:
        """How many keys before and after its own a query sees."""
        before, after = (self.window - 1, 0) if w.causal else (self.window // 2, self.window // 2)
        return min(before, w.seq_len - 1), min(after, w.seq_len - 1)

    def bias(self, w: Workload, rows: Tensor, keys: Tensor) -> Tensor:
        """What is added to the scores, [H, R, keys] float64; -inf outside of the window."""
        before, after = self.reach(w)
        distance = rows[:, None] - keys
        hidden = (distance > before) | (distance < -after)
        falling = self.steepness * slopes(w.heads).to(rows.device)[:, None, None]
        return (-falling * distance.abs()).masked_fill(hidden, -math.inf)

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            k, v = repeat_heads(k, w.heads), repeat_heads(v, w.heads)
            scores = q[:, :, rows] @ k.transpose(-2, -1) / math.sqrt(w.head_dim)
            keys = torch.arange(w.seq_len, device=q.device)
            return (scores + self.bias(w, rows, keys).to(q.dtype)).softmax(-1) @ v

        return attend

    def prepare(self, w: Workload) -> AttentionFn:
        before, after = self.reach(w)
        positions = torch.arange(w.seq_len, device=w.device)
        steps = []
        for start in range(0, w.seq_len, ROWS):
            rows = slice(start, min(start + ROWS, w.seq_len))
            keys = slice(max(0, start - before), min(w.seq_len, rows.stop + after))
            steps.append((rows, keys, self.bias(w, positions[rows], positions[keys]).to(w.torch_dtype)))

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            blocks = [
                F.scaled_dot_product_attention(
                    q[:, :, rows],
                    k[:, :, keys],
                    v[:, :, keys],
                    attn_mask=bias,
                    enable_gqa=w.kv_heads is not None,
                )
                for rows, keys, bias in steps
            ]
            return torch.cat(blocks, dim=2)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """The blocks before they are joined, their biases, and one block's scores."""
        before, after = self.reach(w)
        met = min(w.seq_len, ROWS + before + after)
        outputs = w.batch * w.heads * w.seq_len * w.head_dim * w.element_bytes
        biases = w.heads * w.seq_len * met * w.element_bytes
        scores = w.batch * w.heads * min(ROWS, w.seq_len) * met * 4
        return outputs + biases + scores if w.phase == "forward" else 3 * outputs + biases + 2 * scores

    def cost(self, w: Workload) -> Cost:
        before, after = self.reach(w)
        cut = before * (before + 1) // 2 + after * (after + 1) // 2
        pairs = w.seq_len * (before + 1 + after) - cut
        return Cost(
            flops=phase_flops(w, 4 * w.batch * w.heads * w.head_dim * pairs),
            bytes=io_bytes(w),
            workspace_bytes=self.workspace_bytes(w),
            exponent=1.0,
        )

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive
        from subquad.variants.local_window import LocalWindow

        flat = LocalAlibi(self.window, steepness=0.0)
        whole = LocalAlibi(window=300, steepness=0.0)
        return [
            *(Limit(flat, LocalWindow(self.window), Workload(2, 2, 150, 16, c)) for c in (False, True)),
            *(Limit(whole, FullNaive(), Workload(2, 2, 150, 16, c)) for c in (False, True)),
        ]
