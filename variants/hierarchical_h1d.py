"""Hierarchical attention: near keys one by one, far keys in groups that double with the distance.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, Z = B Hk, n seq_len, D head dim,
N block, l level, m blocks of a level, S rows of queries in a block, M keys that a block meets,
R sampled query rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
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
    causal_mask,
    io_bytes,
    phase_flops,
    repeat_heads,
)

Part = tuple[Tensor, Tensor, Tensor]
"""Of some rows: the largest score [..., 1], and times exp(-it) the sums of weights and of w v."""


@dataclass(frozen=True)
class HierarchicalH1d(Variant):
    """Softmax with scores q̄ k̄ / sqrt(D) of groups: of 2^l positions where i and j are at level l.

    At level l the positions are cut into blocks of `block` groups of 2^l. Positions i and j are at the
    first level where their blocks are the same or neighbours; at level 0 groups are single positions
    and the scores exact. q̄ and k̄ are the means over the groups of i and j (the last may be short).

    Causal: the mean of a group of queries would hold later ones than i, and its past would see the
    future. So there q̄ = q_i at all levels, and only keys and values are coarsened; that departs from
    the paper and takes n log n time where the other form takes n.
    """

    name: ClassVar[str] = "hierarchical_h1d"
    family: ClassVar[str] = "hierarchical"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = "Zhu & Soricut 2021, H-Transformer-1D, arXiv 2107.11906, sections 4-6"
    supports: ClassVar[Supports] = Supports(cross=False)

    block: int = 16  # N_r of the authors' language models

    def __post_init__(self) -> None:
        at_least("block", self.block, 2)
        if self.block % 2:
            raise ValueError(f"block must be even, got {self.block}")

    def levels(self, w: Workload) -> int:
        """How many levels hold any pair, the exact one included."""
        count = 1
        while self.block * 2 ** (count - 1) * 2 < w.seq_len:
            count += 1
        return count

    def prepare(self, w: Workload) -> AttentionFn:
        hierarchy = _Hierarchy(self, w)
        work = torch.promote_types(w.torch_dtype, torch.float32)
        stacked = (w.batch * w.key_heads, -1, w.seq_len, w.head_dim)
        # Without gradients one key head after the other: what it takes should stay in the cache.
        each = 1 if w.phase == "forward" and w.device == "cpu" else stacked[0]

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = q.reshape(stacked), k.flatten(0, 1), v.flatten(0, 1)
            if each == stacked[0]:
                out = hierarchy.attend(q.to(work), k.to(work), v.to(work)).to(w.torch_dtype)
                return out.view(w.query_shape)
            out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
            for i in range(stacked[0]):
                one = slice(i, i + 1)
                out[one] = hierarchy.attend(q[one].to(work), k[one].to(work), v[one].to(work))
            return out.view(w.query_shape)

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            k, v = repeat_heads(k, w.heads), repeat_heads(v, w.heads)
            keys = torch.arange(w.seq_len, device=q.device)
            scores = q.new_full((*q.shape[:2], len(rows), w.seq_len), -math.inf)
            for level in reversed(range(self.levels(w))):
                queries = q if w.causal else group_means(q, 2**level)
                found = queries[:, :, rows] @ group_means(k, 2**level).transpose(-2, -1)
                width = self.block * 2**level
                near = ((rows // width)[:, None] - keys // width).abs() <= 1
                scores = torch.where(near, found / math.sqrt(w.head_dim), scores)
            if w.causal:
                scores = scores.masked_fill(~causal_mask(w, rows), -math.inf)
            return scores.softmax(-1) @ v

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Scores and weights of the largest level, what all levels found; with gradients all of it."""
        scores = rows = 0
        for level in range(self.levels(w)):
            here = w.seq_len if w.causal else -(-w.seq_len // 2**level)
            span = self.block * ((2 if level == 0 else 1) if w.causal else 3)
            scores = scores + here * span if w.phase != "forward" else max(scores, here * span)
            rows = rows + here if w.phase != "forward" else w.seq_len
        heads, key_heads = w.batch * w.heads, w.batch * w.key_heads
        if w.phase == "forward" and w.device == "cpu":
            heads, key_heads = w.heads // w.key_heads, 1
        keys = key_heads * w.seq_len * w.head_dim
        numbers = 2 * heads * scores + 4 * heads * rows * w.head_dim + 6 * keys
        return numbers * max(4, w.element_bytes)

    def cost(self, w: Workload) -> Cost:
        """Two products for each pair of a query, or group of them, with a key or group of keys."""
        pairs = sum(_pairs(self.block, level, w) for level in range(self.levels(w)))
        means = 2 * w.batch * (w.heads + 2 * w.key_heads) * w.seq_len * w.head_dim
        forward = 4 * w.batch * w.heads * w.head_dim * pairs + means
        return Cost(phase_flops(w, forward), io_bytes(w), self.workspace_bytes(w), exponent=1.0)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            *(
                Limit(HierarchicalH1d(block), FullNaive(), Workload(2, 4, 150, 16, causal, kv_heads=2))
                for block, causal in ((150, True), (150, False), (76, True), (1000, False))
            ),
            # All keys alike: any normalised attention is the mean of the values.
            *(
                Limit(self, FullNaive(), Workload(2, 2, 150, 16, c), key_scale=0.0)
                for c in (True, False)
            ),
        ]


class _Hierarchy:
    """All levels of one workload."""

    def __init__(self, variant: HierarchicalH1d, w: Workload) -> None:
        self.levels = [_Level(variant.block, level, w) for level in range(variant.levels(w))]
        self.coarse_queries = not w.causal

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries [Z, G, n, D] on keys and values [Z, n, D]: [Z, G, n, D]."""
        pyramid = [(q * (1 / math.sqrt(q.shape[-1])), k, v)]
        for below, here in pairwise(self.levels):
            finer = pyramid[-1]
            keys, values = (halved(x, below.counts, here.counts) for x in finer[1:])
            queries = finer[0]
            if self.coarse_queries:
                queries = halved(queries, below.counts, here.counts)
            pyramid.append((queries, keys, values))
        found = self.levels[-1].attend(*pyramid.pop())
        for level in reversed(self.levels[:-1]):
            part = level.attend(*pyramid.pop())
            if self.coarse_queries:  # what a group found holds for both groups that it consists of
                found = doubled(found, part[0].shape[2])
            found = together(found, part)
        return found[2] / found[1]


class _Level:
    """One level of one workload: who meets whom, and how many positions each group of keys holds."""

    def __init__(self, block: int, level: int, w: Workload) -> None:
        work = torch.promote_types(w.torch_dtype, torch.float32)
        groups = -(-w.seq_len // 2**level)
        sizes = (w.seq_len - torch.arange(groups) * 2**level).clamp(max=2**level)
        self.counts = sizes.to(work).to(w.device)[:, None]
        self.block, self.blocks = block, -(-groups // block)
        merged_rows = 2**level if w.causal else 1  # rows of queries for each group of positions
        self.rows = block * merged_rows
        # Blocks b - 1, b, b + 1; causal never the next, and above level 0 not its own.
        self.span = block * ((2 if level == 0 else 1) if w.causal else 3)
        self.padding = (
            block,
            self.blocks * block - groups + (0 if w.causal else block),
        )
        mine = torch.arange(self.blocks * block).repeat_interleave(merged_rows)
        mine = mine.view(self.blocks, -1, 1)
        keys = torch.arange(self.blocks)[:, None] * block - block + torch.arange(self.span)
        keys = keys[:, None]  # [m, 1, M]
        seen = (keys >= 0) & (keys < groups)
        seen = seen & (keys <= mine) if w.causal else seen.expand(-1, self.rows, -1)
        if level > 0:  # what the finer level has met
            seen = seen & ((mine // (block // 2) - keys // (block // 2)).abs() > 1)
        weights = sizes.to(torch.float64)[keys.clamp(0, groups - 1)].log().expand(seen.shape)
        bias = weights.masked_fill(~seen, -math.inf).to(work).to(w.device)
        self.bias = bias[:, None]  # [m, 1, S, M]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Part:
        """Queries [Z, G, rows, D], keys and values [Z, groups, D]."""
        size = q.shape[2]
        padded = F.pad(q, (0, 0, 0, self.blocks * self.rows - size))
        queries = torch.unflatten(padded, 2, (self.blocks, self.rows)).transpose(1, 2)
        scores = queries.flatten(2, 3) @ self._met(k).transpose(-2, -1)
        scores = torch.unflatten(scores, 2, (-1, self.rows)) + self.bias  # [Z, m, G, S, M]
        # Rows that meet nothing have no maximum; theirs must be finite and lose to any other.
        lowest = torch.finfo(q.dtype).min / 4
        largest = scores.detach().amax(-1, keepdim=True).clamp_(min=lowest)
        weights = (scores - largest).exp()
        total = weights.sum(-1, keepdim=True)
        values = torch.unflatten(weights.flatten(2, 3) @ self._met(v), 2, (-1, self.rows))
        by_row = (x.transpose(1, 2).flatten(2, 3)[:, :, :size] for x in (largest, total, values))
        return next(by_row), next(by_row), next(by_row)

    def _met(self, x: Tensor) -> Tensor:
        """What each block meets of x [Z, groups, D], overlapping: [Z, m, M, D]."""
        front, back = self.padding
        x = F.pad(x, (0, 0, front, back))[:, : (self.blocks - 1) * self.block + self.span]
        return x.unfold(1, self.span, self.block).transpose(-1, -2)


def halved(x: Tensor, below: Tensor, here: Tensor) -> Tensor:
    """Means of neighbouring pairs, weighed by how many positions each holds: [..., groups, D]."""
    sums = F.pad(x * below, (0, 0, 0, x.shape[-2] % 2))
    return torch.unflatten(sums, -2, (-1, 2)).sum(-2) / here


def doubled(part: Part, rows: int) -> Part:
    """Each row twice, `rows` of them."""
    twice = (x.repeat_interleave(2, dim=2)[:, :, :rows] for x in part)
    return next(twice), next(twice), next(twice)


def together(a: Part, b: Part) -> Part:
    """The same rows over the keys of both."""
    largest = torch.maximum(a[0], b[0])
    of_a, of_b = (a[0] - largest).exp(), (b[0] - largest).exp()
    return largest, a[1] * of_a + b[1] * of_b, a[2] * of_a + b[2] * of_b


def group_means(x: Tensor, size: int) -> Tensor:
    """Every position's mean over its group of `size` positions, [..., n, D]; the last may be short."""
    groups = torch.split(x, size, dim=-2)
    return torch.cat([g.mean(-2, keepdim=True).expand_as(g) for g in groups], dim=-2)


def _pairs(block: int, level: int, w: Workload) -> int:
    """Pairs of (groups of) queries and groups of keys at this level."""
    groups, half = -(-w.seq_len // 2**level), block // 2
    total = 0
    for start in range(0, groups, half):
        mine, b = min(half, groups - start), start // half
        own = b // 2
        low, high = max(0, own - 1) * block, min(groups, (own + 2) * block)
        if level > 0:
            covered = min(groups, (b + 2) * half) - max(low, (b - 1) * half)
            if w.causal:
                rows = min(w.seq_len - start * 2**level, mine * 2**level)
                total += rows * max(0, (b - 1) * half - low)
            else:
                total += mine * (high - low - covered)
        elif w.causal:
            total += sum(i + 1 - low for i in range(start, start + mine))
        else:
            total += mine * (high - low)
    return total
