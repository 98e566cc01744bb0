"""Additive scores: a small network compares each query with each key.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, L queries, Lk keys, D head dim,
A hidden units, N key heads and C queries of a step, M keys they see, R sampled rows.
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
    repeat_heads,
)
from subquad.variants.engines.query_chunks import (
    Chunk,
    ProjectedCache,
    QueryChunks,
    chunks_bytes,
    per_head,
    softmax_,
)


def additive_form(c: Chunk) -> Tensor:
    """Softmax of u . tanh(q + k) for queries and keys that are projected already."""
    (u,) = c.learned  # [N, G, A]
    hidden = (c.q[:, :, :, None] + c.k[:, None, None]).tanh_()  # [N, G, C, M, A]
    scores = hidden.flatten(2, 3) @ u[..., None]  # [N, G, C M, 1]
    scores = scores.view(*hidden.shape[:4]).flatten(1, 2)
    return c.mix(softmax_(c.hide(scores)))


@dataclass(frozen=True)
class ScoreAdditive(Variant):
    """softmax_j(u_h . tanh(W_h q_i + U_h k_j)) V with `hidden` units, `rows` query rows at a time.

    W is [H, D, A], U [Hk, D, A] (query heads that share a key head share U), u [H, A], all learned,
    without a bias. There is a tanh for each pair and unit, so `rows` is small: its temporary is
    rows x Lk x A numbers.
    """

    hidden: int = 16
    rows: int = 16

    name: ClassVar[str] = "score_additive"
    family: ClassVar[str] = "score"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Bahdanau et al. 2014, arXiv 1409.0473, appendix A.1.2"
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def __post_init__(self) -> None:
        at_least("hidden", self.hidden, 1)
        at_least("rows", self.rows, 1)

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        bound = math.sqrt(3 / w.head_dim)  # a variance of 1 / D: a tanh of about standard normals
        return {
            "w_q": TensorSpec((w.heads, w.head_dim, self.hidden), -bound, bound, learned=True),
            "w_k": TensorSpec((w.key_heads, w.head_dim, self.hidden), -bound, bound, learned=True),
            "u": TensorSpec((w.heads, self.hidden), -1.0, 1.0, learned=True),
        }

    def prepare(self, w: Workload) -> AttentionFn:
        engine = QueryChunks.of(w, additive_form, self.rows)

        def attend(q: Tensor, k: Tensor, v: Tensor, w_q: Tensor, w_k: Tensor, u: Tensor) -> Tensor:
            projected = self._project(q, k, v, w_q, w_k, u)
            return engine(*projected, per_head(u, w.batch, w.key_heads)).to(q.dtype)

        return attend

    def decoder(self, w: Workload) -> Decoder:
        engine = QueryChunks.of(w, additive_form, self.rows)

        def attend(q: Tensor, k: Tensor, v: Tensor, w_q: Tensor, w_k: Tensor, u: Tensor) -> Tensor:
            return engine(q, k, v, per_head(u, w.batch, w.key_heads)).to(v.dtype)

        return ProjectedCache(w, attend, self._project, self.hidden)

    @staticmethod
    def _project(
        q: Tensor, k: Tensor, v: Tensor, w_q: Tensor, w_k: Tensor, u: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(q.dtype, torch.float32)
        return q.to(dtype) @ w_q.to(dtype), k.to(dtype) @ w_k.to(dtype), v

    def oracle(self, w: Workload) -> OracleFn:
        def attend(
            q: Tensor, k: Tensor, v: Tensor, rows: Tensor, w_q: Tensor, w_k: Tensor, u: Tensor
        ) -> Tensor:
            queries = q[:, :, rows] @ w_q
            keys = repeat_heads(k @ w_k, w.heads)
            pieces = []
            for i in range(len(rows)):  # R x Lk x A at once would be too large
                units = (queries[:, :, i : i + 1] + keys).tanh()  # [B, H, Lk, A]
                pieces.append((units @ u[..., None]).squeeze(-1))
            scores = torch.stack(pieces, dim=2)
            mask = self.mask(w, rows)
            if mask is not None:
                scores = scores.masked_fill(~mask, -math.inf)
            return scores.softmax(-1) @ repeat_heads(v, w.heads)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """The units of a chunk, and what is projected."""
        backward = w.phase == "forward_backward"
        rows = w.batch * (w.heads * w.seq_len + w.key_heads * w.key_len)
        projected = (2 if backward else 1) * rows * self.hidden * max(4, w.element_bytes)
        chunks = chunks_bytes(
            w, self.rows, forward=self.hidden + 2, backward=3 * self.hidden + 4, dim=self.hidden
        )
        return chunks + projected

    def cost(self, w: Workload) -> Cost:
        """A sum, a tanh (counted as one) and a multiply-add for each pair and unit."""
        a, d = self.hidden, w.head_dim
        projections = 2 * w.batch * d * a * (w.heads * w.seq_len + w.key_heads * w.key_len)
        pairs = w.batch * w.heads * w.pairs * (4 * a + 2 * d)
        weights = (d * a * (w.heads + w.key_heads) + w.heads * a) * w.element_bytes
        kept = w.batch * w.key_heads * w.key_len * (a + d) * w.element_bytes
        return Cost(
            flops=phase_flops(w, projections + pairs),
            bytes=io_bytes(w) + (2 * weights if w.phase == "forward_backward" else weights),
            workspace_bytes=self.workspace_bytes(w),
            exponent=2.0,
            state_bytes=kept,
        )

    def limits(self) -> list[Limit]:
        """u = 0 compares nothing: the mean of what is seen, as full attention on keys all alike."""
        from subquad.variants.full_naive import FullNaive

        w = Workload(2, 4, 40, 16, causal=True, kv_heads=2, kv_len=71)
        return [
            Limit(self, FullNaive(), replace(w, causal=causal), key_scale=0.0, fixed={"u": 0.0})
            for causal in (False, True)
        ]
