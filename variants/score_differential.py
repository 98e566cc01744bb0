"""Differential attention: the difference of two softmax maps.

Dimensions: B batch, H query heads, Hk key/value heads, L queries, Lk keys, D head dim, R sampled rows.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from subquad.contract import (
    AttentionFn,
    Computes,
    Cost,
    Limit,
    OracleFn,
    TensorSpec,
    Variant,
    Workload,
    at_least,
    io_bytes,
    phase_flops,
    softmax_attention,
)
from subquad.variants.engines.query_chunks import QueryChunks, chunks_bytes, softmax_form


@dataclass(frozen=True)
class ScoreDifferential(Variant):
    """(softmax(Q Kᵀ / sqrt(D)) - lam softmax(Q2 K2ᵀ / sqrt(D))) V, each map `rows` rows at a time.

    Q2 [B, H, L, D] and K2 [B, Hk, Lk, D] are inputs of their own, where the paper halves D; lam [H] is
    learned. What the paper puts around it is left out: the exponentials that make up its lam, the
    norm of each head and the factor after it.
    """

    rows: int = 256

    name: ClassVar[str] = "score_differential"
    family: ClassVar[str] = "score"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Ye et al. 2024, arXiv 2410.05258, section 2.1"

    def __post_init__(self) -> None:
        at_least("rows", self.rows, 1)

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        bound = math.sqrt(3)  # a variance of one
        return {
            "q2": TensorSpec(w.query_shape, -bound, bound),
            "k2": TensorSpec(w.key_shape, -bound, bound),
            "lam": TensorSpec((w.heads,), 0.2, 0.8, learned=True),
        }

    def prepare(self, w: Workload) -> AttentionFn:
        engine = QueryChunks.of(w, softmax_form, self.rows, 1 / math.sqrt(w.head_dim))

        def attend(q: Tensor, k: Tensor, v: Tensor, q2: Tensor, k2: Tensor, lam: Tensor) -> Tensor:
            # Both maps weigh the same values, so two passes of one buffer give their difference.
            return engine(q, k, v) - engine(q2, k2, v) * lam[:, None, None]

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        def attend(
            q: Tensor, k: Tensor, v: Tensor, rows: Tensor, q2: Tensor, k2: Tensor, lam: Tensor
        ) -> Tensor:
            mask = self.mask(w, rows)
            first = softmax_attention(q[:, :, rows], k, v, mask)
            return first - lam[:, None, None] * softmax_attention(q2[:, :, rows], k2, v, mask)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """The outputs of both maps beside the chunks, and the second one's gradients."""
        query, key = math.prod(w.query_shape), math.prod(w.key_shape)
        held = 3 * query + 3 * key if w.phase == "forward_backward" else 3 * query
        return held * w.element_bytes + chunks_bytes(w, self.rows)

    def cost(self, w: Workload) -> Cost:
        """Two products of scores, one with the values once their weights are one matrix."""
        more = (math.prod(w.query_shape) + math.prod(w.key_shape) + w.heads) * w.element_bytes
        return Cost(
            flops=phase_flops(w, 6 * w.batch * w.heads * w.head_dim * w.pairs),
            bytes=io_bytes(w) + (2 * more if w.phase == "forward_backward" else more),
            workspace_bytes=self.workspace_bytes(w),
            exponent=2.0,
        )

    def limits(self) -> list[Limit]:
        """Without the second map this is full attention."""
        from subquad.variants.full_naive import FullNaive

        w = Workload(2, 4, 40, 16, causal=True, kv_heads=2, kv_len=71)
        return [
            Limit(self, FullNaive(), replace(w, causal=causal), fixed={"lam": 0.0})
            for causal in (False, True)
        ]
