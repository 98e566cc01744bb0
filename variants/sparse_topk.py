"""Top-k attention: each query keeps its largest scores.

Dimensions: B batch, H query heads, Hk key/value heads, L seq_len, Lk key length, D head dim, m kept
keys, A = B * Hk (batch times key heads), G query heads per key head, S rows of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
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
    OracleFn,
    Variant,
    Workload,
    at_least,
    io_bytes,
    phase_flops,
    softmax_attention,
)

CPU_SCORES = 2**19  # scores of a chunk: they stay in the cache
CUDA_SCORES = 2**26
CPU_GATHER = 2**19  # elements of a gather of keys
CUDA_GATHER = 2**25
GROUP = 8  # keys whose largest score decides first: near sqrt(Lk / m), where candidates are fewest


@dataclass(frozen=True)
class Selection:
    """Which keys each query keeps, chunk by chunk. Both the variant and its oracle ask here.

    Scores are products in float32 (float64 for float64) of one chunk of rows with all the keys it may
    see. A chunk's bounds depend on the shapes alone, so whoever asks gets the same bits.
    """

    keep: int
    heads: int  # key heads of a chunk
    rows: int
    ahead: int | None  # causal: query i sees keys up to i + ahead

    @classmethod
    def of(cls, w: Workload, keep: int) -> Selection:
        limit = CPU_SCORES if w.device == "cpu" else CUDA_SCORES
        row = w.heads // w.key_heads * w.key_len
        rows = min(w.seq_len, max(1, limit // row))
        heads = min(w.batch * w.key_heads, max(1, limit // (row * rows)))
        ahead = w.key_len - w.seq_len if w.causal else None
        return cls(min(keep, w.key_len), heads, rows, ahead)

    def chunks(self, q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
        """Heads of A and rows of q [A, G, L, D]."""
        for h in range(0, len(k), self.heads):
            for i in range(0, q.shape[2], self.rows):
                yield slice(h, min(h + self.heads, len(k))), slice(i, min(i + self.rows, q.shape[2]))

    def scores(self, q: Tensor, k: Tensor, heads: slice, rows: slice, buffer: Tensor) -> Tensor:
        """Products q k [A', G * S, M] of a chunk, not yet scaled; -inf where a key is not visible."""
        last = k.shape[1] if self.ahead is None else rows.stop + self.ahead
        dtype = buffer.dtype
        # Contiguous always: what a product rounds to may depend on how its operands lie.
        queries = q[heads, :, rows].flatten(1, 2).to(dtype).contiguous()
        keys = k[heads, :last].to(dtype).contiguous()
        shape = (*queries.shape[:2], last)
        product = torch.bmm(queries, keys.mT, out=buffer[: math.prod(shape)].view(shape))
        if self.ahead is not None:
            size = rows.stop - rows.start
            newest = torch.unflatten(product, 1, (-1, size))[..., last - size :]
            future = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
            newest.masked_fill_(future, -math.inf)
        return product

    def buffer(self, q: Tensor, k: Tensor) -> Tensor:
        size = self.heads * q.shape[1] * self.rows * k.shape[1]
        return torch.empty(size, dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)

    def kept(
        self, q: Tensor, k: Tensor, heads: slice, rows: slice, buffer: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of each row of a chunk [A', G, S, m] the kept scores and the keys they belong to.

        Where fewer are visible, the scores of the others are -inf, and they come last.
        """
        scores = self.scores(q, k, heads, rows, buffer)
        best, index = largest(scores, min(self.keep, scores.shape[-1]))
        return (
            torch.unflatten(best, 1, (q.shape[1], -1)),
            torch.unflatten(index, 1, (q.shape[1], -1)),
        )

    def visible(self, q: Tensor, k: Tensor, asked: Tensor) -> Tensor:
        """The keys that rows `asked` keep, bool [B, H, R, Lk]; q and k are [B, H or Hk, ..., D]."""
        queries, keys = _grouped(q, k).flatten(0, 1), k.flatten(0, 1)
        shape = (*queries.shape[:2], len(asked), k.shape[2])
        mask = torch.zeros(shape, dtype=torch.bool, device=q.device)
        buffer = self.buffer(queries, keys)
        for heads, rows in self.chunks(queries, keys):
            here = ((asked >= rows.start) & (asked < rows.stop)).nonzero().squeeze(1)
            if len(here):
                best, index = self.kept(queries, keys, heads, rows, buffer)
                seen = torch.zeros((*best.shape[:3], k.shape[2]), dtype=torch.bool, device=q.device)
                seen.scatter_(-1, index, best > -math.inf)
                mask[heads, :, here] = seen[:, :, asked[here] - rows.start]
        return mask.view(q.shape[0], q.shape[1], len(asked), k.shape[2])


def largest(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The `keep` largest of scores [..., M] and where they are; of equal ones those that come first."""
    if keep == scores.shape[-1]:
        return scores.clone(), torch.arange(keep, device=scores.device).expand(scores.shape)
    # One more than asked for: is it equal to the last, then topk alone leaves open which is kept.
    best, index = _largest(scores, keep + 1)
    best, index, next_best = best[..., :keep], index[..., :keep], best[..., keep]
    tied = (best[..., -1] == next_best) & (next_best > -math.inf)
    if tied.any():
        order = scores[tied].sort(dim=-1, descending=True, stable=True)
        best, index = best.clone(), index.clone()
        best[tied], index[tied] = order.values[:, :keep], order.indices[:, :keep]
    return best, index


def _largest(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """topk; of many keys first the groups that hold the largest, then the largest in them.

    The `keep` largest lie in the `keep` groups with the largest maxima: any other group has `keep`
    maxima above (or equal to) all of its own.
    """
    whole = scores.shape[-1] // GROUP
    if whole < 2 * keep:
        found = scores.topk(keep, dim=-1)
        return found.values, found.indices
    # Group i is the keys i, i + whole, i + 2 whole, ..., so that maxima are taken of whole rows.
    maxima = torch.unflatten(scores[..., : GROUP * whole], -1, (GROUP, whole)).amax(-2)
    chosen = maxima.topk(keep, dim=-1, sorted=False).indices
    places = (
        chosen[..., None, :] + whole * torch.arange(GROUP, device=scores.device)[:, None]
    ).flatten(-2)
    rest = torch.arange(GROUP * whole, scores.shape[-1], device=scores.device)
    places = torch.cat([places, rest.expand(*places.shape[:-1], -1)], dim=-1)
    found = scores.gather(-1, places).topk(keep, dim=-1)
    return found.values, places.gather(-1, found.indices)


def attend_kept(q: Tensor, k: Tensor, v: Tensor, index: Tensor, hidden: Tensor) -> Tensor:
    """One key head: queries [R, D] on their own keys `index` [R, m] of k and v [M, D]."""
    scores = (F.embedding(index, k) @ q[:, :, None]).squeeze(-1) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
    out: Tensor = weights[:, None] @ F.embedding(index, v)
    return out.squeeze(1)


class _Kept(torch.autograd.Function):
    """Attention on kept keys. The backward pass holds their indices and gathers keys once more."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, selection: Selection) -> Tensor:
        out, index, seen = run(q, k, v, selection, remember=True)
        ctx.save_for_backward(q, k, v, index, seen)
        ctx.selection = selection
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, index, seen = ctx.saved_tensors
        dtype = torch.promote_types(q.dtype, torch.float32)
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        dk, dv = (torch.zeros(x.shape, dtype=dtype, device=x.device) for x in (k, v))
        queries, given, gradients = (_grouped(x, k).flatten(0, 1) for x in (q, grad, dq))
        keys, values, key_sums, value_sums = (x.flatten(0, 1) for x in (k, v, dk, dv))
        step = _rows_per_gather(q, index.shape[-1])
        group = queries.shape[1]
        for a in range(len(keys)):
            table = [x[a].to(dtype).requires_grad_() for x in (keys.detach(), values.detach())]
            for g in range(group):
                for low in range(0, q.shape[2], step):
                    rows = slice(low, low + step)
                    part = queries[a, g, rows].detach().to(dtype).requires_grad_()
                    kept = index[a, g, rows].long()
                    hidden = torch.arange(kept.shape[-1], device=q.device) >= seen[rows, None]
                    with torch.enable_grad():
                        out = attend_kept(part, table[0], table[1], kept, hidden)
                    found = torch.autograd.grad(out, (part, *table), given[a, g, rows].to(dtype))
                    gradients[a, g, rows] = found[0].to(q.dtype)
                    key_sums[a] += found[1]
                    value_sums[a] += found[2]
        return dq, dk.to(k.dtype), dv.to(v.dtype), None


def run(
    q: Tensor, k: Tensor, v: Tensor, selection: Selection, remember: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The output; and, to remember, kept keys int32 [A, G, L, m] and how many of them count, [L].

    Kept keys are ordered from the largest score to the smallest, so those not visible come last.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    queries, answers = (_grouped(x, k).flatten(0, 1) for x in (q, out))
    keys, values = k.flatten(0, 1), v.flatten(0, 1)
    index = seen = None
    if remember:
        shape = (*queries.shape[:3], selection.keep)
        index = torch.zeros(shape, dtype=torch.int32, device=q.device)
        visible = torch.full((q.shape[2],), selection.keep, device=q.device)
        if selection.ahead is not None:
            visible = torch.arange(1, q.shape[2] + 1, device=q.device) + selection.ahead
        seen = visible.clamp(max=selection.keep)
    step = max(1, _rows_per_gather(q, selection.keep) // queries.shape[1])
    buffer = selection.buffer(queries, keys)
    for heads, rows in selection.chunks(queries, keys):
        best, kept = selection.kept(queries, keys, heads, rows, buffer)
        if index is not None:
            index[heads, :, rows, : kept.shape[-1]] = kept.to(torch.int32)
        weights = best.mul(q.shape[-1] ** -0.5).softmax(-1)
        for a in range(heads.start, heads.stop):
            table = values[a].to(weights.dtype)
            for low in range(rows.start, rows.stop, step):
                high = min(low + step, rows.stop)
                part = slice(low - rows.start, high - rows.start)
                chosen = F.embedding(kept[a - heads.start, :, part], table)
                answer = weights[a - heads.start, :, part, None] @ chosen  # [G, S, 1, D]
                answers[a, :, low:high] = answer.squeeze(-2).to(q.dtype)
    return out, index, seen


def _grouped(x: Tensor, k: Tensor) -> Tensor:
    """x [B, H, L, D] as [B, Hk, G, L, D]."""
    return torch.unflatten(x, 1, (k.shape[1], -1))


def _rows_per_gather(q: Tensor, keep: int) -> int:
    """How many rows may have copies of their kept keys at a time."""
    limit = CPU_GATHER if q.device.type == "cpu" else CUDA_GATHER
    return max(1, limit // (keep * q.shape[-1]))


@dataclass(frozen=True)
class SparseTopk(Variant):
    """Softmax over the `keep` visible keys with the largest scores; of equal scores the lowest keys.

    Which are largest is decided on scores q k in float32 (float64 for float64), each query head for
    itself, and is not derived. All scores are computed, so the time grows like that of full attention.
    """

    name: ClassVar[str] = "sparse_topk"
    family: ClassVar[str] = "sparse"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = "Zhao et al. 2019, Explicit Sparse Transformer, arXiv 1912.11637, section 2"

    keep: int = 64

    def __post_init__(self) -> None:
        at_least("keep", self.keep, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        selection = Selection.of(w, self.keep)
        if w.phase == "forward":
            return lambda q, k, v: run(q, k, v, selection)[0]

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = _Kept.apply(q, k, v, selection)  # type: ignore[no-untyped-call]
            return out

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        selection = Selection.of(w, self.keep)

        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            queries, keys = (x.detach().to(w.torch_dtype) for x in (q, k))
            visible = selection.visible(queries, keys, rows)
            return softmax_attention(q[:, :, rows], k, v, visible)

        return attend

    def kept_pairs(self, w: Workload) -> int:
        """Query-key pairs that are kept, per head."""
        keep = min(self.keep, w.key_len)
        if not w.causal:
            return w.seq_len * keep
        short = max(0, keep - 1 - (w.key_len - w.seq_len))  # rows that see fewer than they may keep
        return w.seq_len * keep - short * (short + 1) // 2

    def workspace_bytes(self, w: Workload) -> int:
        """A chunk's scores and candidates, one gather of keys; with gradients every kept index."""
        selection, item = Selection.of(w, self.keep), max(4, w.element_bytes)
        keep, group = selection.keep, w.heads // w.key_heads
        rows = selection.heads * group * selection.rows
        candidates = min(w.key_len, GROUP * (keep + 1))
        limit = CPU_GATHER if w.device == "cpu" else CUDA_GATHER
        gather = min(limit, w.seq_len * keep * w.head_dim * group) * item
        chunk = rows * (w.key_len * item + (12 + item) * candidates + 24 * keep)
        if w.phase == "forward":
            return chunk + gather
        index = 4 * w.batch * w.heads * w.seq_len * keep
        tables = 4 * w.key_len * w.head_dim * item
        sums = 2 * w.batch * w.key_heads * w.key_len * w.head_dim * 4 if w.element_bytes < 4 else 0
        return index + max(chunk + gather, sums + tables + 4 * gather)

    def cost(self, w: Workload) -> Cost:
        pairs = w.pairs + self.kept_pairs(w)
        forward = 2 * w.batch * w.heads * w.head_dim * pairs
        return Cost(phase_flops(w, forward), io_bytes(w), self.workspace_bytes(w), exponent=2.0)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(SparseTopk(keep), FullNaive(), w)
            for keep in (150, 1000)
            for causal in (False, True)
            for w in (
                Workload(2, 2, 150, 16, causal),
                Workload(1, 4, 100, 16, causal, kv_heads=2, kv_len=150),
            )
        ]
