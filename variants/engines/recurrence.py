"""Chunked recurrence: the engine of linear attention, of its gated and delta-rule forms.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk query heads per key head, L seq_len,
Lk key length, D head dim, F features, C chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.contract import AttentionFn, Cost, Decoder, Workload, io_bytes, phase_flops

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Here:
    """What a method of a recurrence may know besides q, k and v.

    `at` is the position of the first query of the chunk, or of its first key where it has no query.
    `gates` are the extra inputs at the chunk's keys, [B * Hk, C, ...]; `learned` ones are whole. Where
    there is an `out` [B * Hk, C, D], the answer may be written there and given back: that saves a copy.
    """

    at: int
    gates: Mapping[str, Tensor]
    learned: Mapping[str, Tensor]
    out: Tensor | None = None


class Recurrence(ABC):
    """An attention whose past is a state of fixed size; all methods work on one chunk.

    Queries are [B * Hk, G * C, D], keys and values [B * Hk, C, D], in the dtype of the state. They
    must not be modified. `gates` and `learned` name the extra inputs of the variant.
    """

    gates: ClassVar[tuple[str, ...]] = ()
    learned: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def start(self, v: Tensor) -> State:
        """The state before the first key; v is [B * Hk, 0, D]."""

    @abstractmethod
    def absorb(self, state: State, k: Tensor, v: Tensor, here: Here) -> State:
        """The state after these keys."""

    @abstractmethod
    def read(self, state: State, q: Tensor, here: Here) -> Tensor:
        """What queries see that come after all keys of the state."""

    @abstractmethod
    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        """What queries see of the state and, each up to its own position, of their own chunk.

        And the state after that chunk, as `absorb` gives it.
        """

    def token(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        """`step` for one position, C = 1: the recurrent form. Must not modify the state."""
        return self.step(state, q, k, v, here)


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
    """Cuts chunks out of q, k, v and gates and puts chunks back in the same places."""

    def __init__(self, key_heads: int, dtype: torch.dtype) -> None:
        self.key_heads = key_heads
        self.dtype = dtype

    def of_queries(self, x: Tensor, low: int, high: int) -> Tensor:
        grouped = torch.unflatten(x[:, :, low:high], 1, (self.key_heads, -1))  # [B, Hk, G, C, D]
        return grouped.flatten(2, 3).flatten(0, 1).to(self.dtype)

    def of_keys(self, x: Tensor, low: int, high: int) -> Tensor:
        return x[:, :, low:high].flatten(0, 1).to(self.dtype)

    def rows_of(self, x: Tensor, low: int, high: int) -> Tensor | None:
        """The rows that `put_queries` would write, as a view to write to; None where there is none."""
        if x.shape[1] != self.key_heads or x.dtype != self.dtype:
            return None
        return x[:, :, low:high].flatten(0, 1)

    def put_queries(self, x: Tensor, low: int, high: int, part: Tensor) -> None:
        rows = torch.unflatten(x[:, :, low:high], 1, (self.key_heads, -1))
        rows.copy_(part.view(rows.shape))

    def put_keys(self, x: Tensor, low: int, high: int, part: Tensor) -> None:
        rows = x[:, :, low:high]
        rows.copy_(part.view(rows.shape))


@dataclass(frozen=True)
class _Extra:
    """The extra inputs of one call."""

    gates: dict[str, Tensor]
    learned: dict[str, Tensor]

    @classmethod
    def of(cls, recurrence: Recurrence, extra: Mapping[str, Tensor], dtype: torch.dtype) -> _Extra:
        gates = {name: extra[name] for name in recurrence.gates}
        return cls(gates, {name: extra[name].to(dtype) for name in recurrence.learned})

    def here(
        self,
        at: int,
        piece: _Piece,
        keys: tuple[int, int] | None = None,
        out: Tensor | None = None,
    ) -> Here:
        if keys is None:
            return Here(at, {}, self.learned, out)
        gates = {n: piece.of_keys(x, *keys) for n, x in self.gates.items()}
        return Here(at, gates, self.learned, out)


def _run(
    recurrence: Recurrence,
    chunks: Chunks,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: Mapping[str, Tensor],
    keep: list[State] | None,
) -> tuple[Tensor, State]:
    """Output and last state; `keep` collects the state before each chunk of keys, and the last."""
    piece = _Piece(k.shape[1], torch.promote_types(q.dtype, torch.float32))
    more = _Extra.of(recurrence, extra, piece.dtype)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    state = recurrence.start(piece.of_keys(v, 0, 0))
    for low, high in chunks.absorbed():
        if keep is not None:
            keep.append(state)
        keys, values = piece.of_keys(k, low, high), piece.of_keys(v, low, high)
        state = recurrence.absorb(state, keys, values, more.here(low, piece, (low, high)))
    for low, high in chunks.answered():
        queries, rows = piece.of_queries(q, low, high), piece.rows_of(out, low, high)
        if not chunks.causal:
            part = recurrence.read(state, queries, more.here(low, piece, None, rows))
            if part is not rows:
                piece.put_queries(out, low, high, part)
            continue
        if keep is not None:
            keep.append(state)
        at = (low + chunks.ahead, high + chunks.ahead)
        keys, values = piece.of_keys(k, *at), piece.of_keys(v, *at)
        here = more.here(at[0], piece, at, rows)
        part, state = recurrence.step(state, queries, keys, values, here)
        if part is not rows:
            piece.put_queries(out, low, high, part)
    if keep is not None and not chunks.causal:
        keep.append(state)
    return out, state


class _Chunked(torch.autograd.Function):
    """The recurrence with a backward that recomputes chunk after chunk from the states it kept."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        recurrence: Recurrence,
        chunks: Chunks,
        *extra: Tensor,
    ) -> Tensor:
        states: list[State] = []
        named = dict(zip((*recurrence.gates, *recurrence.learned), extra, strict=True))
        out, _ = _run(recurrence, chunks, q, k, v, named, states)
        ctx.save_for_backward(q, k, v, *extra)
        ctx.states, ctx.recurrence, ctx.chunks = states, recurrence, chunks
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *extra = ctx.saved_tensors
        return _Backward(ctx.recurrence, ctx.chunks, q, k, v, extra).run(grad, list(ctx.states))


class _Backward:
    """One backward pass: gradients of q, k, v and of the extra inputs, chunk by chunk."""

    def __init__(
        self,
        recurrence: Recurrence,
        chunks: Chunks,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        extra: list[Tensor],
    ) -> None:
        self.recurrence, self.chunks = recurrence, chunks
        self.q, self.k, self.v = q, k, v
        self.piece = _Piece(k.shape[1], torch.promote_types(q.dtype, torch.float32))
        count = len(recurrence.gates)
        self.gates, self.learned = extra[:count], [x.to(self.piece.dtype) for x in extra[count:]]
        self.dq, self.dk, self.dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        self.dgates = [torch.empty_like(x) for x in self.gates]
        self.dlearned = [torch.zeros_like(x) for x in self.learned]
        self.extra_dtypes = [x.dtype for x in extra[count:]]

    def run(self, grad: Tensor, states: list[State]) -> tuple[Tensor | None, ...]:
        self.dstate: State = tuple(torch.zeros_like(x) for x in states[-1])
        if self.chunks.causal:
            for low, high in reversed(self.chunks.answered()):
                self._step(states.pop(), grad, low, high)
        else:
            last = states.pop()
            for low, high in self.chunks.answered():
                self._read(last, grad, low, high)
        for low, high in reversed(self.chunks.absorbed()):
            self._absorb(states.pop(), low, high)
        learned = [x.to(t) for x, t in zip(self.dlearned, self.extra_dtypes, strict=True)]
        return self.dq, self.dk, self.dv, None, None, *self.dgates, *learned

    def _here(self, at: int, gates: State, learned: State) -> Here:
        names = self.recurrence.gates if gates else ()
        return Here(
            at,
            dict(zip(names, gates, strict=True)),
            dict(zip(self.recurrence.learned, learned, strict=True)),
        )

    def _leaves_of_keys(self, low: int, high: int) -> tuple[State, State]:
        """Keys and values, and gates, of some positions as leaves."""
        of = self.piece.of_keys
        return (
            _leaves(of(self.k, low, high), of(self.v, low, high)),
            _leaves(*(of(x, low, high) for x in self.gates)),
        )

    def _put_keys(self, low: int, high: int, grads: State) -> None:
        totals = (self.dk, self.dv, *self.dgates)
        for total, part in zip(totals, grads, strict=True):
            self.piece.put_keys(total, low, high, part)

    def _add_learned(self, grads: State) -> None:
        for total, part in zip(self.dlearned, grads, strict=True):
            total.add_(part)

    def _read(self, last: State, grad: Tensor, low: int, high: int) -> None:
        state, learned = _leaves(*last), _leaves(*self.learned)
        (queries,) = _leaves(self.piece.of_queries(self.q, low, high))
        with torch.enable_grad():
            out = self.recurrence.read(state, queries, self._here(low, (), learned))
        given = self.piece.of_queries(grad, low, high)
        d = _grads((out,), (given,), (*state, queries, *learned))
        count = len(state)
        self.dstate = tuple(a + b for a, b in zip(self.dstate, d[:count], strict=True))
        self.piece.put_queries(self.dq, low, high, d[count])
        self._add_learned(d[count + 1 :])

    def _step(self, before: State, grad: Tensor, low: int, high: int) -> None:
        at = (low + self.chunks.ahead, high + self.chunks.ahead)
        state, learned = _leaves(*before), _leaves(*self.learned)
        (queries,) = _leaves(self.piece.of_queries(self.q, low, high))
        keys, gates = self._leaves_of_keys(*at)
        with torch.enable_grad():
            here = self._here(at[0], gates, learned)
            out, after = self.recurrence.step(state, queries, keys[0], keys[1], here)
        given = (self.piece.of_queries(grad, low, high), *self.dstate)
        d = _grads((out, *after), given, (*state, queries, *keys, *gates, *learned))
        count = len(state)
        self.dstate = d[:count]
        self.piece.put_queries(self.dq, low, high, d[count])
        self._put_keys(*at, d[count + 1 : count + 3 + len(gates)])
        self._add_learned(d[count + 3 + len(gates) :])

    def _absorb(self, before: State, low: int, high: int) -> None:
        state, learned = _leaves(*before), _leaves(*self.learned)
        keys, gates = self._leaves_of_keys(low, high)
        with torch.enable_grad():
            here = self._here(low, gates, learned)
            after = self.recurrence.absorb(state, keys[0], keys[1], here)
        d = _grads(after, self.dstate, (*state, *keys, *gates, *learned))
        count = len(state)
        self.dstate = d[:count]
        self._put_keys(low, high, d[count : count + 2 + len(gates)])
        self._add_learned(d[count + 2 + len(gates) :])


def _leaves(*tensors: Tensor) -> State:
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
        return lambda q, k, v, **extra: _run(recurrence, chunks, q, k, v, extra, None)[0]
    names = (*recurrence.gates, *recurrence.learned)

    def attend(q: Tensor, k: Tensor, v: Tensor, **extra: Tensor) -> Tensor:
        given = [extra[name] for name in names]
        out: Tensor = _Chunked.apply(q, k, v, recurrence, chunks, *given)  # type: ignore[no-untyped-call]
        return out

    return attend


class RecurrentDecoder(Decoder):
    """Decoding by a recurrence: chunks for the prompt, `token` for each step.

    A state is the number of positions absorbed and the recurrence's own state.
    """

    def __init__(self, w: Workload, recurrence: Recurrence, chunk: int) -> None:
        self.w, self.recurrence, self.chunk = w, recurrence, chunk
        self.dtype = torch.promote_types(w.torch_dtype, torch.float32)

    def start(self) -> tuple[Any, ...]:
        shape = (self.w.batch * self.w.key_heads, 0, self.w.head_dim)
        return (0, *self.recurrence.start(torch.empty(shape, dtype=self.dtype, device=self.w.device)))

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        length = q.shape[2]
        chunks = Chunks(causal=True, ahead=0, length=length, chunk=self.chunk)
        out, state = _run(self.recurrence, chunks, q, k, v, extra, None)
        return out, (length, *state)

    def step(
        self, state: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        at, *before = state
        piece = _Piece(k.shape[1], self.dtype)
        here = _Extra.of(self.recurrence, extra, self.dtype).here(at, piece, (0, 1))
        queries, keys, values = (
            piece.of_queries(q, 0, 1), piece.of_keys(k, 0, 1), piece.of_keys(v, 0, 1)
        )  # fmt: skip
        out, after = self.recurrence.token(tuple(before), queries, keys, values, here)
        return out.reshape(q.shape).to(q.dtype), (at + 1, *after)


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
