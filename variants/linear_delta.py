"""The delta rule, without and with a gate: each key overwrites what the state holds under it.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, L seq_len, Lk key length, D head
dim, R sampled query rows, C chunk, N = B * Hk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import Limit, OracleFn, TensorSpec, Workload
from subquad.variants.engines.recurrence import Here, Recurrence, State
from subquad.variants.linear_retention import (
    Decays,
    FadingVariant,
    causal_workloads,
    position_by_position,
    scaled,
)


def unit(k: Tensor) -> Tensor:
    """k / |k|; zero where k is zero, and its gradient finite there."""
    lengths = k.norm(dim=-1, keepdim=True)
    result: Tensor = k / lengths.masked_fill(lengths == 0, 1.0)
    return result


def solve_below(lower: Tensor, right: Tensor) -> Tensor:
    """X of (I + A) X = `right` [N, C, D], A the part of `lower` [N, C, C] below the diagonal.

    Nothing else of `lower` is read. Solved transposed, X^T (I + A)^T: that is the layout of LAPACK,
    and takes half the time of the plain form, which copies.
    """
    found: Tensor = torch.linalg.solve_triangular(
        lower.mT, right.mT, upper=True, left=False, unitriangular=True
    )
    return found.mT


class _Delta(Recurrence):
    """State [N, D, D]. In a chunk, S_i is what is left of the state plus k_j r_j^T for j <= i.

    r_i = beta_i (v_i - what S_(i-1) holds under k_i) depends on the r before it: the rows of one
    triangular system (the WY or UT transform), which is solved at once.
    """

    gates: ClassVar[tuple[str, ...]] = ("beta",)

    def start(self, v: Tensor) -> State:
        heads, _, dim = v.shape
        return (v.new_zeros(heads, dim, dim),)

    def absorb(self, state: State, k: Tensor, v: Tensor, here: Here) -> State:
        keys, decays = unit(k), self.decays(k.shape[1], here)
        return self._after(state, keys, self._written(state, keys, v, here, decays), decays)

    def read(self, state: State, q: Tensor, here: Here) -> Tensor:
        return torch.bmm(q * q.shape[2] ** -0.5, state[0])

    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        keys, decays = unit(k), self.decays(k.shape[1], here)
        q = q * q.shape[2] ** -0.5
        written = self._written(state, keys, v, here, decays)
        weights = scaled(torch.bmm(q, keys.transpose(1, 2)), decays.within)
        out = torch.baddbmm(torch.bmm(weights, written), self.faded(q, decays.since), state[0])
        return out, self._after(state, keys, written, decays)

    def token(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        keys, kept = unit(k), self.factored(state[0], here)
        written = torch.baddbmm(v, keys, kept, alpha=-1) * here.gates["beta"][:, :, None]
        after = torch.baddbmm(kept, keys.transpose(1, 2), written)
        return torch.bmm(q * q.shape[2] ** -0.5, after), (after,)

    def decays(self, size: int, here: Here) -> Decays:
        """Those of a chunk of that many positions."""
        beta = here.gates["beta"]
        one = beta.new_ones(1, 1, 1)
        return Decays(beta.new_ones(1, size, size).tril_(), one, one, one)

    def faded(self, x: Tensor, factors: Tensor) -> Tensor:
        """x times factors [N, C, 1] of the gate: here there is none."""
        return x

    def factored(self, state: Tensor, here: Here) -> Tensor:
        """What one position leaves of the state before it writes."""
        return state

    def _written(self, state: State, keys: Tensor, v: Tensor, here: Here, decays: Decays) -> Tensor:
        """r [N, C, D]."""
        beta = here.gates["beta"][:, :, None]
        products = torch.bmm(keys * beta, keys.transpose(1, 2))
        held = torch.bmm(self.faded(keys, decays.since), state[0])
        return solve_below(self.faded(products, decays.within), (v - held) * beta)

    def _after(self, state: State, keys: Tensor, written: Tensor, decays: Decays) -> State:
        kept = self.faded(state[0], decays.whole)
        return (torch.baddbmm(kept, self.faded(keys, decays.until).transpose(1, 2), written),)


class _GatedDelta(_Delta):
    """The same with what is left of the state, and of each r, faded by the gates in between."""

    gates: ClassVar[tuple[str, ...]] = ("beta", "alpha")

    def decays(self, size: int, here: Here) -> Decays:
        return Decays.of(here.gates["alpha"], here.gates["alpha"].dtype)

    def faded(self, x: Tensor, factors: Tensor) -> Tensor:
        return scaled(x, factors)

    def factored(self, state: Tensor, here: Here) -> Tensor:
        return state * here.gates["alpha"][:, :, None]


def delta_rule(
    w: Workload, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, beta: Tensor, alpha: Tensor | None
) -> Tensor:
    """The definition, position after position: [B, H, R, D] of the query rows `rows` (sorted)."""
    k = unit(k)
    beta = beta[..., None, None]
    fade = torch.ones_like(beta) if alpha is None else alpha[..., None, None]

    def advance(state: Tensor, t: int) -> Tensor:
        state = fade[:, :, t] * state
        held = k[:, :, t, None] @ state  # [B, Hk, 1, D]
        return state + k[:, :, t, :, None] * (beta[:, :, t] * (v[:, :, t, None] - held))

    start = k.new_zeros(*k.shape[:2], w.head_dim, w.head_dim)
    return position_by_position(w, q, rows, start, advance)


@dataclass(frozen=True)
class LinearDelta(FadingVariant):
    """o_t = q_t S_t / sqrt(D), S_t = S_(t-1) + beta_t k_t (v_t - S_(t-1)^T k_t)^T, keys of length 1.

    The keys are divided by their length here, in the definition (a zero key stays zero and writes
    nothing); queries are not. The write strength beta in (0, 1) belongs to a position and key head.
    Computed in float32 (float64 for float64) in chunks of `chunk` positions: one triangular system
    for each, then as linear attention.
    """

    name: ClassVar[str] = "linear_delta"
    source: ClassVar[str] = (
        "Schlag et al. 2021, arXiv 2102.11174, section 4.2; Yang et al. 2024, Parallelizing Linear "
        "Transformers with the Delta Rule, arXiv 2406.06484, section 3"
    )
    products: ClassVar[int] = 2

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        return {"beta": TensorSpec((w.batch, w.key_heads, w.key_len))}

    def recurrence(self, w: Workload) -> Recurrence:
        return _Delta()

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, beta: Tensor) -> Tensor:
            return delta_rule(w, q, k, v, rows, beta, None)

        return attend

    def limits(self) -> list[Limit]:
        from subquad.variants.linear_maps import LinearIdentity

        # Nothing is stored under an orthogonal key yet, so nothing is taken away.
        whole = Workload(2, 2, 24, 32, causal=True)
        small = replace(self, chunk=7)
        return [
            Limit(each, LinearIdentity(), whole, fixed={"beta": 1.0}, orthonormal_keys=True)
            for each in (self, small)
        ]


@dataclass(frozen=True)
class LinearGatedDelta(LinearDelta):
    """o_t = q_t S_t / sqrt(D), S_t = alpha_t (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T.

    As linear_delta, with a gate alpha in (0, 1), a number for each position and key head.
    """

    name: ClassVar[str] = "linear_gated_delta"
    source: ClassVar[str] = "Yang et al. 2024, Gated Delta Networks, arXiv 2412.06464, section 3"

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        gate = TensorSpec((w.batch, w.key_heads, w.key_len), 0.9, 1.0)
        return {**super().extra_inputs(w), "alpha": gate}

    def recurrence(self, w: Workload) -> Recurrence:
        return _GatedDelta()

    def oracle(self, w: Workload) -> OracleFn:
        def attend(
            q: Tensor, k: Tensor, v: Tensor, rows: Tensor, beta: Tensor, alpha: Tensor
        ) -> Tensor:
            return delta_rule(w, q, k, v, rows, beta, alpha)

        return attend

    def limits(self) -> list[Limit]:
        plain = LinearDelta(self.chunk)
        return [Limit(self, plain, w, fixed={"alpha": 1.0}) for w in causal_workloads()]
