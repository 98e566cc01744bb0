"""Gated linear attention: every dimension of the keys fades by a gate of its own.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, D head dim, R sampled query rows,
C chunk, c block, m = C/c blocks of a chunk, N = B * Hk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.contract import Limit, OracleFn, TensorSpec, Workload
from subquad.variants.engines.recurrence import Here, Recurrence, State
from subquad.variants.linear_retention import (
    FadingVariant,
    causal_workloads,
    floored,
    position_by_position,
    scaled,
)


class _Gla(Recurrence):
    """State [N, D, D]: S_t = diag(alpha_t) S_(t-1) + k_t v_t^T, read as q_t S_t / sqrt(D).

    A chunk is cut into blocks. Within a block, the gates between j and i are P_i / P_j for products P
    that start at the block's middle, in float64: with `floored` gates, half a block's stays within
    1e+-140, so that quotients are exact however small the gates are. Between blocks the state is
    carried on, without a division.
    """

    gates: ClassVar[tuple[str, ...]] = ("alpha",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.block = 16 if dtype == torch.float64 else 32

    def start(self, v: Tensor) -> State:
        heads, _, dim = v.shape
        return (v.new_zeros(heads, dim, dim),)

    def absorb(self, state: State, k: Tensor, v: Tensor, here: Here) -> State:
        k, v, alpha = (
            self._blocks(x, fill) for x, fill in ((k, 0.0), (v, 0.0), (here.gates["alpha"], 1.0))
        )
        products, middle = self._products(alpha)
        return (self._carried(state[0], k / products, v, products[:, -1:], middle)[1],)

    def read(self, state: State, q: Tensor, here: Here) -> Tensor:
        return torch.bmm(q * q.shape[2] ** -0.5, state[0])

    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        heads, size, dim = k.shape
        group = q.shape[1] // size
        k, v, alpha = (
            self._blocks(x, fill) for x, fill in ((k, 0.0), (v, 0.0), (here.gates["alpha"], 1.0))
        )
        rows = k.shape[1]
        q = self._blocks(q.view(heads * group, size, dim) * dim**-0.5, 0.0)  # [N G m, c, D]
        q = torch.unflatten(q, 0, (heads, group, -1)).transpose(1, 2).reshape(-1, group * rows, dim)
        products, middle = self._products(alpha)
        queries, keys = scaled(q, products), k / products
        before, after = self._carried(state[0], keys, v, products[:, -1:], middle)
        later = torch.ones(rows, rows, dtype=torch.bool, device=k.device).triu(1).repeat(group, 1)
        weights = torch.bmm(queries, keys.transpose(1, 2)).masked_fill(later, 0.0).to(v.dtype)
        out = torch.baddbmm(torch.bmm(weights, v), (queries * middle).to(v.dtype), before)
        out = torch.unflatten(torch.unflatten(out, 0, (heads, -1)), 2, (group, rows)).transpose(1, 2)
        return out.flatten(2, 3)[:, :, :size].flatten(1, 2), (after,)

    def token(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        kept = state[0] * here.gates["alpha"].transpose(1, 2)
        after = torch.baddbmm(kept, k.transpose(1, 2), v)
        return torch.bmm(q * q.shape[2] ** -0.5, after), (after,)

    def _blocks(self, x: Tensor, fill: float) -> Tensor:
        """[N, C, D] as [N * m, c, D]; a last block that is not full is filled up."""
        size = x.shape[1]
        rows = min(self.block, size)
        missing = -size % rows
        if missing:
            x = F.pad(x, (0, 0, 0, missing), value=fill)
        return x.reshape(-1, rows, x.shape[2])

    def _products(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Products of the gates [N * m, c, D] in float64 over that of the middle, and the middle's."""
        products = floored(alpha).cumprod(1)
        half = alpha.shape[1] // 2
        middle = products[:, half : half + 1]
        return products / middle, middle

    def _carried(
        self, state: Tensor, keys: Tensor, v: Tensor, last: Tensor, middle: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The state before each block [N * m, D, D] and the one after the last."""
        own = torch.bmm((keys * last).to(v.dtype).transpose(1, 2), v)
        own = torch.unflatten(own, 0, (len(state), -1))
        kept = torch.unflatten((last * middle).to(v.dtype).transpose(1, 2), 0, (len(state), -1))
        before = []
        for block in range(own.shape[1]):
            before.append(state)
            state = torch.addcmul(own[:, block], state, kept[:, block])
        return torch.stack(before, 1).flatten(0, 1), state


@dataclass(frozen=True)
class LinearGla(FadingVariant):
    """o_t = q_t S_t / sqrt(D), S_t = diag(alpha_t) S_(t-1) + k_t v_t^T: out_i is the sum over j <= i of
    (sum_d q_id k_jd alpha_(j+1)d ... alpha_id) / sqrt(D) v_j.

    The gate alpha in (0, 1) has D numbers for each position and key head. The output gate and norm
    of the paper's layer are not here. Computed in float32 (float64 for float64, and for products of
    gates) in chunks of `chunk` positions.
    """

    name: ClassVar[str] = "linear_gla"
    source: ClassVar[str] = (
        "Yang et al. 2023, Gated Linear Attention Transformers, arXiv 2312.06635, section 3-4"
    )

    chunk: int = 128

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        return {"alpha": TensorSpec((w.batch, w.key_heads, w.key_len, w.head_dim), 0.9, 1.0)}

    def recurrence(self, w: Workload) -> Recurrence:
        return _Gla(torch.promote_types(w.torch_dtype, torch.float32))

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, alpha: Tensor) -> Tensor:
            def advance(state: Tensor, t: int) -> Tensor:
                return alpha[:, :, t, :, None] * state + k[:, :, t, :, None] * v[:, :, t, None]

            start = k.new_zeros(*k.shape[:2], w.head_dim, w.head_dim)
            return position_by_position(w, q, rows, start, advance)

        return attend

    def limits(self) -> list[Limit]:
        from subquad.variants.linear_maps import LinearIdentity

        # Nothing fades.
        return [Limit(self, LinearIdentity(), w, fixed={"alpha": 1.0}) for w in causal_workloads()]
