"""Full softmax attention in tiles, with memory that grows with L and not with L²."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from subquad.contract import (
    PHASES,
    AttentionFn,
    Computes,
    Decoder,
    Limit,
    Supports,
    Variant,
    Workload,
    at_least,
)
from subquad.variants.engines.kv_cache import KvCache
from subquad.variants.full_naive import FullNaive


@dataclass(frozen=True)
class FullChunked(Variant):
    """softmax(Q Kᵀ / sqrt(D)) V by tiles of query_chunk x key_chunk scores S, maximum and sum running.

    For each chunk of queries, over the chunks of keys:
        m' = max(m, rowmax S),  P = exp(S - m'),  a = exp(m - m')
        l' = a l + rowsum P,    O' = a O + P V    and at the end O / l.
    A tile is one reused buffer: query heads that share a key head are rows of it, and it holds two key
    heads or more, so that two threads need not share a product. Causal skips tiles of the future. All
    arithmetic is float32 (float64 for float64); other dtypes are converted chunk by chunk.
    The backward pass computes each tile again from the log-sum-exp of its rows.
    """

    query_chunk: int = 512
    key_chunk: int = 512

    name: ClassVar[str] = "full_chunked"
    family: ClassVar[str] = "full"
    computes: ClassVar[Computes] = "exact"
    source: ClassVar[str] = "Rabe & Staats 2021, arXiv 2112.05682, sections 2-4"
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def __post_init__(self) -> None:
        at_least("query_chunk", self.query_chunk, 1)
        at_least("key_chunk", self.key_chunk, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        tiling = Tiling.of(self, w).with_masks(w.device)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return tiled_forward(tiling, q, k, v)[0]

        def attend_derivable(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            output: Tensor = _TiledAttention.apply(q, k, v, tiling)  # type: ignore[no-untyped-call]
            return output

        return attend_derivable if w.phase == "forward_backward" else attend

    def decoder(self, w: Workload) -> Decoder:
        tiling = Tiling.of(self, replace(w, seq_len=1, kv_len=w.key_len, causal=False))

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return tiled_forward(tiling, q, k, v)[0]

        return KvCache(w, lambda length: self.prepare(replace(w, seq_len=length)), attend)

    def workspace_bytes(self, w: Workload) -> int:
        """One tile (two with the backward pass), chunks of q, k, v and output, two numbers a row."""
        t = Tiling.of(self, w)
        rows = t.heads * t.group * t.queries
        chunks = 2 * rows * w.head_dim + 2 * t.heads * t.keys * w.head_dim
        tile = rows * t.keys
        if w.phase == "forward":
            return (tile + chunks) * t.dtype.itemsize
        inputs = w.batch * w.head_dim * (w.heads * w.seq_len + 2 * w.key_heads * w.key_len)
        converted = inputs if w.torch_dtype != t.dtype else 0  # gradients are summed in float32
        held = 2 * w.batch * w.heads * w.seq_len
        return (2 * tile + 2 * chunks + converted + held) * t.dtype.itemsize

    def limits(self) -> list[Limit]:
        """Any tiling gives the same: one query or key at a time, ragged, larger than the input."""
        causal = Workload(2, 4, 40, 16, causal=True, kv_heads=2, kv_len=71)
        backward = Workload(1, 2, 37, 16, causal=True, phase="forward_backward")
        return [
            Limit(FullChunked(queries, keys), FullNaive(), w)
            for queries, keys in ((1, 5), (33, 7), (16, 16), (4096, 1), (4096, 4096))
            for w in (causal, backward)
        ]


@dataclass(frozen=True)
class Tiling:
    """How a workload is cut: tiles of `heads` key heads, `queries` x `group` rows, `keys` columns."""

    heads: int
    group: int  # query heads that share a key head
    queries: int
    keys: int
    ahead: int | None  # causal: query i sees keys up to i + ahead
    hidden: Tensor | None  # causal: a band [queries, queries + 2 keys] that holds each tile's mask
    dtype: torch.dtype  # of the arithmetic

    @classmethod
    def of(cls, variant: FullChunked, w: Workload) -> "Tiling":
        group = w.heads // w.key_heads
        queries = min(w.seq_len, max(1, variant.query_chunk // group))
        keys = min(w.key_len, variant.key_chunk)
        heads = max(2, variant.query_chunk * variant.key_chunk // (group * queries * keys))
        return cls(
            heads=min(w.batch * w.key_heads, heads),
            group=group,
            queries=queries,
            keys=keys,
            ahead=w.key_len - w.seq_len if w.causal else None,
            hidden=None,
            dtype=torch.promote_types(w.torch_dtype, torch.float32),
        )

    def with_masks(self, device: str) -> "Tiling":
        if self.ahead is None:
            return self
        column = torch.arange(self.queries + 2 * self.keys, device=device) - self.keys
        return replace(self, hidden=column > torch.arange(self.queries, device=device)[:, None])

    def chunks(self, q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice, list[tuple[slice, int]]]]:
        """Heads, queries, and the keys they see with how many rows to skip: those see none of them."""
        for h in range(0, k.shape[0], self.heads):
            for i in range(0, q.shape[2], self.queries):
                end = min(i + self.queries, q.shape[2])
                if self.ahead is None:
                    columns = [(j, 0) for j in range(0, k.shape[1], self.keys)]
                else:
                    visible = range(0, end + self.ahead, self.keys)
                    columns = [(j, max(0, j - self.ahead - i) * self.group) for j in visible]
                cuts = [(slice(j, min(j + self.keys, k.shape[1])), skip) for j, skip in columns]
                yield slice(h, h + self.heads), slice(i, end), cuts

    def rows(self, x: Tensor, heads: slice, queries: slice) -> Tensor:
        """[B Hk, group, L, D] to [heads, queries * group, D]: earlier queries are the first rows."""
        return x[heads, :, queries].to(self.dtype).transpose(1, 2).flatten(1, 2)

    def unrows(self, x: Tensor) -> Tensor:
        """Undo `rows`: [heads, queries * group, D] to [heads, group, queries, D]."""
        return x.view(x.shape[0], -1, self.group, x.shape[2]).transpose(1, 2)

    def buffer(self, like: Tensor) -> Tensor:
        size = self.heads * self.queries * self.group * self.keys
        return torch.empty(size, dtype=self.dtype, device=like.device)

    def product(self, buffer: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """rows @ columnsᵀ, written to the buffer: [heads, rows, keys]."""
        shape = (*rows.shape[:2], columns.shape[1])
        tile = buffer[: math.prod(shape)].view(shape)
        return torch.bmm(rows, columns.transpose(1, 2), out=tile)

    def hide(self, scores: Tensor, queries: slice, keys: slice, skip: int) -> None:
        """Set the scores of the future to -inf; the tile's mask is a window of the band."""
        if self.ahead is None or self.hidden is None or keys.stop <= queries.start + self.ahead + 1:
            return
        start = keys.start - queries.start - self.ahead + self.keys
        band = self.hidden[skip // self.group : queries.stop - queries.start]
        mask = band[:, None, start : start + keys.stop - keys.start]
        by_query = scores.view(scores.shape[0], -1, self.group, scores.shape[2])
        by_query.masked_fill_(mask, -math.inf)


def tiled_forward(t: Tiling, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the log-sum-exp of each row of scaled scores [B Hk, H/Hk, L, 1]."""
    output, scale = torch.empty_like(q), 1 / math.sqrt(q.shape[-1])
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    q, out = (x.view(k.shape[0], t.group, *x.shape[2:]) for x in (q, output))
    lse = torch.empty((*q.shape[:3], 1), dtype=t.dtype, device=q.device)
    buffer = t.buffer(q)
    for heads, queries, cuts in t.chunks(q, k):
        q_rows = t.rows(q, heads, queries) * scale
        total = torch.zeros_like(q_rows)
        peak = torch.full_like(q_rows[..., :1], -math.inf)
        mass = torch.zeros_like(peak)
        for keys, skip in cuts:
            scores = t.product(buffer, q_rows[:, skip:], k[heads, keys].to(t.dtype))
            t.hide(scores, queries, keys, skip)
            new_peak = torch.maximum(peak[:, skip:], scores.amax(-1, keepdim=True))
            decay = (peak[:, skip:] - new_peak).exp_()
            weights = scores.sub_(new_peak).exp_()
            peak[:, skip:] = new_peak
            mass[:, skip:].mul_(decay).add_(weights.sum(-1, keepdim=True))
            total[:, skip:].mul_(decay).baddbmm_(weights, v[heads, keys].to(t.dtype))
        out[heads, :, queries] = t.unrows(total.div_(mass))
        lse[heads, :, queries] = t.unrows(mass.log_().add_(peak))
    return output, lse


def tiled_backward(
    t: Tiling, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK, dV from tiles of weights P computed again: dS = P (dP - rowsum(O dO))."""
    scale = 1 / math.sqrt(q.shape[-1])
    dq, dk, dv = (torch.zeros_like(x, dtype=t.dtype) for x in (q, k, v))
    k, v, k_sum, v_sum = (x.flatten(0, 1) for x in (k, v, dk, dv))
    q, q_sum, output, gradient = (
        x.reshape(k.shape[0], t.group, *x.shape[2:]) for x in (q, dq, output, gradient)
    )
    buffer, buffer2 = t.buffer(q), t.buffer(q)
    for heads, queries, cuts in t.chunks(q, k):
        q_rows = t.rows(q, heads, queries) * scale
        g_rows = t.rows(gradient, heads, queries)
        lse_rows = t.rows(lse, heads, queries)
        delta = (t.rows(output, heads, queries) * g_rows).sum(-1, keepdim=True)
        dq_rows = torch.zeros_like(q_rows)
        for keys, skip in cuts:
            k_tile, v_tile = k[heads, keys].to(t.dtype), v[heads, keys].to(t.dtype)
            scores = t.product(buffer, q_rows[:, skip:], k_tile)
            t.hide(scores, queries, keys, skip)
            weights = scores.sub_(lse_rows[:, skip:]).exp_()
            v_sum[heads, keys].baddbmm_(weights.transpose(1, 2), g_rows[:, skip:])
            d_scores = t.product(buffer2, g_rows[:, skip:], v_tile).sub_(delta[:, skip:]).mul_(weights)
            dq_rows[:, skip:].baddbmm_(d_scores, k_tile)
            k_sum[heads, keys].baddbmm_(d_scores.transpose(1, 2), q_rows[:, skip:])
        q_sum[heads, :, queries] = t.unrows(dq_rows.mul_(scale))
    return dq, dk, dv


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, tiling: Tiling) -> Tensor:
        output, lse = tiled_forward(tiling, q, k, v)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.tiling = tiling
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output, lse = ctx.saved_tensors
        gradients = tiled_backward(ctx.tiling, q, k, v, output, lse, gradients[0])
        return (*(g.to(q.dtype) for g in gradients), None)
