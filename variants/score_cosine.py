"""Cosine similarity as score, with a learned temperature for each head.

Dimensions: B batch, H query heads, Hk key/value heads, L queries, Lk keys, D head dim, R sampled rows.
"""

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
    TensorSpec,
    Variant,
    Workload,
    at_least,
    softmax_attention,
)
from subquad.variants.engines.query_chunks import (
    ProjectedCache,
    QueryChunks,
    chunks_bytes,
    softmax_form,
)

TINY = 1e-6  # a vector shorter than this is divided by it: no direction can be read from it


def directions(x: Tensor) -> Tensor:
    """x / |x| along the last dimension, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    unit: Tensor = x / x.norm(dim=-1, keepdim=True).clamp(min=TINY)
    return unit


@dataclass(frozen=True)
class ScoreCosine(Variant):
    """softmax_j(g_h cos(q_i, k_j)) V with a learned g [H], `rows` query rows at a time.

    The paper has one g for all heads and starts it from the length of its sentences; here each head
    has its own, as in Swin V2 (Liu et al. 2021, arXiv 2111.09883), between 5 and 15.
    """

    rows: int = 256

    name: ClassVar[str] = "score_cosine"
    family: ClassVar[str] = "score"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Henry et al. 2020, Query-Key Normalization, arXiv 2010.04245, section 3"
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def __post_init__(self) -> None:
        at_least("rows", self.rows, 1)

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        return {"g": TensorSpec((w.heads,), 5.0, 15.0, learned=True)}

    def prepare(self, w: Workload) -> AttentionFn:
        engine = QueryChunks.of(w, softmax_form, self.rows)

        def attend(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
            # A float32 query gives a float32 output, which is rounded once.
            return engine(*self._project(q, k, v, g)).to(q.dtype)

        return attend

    def decoder(self, w: Workload) -> Decoder:
        engine = QueryChunks.of(w, softmax_form, self.rows)

        def attend(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
            return engine(q, k, v).to(v.dtype)

        return ProjectedCache(w, attend, self._project, w.head_dim)

    @staticmethod
    def _project(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return directions(q) * g[:, None, None], directions(k), v

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, g: Tensor) -> Tensor:
            queries, keys = (
                x / x.norm(dim=-1, keepdim=True).clamp(min=TINY) for x in (q[:, :, rows], k)
            )
            scores = g[:, None, None] * w.head_dim**0.5
            return softmax_attention(queries * scores, keys, v, self.mask(w, rows))

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Directions of queries and keys beside the chunks, and for gradients a few more of each."""
        element = max(4, w.element_bytes)
        query, key = w.batch * w.heads * w.seq_len, w.batch * w.key_heads * w.key_len
        copies = 4 if w.phase == "forward_backward" else 2
        return (copies * (query + key) * w.head_dim) * element + chunks_bytes(w, self.rows)

    def cost(self, w: Workload) -> Cost:
        found = super().cost(w)
        return replace(found, bytes=found.bytes + w.heads * w.element_bytes)

    def limits(self) -> list[Limit]:
        """g = 0 is the mean of what is seen; so is full attention on keys that are all alike."""
        from subquad.variants.full_naive import FullNaive

        w = Workload(2, 4, 40, 16, causal=True, kv_heads=2, kv_len=71)
        return [
            Limit(self, FullNaive(), replace(w, causal=causal), key_scale=0.0, fixed={"g": 0.0})
            for causal in (False, True)
        ]
