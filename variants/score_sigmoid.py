"""Sigmoid attention: every pair by itself, nothing normalised over the keys."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from subquad.contract import (
    PHASES,
    AttentionFn,
    Computes,
    Decoder,
    OracleFn,
    Supports,
    Variant,
    Workload,
    at_least,
    repeat_heads,
)
from subquad.variants.engines.query_chunks import Chunk, Form, QueryChunks, cached, chunks_bytes


def sigmoid_form(bias: float) -> Form:
    """Weights sigmoid(score + bias)."""

    def form(c: Chunk) -> Tensor:
        return c.mix(c.scores().add_(bias).sigmoid_())

    return form


@dataclass(frozen=True)
class ScoreSigmoid(Variant):
    """out_i = sum_j sigmoid(q_i . k_j / sqrt(D) - log n) v_j, n the key length, `rows` rows at a time.

    n is the length of the whole sequence, causal or not, and not the number of keys a query sees. When
    decoding it is the length of the sequence that is decoded, known before.
    """

    rows: int = 256

    name: ClassVar[str] = "score_sigmoid"
    family: ClassVar[str] = "score"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Ramapuram et al. 2024, arXiv 2409.04431, sections 2-3"
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def __post_init__(self) -> None:
        at_least("rows", self.rows, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        form = sigmoid_form(-math.log(w.key_len))
        return QueryChunks.of(w, form, self.rows, 1 / math.sqrt(w.head_dim))

    def decoder(self, w: Workload) -> Decoder:
        return cached(w, self.prepare(w))

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            k, v = repeat_heads(k, w.heads), repeat_heads(v, w.heads)
            scores = q[:, :, rows] @ k.transpose(-2, -1) / math.sqrt(w.head_dim)
            weights = (scores - math.log(w.key_len)).sigmoid()
            mask = self.mask(w, rows)
            return (weights if mask is None else weights.masked_fill(~mask, 0.0)) @ v

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        return chunks_bytes(w, self.rows)
