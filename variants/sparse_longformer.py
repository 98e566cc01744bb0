"""Longformer: a sliding window and global tokens at the start.

Dimensions: B batch, H query heads, Hk key/value heads, G query heads per key head, n seq_len, D head
dim, W window, g global tokens; S rows of a query block, N query blocks of a step, M their keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from subquad.variants.engines.blocks import (
    ROWS,
    Step,
    attention_of_steps,
    blocks_per_step,
    merged,
    steps_bytes,
)
from subquad.variants.engines.kv_cache import softmax_cache

CPU_GATHER = 2**19  # keys times head_dim (over all heads) gathered by a step: it stays in the cache
CUDA_GATHER = 2**25


@dataclass(frozen=True)
class SparseLongformer(Variant):
    """Softmax over a window of W = `window` positions and the first g = `global_tokens`.

    Causal: query i sees the keys i - W + 1 .. i and the keys j < g with j <= i. Not causal: |i - j| <=
    W // 2, and every pair in which i < g or j < g. Global and other tokens share their projections,
    where the paper gives global queries, keys and values some of their own: here q, k and v are given.
    """

    name: ClassVar[str] = "sparse_longformer"
    family: ClassVar[str] = "sparse"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = "Beltagy, Peters, Cohan 2020, Longformer, arXiv 2004.05150, section 3.1"
    supports: ClassVar[Supports] = Supports(phases=PHASES, cross=False)

    window: int = 256
    global_tokens: int = 16

    def __post_init__(self) -> None:
        at_least("window", self.window, 1)
        at_least("global_tokens", self.global_tokens, 0)

    def reach(self, w: Workload) -> tuple[int, int, int]:
        """How many keys before and after its own a query sees, and how many tokens are global."""
        before, after = (self.window - 1, 0) if w.causal else (self.window // 2, self.window // 2)
        last = w.seq_len - 1
        return min(before, last), min(after, last), min(self.global_tokens, w.seq_len)

    def prepare(self, w: Workload) -> AttentionFn:
        _, _, first = self.reach(w)
        windows = self._windows(w)
        if w.phase != "forward" or w.device != "cpu" or not first:
            return attention_of_steps(w, self._global_rows(w) + self._with_globals(w, windows))
        steps, top = merged(windows, blocks_per_step(w, ROWS)), self._global_rows(w)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = torch.empty_like(q, memory_format=torch.contiguous_format)
            for step in top:
                part = step.attend(step.of_queries(q, k.shape[1]), step.of_keys(k), step.of_keys(v))
                step.of_queries(out, k.shape[1]).copy_(part)
            # Only the window is read where it lies, so the few global keys are a part of their own.
            keys, values = (x[:, :, :first].flatten(0, 1)[:, None] for x in (k, v))
            for step in steps:
                rows = step.of_queries(q, k.shape[1])
                flat = rows.flatten(3, 4).flatten(0, 1)
                near, mass = attend_with_mass(flat, step.of_keys(k), step.of_keys(v), step.mask)
                part = add_few_keys(flat, keys, values, near, mass)
                step.of_queries(out, k.shape[1]).copy_(part.view(rows.shape))
            return out

        return attend

    def decoder(self, w: Workload) -> Decoder:
        return softmax_cache(self, w, self.window, self.global_tokens)

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        before, after, first = self.reach(w)
        keys = torch.arange(w.key_len, device=rows.device)
        distance = rows[:, None] - keys
        near = (distance <= before) & (distance >= -after)
        visible = near | (keys < first) | (rows[:, None] < first)
        return visible & (distance >= 0) if w.causal else visible

    def visible_pairs(self, w: Workload) -> int:
        before, after, first = self.reach(w)
        m = w.seq_len - first  # rows and keys that are not global
        within, past = min(before, max(0, m - 1)), min(after, max(0, m - 1))
        cut = within * (within + 1) // 2 + past * (past + 1) // 2
        others = m * (within + 1 + past) - cut
        if w.causal:
            return first * (first + 1) // 2 + m * first + others
        return first * w.key_len + m * first + others

    def workspace_bytes(self, w: Workload) -> int:
        before, after, first = self.reach(w)
        span = min(w.seq_len, first + before + ROWS + after)
        rows = min(ROWS, w.seq_len)
        if w.phase == "forward" and w.device == "cpu":
            blocks = min(blocks_per_step(w, ROWS), -(-w.seq_len // ROWS))
            scores = 2 * w.batch * w.heads * blocks * rows * (first + w.head_dim) * 4
            return steps_bytes(w, min(w.seq_len, blocks * ROWS)) + scores
        blocks = min(self._gathered(w, span), -(-w.seq_len // ROWS))
        keys = max(blocks * span, 0 if w.causal or not first else w.seq_len // 2)
        return steps_bytes(w, min(w.seq_len, blocks * rows), keys)

    def cost(self, w: Workload) -> Cost:
        kept = min(self.window + self.global_tokens, w.seq_len) if w.causal else w.key_len
        state = 2 * w.batch * w.key_heads * kept * w.head_dim * w.element_bytes
        return replace(super().cost(w), exponent=1.0, state_bytes=state)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive
        from subquad.variants.local_window import LocalWindow

        return [
            limit
            for causal in (False, True)
            for w in (Workload(2, 2, 150, 16, causal), Workload(1, 4, 150, 16, causal, kv_heads=2))
            for limit in (
                Limit(SparseLongformer(24, 0), LocalWindow(24), w),
                Limit(SparseLongformer(300, 5), FullNaive(), w),
                Limit(SparseLongformer(1, 150), FullNaive(), w),
            )
        ]

    def _global_rows(self, w: Workload) -> list[Step]:
        _, _, first = self.reach(w)
        if not first:
            return []
        # The past of the first rows is themselves; otherwise they see all keys, where these lie.
        return [Step(0, 1, first, 0, first if w.causal else w.seq_len, causal=w.causal)]

    def _windows(self, w: Workload) -> list[Step]:
        """Rows from g on with the keys of their windows from g on, one block a step."""
        n, group = w.seq_len, w.heads // w.key_heads
        before, after, first = self.reach(w)
        left = min(-(-before // 16) * 16, n)  # aligned, at the price of a few masked keys
        base = self._base(w, left)
        inside = base.expand(group, -1, -1).flatten(0, 1)
        steps: list[Step] = []
        for start in range(first, n, ROWS):
            size = min(ROWS, n - start)
            low, high = max(first, start - left), min(n, start + size + after)
            columns = slice(left + low - start, left + high - start)
            whole = size == len(base)
            mask = inside[:, columns] if whole else base[:size, columns].repeat(group, 1)
            steps.append(Step(start, 1, size, low, high - low, mask))
        return steps

    def _base(self, w: Workload, left: int) -> Tensor:
        """Additive [S, left + S + after]: every block's mask is a part of it, so masks take O(W)."""
        before, after, _ = self.reach(w)
        rows = torch.arange(min(ROWS, w.seq_len))[:, None]
        offset = torch.arange(-left, len(rows) + after)  # of a key from its block's first row
        hidden = (rows - offset > before) | (rows - offset < -after)
        base = torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)
        return base.to(w.device, w.torch_dtype)

    def _gathered(self, w: Workload, span: int) -> int:
        """How many blocks a step may take that copies their `span` keys."""
        limit = CPU_GATHER if w.device == "cpu" else CUDA_GATHER
        return max(1, limit // (w.batch * w.key_heads * span * w.head_dim))

    def _with_globals(self, w: Workload, windows: Sequence[Step]) -> list[Step]:
        """The same with the global keys before those of the window, several blocks a step."""
        _, _, first = self.reach(w)
        if not first:
            return merged(windows, blocks_per_step(w, ROWS))
        masks: dict[tuple[int, int, int], Tensor] = {}
        steps: list[Step] = []
        everywhere = torch.arange(first)
        pending: list[Tensor] = []
        for i, step in enumerate(windows):
            assert step.mask is not None
            span = first + step.span
            pending.append(everywhere)
            pending.append(torch.arange(step.first, step.first + step.span))
            following = windows[i + 1] if i + 1 < len(windows) else None
            if (
                following is not None
                and (following.size, following.span) == (step.size, step.span)
                and _same(following.mask, step.mask)
                and len(pending) < 2 * self._gathered(w, span)
            ):
                continue
            key = (step.size, step.span, int(step.mask.storage_offset()))
            if key not in masks:
                masks[key] = F.pad(step.mask, (first, 0))
            blocks = len(pending) // 2
            start = step.start - (blocks - 1) * step.size
            index = torch.cat(pending).to(w.device)
            steps.append(Step(start, blocks, step.size, 0, span, masks[key], index))
            pending = []
        return steps


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """The same part of the same mask."""
    return a is not None and b is not None and a.data_ptr() == b.data_ptr()


def attend_with_mass(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention [A, N, S, D] and the log-sum-exp [A, N, S, 1] of each row's scores, on a CPU."""
    out, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask)
    return out, mass[..., None]


def add_few_keys(q: Tensor, k: Tensor, v: Tensor, out: Tensor, mass: Tensor) -> Tensor:
    """Attention `out` of scores with log-sum-exp `mass`, with the keys k [A, 1 or N, g, D] besides."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    scores = (q @ k.mT).mul_(q.shape[-1] ** -0.5)
    total = torch.logaddexp(mass, scores.logsumexp(-1, keepdim=True))
    few = scores.sub_(total).exp_() @ v
    return few.addcmul_(out.to(dtype), (mass - total).exp_())
