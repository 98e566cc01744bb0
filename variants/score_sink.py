"""Softmax with a sink: a logit of its own for each head that takes weight and gives no value.

Dimensions: B batch, H query heads, Hk key/value heads, L queries, Lk keys, D head dim, R sampled rows.
"""

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
    TensorSpec,
    Variant,
    Workload,
    at_least,
    repeat_heads,
)
from subquad.variants.engines.query_chunks import Chunk, QueryChunks, cached, chunks_bytes, per_head


def sink_form(c: Chunk) -> Tensor:
    """Softmax over the visible keys and one logit more, whose value is zero."""
    scores, sink = c.scores(), c.rows_of(c.learned[0])
    peak = torch.maximum(scores.detach().amax(-1, keepdim=True), sink.detach())
    weights = scores.sub_(peak).exp_()
    return c.mix(weights) / (weights.sum(-1, keepdim=True) + (sink - peak).exp())


@dataclass(frozen=True)
class ScoreSink(Variant):
    """Weights exp(s_ij) / (exp(sink_h) + sum_j exp(s_ij)) with a learned sink [H], `rows` at a time.

    s_ij = q_i . k_j / sqrt(D). A head that finds nothing puts its weight on the sink. With sink = 0
    this is the softmax with one added to its denominator.
    """

    rows: int = 256

    name: ClassVar[str] = "score_sink"
    family: ClassVar[str] = "score"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = (
        "Miller 2023, Attention Is Off By One (essay); the learned logit as in OpenAI 2025, "
        "arXiv 2508.10925, section 2"
    )
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def __post_init__(self) -> None:
        at_least("rows", self.rows, 1)

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        return {"sink": TensorSpec((w.heads,), -1.0, 1.0, learned=True)}

    def prepare(self, w: Workload) -> AttentionFn:
        engine = QueryChunks.of(w, sink_form, self.rows, 1 / math.sqrt(w.head_dim))

        def attend(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
            return engine(q, k, v, per_head(sink, w.batch, w.key_heads))

        return attend

    def decoder(self, w: Workload) -> Decoder:
        return cached(w, self.prepare(w))

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, sink: Tensor) -> Tensor:
            k, v = repeat_heads(k, w.heads), repeat_heads(v, w.heads)
            scores = q[:, :, rows] @ k.transpose(-2, -1) / math.sqrt(w.head_dim)
            mask = self.mask(w, rows)
            if mask is not None:
                scores = scores.masked_fill(~mask, -math.inf)
            logits = sink[:, None, None].expand(*scores.shape[:3], 1)
            return torch.cat([scores, logits], dim=-1).softmax(-1)[..., :-1] @ v

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        return chunks_bytes(w, self.rows)

    def cost(self, w: Workload) -> Cost:
        found = super().cost(w)
        return replace(found, bytes=found.bytes + w.heads * w.element_bytes)

    def limits(self) -> list[Limit]:
        """A sink that takes no weight leaves full attention."""
        from subquad.variants.full_naive import FullNaive

        w = Workload(2, 4, 40, 16, causal=True, kv_heads=2, kv_len=71)
        return [
            Limit(self, FullNaive(), replace(w, causal=causal), fixed={"sink": -1e4})
            for causal in (False, True)
        ]
