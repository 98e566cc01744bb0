"""BigBird: global, window and random blocks.

Dimensions: n seq_len, G query heads per key head; t, u query and key blocks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
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
from subquad.variants.engines.blocks import Step, attention_of_steps, steps_bytes

CPU_GATHER = 2**19  # keys times head_dim (over all heads) gathered by a step: it stays in the cache
CUDA_GATHER = 2**25


@dataclass(frozen=True)
class SparseBigbird(Variant):
    """Softmax over the union of global, neighbouring and random blocks of `block` positions.

    A query of block t sees the blocks 0 .. `global_blocks` - 1, the blocks u with
    |t - u| <= `window_blocks` // 2, and `random_blocks` others (fewer where there are no more), drawn
    from `seed` for each t, the same for all heads. Queries of global blocks see every key.
    Causal: the same, restricted to keys j <= i; random blocks are drawn among the past ones.
    """

    name: ClassVar[str] = "sparse_bigbird"
    family: ClassVar[str] = "sparse"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = "Zaheer et al. 2020, Big Bird, arXiv 2007.14062, section 2 and appendix D"
    supports: ClassVar[Supports] = Supports(cross=False)

    block: int = 64
    window_blocks: int = 3
    global_blocks: int = 1
    random_blocks: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("block", self.block, 1)
        at_least("window_blocks", self.window_blocks, 1)
        at_least("global_blocks", self.global_blocks, 0)
        at_least("random_blocks", self.random_blocks, 0)
        if self.window_blocks % 2 == 0:
            raise ValueError(f"window_blocks must be odd, got {self.window_blocks}")

    def prepare(self, w: Workload) -> AttentionFn:
        steps = self._steps(w)
        if w.phase == "forward" and w.device == "cpu" and w.seq_len % self.block == 0:
            return _attention_of_whole_blocks(steps, self.block)
        return attention_of_steps(w, steps)

    def visible_blocks(self, w: Workload) -> list[list[int] | None]:
        """For each query block the key blocks that it sees, its own one last; None = all."""
        count = -(-w.seq_len // self.block)
        half = self.window_blocks // 2
        draw = random.Random(self.seed)
        table: list[list[int] | None] = []
        for t in range(count):
            if t < self.global_blocks:
                table.append(None)
                continue
            last = t if w.causal else count - 1
            low = max(t - half, self.global_blocks)
            high = min(t + half, last)
            # Candidates are the blocks between the global ones and the window, and those after it.
            before = low - self.global_blocks
            candidates = before + last - high
            ranks = draw.sample(range(candidates), min(self.random_blocks, candidates))
            drawn = [
                self.global_blocks + rank if rank < before else high + 1 + rank - before
                for rank in ranks
            ]
            window = [u for u in range(low, high + 1) if u != t]
            table.append([*range(self.global_blocks), *drawn, *window, t])
        return table

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        table = self.visible_blocks(w)
        sees = torch.zeros(len(rows), len(table), dtype=torch.bool, device=rows.device)
        for r, t in enumerate((rows // self.block).tolist()):
            blocks = table[t]
            sees[r, slice(None) if blocks is None else blocks] = True
        visible = sees.repeat_interleave(self.block, dim=1)[:, : w.key_len]
        return visible & causal_mask(w, rows) if w.causal else visible

    def visible_pairs(self, w: Workload) -> int:
        pairs = 0
        for t, blocks in enumerate(self.visible_blocks(w)):
            size = self._size(w, t)
            if w.causal:
                past = t * self.block if blocks is None else (len(blocks) - 1) * self.block
                pairs += size * past + size * (size + 1) // 2
            elif blocks is None:
                pairs += size * w.key_len
            else:
                pairs += size * sum(self._size(w, u) for u in blocks)
        return pairs

    def workspace_bytes(self, w: Workload) -> int:
        keys = min(
            w.seq_len, self.block * (self.global_blocks + self.window_blocks + self.random_blocks)
        )
        rows = min(self.block, w.seq_len)
        blocks = self._blocks_per_step(w, keys)
        dense = w.phase != "forward" and not w.causal and self.global_blocks > 0
        gathered = min(blocks * keys, w.seq_len * keys // rows)
        return steps_bytes(
            w, min(blocks * rows, w.seq_len), max(gathered, w.seq_len // 2 if dense else 0)
        )

    def cost(self, w: Workload) -> Cost:
        return replace(super().cost(w), exponent=1.0)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(covering, FullNaive(), Workload(2, 2, 150, 16, causal))
            for covering in (
                SparseBigbird(block=16, window_blocks=21, global_blocks=0, random_blocks=0),
                SparseBigbird(block=16, window_blocks=1, global_blocks=0, random_blocks=10),
                SparseBigbird(block=16, window_blocks=1, global_blocks=10, random_blocks=0),
                SparseBigbird(block=16, window_blocks=3, global_blocks=2, random_blocks=10),
            )
            for causal in (False, True)
        ]

    def _size(self, w: Workload, t: int) -> int:
        return min(self.block, w.seq_len - t * self.block)

    def _blocks_per_step(self, w: Workload, keys: int) -> int:
        limit = CPU_GATHER if w.device == "cpu" else CUDA_GATHER
        return max(1, limit // (w.batch * w.key_heads * keys * w.head_dim))

    def _steps(self, w: Workload) -> list[Step]:
        table = self.visible_blocks(w)
        steps: list[Step] = []
        first = min(self.global_blocks * self.block, w.seq_len)
        if first:
            # The past of the first rows is themselves; otherwise they see all keys, where these lie.
            span = first if w.causal else w.seq_len
            steps.append(Step(0, 1, first, 0, span, causal=w.causal))
        masks: dict[tuple[int, int], Tensor] = {}
        pending: list[Tensor] = []
        for t in range(self.global_blocks, len(table)):
            size = self._size(w, t)
            keys = torch.cat(
                [
                    torch.arange(u * self.block, u * self.block + self._size(w, u))
                    for u in table[t] or []
                ]
            )
            pending.append(keys)
            span = len(keys)
            ends = (
                t + 1 == len(table)
                or self._size(w, t + 1) != size
                or self._span(w, table[t + 1]) != span
                or len(pending) == self._blocks_per_step(w, span)
            )
            if not ends:
                continue
            if w.causal and (size, span) not in masks:
                masks[size, span] = _own_block_mask(w, size, span)
            steps.append(
                Step(
                    start=(t + 1 - len(pending)) * self.block,
                    blocks=len(pending),
                    size=size,
                    first=0,
                    span=span,
                    mask=masks.get((size, span)),
                    index=torch.cat(pending).to(w.device),
                )
            )
            pending = []
        return steps

    def _span(self, w: Workload, blocks: list[int] | None) -> int:
        return sum(self._size(w, u) for u in blocks or [])


def _attention_of_whole_blocks(steps: Sequence[Step], block: int) -> AttentionFn:
    """The same as `attention_of_steps`, faster: a gather copies whole blocks, always to one place."""
    gathers = [None if s.index is None else s.index.view(-1, block)[:, 0] // block for s in steps]
    most = max((len(blocks) for blocks in gathers if blocks is not None), default=0)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        heads, wide = k.shape[0] * k.shape[1], block * k.shape[3]
        tables = [x.reshape(heads, -1, wide) for x in (k, v)]
        buffers = [x.new_empty(heads * most * wide) for x in (k, v)]
        for step, blocks in zip(steps, gathers, strict=True):
            if blocks is None:
                keys, values = step.of_keys(k), step.of_keys(v)
            else:
                shape = (heads, len(blocks), wide)
                places = [x[: math.prod(shape)].view(shape) for x in buffers]
                for table, place in zip(tables, places, strict=True):
                    torch.index_select(table, 1, blocks, out=place)
                keys, values = (x.view(heads, step.blocks, step.span, -1) for x in places)
            part = step.attend(step.of_queries(q, k.shape[1]), keys, values)
            step.of_queries(out, k.shape[1]).copy_(part)
        return out

    return attend


def _own_block_mask(w: Workload, size: int, span: int) -> Tensor:
    """Additive [G * size, span]: all past, and causal in the last `size` keys, the own block."""
    mask = torch.zeros(size, span)
    mask[:, span - size :] = torch.full((size, size), -math.inf).triu(1)
    return mask.repeat(w.heads // w.key_heads, 1).to(w.device, w.torch_dtype)
