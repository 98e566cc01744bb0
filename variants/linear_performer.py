"""Performer (FAVOR+): softmax estimated with positive orthogonal random features.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, D head dim, F features, C chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import (
    PHASES,
    AttentionFn,
    Computes,
    Cost,
    Decoder,
    Limit,
    OracleFn,
    Supports,
    Variant,
    Workload,
    at_least,
    causal_mask,
    one_of,
    repeat_heads,
)
from subquad.variants.engines.feature_sums import dots, mean_limits
from subquad.variants.engines.recurrence import (
    Here,
    Recurrence,
    RecurrentDecoder,
    State,
    attention_of_recurrence,
    recurrence_bytes,
    recurrence_cost,
)

DRAWS = ("orthogonal", "regularised", "iid")


def draw_directions(features: int, head_dim: int, seed: int, draw: str = "orthogonal") -> Tensor:
    """Directions [F, D] in float64: `iid` normal, or orthogonal within each block of D.

    Orthogonal ones are each standard normal too (a uniform direction with a chi-distributed norm), so
    the estimate of the kernel is unbiased whatever F is. Regularised ones have all the norm sqrt(D):
    biased for a small D, with less variance.
    """
    generator = torch.Generator().manual_seed(seed)
    if draw == "iid":
        return torch.randn(features, head_dim, generator=generator, dtype=torch.float64)
    blocks = -(-features // head_dim)
    normal = torch.randn(blocks, head_dim, head_dim, generator=generator, dtype=torch.float64)
    basis, upper = torch.linalg.qr(normal)
    basis = basis * upper.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # QR alone is not uniform
    if draw == "regularised":
        norms = torch.full((blocks, head_dim), math.sqrt(head_dim), dtype=torch.float64)
    else:
        norms = torch.randn(normal.shape, generator=generator, dtype=torch.float64).norm(dim=-1)
    rows: Tensor = (basis.transpose(-2, -1) * norms[..., None]).flatten(0, 1)
    return rows[:features]


def exponents(x: Tensor, directions: Tensor) -> Tensor:
    """log(phi(x) * sqrt(F)) = w.x̂ - |x̂|²/2 with x̂ = x / D^(1/4), [..., F]."""
    scale = x.shape[-1] ** -0.25
    half_square = x.square().sum(-1, keepdim=True) * (0.5 * scale * scale)
    logs: Tensor = x @ (directions.T * scale)
    return logs.sub_(half_square)


class _Favor(Recurrence):
    """State: sums of phi(k) v^T and phi(k), both times exp(-M), and M, the largest exponent so far.

    What multiplies all weights of a query cancels, so each query drops its own largest exponent and
    each position the largest one of the keys up to it (never of later ones: that would be the future).
    """

    def __init__(self, directions: Tensor) -> None:
        self.directions = directions  # [F, D], already divided by D^(1/4)

    def start(self, v: Tensor) -> State:
        heads, _, dim = v.shape
        features = len(self.directions)
        sums = v.new_zeros(heads, features, dim), v.new_zeros(heads, 1, features)
        return *sums, v.new_full((heads, 1, 1), -math.inf)

    def absorb(self, state: State, k: Tensor, v: Tensor, here: Here) -> State:
        before = state[2].detach()
        logs = self._key_exponents(k)
        after = torch.maximum(before, logs.detach().amax((1, 2), keepdim=True))
        return self._add(state, logs.sub_(after).exp_(), v, after)

    def _add(self, state: State, features: Tensor, v: Tensor, after: Tensor) -> State:
        """The state with features [B Hk, C, F] that are scaled by exp(-after), as it will be."""
        values, weights, before = state
        kept = (before.detach() - after).exp()
        return (
            torch.baddbmm(values * kept, features.transpose(1, 2), v),
            weights * kept + features.sum(1, keepdim=True),
            after,
        )

    def read(self, state: State, q: Tensor, here: Here) -> Tensor:
        features = self._query_features(q)
        return torch.bmm(features, state[0]) / dots(features, state[1])

    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        values, weights, before = state
        before = before.detach()
        size = k.shape[1]
        queries = self._query_features(q)
        logs = self._key_exponents(k)
        largest = logs.detach().amax(2, keepdim=True)  # [B Hk, C, 1]
        keys = logs.sub_(largest).exp_()
        reached = torch.maximum(largest.cummax(1).values, before)  # up to each position
        later = torch.ones(size, size, dtype=torch.bool, device=k.device).triu(1)
        factors = (largest.transpose(1, 2) - reached).masked_fill_(later, -math.inf).exp_()
        own = torch.unflatten(torch.bmm(queries, keys.transpose(1, 2)), 1, (-1, size))
        own = (own * factors[:, None]).flatten(1, 2)  # [B Hk, G C, C]
        past = queries * (before - reached).exp().repeat(1, q.shape[1] // size, 1)
        total = own.sum(2, keepdim=True) + dots(past, weights)
        out = torch.baddbmm(torch.bmm(own, v), past, values) / total
        after = reached[:, -1:]
        return out, self._add(state, keys * (largest - after).exp(), v, after)

    def _query_features(self, q: Tensor) -> Tensor:
        logs = q @ self.directions.T  # -|q̂|²/2 is the same for all features of a query, so it cancels
        return logs.sub_(logs.detach().amax(2, keepdim=True)).exp_()

    def _key_exponents(self, k: Tensor) -> Tensor:
        half_square = k.square().sum(2, keepdim=True) * (0.5 / math.sqrt(k.shape[2]))
        return (k @ self.directions.T).sub_(half_square)


@dataclass(frozen=True)
class LinearPerformer(Variant):
    """FAVOR+: out_i = sum_j phi(q_i).phi(k_j) v_j / sum_j phi(q_i).phi(k_j), j <= i when causal.

    phi(x) = exp(w.x̂ - |x̂|²/2) / sqrt(F) for F = `features` directions w drawn from `seed`,
    x̂ = x / D^(1/4): phi(q).phi(k) is an estimate of exp(q.k / sqrt(D)). `draw` says how: normal and
    orthogonal within blocks of D, the same with the norm sqrt(D) (regularised), or normal and
    independent (iid). Computed in float32 (float64 for float64) in chunks of `chunk` positions.
    """

    name: ClassVar[str] = "linear_performer"
    family: ClassVar[str] = "linear"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = "Choromanski et al. 2020, Performers, arXiv 2009.14794, section 2.2-2.4"

    supports: ClassVar[Supports] = Supports(phases=PHASES)

    features: int = 256
    seed: int = 0
    chunk: int = 128
    draw: str = "orthogonal"

    def __post_init__(self) -> None:
        one_of("draw", self.draw, DRAWS)
        at_least("features", self.features, 1)
        at_least("chunk", self.chunk, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        return attention_of_recurrence(w, self._recurrence(w), self._rows(w))

    def decoder(self, w: Workload) -> Decoder:
        return RecurrentDecoder(w, self._recurrence(w), self.chunk)

    def _rows(self, w: Workload) -> int:
        """Positions of a chunk: without scores, which grow with their square, there may be more."""
        return self.chunk if w.causal else 2 * self.chunk

    def _recurrence(self, w: Workload) -> _Favor:
        dtype = torch.promote_types(w.torch_dtype, torch.float32)
        return _Favor((self._directions(w) * w.head_dim**-0.25).to(w.device, dtype))

    def _directions(self, w: Workload) -> Tensor:
        return draw_directions(self.features, w.head_dim, self.seed, self.draw)

    def oracle(self, w: Workload) -> OracleFn:
        directions = self._directions(w)

        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            drawn = directions.to(q)
            queries = exponents(q[:, :, rows], drawn)
            keys = repeat_heads(exponents(k, drawn), w.heads)
            # phi without its largest factors: the query's cancels, the key's comes back below.
            largest = keys.amax(-1).unsqueeze(-2)  # [B, H, 1, Lk]
            weights = (queries - queries.amax(-1, keepdim=True)).exp() @ (
                (keys - keys.amax(-1, keepdim=True)).exp().transpose(-2, -1)
            )
            if w.causal:
                largest = largest.masked_fill(~causal_mask(w, rows), -math.inf)
            weights = weights * (largest - largest.amax(-1, keepdim=True)).exp()
            return weights @ repeat_heads(v, w.heads) / weights.sum(-1, keepdim=True)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        return recurrence_bytes(w, self.features, self._rows(w))

    def cost(self, w: Workload) -> Cost:
        found = recurrence_cost(w, self.features, self.features, self.workspace_bytes(w))
        assert found.state_bytes is not None
        largest = w.batch * w.key_heads * max(4, w.element_bytes)
        return replace(found, state_bytes=found.state_bytes + largest)

    def limits(self) -> list[Limit]:
        return mean_limits(self)
