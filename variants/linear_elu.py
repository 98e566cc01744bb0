"""Linear attention with elu + 1, and the chunked recurrence that linear variants share.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk query heads per key head, L seq_len,
Lk key length, D head dim, F features, C chunk, R sampled query rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
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
    causal_mask,
    io_bytes,
    phase_flops,
    repeat_heads,
)

State = tuple[Tensor, ...]


class Recurrence(ABC):
    """An attention whose past is a state of fixed size; all methods work on one chunk.

    Queries are [B * Hk, G * C, D], keys and values [B * Hk, C, D], in the dtype of the state.
    """

    @abstractmethod
    def start(self, v: Tensor) -> State:
        """The state before the first key; v is [B * Hk, 0, D]."""

    @abstractmethod
    def absorb(self, state: State, k: Tensor, v: Tensor) -> State:
        """The state after these keys."""

    @abstractmethod
    def read(self, state: State, q: Tensor) -> Tensor:
        """What queries see that come after all keys of the state."""

    @abstractmethod
    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, State]:
        """What queries see of the state and, each up to its own position, of their own chunk.

        And the state after that chunk, as `absorb` gives it.
        """


@dataclass(frozen=True)
class Chunks:
    """The order in which a recurrence goes through a workload: what it absorbs, then what it answers.

    Causal: keys before the first query are absorbed, then each chunk of queries takes a step.
    Otherwise all keys are absorbed before the first query is answered.
    """

    causal: bool
    ahead: int  # keys that are absorbed first
    length: int  # queries
    chunk: int

    @classmethod
    def of(cls, w: Workload, chunk: int) -> Chunks:
        # One query on one key is causal too, and the causal form is then exact to the last bit.
        causal = w.causal or w.key_len == w.seq_len == 1
        return cls(causal, w.key_len - w.seq_len if causal else w.key_len, w.seq_len, chunk)

    def absorbed(self) -> list[tuple[int, int]]:
        return _ranges(0, self.ahead, self.chunk)

    def answered(self) -> list[tuple[int, int]]:
        return _ranges(0, self.length, self.chunk)


def _ranges(low: int, high: int, step: int) -> list[tuple[int, int]]:
    return list(pairwise([*range(low, high, step), high]))


class _Piece:
    """Cuts chunks out of q, k and v and puts chunks back in the same places."""

    def __init__(self, key_heads: int, dtype: torch.dtype) -> None:
        self.key_heads = key_heads
        self.dtype = dtype

    def of_queries(self, x: Tensor, low: int, high: int) -> Tensor:
        grouped = torch.unflatten(x[:, :, low:high], 1, (self.key_heads, -1))  # [B, Hk, G, C, D]
        return grouped.flatten(2, 3).flatten(0, 1).to(self.dtype)

    def of_keys(self, x: Tensor, low: int, high: int) -> Tensor:
        return x[:, :, low:high].flatten(0, 1).to(self.dtype)

    def put_queries(self, x: Tensor, low: int, high: int, part: Tensor) -> None:
        rows = torch.unflatten(x[:, :, low:high], 1, (self.key_heads, -1))
        rows.copy_(part.view(rows.shape))

    def put_keys(self, x: Tensor, low: int, high: int, part: Tensor) -> None:
        rows = x[:, :, low:high]
        rows.copy_(part.view(rows.shape))


def _run(
    recurrence: Recurrence, chunks: Chunks, q: Tensor, k: Tensor, v: Tensor, keep: list[State] | None
) -> Tensor:
    """The forward pass; `keep` collects the state before each chunk of keys, and the last."""
    piece = _Piece(k.shape[1], torch.promote_types(q.dtype, torch.float32))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    state = recurrence.start(piece.of_keys(v, 0, 0))
    for low, high in chunks.absorbed():
        if keep is not None:
            keep.append(state)
        state = recurrence.absorb(state, piece.of_keys(k, low, high), piece.of_keys(v, low, high))
    for low, high in chunks.answered():
        queries = piece.of_queries(q, low, high)
        if not chunks.causal:
            piece.put_queries(out, low, high, recurrence.read(state, queries))
            continue
        if keep is not None:
            keep.append(state)
        at = (low + chunks.ahead, high + chunks.ahead)
        keys, values = piece.of_keys(k, *at), piece.of_keys(v, *at)
        part, state = recurrence.step(state, queries, keys, values)
        piece.put_queries(out, low, high, part)
    if keep is not None and not chunks.causal:
        keep.append(state)
    return out


class _Chunked(torch.autograd.Function):
    """The recurrence with a backward that recomputes chunk after chunk from the states it kept."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, recurrence: Recurrence, chunks: Chunks
    ) -> Tensor:
        states: list[State] = []
        out = _run(recurrence, chunks, q, k, v, states)
        ctx.save_for_backward(q, k, v)
        ctx.states, ctx.recurrence, ctx.chunks = states, recurrence, chunks
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        recurrence: Recurrence = ctx.recurrence
        chunks: Chunks = ctx.chunks
        states: list[State] = list(ctx.states)
        piece = _Piece(k.shape[1], torch.promote_types(q.dtype, torch.float32))
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dstate: State = tuple(torch.zeros_like(x) for x in states[-1])
        if not chunks.causal:
            last = _leaves(*states.pop())
            for low, high in chunks.answered():
                (queries,) = _leaves(piece.of_queries(q, low, high))
                with torch.enable_grad():
                    out = recurrence.read(last, queries)
                d = _grads((out,), (piece.of_queries(grad, low, high),), (*last, queries))
                dstate = tuple(a + b for a, b in zip(dstate, d[:-1], strict=True))
                piece.put_queries(dq, low, high, d[-1])
        for low, high in reversed(chunks.answered() if chunks.causal else []):
            at = (low + chunks.ahead, high + chunks.ahead)
            state = _leaves(*states.pop())
            leaves = _leaves(
                piece.of_queries(q, low, high), piece.of_keys(k, *at), piece.of_keys(v, *at)
            )
            with torch.enable_grad():
                out, after = recurrence.step(state, *leaves)
            given = (piece.of_queries(grad, low, high), *dstate)
            *dstates, gq, gk, gv = _grads((out, *after), given, (*state, *leaves))
            dstate = tuple(dstates)
            piece.put_queries(dq, low, high, gq)
            piece.put_keys(dk, *at, gk)
            piece.put_keys(dv, *at, gv)
        for low, high in reversed(chunks.absorbed()):
            state = _leaves(*states.pop())
            leaves = _leaves(piece.of_keys(k, low, high), piece.of_keys(v, low, high))
            with torch.enable_grad():
                after = recurrence.absorb(state, *leaves)
            *dstates, gk, gv = _grads(after, dstate, (*state, *leaves))
            dstate = tuple(dstates)
            piece.put_keys(dk, low, high, gk)
            piece.put_keys(dv, low, high, gv)
        return dq, dk, dv, None, None


def _leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.detach().requires_grad_() for x in tensors)


def _grads(outputs: State, given: State, inputs: State) -> State:
    """Gradients, zero where an input has no part; outputs without a gradient (maxima) are left out."""
    pairs = [(o, g) for o, g in zip(outputs, given, strict=True) if o.requires_grad]
    return torch.autograd.grad(
        [o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True, materialize_grads=True
    )


def attention_of_recurrence(w: Workload, recurrence: Recurrence, chunk: int) -> AttentionFn:
    """What `prepare` returns for a recurrence: chunks of `chunk` positions, in float32 at least."""
    chunks = Chunks.of(w, chunk)
    if w.phase == "forward":
        return lambda q, k, v: _run(recurrence, chunks, q, k, v, None)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = _Chunked.apply(q, k, v, recurrence, chunks)  # type: ignore[no-untyped-call]
        return out

    return attend


def recurrence_cost(w: Workload, features: int, projected: int, workspace_bytes: int) -> Cost:
    """Cost of the linear form: each key enters F x D sums and F more, each query reads as many.

    `projected` is F where the features take a product with D inputs each, else 0.
    """
    each = 2 * features * (w.head_dim + 1) + 2 * projected * w.head_dim
    forward = each * w.batch * (w.heads * w.seq_len + w.key_heads * w.key_len)
    return Cost(
        flops=phase_flops(w, forward),
        bytes=io_bytes(w),
        workspace_bytes=workspace_bytes,
        exponent=1.0,
        state_bytes=state_bytes(w, features),
    )


def state_bytes(w: Workload, features: int) -> int:
    """F x D sums of values and F of weights per key head, in float32 at least."""
    return w.batch * w.key_heads * features * (w.head_dim + 1) * max(4, w.element_bytes)


def recurrence_bytes(w: Workload, features: int, chunk: int) -> int:
    """Workspace: the tensors of a chunk, and with gradients the states between chunks."""
    rows = min(chunk, w.seq_len)
    wide = w.heads * (features + w.head_dim) + w.key_heads * features
    scores = 2 * w.heads * rows if w.causal else 0
    one = w.batch * rows * (wide + scores) * max(4, w.element_bytes)
    state = state_bytes(w, features)
    if w.phase == "forward":
        return one + 2 * state
    query, key = w.batch * w.heads * w.seq_len, w.batch * w.key_heads * w.key_len
    kept = (-(-w.key_len // chunk) + 4) * state
    return 4 * one + kept + min(query, key) * w.head_dim * w.element_bytes // 4  # as measured


class _Elu(Recurrence):
    """State: the sum of phi(k) v^T, [B * Hk, D, D], and of phi(k), [B * Hk, D, 1]."""

    def start(self, v: Tensor) -> State:
        heads, _, dim = v.shape
        return v.new_zeros(heads, dim, dim), v.new_zeros(heads, dim, 1)

    def absorb(self, state: State, k: Tensor, v: Tensor) -> State:
        return self._add(state, phi(k).transpose(1, 2), v)

    def read(self, state: State, q: Tensor) -> Tensor:
        features = phi(q)
        return torch.bmm(features, state[0]) / torch.bmm(features, state[1])

    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, State]:
        queries, keys = phi(q), phi(k).transpose(1, 2)
        weights = torch.unflatten(torch.bmm(queries, keys), 1, (-1, k.shape[1]))
        weights = weights.tril_().flatten(1, 2)  # of each of the G heads
        total = torch.baddbmm(weights.sum(2, keepdim=True), queries, state[1])
        out = torch.baddbmm(torch.bmm(weights, v), queries, state[0]) / total
        return out, self._add(state, keys, v)

    def _add(self, state: State, features: Tensor, v: Tensor) -> State:
        return torch.baddbmm(state[0], features, v), state[1] + features.sum(2, keepdim=True)


def phi(x: Tensor) -> Tensor:
    """elu(x) + 1, without the cancellation that 1 + expm1(x) has at negative x."""
    return x.clamp(max=0).exp_().add(x.relu())


@dataclass(frozen=True)
class LinearElu(Variant):
    """Linear attention: out_i = sum_j phi(q_i).phi(k_j) v_j / sum_j phi(q_i).phi(k_j), phi = elu + 1.

    j goes over all keys; causal: over those up to i. Computed in float32 (float64 for float64) in
    chunks of `chunk` positions: the past of a chunk is a D x D state.
    """

    name: ClassVar[str] = "linear_elu"
    family: ClassVar[str] = "linear"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = (
        "Katharopoulos et al. 2020, Transformers are RNNs, arXiv 2006.16236, section 3.2-3.3"
    )

    chunk: int = 128

    def __post_init__(self) -> None:
        at_least("chunk", self.chunk, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        return attention_of_recurrence(w, _Elu(), self.chunk)

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            k, v = repeat_heads(phi(k), w.heads), repeat_heads(v, w.heads)
            weights = phi(q[:, :, rows]) @ k.transpose(-2, -1)
            if w.causal:
                weights = weights * causal_mask(w, rows)
            return weights @ v / weights.sum(-1, keepdim=True)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        return recurrence_bytes(w, w.head_dim, self.chunk)

    def cost(self, w: Workload) -> Cost:
        return recurrence_cost(w, w.head_dim, 0, self.workspace_bytes(w))

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            # All keys alike, and one key only: any normalised attention is the mean of the values.
            *(
                Limit(self, FullNaive(), Workload(2, 2, 150, 16, c), key_scale=0.0)
                for c in (False, True)
            ),
            *(Limit(self, FullNaive(), Workload(2, 2, 1, 16, c)) for c in (False, True)),
        ]
