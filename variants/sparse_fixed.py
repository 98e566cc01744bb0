"""Fixed attention of the Sparse Transformer: the own block and the last columns of every block.

Dimensions: n seq_len, D head dim, l stride, c summary columns, T blocks of l, Z summary keys in all,
A = B * Hk (batch times key heads), G query heads per key head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from subquad.variants.engines.blocks import KERNEL_BYTES

ROWS = 128  # of a causal piece: a larger block is cut, so that its mask does not grow with l * l


@dataclass(frozen=True)
class Piece:
    """Rows start .. stop of a block, its own keys low .. high, and summary keys 0 .. summaries."""

    start: int
    stop: int
    low: int
    high: int
    summaries: int


@dataclass(frozen=True)
class Layout:
    """The pieces of a workload. Keys of a piece lie side by side in one buffer of l + Z.

    The summary keys are copied to its end once; the own keys of a piece are copied to just before
    them. So what a piece meets is a part of the buffer, read where it lies.
    """

    stride: int
    pieces: tuple[Piece, ...]
    summary: Tensor  # int64 [Z]
    mask: Tensor | None  # causal: additive [R, l + Z], of which every piece's mask is a part

    @classmethod
    def of(cls, w: Workload, stride: int, columns: int) -> Layout:
        n, kept = w.seq_len, stride - columns
        positions = torch.arange(n)
        summary = positions[positions % stride >= kept]
        pieces = []
        for low in range(0, n, stride):
            high = min(low + stride, n)
            if not w.causal:  # own summary keys are among all the others
                pieces.append(Piece(low, high, low, min(low + kept, n), len(summary)))
                continue
            for start in range(low, high, ROWS):
                stop = min(start + ROWS, high)
                pieces.append(Piece(start, stop, low, stop, low // stride * columns))
        mask = None
        if w.causal:
            rows = min(ROWS, stride)
            mask = torch.zeros(rows, stride + len(summary))
            mask[:, stride - rows : stride] = torch.full((rows, rows), -math.inf).triu(1)
            mask = mask.to(w.device, w.torch_dtype)
        return cls(stride, tuple(pieces), summary.to(w.device), mask)

    def buffers(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k and v as [A, l + Z, D], the summary keys in their place."""
        shape = (k.shape[0] * k.shape[1], self.stride + len(self.summary), k.shape[3])
        kb, vb = (torch.empty(shape, dtype=x.dtype, device=x.device) for x in (k, v))
        for buffer, x in ((kb, k), (vb, v)):
            buffer[:, self.stride :] = x.index_select(2, self.summary).flatten(0, 1)
        return kb, vb

    def walk(
        self, k: Tensor, v: Tensor, buffers: tuple[Tensor, Tensor]
    ) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        """Each piece with the parts [A, M, D] of the buffers that it meets."""
        for piece in self.pieces:
            first = self.stride - (piece.high - piece.low)
            for buffer, x in zip(buffers, (k, v), strict=True):
                own = torch.unflatten(buffer[:, first : self.stride], 0, x.shape[:2])
                own.copy_(x[:, :, piece.low : piece.high])
            keys, values = (x[:, first : self.stride + piece.summaries] for x in buffers)
            yield piece, keys, values

    def attend(self, piece: Piece, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries [A, G, S, D] on keys [A, M, D]."""
        mask = None
        if self.mask is not None:
            first, rows = self.stride - (piece.high - piece.low), piece.stop - piece.start
            mask = self.mask[len(self.mask) - rows :, first : self.stride + piece.summaries]
        keys, values = (x[:, None].expand(-1, q.shape[1], -1, -1) for x in (keys, values))
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention piece by piece; without a gradient."""
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for piece, keys, values in self.walk(k, v, self.buffers(k, v)):
            rows = by_key_head(q, k, piece)
            part = self.attend(piece, rows.flatten(0, 1), keys, values)
            by_key_head(out, k, piece).copy_(torch.unflatten(part, 0, k.shape[:2]))
        return out

    def gradients(self, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of q, k and v, each piece computed once more."""
        buffers = self.buffers(k, v)
        total = torch.promote_types(k.dtype, torch.float32)  # a summary key gets sums of many pieces
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        dk, dv = (torch.zeros(x.shape, dtype=total, device=x.device) for x in (k, v))
        shape = (*k.shape[:2], len(self.summary), k.shape[3])
        far = [torch.zeros(shape, dtype=total, device=k.device) for _ in "kv"]
        for piece, keys, values in self.walk(k, v, buffers):
            leaves = [by_key_head(q, k, piece).flatten(0, 1), keys, values]
            leaves = [x.detach().requires_grad_() for x in leaves]
            with torch.enable_grad():
                out = self.attend(piece, *leaves)
            given = by_key_head(grad, k, piece).flatten(0, 1)
            gq, *parts = torch.autograd.grad(out, leaves, given)
            by_key_head(dq, k, piece).copy_(torch.unflatten(gq, 0, k.shape[:2]))
            own = piece.high - piece.low
            for near, distant, part in zip((dk, dv), far, parts, strict=True):
                part = torch.unflatten(part, 0, k.shape[:2])
                near[:, :, piece.low : piece.high] += part[:, :, :own]
                distant[:, :, : piece.summaries] += part[:, :, own:]
        for near, distant in zip((dk, dv), far, strict=True):
            near.index_add_(2, self.summary, distant)  # every position once
        return dq, dk.to(k.dtype), dv.to(v.dtype)


def by_key_head(x: Tensor, k: Tensor, piece: Piece) -> Tensor:
    """The piece's rows of x [B, H, n, D] as a view [B, Hk, G, S, D]."""
    return torch.unflatten(x[:, :, piece.start : piece.stop], 1, (k.shape[1], -1))


class _Fixed(torch.autograd.Function):
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
class SparseFixed(Variant):
    """Softmax over the own block of l = `stride` positions (None: round(sqrt(n))) and the last
    c = `summary` columns of every block.

    Query i sees the keys j where j // l == i // l or j % l >= l - c; causal: of these j <= i. This is
    the union in every head.
    """

    name: ClassVar[str] = "sparse_fixed"
    family: ClassVar[str] = "sparse"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = "Child et al. 2019, Sparse Transformers, arXiv 1904.10509, section 4.2"
    supports: ClassVar[Supports] = Supports(cross=False)

    stride: int | None = None
    summary: int = 8  # section 4.2 finds 8 to 32 for strides of 128 and 256

    def __post_init__(self) -> None:
        if self.stride is not None:
            at_least("stride", self.stride, 1)
        at_least("summary", self.summary, 0)

    def blocks_of(self, w: Workload) -> tuple[int, int]:
        """The stride in use and its summary columns: at most n, and at most the whole block."""
        stride = round(math.sqrt(w.seq_len)) if self.stride is None else min(self.stride, w.seq_len)
        return stride, min(self.summary, stride)

    def prepare(self, w: Workload) -> AttentionFn:
        layout = Layout.of(w, *self.blocks_of(w))
        if w.phase == "forward":
            return layout.run

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = _Fixed.apply(q, k, v, layout)  # type: ignore[no-untyped-call]
            return out

        return attend

    def mask(self, w: Workload, rows: Tensor) -> Tensor:
        stride, columns = self.blocks_of(w)
        keys = torch.arange(w.key_len, device=rows.device)
        own = keys // stride == rows[:, None] // stride
        visible = own | (keys % stride >= stride - columns)
        return visible & (keys <= rows[:, None]) if w.causal else visible

    def visible_pairs(self, w: Workload) -> int:
        stride, columns = self.blocks_of(w)
        whole, rest = divmod(w.seq_len, stride)
        if w.causal:
            own = whole * (stride * (stride + 1) // 2) + rest * (rest + 1) // 2
            before = stride * (whole * (whole - 1) // 2) + rest * whole  # rows times earlier blocks
            return own + columns * before
        kept = stride - columns
        own = whole * stride * kept + rest * min(rest, kept)
        return own + w.seq_len * self._summaries(w)

    def workspace_bytes(self, w: Workload) -> int:
        """The buffers; one piece's queries and output; with gradients its keys' and the summaries'."""
        stride, _ = self.blocks_of(w)
        wide, item = stride + self._summaries(w), w.element_bytes
        rows = min(ROWS, stride) if w.causal else stride
        keys, queries = w.batch * w.key_heads * w.head_dim, w.batch * w.heads * w.head_dim
        held = 2 * keys * wide * item + 2 * queries * rows * item + KERNEL_BYTES
        if w.phase == "forward":
            return held
        sums = 2 * keys * self._summaries(w) * max(4, item)
        copies = 2 * keys * w.seq_len * 4 if item < 4 else 0
        return held + sums + copies + 2 * (queries * rows + (keys + queries) * wide) * item

    def cost(self, w: Workload) -> Cost:
        return replace(super().cost(w), exponent=1.5 if self.stride is None else 2.0)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive
        from subquad.variants.local_block import LocalBlock

        return [
            limit
            for causal in (False, True)
            for w in (Workload(2, 2, 300, 16, causal), Workload(1, 4, 150, 16, causal, kv_heads=2))
            for limit in (
                Limit(SparseFixed(300, 8), FullNaive(), w),
                Limit(SparseFixed(1000, 3), FullNaive(), w),
                Limit(SparseFixed(16, 16), FullNaive(), w),
                Limit(SparseFixed(16, 0), LocalBlock(16), w),
            )
        ]

    def _summaries(self, w: Workload) -> int:
        """Z: positions in the last c columns of a block."""
        stride, columns = self.blocks_of(w)
        whole, rest = divmod(w.seq_len, stride)
        return whole * columns + max(0, rest - (stride - columns))
