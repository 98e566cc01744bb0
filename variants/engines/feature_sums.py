"""Linear attention by a feature map: the recurrence and the variant that all such maps share.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, L seq_len, Lk key length, D head dim,
F features, R sampled query rows, C chunk, N = B * Hk.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, bmm

from subquad.contract import (
    PHASES,
    AttentionFn,
    Cost,
    Decoder,
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
from subquad.variants.engines.recurrence import (
    Here,
    Recurrence,
    RecurrentDecoder,
    State,
    attention_of_recurrence,
)


class FeatureSums(Recurrence):
    """State: the sum of phi(k) v^T, [N, F, D], and where weights are normalised of phi(k), [N, 1, F].

    A query whose weights sum to zero gives zeros; where they are `positive` there is none.

    A chunk is taken in blocks of `block` keys, where that divides it: fewer scores, and the states
    between blocks come from products of all blocks at once. None: many features, or `own` is another.
    """

    normalised: ClassVar[bool] = True
    positive: ClassVar[bool] = False
    block: ClassVar[int | None] = 64

    def width(self, dim: int) -> int:
        """F for heads of `dim`."""
        return dim

    @abstractmethod
    def queries(self, q: Tensor, here: Here) -> Tensor:
        """phi(q) [N, G * C, F]; a factor common to all features of a query may be left out."""

    @abstractmethod
    def keys(self, k: Tensor, here: Here) -> Tensor:
        """phi(k) [N, C, F]."""

    def own(self, q: Tensor, k: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """Weights [N, G * C, C] of the keys of one chunk, a fresh tensor; q and k are without phi."""
        return bmm(queries, keys.transpose(1, 2))

    def start(self, v: Tensor) -> State:
        heads, _, dim = v.shape
        features = self.width(dim)
        values = v.new_zeros(heads, features, dim)
        return (values, v.new_zeros(heads, 1, features)) if self.normalised else (values,)

    def absorb(self, state: State, k: Tensor, v: Tensor, here: Here) -> State:
        return self._add(state, self.keys(k, here), v)

    def read(self, state: State, q: Tensor, here: Here) -> Tensor:
        queries = self.queries(q, here)
        return self._divided(bmm(queries, state[0]), [dots(queries, x) for x in state[1:]], here)

    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        queries, keys = self.queries(q, here), self.keys(k, here)
        if self.blocks(k.shape[1]) > 1:
            return self._blocks(state, queries, keys, v, here)
        own = self.own(q, k, queries, keys)
        own = torch.unflatten(own, 1, (-1, k.shape[1])).tril_().flatten(1, 2)  # of each of the G heads
        out = bmm(own, v).baddbmm_(queries, state[0])
        totals = [own.sum(2, keepdim=True) + dots(queries, x) for x in state[1:]]
        return self._divided(out, totals, here), self._add(state, keys, v)

    def blocks(self, size: int) -> int:
        """In how many blocks a chunk of `size` positions is taken."""
        return 1 if self.block is None or size % self.block else size // self.block

    def _blocks(
        self, state: State, queries: Tensor, keys: Tensor, v: Tensor, here: Here
    ) -> tuple[Tensor, State]:
        """`step` of M blocks at once: [N, M, ...] is block by block, [N * M, ...] for the products."""
        shape, count = v.shape, self.blocks(v.shape[1])
        size = shape[1] // count
        # [N, G * C, F] to [N * M, G * size, F]: the rows of all G heads stand together in a block.
        grouped = queries.view(shape[0], -1, count, size, queries.shape[2]).transpose(1, 2)
        q = grouped.reshape(shape[0] * count, -1, queries.shape[2])
        k, v = (x.reshape(shape[0] * count, size, -1) for x in (keys, v))
        columns = k.transpose(1, 2)
        sums = [bmm(columns, v), *(k.sum(1, keepdim=True) for _ in state[1:])]
        before, after = [], []
        for start, added in zip(state, sums, strict=True):
            first, *rest = torch.unflatten(added, 0, (-1, count)).unbind(1)
            states = [start, start + first]
            for each in rest:
                states.append(states[-1] + each)
            after.append(states.pop())
            before.append(torch.stack(states, 1).flatten(0, 1))
        own = torch.unflatten(bmm(q, columns), 1, (-1, size)).tril_().flatten(1, 2)
        out = bmm(own, v).baddbmm_(q, before[0])
        totals = [own.sum(2, keepdim=True) + dots(q, x) for x in before[1:]]
        back = (shape[0], count, -1, size)

        def ordered(x: Tensor) -> Tensor:
            return x.view(*back, x.shape[2]).transpose(1, 2).reshape(shape[0], -1, x.shape[2])

        return self._divided(ordered(out), [ordered(x) for x in totals], here), tuple(after)

    def _divided(self, out: Tensor, totals: list[Tensor], here: Here) -> Tensor:
        """out / total, to where it belongs if that is known; `out` itself where nothing is divided."""
        if not totals:
            return out
        if not self.positive:
            return divided(out, *totals)
        if out.requires_grad or here.out is None:
            return out / totals[0]
        return torch.div(out, totals[0], out=here.out)

    def token(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        after = self.absorb(state, k, v, here)
        return self.read(after, q, here), after

    def _add(self, state: State, keys: Tensor, v: Tensor) -> State:
        values = state[0].baddbmm(keys.transpose(1, 2), v)
        return (values, *(x + keys.sum(1, keepdim=True) for x in state[1:]))


def dots(features: Tensor, sums: Tensor) -> Tensor:
    """[N, C, F] times [N, 1, F] to [N, C, 1]; a product with a matrix of one column is much slower."""
    products: Tensor = torch.linalg.vecdot(features, sums)
    return products.unsqueeze(2)


def divided(out: Tensor, total: Tensor | None = None) -> Tensor:
    """out / total, zero where all weights are; `out` itself without a total. May overwrite `out`."""
    if total is None:
        return out
    total = total.masked_fill(total == 0, 1.0)
    return out / total if out.requires_grad else out.div_(total)


@dataclass(frozen=True)
class FeatureMap(Variant):
    """out_i = sum_j w_ij v_j / sum_j w_ij with w_ij = phi(q_i).phi(k_j), zero where all w_ij are.

    j goes over all keys; causal: over those up to i. Computed in float32 (float64 for float64) in
    chunks of `chunk` positions: the past of a chunk is a state of F x D numbers. Where it is not causal
    a chunk is `stretch` times as long: it has no scores, which grow with its square.
    """

    family: ClassVar[str] = "linear"
    supports: ClassVar[Supports] = Supports(phases=PHASES)
    stretch: ClassVar[int] = 2

    chunk: int = 256

    def __post_init__(self) -> None:
        at_least("chunk", self.chunk, 1)

    @abstractmethod
    def recurrence(self, w: Workload) -> FeatureSums:
        """The recurrence of a workload."""

    @abstractmethod
    def weights(self, w: Workload, q: Tensor, k: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
        """The definition: w [B, H, R, Lk] of the queries `rows`; q [B, H, R, D], k [B, H, Lk, D]."""

    def projected(self, w: Workload) -> int:
        """Products with D inputs each that the features of one position take."""
        return 0

    def prepare(self, w: Workload) -> AttentionFn:
        return attention_of_recurrence(w, self.recurrence(w), self.rows(w))

    def rows(self, w: Workload) -> int:
        """C."""
        return self.chunk if w.causal else self.stretch * self.chunk

    def decoder(self, w: Workload) -> Decoder:
        return RecurrentDecoder(w, self.recurrence(w), self.chunk)

    def oracle(self, w: Workload) -> OracleFn:
        normalised = self.recurrence(w).normalised

        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
            weights = self.weights(w, q[:, :, rows], repeat_heads(k, w.heads), rows, **extra)
            if w.causal:
                weights = weights * causal_mask(w, rows)
            out = weights @ repeat_heads(v, w.heads)
            return divided(out, weights.sum(-1, keepdim=True)) if normalised else out

        return attend

    def learned_bytes(self, w: Workload) -> int:
        return sum(math.prod(spec.shape) for spec in self.extra_inputs(w).values()) * w.element_bytes

    def state_bytes(self, w: Workload) -> int:
        """F x D sums of values and F of weights per key head, in float32 at least."""
        recurrence = self.recurrence(w)
        columns = w.head_dim + recurrence.normalised
        features = recurrence.width(w.head_dim)
        return w.batch * w.key_heads * features * columns * max(4, w.element_bytes)

    def workspace_bytes(self, w: Workload) -> int:
        """The tensors of a chunk, and with gradients the states between chunks."""
        features, rows = self.recurrence(w).width(w.head_dim), min(self.rows(w), w.key_len)
        wide = w.heads * (features + w.head_dim) + w.key_heads * features
        blocks = self.recurrence(w).blocks(rows)
        scores = 2 * w.heads * rows // blocks if w.causal else 0
        one = w.batch * rows * (wide + scores) * max(4, w.element_bytes)
        state = self.state_bytes(w)
        held = (2 * blocks if w.causal else 2) * state
        if w.phase == "forward":
            return one + held
        return 4 * one + (-(-w.key_len // self.rows(w)) + 2) * state + held + self.learned_bytes(w)

    def cost(self, w: Workload) -> Cost:
        """Each key enters F x D sums and F more, each query reads as many."""
        recurrence = self.recurrence(w)
        columns = w.head_dim + recurrence.normalised
        each = 2 * recurrence.width(w.head_dim) * columns + 2 * self.projected(w) * w.head_dim
        forward = each * w.batch * (w.heads * w.seq_len + w.key_heads * w.key_len)
        passes = 2 if w.phase == "forward_backward" else 1
        return Cost(
            flops=phase_flops(w, forward),
            bytes=io_bytes(w) + passes * self.learned_bytes(w),
            workspace_bytes=self.workspace_bytes(w),
            exponent=1.0,
            state_bytes=self.state_bytes(w),
        )


def mean_limits(variant: Variant) -> list[Limit]:
    """All keys alike, and one key only: any normalised attention is the mean of the values."""
    from subquad.variants.full_naive import FullNaive

    alike = (
        Limit(variant, FullNaive(), Workload(2, 2, 150, 16, c), key_scale=0.0) for c in (False, True)
    )
    return [*alike, *(Limit(variant, FullNaive(), Workload(2, 2, 1, 16, c)) for c in (False, True))]
