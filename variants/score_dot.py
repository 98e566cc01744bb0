"""Dot products as scores, without the scale."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from subquad.contract import (
    PHASES,
    AttentionFn,
    Computes,
    Decoder,
    Limit,
    OracleFn,
    Supports,
    Variant,
    Workload,
    at_least,
    softmax_attention,
)
from subquad.variants.engines.query_chunks import QueryChunks, cached, chunks_bytes, softmax_form


@dataclass(frozen=True)
class ScoreDot(Variant):
    """softmax(Q Kᵀ) V, `rows` query rows at a time: the score "dot", before a scale was divided by."""

    rows: int = 256

    name: ClassVar[str] = "score_dot"
    family: ClassVar[str] = "score"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Luong et al. 2015, arXiv 1508.04025, section 3.1"
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def __post_init__(self) -> None:
        at_least("rows", self.rows, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        return QueryChunks.of(w, softmax_form, self.rows)

    def decoder(self, w: Workload) -> Decoder:
        return cached(w, self.prepare(w))

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            return softmax_attention(q[:, :, rows] * w.head_dim**0.5, k, v, self.mask(w, rows))

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        return chunks_bytes(w, self.rows)

    def limits(self) -> list[Limit]:
        """At D = 1 the scale is 1, so this is full attention."""
        from subquad.variants.full_naive import FullNaive

        w = Workload(2, 4, 40, 1, causal=True, kv_heads=2, kv_len=71)
        return [Limit(self, FullNaive(), replace(w, causal=causal)) for causal in (False, True)]
