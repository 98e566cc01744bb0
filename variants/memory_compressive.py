"""Compressive memory: recent keys as they are, older ones as means, the oldest forgotten.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, n seq_len, D head dim, S segment,
R sampled query rows, M keys of a segment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
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
    softmax_attention,
)
from subquad.variants.engines.blocks import Step, attention_of_steps, blocks_per_step, steps_bytes


@dataclass(frozen=True)
class MemoryCompressive(Variant):
    """Softmax over a query's segment so far, a raw memory before it and a compressed one before that.

    Query i lies in the segment of S = `segment` positions that starts at a = i - i mod S. It sees the
    keys a .. i and the `memory` positions before a. What is older is pooled: `rate` consecutive keys,
    and their values, to their mean, which is one key like any other. The newest `slots` of these
    means are seen. Mean pooling is one of the paper's compressions; here it takes keys and values,
    not the layer's inputs.
    """

    name: ClassVar[str] = "memory_compressive"
    family: ClassVar[str] = "memory"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = (
        "Rae et al. 2019, Compressive Transformers, arXiv 1911.05507, section 3, mean pooling"
    )
    supports: ClassVar[Supports] = Supports(causal=(True,), cross=False)

    segment: int = 128
    memory: int = 128
    slots: int = 128
    rate: int = 4

    def __post_init__(self) -> None:
        for name, limit in (("segment", 1), ("memory", 0), ("slots", 0), ("rate", 1)):
            at_least(name, getattr(self, name), limit)
        for name in ("segment", "memory"):  # so that a group of `rate` keys leaves the memory at once
            if getattr(self, name) % self.rate:
                raise ValueError(
                    f"{name} must be a multiple of rate={self.rate}, got {getattr(self, name)}"
                )

    def seen(self, start: int) -> tuple[range, range]:
        """The pooled groups, and the raw positions before `start`, that its segment sees."""
        oldest = max(0, start - self.memory)
        groups = oldest // self.rate
        return range(max(0, groups - self.slots), groups), range(oldest, start)

    def prepare(self, w: Workload) -> AttentionFn:
        attend = attention_of_steps(w, self._steps(w))
        pooled = self._groups(w)

        def compress(x: Tensor) -> Tensor:
            """Means, then the raw positions: [B, Hk, groups + n, D]."""
            return torch.cat([pool(x, pooled, self.rate), x], dim=2)

        return lambda q, k, v: attend(q, compress(k), compress(v))

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            outputs = []
            for i in rows.tolist():
                start = i - i % self.segment
                groups, raw = self.seen(start)
                keys, values = (
                    torch.cat(
                        [
                            *(
                                x[:, :, g * self.rate : (g + 1) * self.rate].mean(2, True)
                                for g in groups
                            ),
                            x[:, :, raw.start : i + 1],
                        ],
                        dim=2,
                    )
                    for x in (k, v)
                )
                outputs.append(softmax_attention(q[:, :, i : i + 1], keys, values))
            return torch.cat(outputs, dim=2)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Keys and values with their means, and a step's copy of what its segments see."""
        copies = w.batch * w.key_heads * (w.seq_len + self._groups(w)) * w.head_dim
        copies *= 2 if w.phase == "forward" else 6
        steps = self._steps(w)
        most = max(steps, key=lambda s: s.blocks * s.span)
        held = steps_bytes(w, most.blocks * most.size, most.blocks * most.span)
        return copies * w.element_bytes + held

    def cost(self, w: Workload) -> Cost:
        pairs = 0
        for start in range(0, w.seq_len, self.segment):
            size = min(self.segment, w.seq_len - start)
            pairs += size * sum(map(len, self.seen(start))) + size * (size + 1) // 2
        pooling = 2 * w.batch * w.key_heads * self._groups(w) * self.rate * w.head_dim
        forward = 4 * w.batch * w.heads * w.head_dim * pairs + pooling
        return Cost(phase_flops(w, forward), io_bytes(w), self.workspace_bytes(w), exponent=1.0)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive
        from subquad.variants.local_block import LocalBlock

        w = Workload(2, 4, 150, 16, causal=True, kv_heads=2)
        backward = Workload(1, 2, 150, 16, causal=True, phase="forward_backward")
        full = (
            MemoryCompressive(segment=32, memory=160),
            MemoryCompressive(segment=256, memory=0, slots=0),
            MemoryCompressive(segment=32, memory=32, slots=150, rate=1),
        )
        return [
            *(Limit(variant, FullNaive(), each) for variant in full for each in (w, backward)),
            Limit(MemoryCompressive(segment=32, memory=0, slots=0), LocalBlock(32), w),
        ]

    def _groups(self, w: Workload) -> int:
        """How many groups are pooled by the time of the last segment."""
        last = (w.seq_len - 1) // self.segment * self.segment
        return max(0, last - self.memory) // self.rate if self.slots else 0

    def _steps(self, w: Workload) -> list[Step]:
        """Neighbouring segments that see equally many keys make one step, up to a limit."""
        pooled, limit = self._groups(w), blocks_per_step(w, self.segment)

        def alike(start: int) -> tuple[int, int]:
            groups, raw = self.seen(start)
            size = min(self.segment, w.seq_len - start)
            return size, len(groups) + len(raw) + size

        steps = []
        for (size, span), run in groupby(range(0, w.seq_len, self.segment), key=alike):
            starts = list(run)
            for i in range(0, len(starts), limit):
                here = starts[i : i + limit]
                index = [
                    torch.tensor(
                        [*self.seen(a)[0], *range(pooled + self.seen(a)[1].start, pooled + a + size)]
                    )
                    for a in here
                ]
                steps.append(
                    Step(
                        here[0],
                        len(here),
                        size,
                        first=0,
                        span=span,
                        mask=self._mask(w, size, span),
                        index=torch.cat(index).to(w.device),
                    )
                )
        return steps

    def _mask(self, w: Workload, size: int, span: int) -> Tensor:
        """[G * size, span] to add: all before the segment is seen, and of it what came so far."""
        later = torch.ones(size, span, dtype=torch.bool).triu(span - size + 1)
        mask = torch.zeros(size, span).masked_fill(later, -math.inf).to(w.torch_dtype)
        return mask.repeat(w.heads // w.key_heads, 1).to(w.device)


def pool(x: Tensor, groups: int, rate: int) -> Tensor:
    """Means of the first `groups` groups of `rate` positions, [B, Hk, groups, D], float32 sums."""
    first = torch.unflatten(x[:, :, : groups * rate], 2, (groups, rate))
    return first.mean(3, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
