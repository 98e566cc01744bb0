"""The state space dual form of Mamba-2: linear attention with one gate a position.

Dimensions: B batch, H query heads, Hk key/value heads, D head dim, R sampled query rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from subquad.contract import (
    Limit,
    OracleFn,
    TensorSpec,
    Workload,
    causal_mask,
    repeat_heads,
)
from subquad.variants.engines.recurrence import Here, Recurrence
from subquad.variants.linear_retention import (
    Decays,
    FadingState,
    FadingVariant,
    causal_workloads,
)


class _Mamba2(FadingState):
    gates: ClassVar[tuple[str, ...]] = ("a",)

    def decays(self, size: int, here: Here) -> Decays:
        return Decays.of(here.gates["a"], here.gates["a"].dtype)

    def factor(self, here: Here) -> Tensor:
        return here.gates["a"][:, :, None]


@dataclass(frozen=True)
class LinearMamba2(FadingVariant):
    """out_i = sum_(j <= i) (a_(j+1) ... a_i) (q_i.k_j) / sqrt(D) v_j: S_t = a_t S_(t-1) + k_t v_t^T.

    The scalar gate `a` in (0, 1) belongs to a position and key head; q, k and v are what Mamba-2 calls
    C, B and X (times its step size). Its short convolution, skip and output gate are not here, and
    the scale 1 / sqrt(D) is that of the other variants. Computed in float32 (float64 for float64) in
    chunks of `chunk` positions: within one, a 1-semiseparable mask from sums of log(a).
    """

    name: ClassVar[str] = "linear_mamba2"
    source: ClassVar[str] = (
        "Dao & Gu 2024, Transformers are SSMs, arXiv 2405.21060, section 5 (state space duality), 6"
    )

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        return {"a": TensorSpec((w.batch, w.key_heads, w.key_len), 0.9, 1.0)}

    def recurrence(self, w: Workload) -> Recurrence:
        return _Mamba2()

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, a: Tensor) -> Tensor:
            mask = causal_mask(w, rows)
            logs = a.log()[..., None, :].masked_fill(~mask, 0.0)  # [B, Hk, R, Lk], of t <= i
            after = F.pad(logs, (0, 1))[..., 1:].flip(-1).cumsum(-1).flip(-1)  # over j < t <= i
            left = repeat_heads(after.masked_fill(~mask, -math.inf).exp(), w.heads)
            scores = q[:, :, rows] @ repeat_heads(k, w.heads).transpose(-2, -1) / math.sqrt(w.head_dim)
            return (scores * left) @ repeat_heads(v, w.heads)

        return attend

    def limits(self) -> list[Limit]:
        from subquad.variants.linear_maps import LinearIdentity

        # Nothing fades.
        return [Limit(self, LinearIdentity(), w, fixed={"a": 1.0}) for w in causal_workloads()]
