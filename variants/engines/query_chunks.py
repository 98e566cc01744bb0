"""Scores of a chunk of queries against all keys they see: the engine of exact and other score forms.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, L queries, Lk keys, D dim of values,
E dim of queries and keys, N key heads of a step (of B * Hk), C queries of a step, M keys they see.

A form turns one `Chunk` into its output. Forward writes all scores into one reused buffer; the
backward pass computes each chunk again, so that nothing of size L x Lk is ever kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.contract import Decoder, Workload
from subquad.variants.engines.kv_cache import KvCache

CUDA_FACTOR = 32  # here a step is a launch, so there should be few


@dataclass(frozen=True)
class Chunk:
    """Queries q [N, G, C, E] and the keys they see, k [N, M, E] and v [N, M, D].

    `learned` are parameters [N, G, ...]. With `hidden` [C, C] the last C keys are the queries' own
    and true pairs are the future. `buffer` has room for the scores, None where they are derived.
    `head` is the first of the N key heads among B * Hk, `at` the key position of the first query.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    learned: tuple[Tensor, ...]
    hidden: Tensor | None
    buffer: Tensor | None
    head: int
    at: int

    def scores(self) -> Tensor:
        """q . k, -inf where hidden: [N, G C, M]."""
        rows, columns = self.q.flatten(1, 2), self.k.transpose(1, 2)
        if self.buffer is None:
            return self.hide(torch.bmm(rows, columns))
        shape = (*rows.shape[:2], columns.shape[2])
        return self.hide(torch.bmm(rows, columns, out=self.buffer[: math.prod(shape)].view(shape)))

    def hide(self, scores: Tensor) -> Tensor:
        """Set the future to -inf, in place: scores [N, G C, M]."""
        if self.hidden is not None:
            own = torch.unflatten(scores, 1, self.q.shape[1:3])[..., -len(self.hidden) :]
            own.masked_fill_(self.hidden, -math.inf)
        return scores

    def mix(self, weights: Tensor) -> Tensor:
        """Values by weights [N, G C, M]: [N, G C, D]."""
        return torch.bmm(weights, self.v)

    def rows_of(self, parameter: Tensor) -> Tensor:
        """A parameter [N, G] for each row: [N, G C, 1]."""
        return parameter[..., None].expand(self.q.shape[:3]).flatten(1, 2)[..., None]


Form = Callable[[Chunk], Tensor]
"""Maps a chunk to [N, G C, D]; must be derivable, and may work in place on fresh scores."""


def softmax_(scores: Tensor) -> Tensor:
    """Softmax over the last dimension, in place where nothing is derived."""
    if (
        scores.requires_grad or scores.is_cuda
    ):  # no promise that the CUDA kernel may overwrite its input
        return scores.softmax(-1)
    return torch.softmax(scores, -1, out=scores)


def softmax_form(c: Chunk) -> Tensor:
    """Softmax over the visible keys."""
    return c.mix(softmax_(c.scores()))


def per_head(parameter: Tensor, batch: int, key_heads: int) -> Tensor:
    """[H, ...] to [B * Hk, G, ...], as the engine takes parameters."""
    grouped = torch.unflatten(parameter, 0, (key_heads, -1))
    return grouped.expand(batch, *grouped.shape).flatten(0, 1)


@dataclass(frozen=True)
class QueryChunks:
    """softmax or another form of (q * scale) . k, chunk by chunk; call it with q, k, v and parameters.

    A step has `rows` query rows on all keys they see, two key heads at least where there are two: a
    product over two heads needs no splitting to keep two threads busy. Shapes may differ from call to
    call; causal queries end at the last key. Arithmetic is float32 (float64 for float64).
    """

    form: Form
    scale: float
    rows: int
    causal: bool
    derives: bool

    @classmethod
    def of(cls, w: Workload, form: Form, rows: int, scale: float = 1.0) -> QueryChunks:
        rows = rows if w.device == "cpu" else rows * CUDA_FACTOR
        return cls(form, scale, rows, w.causal, w.phase == "forward_backward")

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *learned: Tensor) -> Tensor:
        """q [B, H, L, E], k [B, Hk, Lk, E], v [B, Hk, Lk, D], learned [B Hk, G, ...]: [B, H, L, D]."""
        if not self.derives:
            return self._run(q, k, v, learned)
        out: Tensor = _Recomputed.apply(q, k, v, self, *learned)  # type: ignore[no-untyped-call]
        return out

    def _run(self, q: Tensor, k: Tensor, v: Tensor, learned: tuple[Tensor, ...]) -> Tensor:
        out = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
        grouped = _grouped(out, k)
        steps = _Steps(self, q, k, v, learned)
        buffer = torch.empty(steps.scores, dtype=steps.dtype, device=q.device)
        for heads, queries, chunk in steps.chunks(buffer):
            rows = grouped[heads, :, queries]
            rows.copy_(self.form(chunk).view(rows.shape))
        return out


class _Steps:
    """How one call is cut: N key heads and C queries a step."""

    def __init__(
        self, engine: QueryChunks, q: Tensor, k: Tensor, v: Tensor, learned: tuple[Tensor, ...]
    ) -> None:
        self.scale, self.dtype = engine.scale, torch.promote_types(q.dtype, torch.float32)
        self.q, self.k, self.v = _grouped(q, k), k.flatten(0, 1), v.flatten(0, 1)
        self.learned = learned
        self.heads, self.queries = cut(engine.rows, len(self.k), *self.q.shape[1:3])
        self.ahead = k.shape[2] - q.shape[2] if engine.causal else None
        self.scores = self.heads * self.q.shape[1] * self.queries * k.shape[2]
        later = torch.ones(self.queries, self.queries, dtype=torch.bool, device=q.device)
        self.later = None if self.ahead is None else later.triu_(1)

    def chunks(self, buffer: Tensor | None) -> Iterator[tuple[slice, slice, Chunk]]:
        """Heads, queries and their chunk; keys and values of low precision are converted once."""
        for h in range(0, len(self.k), self.heads):
            heads = slice(h, h + self.heads)
            k, v = self.k[heads].to(self.dtype), self.v[heads].to(self.dtype)
            learned = tuple(x[heads].to(self.dtype) for x in self.learned)
            for i in range(0, self.q.shape[2], self.queries):
                queries = slice(i, min(i + self.queries, self.q.shape[2]))
                q = (self.q[heads, :, queries].to(self.dtype) * self.scale).contiguous()
                if self.ahead is None or self.later is None:
                    seen, hidden, at = k.shape[1], None, i
                else:
                    size = queries.stop - i
                    seen, hidden = queries.stop + self.ahead, self.later[:size, :size]
                    at = i + self.ahead
                yield heads, queries, Chunk(q, k[:, :seen], v[:, :seen], learned, hidden, buffer, h, at)


def cut(rows: int, key_heads: int, group: int, length: int) -> tuple[int, int]:
    """N and C: about `rows` = N G C rows, of two key heads at least, of more in short sequences."""
    heads = min(2, key_heads)
    queries = min(length, max(1, rows // (heads * group)))
    return min(key_heads, max(heads, rows // (group * queries))), queries


def _grouped(x: Tensor, k: Tensor) -> Tensor:
    """[B, H, L, D] to [B Hk, G, L, D]: a view of fresh memory."""
    return torch.unflatten(x, 1, (k.shape[1], -1)).flatten(0, 1)


class _Recomputed(torch.autograd.Function):
    """Chunks with a backward that recomputes each, so that nothing but the inputs is kept."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, engine: QueryChunks, *learned: Tensor
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, *learned)
        ctx.engine = engine
        return engine._run(q, k, v, learned)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *learned = ctx.saved_tensors
        engine: QueryChunks = ctx.engine
        steps = _Steps(engine, q, k, v, tuple(learned))
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        dq_rows, given = _grouped(dq, k), _grouped(grad, k)
        dk, dv = (torch.zeros(x.shape, dtype=steps.dtype, device=x.device) for x in (k, v))
        dlearned = [torch.zeros_like(x, dtype=steps.dtype) for x in learned]
        for heads, queries, chunk in steps.chunks(None):
            leaves = [x.detach().requires_grad_() for x in (chunk.q, chunk.k, chunk.v, *chunk.learned)]
            q_leaf, k_leaf, v_leaf, *more = leaves
            own = replace(chunk, q=q_leaf, k=k_leaf, v=v_leaf, learned=tuple(more))
            with torch.enable_grad():
                out = engine.form(own)
            rows = given[heads, :, queries].to(steps.dtype).flatten(1, 2)
            d = torch.autograd.grad(out, leaves, rows, materialize_grads=True, allow_unused=True)
            torch.mul(d[0], engine.scale, out=d[0])
            dq_rows[heads, :, queries] = d[0]
            seen = chunk.k.shape[1]
            dk.flatten(0, 1)[heads, :seen] += d[1]
            dv.flatten(0, 1)[heads, :seen] += d[2]
            for total, part in zip(dlearned, d[3:], strict=True):
                total[heads] += part
            del out, own, leaves, q_leaf, k_leaf, v_leaf, more, d  # before the next chunk takes as much
        summed = (x.to(p.dtype) for x, p in zip(dlearned, learned, strict=True))
        return (dq, dk.to(k.dtype), dv.to(v.dtype), None, *summed)


def chunks_bytes(
    w: Workload, rows: int, forward: int = 1, backward: int = 5, dim: int | None = None
) -> int:
    """Workspace of chunks whose form holds so many tensors of the scores' size; E = `dim` or D."""
    rows = rows if w.device == "cpu" else rows * CUDA_FACTOR
    dim, element = dim or w.head_dim, max(4, w.element_bytes)
    heads, queries = cut(rows, w.batch * w.key_heads, w.heads // w.key_heads, w.seq_len)
    step = heads * (w.heads // w.key_heads) * queries
    keys = heads * w.key_len * (dim + w.head_dim)
    converted = keys if w.element_bytes < 4 else 0
    if w.phase == "forward":
        return (forward * step * w.key_len + 2 * step * w.head_dim + converted) * element
    sums = w.batch * w.key_heads * w.key_len * (dim + w.head_dim) if w.element_bytes < 4 else 0
    held = backward * step * w.key_len + 4 * step * w.head_dim + keys + converted + sums
    return held * element


class ProjectedCache(KvCache):
    """A cache that keeps keys [B, Hk, n, E] as `project` makes them, each once; values too if it does.

    `project(q, k, v, **extra)` gives what is attended, and `attend` and the prompt get the extra
    inputs as they are.
    """

    def __init__(
        self, w: Workload, attend: Callable[..., Tensor], project: Callable[..., Any], dim: int
    ) -> None:
        super().__init__(w, lambda length: attend, attend)
        self.project, self.dim = project, dim

    def start(self) -> tuple[Any, ...]:
        keys, values, at = super().start()
        return keys.new_empty(*keys.shape[:3], self.dim), values, at

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        return super().prefill(*self.project(q, k, v, **extra), **extra)

    def step(
        self, state: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        return super().step(state, *self.project(q, k, v, **extra), **extra)


def cached(w: Workload, attend: Callable[..., Tensor]) -> Decoder:
    """A decoder of keys and values as they are; `attend` takes any lengths."""
    return KvCache(w, lambda length: attend, attend)
