"""The attention layer: learned projections into heads, full attention, and a projection out.

Dimensions: B batch, H query heads, Hk key/value heads, L queries, Lk keys, D head dim.
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
    io_bytes,
    phase_flops,
    softmax_attention,
)
from subquad.variants.engines.query_chunks import (
    ProjectedCache,
    QueryChunks,
    chunks_bytes,
    softmax_form,
)


def project(x: Tensor, weight: Tensor) -> Tensor:
    """Merged heads of x [B, H, L, D] times weight [H D, H D], in heads again."""
    merged = x.transpose(1, 2).flatten(2)
    return torch.unflatten(merged @ weight, 2, (x.shape[1], -1)).transpose(1, 2)


@dataclass(frozen=True)
class FullMultiHead(Variant):
    """Attention(Q W_Q, K W_K, V W_V) W_O on merged heads; between the projections full attention.

    W_Q and W_O are [H D, H D], W_K and W_V [Hk D, Hk D], all learned, without biases. The attention is
    that of full_query_chunked, `rows` query rows at a time.
    """

    rows: int = 256

    name: ClassVar[str] = "full_multi_head"
    family: ClassVar[str] = "full"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2"
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def __post_init__(self) -> None:
        at_least("rows", self.rows, 1)

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        queries, keys = w.heads * w.head_dim, w.key_heads * w.head_dim
        widths = {"w_q": queries, "w_k": keys, "w_v": keys, "w_o": queries}
        # A variance of 1 / width keeps that of what is projected.
        return {
            name: TensorSpec((n, n), -math.sqrt(3 / n), math.sqrt(3 / n), learned=True)
            for name, n in widths.items()
        }

    def prepare(self, w: Workload) -> AttentionFn:
        engine = self._engine(w)

        def attend(q: Tensor, k: Tensor, v: Tensor, **weights: Tensor) -> Tensor:
            q, k, v = self._project(q, k, v, **weights)
            return project(engine(q, k, v), weights["w_o"])

        return attend

    def decoder(self, w: Workload) -> Decoder:
        engine = self._engine(w)

        def attend(q: Tensor, k: Tensor, v: Tensor, **weights: Tensor) -> Tensor:
            return project(engine(q, k, v), weights["w_o"])

        return ProjectedCache(w, attend, self._project, w.head_dim)

    def _engine(self, w: Workload) -> QueryChunks:
        return QueryChunks.of(w, softmax_form, self.rows, 1 / math.sqrt(w.head_dim))

    @staticmethod
    def _project(q: Tensor, k: Tensor, v: Tensor, **weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return project(q, weights["w_q"]), project(k, weights["w_k"]), project(v, weights["w_v"])

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, **weights: Tensor) -> Tensor:
            q, k, v = self._project(q[:, :, rows], k, v, **weights)
            return project(softmax_attention(q, k, v, self.mask(w, rows)), weights["w_o"])

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """What is projected, beside the chunks; a product of merged heads copies them."""
        query, key = math.prod(w.query_shape), math.prod(w.key_shape)
        held = 3 * query + 2 * key
        if w.phase == "forward_backward":
            held = 5 * query + 5 * key + 2 * (query // w.seq_len // w.batch) ** 2
        return held * w.element_bytes + chunks_bytes(w, self.rows)

    def cost(self, w: Workload) -> Cost:
        queries, keys = w.heads * w.head_dim, w.key_heads * w.head_dim
        projections = 4 * w.batch * (w.seq_len * queries**2 + w.key_len * keys**2)
        attention = 4 * w.batch * queries * w.pairs
        weights = 2 * (queries**2 + keys**2) * w.element_bytes
        return replace(
            super().cost(w),
            flops=phase_flops(w, projections + attention),
            bytes=io_bytes(w) + (2 * weights if w.phase == "forward_backward" else weights),
        )

    def limits(self) -> list[Limit]:
        """Projections that change nothing leave full attention."""
        from subquad.variants.full_naive import FullNaive

        w = Workload(2, 4, 40, 8, causal=True, kv_heads=2, kv_len=71)
        eye, eye_keys = torch.eye(32), torch.eye(16)
        fixed = {"w_q": eye, "w_k": eye_keys, "w_v": eye_keys, "w_o": eye}
        return [
            Limit(self, FullNaive(), replace(w, causal=causal), fixed=fixed) for causal in (False, True)
        ]
