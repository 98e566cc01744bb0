"""Hashed attention of the Reformer: queries meet the keys of their own bucket.

Dimensions: B batch, H query heads, Hk key/value heads, n seq_len, D head dim, b buckets, m chunk,
A = B * H, G query heads per key head; S rows of a block of queries, N blocks of a step, M their keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    Supports,
    Variant,
    Workload,
    at_least,
    io_bytes,
    phase_flops,
    repeat_heads,
    softmax_attention,
)

ROWS = 64  # of a block at most
CPU_SCORES = 2**18  # scores of a step: they stay in the cache
CUDA_SCORES = 2**25


def buckets_of(x: Tensor, rotations: Tensor) -> Tensor:
    """argmax [x R, -x R] in float64: x [B, h, n, D], R [rounds, D, b / 2] to int64 [rounds, B, h, n].

    Without rotations (b = 1) everything is in bucket 0. Equal values go to the lower bucket.
    """
    rounds, _, half = rotations.shape
    if half == 0:
        return torch.zeros((rounds, *x.shape[:3]), dtype=torch.int64, device=x.device)
    flat = x.detach().flatten(0, 1)
    found = torch.empty((rounds, *flat.shape[:2]), dtype=torch.int64, device=x.device)
    for a, head in enumerate(flat):  # one at a time: float64 copies of all would be the largest tensor
        turned = head.double() @ rotations  # [rounds, n, b / 2]
        found[:, a] = torch.cat([turned, -turned], dim=-1).argmax(-1)
    return torch.unflatten(found, 1, x.shape[:2])


@dataclass(frozen=True)
class Round:
    """What one hash decides: query a sees the keys `order[low] .. order[high - 1]` of its key head.

    The rows of A * n queries are cut in `blocks`, S rows that share `low`; A * n itself stands for
    no query, and its `low` and `high` are 0.
    """

    order: Tensor  # int64 [B * Hk * n]: keys of a head by bucket, then by position
    place: Tensor  # int64 [B * Hk * n]: where in that order a key stands
    low: Tensor  # int64 [A * n + 1]
    high: Tensor
    blocks: Tensor  # int64 [N, S]: queries

    @classmethod
    def of(cls, w: Workload, query: Tensor, key: Tensor, chunk: int) -> Round:
        """From the buckets of queries [B, H, n] and of keys [B, Hk, n]."""
        n, position = w.seq_len, torch.arange(w.seq_len, device=key.device)
        ranked = (key * n + position).flatten(0, 1).sort(-1).values
        order = ranked % n
        place = torch.empty_like(order).scatter_(1, order, position.expand_as(order))
        first = torch.unflatten(query * n, 1, (w.key_heads, -1)).flatten(0, 1)  # [B * Hk, G, n]
        start = torch.searchsorted(ranked, first.flatten(1))
        own = (first + position).flatten(1)
        if w.causal:
            high = torch.searchsorted(ranked, own, right=True)
            part = (high - start - 1).clamp(min=0) // chunk
            low = start + (part - 1).clamp(min=0) * chunk
        else:
            part = (torch.searchsorted(ranked, own) - start) // chunk
            low = start + (part - 1).clamp(min=0) * chunk
            stop = torch.searchsorted(ranked, first.flatten(1) + n)
            high = torch.minimum(start + (part + 2) * chunk, stop)
        low, high = low.flatten(), high.flatten()
        blocks = _cut(low, n, min(ROWS, chunk, n))
        none = low.new_zeros(1)
        low, high = torch.cat([low, none]), torch.cat([high, none])
        return cls(order.flatten(), place.flatten(), low, high, blocks)


def _cut(low: Tensor, n: int, size: int) -> Tensor:
    """Queries of a head with the same `low` [A * n], in blocks [N, size]; A * n fills the last."""
    head = torch.arange(len(low), device=low.device) // n
    ranked, rows = (head * (n + 1) + low).sort(stable=True)
    _, which, count = torch.unique_consecutive(ranked, return_inverse=True, return_counts=True)
    whole = -(-count // size)
    # A group moves back by what the last blocks of those before it leave empty.
    moved = (whole * size).cumsum(0) - whole * size - (count.cumsum(0) - count)
    blocks = low.new_full((int(whole.sum()) * size,), len(low))
    blocks[torch.arange(len(low), device=low.device) + moved[which]] = rows
    return blocks.view(-1, size)


@dataclass(frozen=True)
class Step:
    """N blocks of queries and their keys: rows [N, S], keys [N, M] and who is hidden [N, S, M]."""

    rows: Tensor
    keys: Tensor  # among B * Hk * n
    hidden: Tensor


@dataclass(frozen=True)
class Plan:
    """Who sees whom in all rounds, from one call's queries and keys."""

    n: int
    group: int
    span: int  # M
    rounds: Sequence[Round]
    limit: int  # scores of a step

    def steps(self) -> Iterator[Step]:
        """All pairs but those of a query with its own position, each pair once."""
        offset = torch.arange(self.span, device=self.rounds[0].low.device)
        for r, hashed in enumerate(self.rounds):
            count = max(1, self.limit // (hashed.blocks.shape[1] * self.span))
            for rows in torch.split(hashed.blocks, count):
                first = rows[:, :1]  # of a block, which is never empty
                key_head = first // (self.n * self.group) * self.n
                places = hashed.low[first] + offset  # [N, M]
                keys = key_head + hashed.order[key_head + places.clamp(max=self.n - 1)]
                hidden = places[:, None] >= hashed.high[rows][..., None]
                hidden |= keys[:, None] % self.n == (rows % self.n)[..., None]
                for earlier in self.rounds[:r]:
                    place = earlier.place[keys][:, None]
                    seen = place >= earlier.low[rows][..., None]
                    hidden |= seen.logical_and_(place < earlier.high[rows][..., None])
                yield Step(rows, keys, hidden)


def scores_of(step: Step, q: Tensor, k: Tensor) -> Tensor:
    """Scores [N, S, M] of scaled queries, -inf where hidden."""
    return (q[step.rows] @ k[step.keys].to(q.dtype).mT).masked_fill_(step.hidden, -math.inf)


def forward(plan: Plan, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled q [A * n + 1, D], k and v [B * Hk * n, D]: the output, and of each row's scores the
    maximum m and the sum of exp(score - m), both [A * n + 1, 1].

    Starts with each query's own position, and adds what it sees in one round after the other.
    """
    own = own_keys(plan, k).to(q.dtype), own_keys(plan, v).to(q.dtype)
    peak, mass, out = torch.zeros_like(q[:, :1]), torch.ones_like(q[:, :1]), torch.zeros_like(q)
    peak[:-1] = (_by_group(plan, q[:-1]) * own[0]).sum(-1).view(-1, 1)
    _by_group(plan, out[:-1]).copy_(own[1])
    for step in plan.steps():
        rows = step.rows
        scores = scores_of(step, q, k)
        largest = torch.maximum(scores.amax(-1, keepdim=True), peak[rows])
        weights = scores.sub_(largest).exp_()
        decay = (peak[rows] - largest).exp_()
        mass[rows] = weights.sum(-1, keepdim=True).addcmul_(mass[rows], decay)
        out[rows] = (weights @ v[step.keys].to(q.dtype)).addcmul_(out[rows], decay)
        peak[rows] = largest
    return out.div_(mass), peak, mass


def own_keys(plan: Plan, x: Tensor) -> Tensor:
    """x [B * Hk * n, D] as [B * Hk, 1, n, D], next to queries by group."""
    return x.view(-1, 1, plan.n, x.shape[-1])


def _by_group(plan: Plan, x: Tensor) -> Tensor:
    """x [A * n, D] as [B * Hk, G, n, D]."""
    return x.view(-1, plan.group, plan.n, x.shape[-1])


def scaled(q: Tensor) -> Tensor:
    """q / sqrt(D), float32 at least, as [A * n + 1, D]; the last is zero and stands for no query."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    rows = torch.zeros((q.shape[:3].numel() + 1, q.shape[3]), dtype=dtype, device=q.device)
    rows[:-1].view(q.shape).copy_(q).mul_(q.shape[3] ** -0.5)
    return rows


class _Hashed(torch.autograd.Function):
    """Keeps the plan, the output and two numbers a row; the backward pass computes scores once more."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
        out, peak, mass = forward(plan, scaled(q), _flat(k), _flat(v))
        ctx.save_for_backward(q, k, v, out, peak, mass)
        ctx.plan = plan
        return out[:-1].to(q.dtype).view(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, peak, mass = ctx.saved_tensors
        plan: Plan = ctx.plan
        q, k, v = scaled(query), _flat(key), _flat(value)
        given = torch.zeros_like(q)
        given[:-1] = grad.flatten(0, 2)
        inner = (given * out).sum(-1, keepdim=True)
        dq, dk, dv = _gradients_of_own(plan, q, k, v, given, inner, peak, mass)
        for step in plan.steps():
            rows, keys = step.rows, step.keys.flatten()
            weights = scores_of(step, q, k).sub_(peak[rows]).exp_().div_(mass[rows])
            asked, wanted = q[rows], given[rows]
            dv.index_add_(0, keys, (weights.mT @ wanted).flatten(0, 1))
            change = wanted @ v[step.keys].to(q.dtype).mT
            change.sub_(inner[rows]).mul_(weights)
            dq.index_add_(0, rows.flatten(), (change @ k[step.keys].to(q.dtype)).flatten(0, 1))
            dk.index_add_(0, keys, (change.mT @ asked).flatten(0, 1))
        dq = dq[:-1].mul_(query.shape[3] ** -0.5)
        results = ((dq, query), (dk, key), (dv, value))
        return *(x.to(like.dtype).view(like.shape) for x, like in results), None


def _gradients_of_own(
    plan: Plan,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: Tensor,
    inner: Tensor,
    peak: Tensor,
    mass: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of scaled q, k and v through each query's own position."""
    asked, wanted = _by_group(plan, q[:-1]), _by_group(plan, given[:-1])
    own, values = own_keys(plan, k).to(q.dtype), own_keys(plan, v).to(q.dtype)
    score = (asked * own).sum(-1, keepdim=True)
    weight = score.sub_(_by_group(plan, peak[:-1])).exp_().div_(_by_group(plan, mass[:-1]))
    dv = (weight * wanted).sum(1)
    change = (wanted * values).sum(-1, keepdim=True).sub_(_by_group(plan, inner[:-1])).mul_(weight)
    dk = (change * asked).sum(1)
    dq = torch.zeros_like(q)
    _by_group(plan, dq[:-1]).copy_(change * own)
    return dq, dk.flatten(0, 1), dv.flatten(0, 1)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(0, 2)


@dataclass(frozen=True)
class SparseLsh(Variant):
    """Softmax over the own position and the keys near it in the own bucket, in any of `rounds` hashes.

    A vector x is in bucket argmax [x R, -x R], R a matrix of b / 2 = `buckets` / 2 normal columns for
    each round, drawn from `seed`, the same for all heads, for queries and for keys. The keys of a
    bucket in their order are cut in chunks of m = `chunk`. A query at position i falls, by the number
    of keys of its bucket at positions before i (causal: up to i), into one chunk; it sees this chunk
    and the one before, not causal also the one after, of these causal only the keys j <= i. The own
    position is always seen. A pair met in several rounds counts once, as by the paper's division by
    the number of rounds.

    Otherwise than in the paper queries and keys are not shared, so a query has a chunk among the keys;
    and chunks begin with their bucket, since were all keys cut as one row, a later key would move them.
    """

    name: ClassVar[str] = "sparse_lsh"
    family: ClassVar[str] = "sparse"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = "Kitaev, Kaiser, Levskaya 2020, Reformer, arXiv 2001.04451, section 2"
    supports: ClassVar[Supports] = Supports(cross=False)

    buckets: int = 32
    rounds: int = 2
    chunk: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("buckets", self.buckets, 1)
        at_least("rounds", self.rounds, 1)
        at_least("chunk", self.chunk, 1)
        if self.buckets > 1 and self.buckets % 2:
            raise ValueError(f"buckets must be 1 or even, got {self.buckets}")

    def rotations(self, w: Workload) -> Tensor:
        """R, float64 [rounds, D, b / 2]."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.rounds, w.head_dim, self.buckets // 2)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(w.device)

    def span(self, w: Workload) -> int:
        """M: most keys that a query sees in a round."""
        return min(w.seq_len, (2 if w.causal else 3) * self.chunk)

    def prepare(self, w: Workload) -> AttentionFn:
        rotations = self.rotations(w)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            hashes = zip(buckets_of(q, rotations), buckets_of(k, rotations), strict=True)
            rounds = [Round.of(w, *found, self.chunk) for found in hashes]
            plan = Plan(w.seq_len, w.heads // w.key_heads, self.span(w), rounds, self._limit(w))
            if w.phase != "forward":
                out: Tensor = _Hashed.apply(q, k, v, plan)  # type: ignore[no-untyped-call]
                return out
            return forward(plan, scaled(q), _flat(k), _flat(v))[0][:-1].to(q.dtype).view(q.shape)

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        rotations, position = self.rotations(w), torch.arange(w.seq_len, device=w.device)

        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            past = position <= rows[:, None]
            visible = position == rows[:, None]
            for query, key in zip(buckets_of(q, rotations), buckets_of(k, rotations), strict=True):
                key = repeat_heads(key, w.heads)
                same = query[:, :, rows, None] == key[:, :, None]  # [B, H, R, n]
                chunk = (same.cumsum(-1) - 1) // self.chunk  # of each key in the query's bucket
                before = (same & (past if w.causal else position < rows[:, None])).sum(-1, keepdim=True)
                own = (before - 1).clamp(min=0) // self.chunk if w.causal else before // self.chunk
                seen = same & ((chunk - own).abs() <= 1)
                visible = visible | (seen & past if w.causal else seen)
            return softmax_attention(q[:, :, rows], k, v, visible)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Float copies of queries and output, the plan, and one step; twice that with gradients."""
        item = max(4, w.element_bytes)
        queries, keys = w.batch * w.heads * w.seq_len, w.batch * w.key_heads * w.seq_len
        size, span = min(ROWS, self.chunk, w.seq_len), self.span(w)
        filled = w.batch * w.heads * (w.seq_len // size + min(w.seq_len, self.buckets))
        blocks = min(filled, max(1, self._limit(w) // (size * span)))
        step = blocks * ((item + 3) * size * span + (2 * span + 3 * size) * w.head_dim * item)
        plan = 8 * self.rounds * (4 * queries + 2 * keys) + 8 * 4 * queries
        hashes = w.seq_len * 8 * (w.head_dim + 2 * self.rounds * self.buckets)
        rows = queries * w.head_dim * item
        if w.phase == "forward":
            return 2 * rows + plan + max(step, hashes)
        copies = 2 * keys * w.head_dim * 4 if w.element_bytes < 4 else 0
        return 4 * rows + copies + plan + 2 * step

    def cost(self, w: Workload) -> Cost:
        """With as many keys as a query may see at most; hashing is 2 D b / 2 a vector and round."""
        pairs = min(w.pairs, w.seq_len * (1 + self.rounds * self.span(w)))
        attend = 4 * w.batch * w.heads * w.head_dim * pairs
        vectors = w.batch * (w.heads + w.key_heads) * w.seq_len
        hashing = vectors * w.head_dim * self.rounds * self.buckets
        flops = phase_flops(w, attend) + hashing
        return Cost(flops, io_bytes(w), self.workspace_bytes(w), exponent=1.0)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(SparseLsh(buckets=1, rounds=rounds, chunk=chunk), FullNaive(), w)
            for rounds, chunk in ((1, 150), (2, 1000))
            for causal in (False, True)
            for w in (Workload(2, 2, 150, 16, causal), Workload(1, 4, 150, 16, causal, kv_heads=2))
        ]

    def _limit(self, w: Workload) -> int:
        return CPU_SCORES if w.device == "cpu" else CUDA_SCORES
