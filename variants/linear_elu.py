"""Linear attention with elu + 1.

Dimensions: B batch, H query heads, Hk key/value heads, D head dim, R sampled query rows.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    repeat_heads,
)
from subquad.variants.recurrence import (
    Here,
    Recurrence,
    RecurrentDecoder,
    State,
    attention_of_recurrence,
    recurrence_bytes,
    recurrence_cost,
)


class _Elu(Recurrence):
    """State: the sum of phi(k) v^T, [B * Hk, D, D], and of phi(k), [B * Hk, D, 1]."""

    def start(self, v: Tensor) -> State:
        heads, _, dim = v.shape
        return v.new_zeros(heads, dim, dim), v.new_zeros(heads, dim, 1)

    def absorb(self, state: State, k: Tensor, v: Tensor, here: Here) -> State:
        return self._add(state, phi(k).transpose(1, 2), v)

    def read(self, state: State, q: Tensor, here: Here) -> Tensor:
        features = phi(q)
        return torch.bmm(features, state[0]) / torch.bmm(features, state[1])

    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
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

    supports: ClassVar[Supports] = Supports(phases=PHASES)

    chunk: int = 128

    def __post_init__(self) -> None:
        at_least("chunk", self.chunk, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        return attention_of_recurrence(w, _Elu(), self.chunk)

    def decoder(self, w: Workload) -> Decoder:
        return RecurrentDecoder(w, _Elu(), self.chunk)

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
