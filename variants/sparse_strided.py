"""Strided attention of the Sparse Transformer: a window and every s-th key.

Dimensions: n seq_len, D head dim, s stride, A = B * Hk (batch times key heads), G query heads per key
head. Positions are laid out as T rows of s: i = t * s + r. A tile is a block of that layout, t of rows
and r of columns, with M window keys for each of its rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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

COLUMNS = 64  # of a tile at most: a window of s keys is read as s + columns of them
CPU_SCORES = 2**19  # scores of a tile: they stay in the cache
CUDA_SCORES = 2**27


@dataclass(frozen=True)
class Tile:
    """Rows t0 .. t1 and columns r0 .. r1 of the layout, for heads h0 .. h1 of A."""

    h0: int
    h1: int
    t0: int
    t1: int
    r0: int
    r1: int


@dataclass(frozen=True)
class Layout:
    """The tiles of a workload and what hides keys in them."""

    n: int
    stride: int
    rows: int  # T
    causal: bool
    span: int  # window keys of a tile beyond its columns
    tiles: tuple[Tile, ...]
    outside: Tensor  # bool [columns, columns + span]: not in the window
    counted: (
        Tensor  # bool [rows of a tile, 2 T]: column keys in the window or the future, by t' - t0 + T
    )

    @classmethod
    def of(cls, w: Workload, stride: int) -> Layout:
        s, n = stride, w.seq_len
        rows = -(-n // s)
        columns = -(-s // -(-s // COLUMNS))
        span = s if w.causal else 2 * s
        budget = CPU_SCORES if w.device == "cpu" else CUDA_SCORES
        each = w.heads // w.key_heads * columns * (columns + span + rows)
        depth = min(rows, max(1, budget // each))
        heads = max(1, budget // (each * depth))
        tiles = tuple(
            Tile(
                h,
                min(h + heads, w.batch * w.key_heads),
                t,
                min(t + depth, rows),
                r,
                min(r + columns, s),
            )
            for h in range(0, w.batch * w.key_heads, heads)
            for t in range(0, rows, depth)
            for r in range(0, s, columns)
        )
        distance = torch.arange(columns)[:, None] + s - torch.arange(columns + span)
        ahead = torch.arange(2 * rows) - rows - torch.arange(depth)[:, None]
        outside = (distance < 0) | (distance >= s) if w.causal else distance.abs() >= s
        counted = ahead >= 0 if w.causal else ahead == 0
        return cls(n, s, rows, w.causal, span, tiles, outside.to(w.device), counted.to(w.device))

    def padded(self, x: Tensor, before: int, after: int) -> Tensor:
        """x [A, ..., n, D] with `before` and `after` rows of zeros around T whole rows."""
        return F.pad(x, (0, 0, before * self.stride, (self.rows + after) * self.stride - self.n))

    def queries(self, x: Tensor, tile: Tile) -> Tensor:
        """The tile of x [A, G, T * s, D] as a view [A, t, G, r, D]."""
        whole = torch.unflatten(x[tile.h0 : tile.h1], 2, (self.rows, self.stride)).transpose(1, 2)
        return whole[:, tile.t0 : tile.t1, :, tile.r0 : tile.r1]

    def window(self, x: Tensor, tile: Tile, offset: int = 0, width: int | None = None) -> Tensor:
        """Window keys of x [A, (T + 2) * s, D] as a view [A, t, M, D], or `width` of them."""
        width = tile.r1 - tile.r0 + self.span if width is None else width
        low = tile.t0 * self.stride + tile.r0 + offset
        high = low + (tile.t1 - tile.t0 - 1) * self.stride + width
        return x[tile.h0 : tile.h1, low:high].unfold(1, width, self.stride).transpose(-1, -2)

    def column(self, x: Tensor, tile: Tile) -> Tensor:
        """Column keys of x [A, (T + 2) * s, D] as a view [A, r, T, D]; causal: up to the tile's."""
        last = tile.t1 if self.causal else self.rows
        keys = x[tile.h0 : tile.h1, self.stride : (last + 1) * self.stride]
        whole = torch.unflatten(keys, 1, (last, self.stride))
        return whole[:, :, tile.r0 : tile.r1].transpose(1, 2)

    def add_to_window(self, total: Tensor, tile: Tile, part: Tensor) -> None:
        for offset in range(0, part.shape[2], self.stride):
            width = min(self.stride, part.shape[2] - offset)
            self.window(total, tile, offset, width).add_(part[:, :, offset : offset + width])

    def attend(self, tile: Tile, q: Tensor, kw: Tensor, kc: Tensor, vw: Tensor, vc: Tensor) -> Tensor:
        """One softmax over window and column keys: [A, t, G, r, D]; q is already scaled."""
        near = torch.unflatten(q.flatten(2, 3) @ kw.mT, 2, q.shape[2:4])  # [A, t, G, r, M]
        by_column = q.permute(0, 3, 2, 1, 4)  # [A, r, G, t, D]
        far = torch.unflatten(by_column.flatten(2, 3) @ kc.mT, 2, by_column.shape[2:4])
        self._hide(tile, near, far)
        largest = torch.maximum(near.detach().amax(-1), far.detach().amax(-1).transpose(1, 3))[
            ..., None
        ]
        near = near.sub_(largest).exp_()
        far = far.sub_(largest.transpose(1, 3)).exp_()
        total = near.sum(-1, keepdim=True) + far.sum(-1, keepdim=True).transpose(1, 3)
        out = (near.flatten(2, 3) @ vw).view(q.shape)
        out = out + (far.flatten(2, 3) @ vc).view(by_column.shape).transpose(1, 3)
        return out / total

    def _hide(self, tile: Tile, near: Tensor, far: Tensor) -> None:
        """Set hidden scores to -inf: no key outside the sequence, none twice."""
        size, n, s = tile.r1 - tile.r0, self.n, self.stride
        near.masked_fill_(self.outside[:size, : near.shape[-1]], -math.inf)
        low = self.rows - tile.t0
        far.masked_fill_(self.counted[: tile.t1 - tile.t0, low : low + far.shape[-1]], -math.inf)
        if tile.t0 == 0:
            near[:, 0, :, :, : s - tile.r0] = -math.inf
        if self.causal:
            return
        for t in range(max(tile.t0, self.rows - 2), tile.t1):
            near[:, t - tile.t0, ..., max(0, n - (t - 1) * s - tile.r0) :] = -math.inf
        far[:, max(0, n - (self.rows - 1) * s - tile.r0) :, ..., self.rows - 1] = -math.inf

    def operands(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Padded copies, float32 at least: q [A, G, T * s, D] scaled, k and v [A, (T + 2) * s, D]."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        grouped = torch.unflatten(q, 1, (k.shape[1], -1)).flatten(0, 1).to(dtype)
        scaled = self.padded(grouped, 0, 0) * q.shape[-1] ** -0.5
        k, v = (self.padded(x.flatten(0, 1).to(dtype), 1, 1) for x in (k, v))
        return scaled, k, v

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention tile by tile; without a gradient."""
        shape, dtype = q.shape, q.dtype
        q, k, v = self.operands(q, k, v)
        for tile in self.tiles:
            pieces = self._pieces(tile, q, k, v)
            # No other tile reads these queries, so their answer takes their place.
            pieces[0].copy_(self.attend(tile, *pieces))
        return q[:, :, : self.n].to(dtype).reshape(shape)

    def _pieces(self, tile: Tile, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        keys = (self.window(k, tile), self.column(k, tile), self.window(v, tile), self.column(v, tile))
        return self.queries(q, tile), *keys

    def gradients(self, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of q, k and v, each tile computed once more."""
        shapes, dtype, scale = (q.shape, k.shape, v.shape), q.dtype, q.shape[-1] ** -0.5
        key_heads = k.shape[1]
        q, k, v = self.operands(q, k, v)
        grouped = torch.unflatten(grad, 1, (key_heads, -1)).flatten(0, 1)
        grad = self.padded(grouped.to(q.dtype), 0, 0)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for tile in self.tiles:
            pieces = tuple(x.detach().requires_grad_() for x in self._pieces(tile, q, k, v))
            with torch.enable_grad():
                out = self.attend(tile, *pieces)
            gq, gkw, gkc, gvw, gvc = torch.autograd.grad(out, pieces, self.queries(grad, tile))
            self.queries(q, tile).copy_(gq)
            for total, near, far in ((dk, gkw, gkc), (dv, gvw, gvc)):
                self.add_to_window(total, tile, near)
                self.column(total, tile).add_(far)
        s = self.stride
        dq = (q[:, :, : self.n] * scale).to(dtype).reshape(shapes[0])
        dk, dv = (x[:, s : s + self.n].to(dtype).reshape(shapes[1]) for x in (dk, dv))
        return dq, dk, dv


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.layout = layout
        return layout.run(q, k, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.layout.gradients(*ctx.saved_tensors, grad), None


@dataclass(frozen=True)
class SparseStrided(Variant):
    """Softmax over a window and over every s-th key, s = `stride` (None: round(sqrt(n))).

    Causal: query i sees j <= i where i - j < s or (i - j) % s == 0. Not causal: any j where
    |i - j| < s or (i - j) % s == 0. This is the union in every head; scores are float32 at least.
    """

    name: ClassVar[str] = "sparse_strided"
    family: ClassVar[str] = "sparse"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = "Child et al. 2019, Sparse Transformers, arXiv 1904.10509, section 4.2"
    supports: ClassVar[Supports] = Supports(cross=False)

    stride: int | None = None

    def __post_init__(self) -> None:
        if self.stride is not None:
            at_least("stride", self.stride, 1)

    def stride_of(self, w: Workload) -> int:
        """The stride in use: at most n, above which nothing changes."""
        return round(math.sqrt(w.seq_len)) if self.stride is None else min(self.stride, w.seq_len)

    def prepare(self, w: Workload) -> AttentionFn:
        layout = Layout.of(w, self.stride_of(w))
        if w.phase == "forward":
            return layout.run

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = _Strided.apply(q, k, v, layout)  # type: ignore[no-untyped-call]
            return out

        return attend

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        s = self.stride_of(w)
        distance = rows[:, None] - torch.arange(w.key_len, device=rows.device)
        visible = (distance.abs() < s) | (distance % s == 0)
        return visible & (distance >= 0) if w.causal else visible

    def visible_pairs(self, w: Workload) -> int:
        n, s = w.seq_len, self.stride_of(w)
        whole, rest = divmod(n, s)
        before = n * s - s * (s - 1) // 2  # 0 <= i - j < s
        columns = s * whole * (whole - 1) // 2 + whole * rest  # i - j = s, 2s, ...
        return before + columns if w.causal else 2 * (before + columns) - n

    def workspace_bytes(self, w: Workload) -> int:
        s = self.stride_of(w)
        item = max(4, w.element_bytes)
        layout = Layout.of(w, s)
        tile = layout.tiles[0]
        rows, columns = tile.t1 - tile.t0, tile.r1 - tile.r0
        group = w.heads // w.key_heads
        near = rows * (
            columns * group * (columns + layout.span) + 2 * (columns + layout.span) * w.head_dim
        )
        far = columns * (rows * group * layout.rows + 2 * layout.rows * w.head_dim)
        scores = (tile.h1 - tile.h0) * (near + far) * item
        query = w.batch * w.heads * layout.rows * s * w.head_dim * item
        key = w.batch * w.key_heads * (layout.rows + 2) * s * w.head_dim * item
        if w.phase == "forward":
            return query + 2 * key + scores
        return 2 * query + 4 * key + 3 * scores

    def cost(self, w: Workload) -> Cost:
        return replace(super().cost(w), exponent=1.5 if self.stride is None else 2.0)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(SparseStrided(stride), FullNaive(), Workload(2, 2, 150, 16, causal))
            for stride in (1, 150, 1000)
            for causal in (False, True)
        ]
