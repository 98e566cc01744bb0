"""Full softmax attention by chunks of queries, each on all its keys at once."""

import math
from dataclasses import dataclass
from typing import ClassVar

from subquad.contract import (
    PHASES,
    AttentionFn,
    Computes,
    Decoder,
    Limit,
    Supports,
    Variant,
    Workload,
    at_least,
)
from subquad.variants.engines.query_chunks import QueryChunks, cached, chunks_bytes, softmax_form
from subquad.variants.full_naive import FullNaive


@dataclass(frozen=True)
class FullQueryChunked(Variant):
    """softmax(Q Kᵀ / sqrt(D)) V for `rows` query rows at a time, with memory rows x Lk.

    A chunk sees whole rows of scores, so its softmax needs no running maximum: it is taken in place
    in one reused buffer. Causal chunks meet only the keys up to their last query. The backward pass
    computes each chunk again.
    """

    rows: int = 256

    name: ClassVar[str] = "full_query_chunked"
    family: ClassVar[str] = "full"
    computes: ClassVar[Computes] = "exact"
    source: ClassVar[str] = (
        "Rabe & Staats 2021, arXiv 2112.05682, section 3: its chunks of queries alone"
    )
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def __post_init__(self) -> None:
        at_least("rows", self.rows, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        return QueryChunks.of(w, softmax_form, self.rows, 1 / math.sqrt(w.head_dim))

    def decoder(self, w: Workload) -> Decoder:
        return cached(w, self.prepare(w))

    def workspace_bytes(self, w: Workload) -> int:
        return chunks_bytes(w, self.rows)

    def limits(self) -> list[Limit]:
        """Any cut gives the same: one row at a time, ragged, larger than the input."""
        causal = Workload(2, 4, 40, 16, causal=True, kv_heads=2, kv_len=71)
        backward = Workload(1, 2, 37, 16, causal=True, phase="forward_backward")
        return [
            Limit(FullQueryChunked(rows), FullNaive(), w)
            for rows in (1, 7, 64, 4096)
            for w in (causal, backward)
        ]
