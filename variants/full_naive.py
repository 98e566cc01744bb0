"""Full softmax attention as in the textbook: the baseline, and the definition of `exact`."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import (
    PHASES,
    AttentionFn,
    Computes,
    Decoder,
    Supports,
    Variant,
    Workload,
    causal_mask,
)
from subquad.variants.engines.kv_cache import KvCache


@dataclass(frozen=True)
class FullNaive(Variant):
    """softmax(Q Kᵀ / sqrt(D)) V with the L x Lk scores written out.

    Query i sees every key, with `causal` those up to i + Lk - L. Each step is one operation of torch
    in the dtype of the inputs. Query heads that share a key head are stacked as rows of one product,
    so keys and values are never repeated.
    """

    name: ClassVar[str] = "full_naive"
    family: ClassVar[str] = "full"
    computes: ClassVar[Computes] = "exact"
    source: ClassVar[str] = "Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1"
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def prepare(self, w: Workload) -> AttentionFn:
        scale = 1 / math.sqrt(w.head_dim)
        rows = torch.arange(w.seq_len, device=w.device)
        hidden = ~causal_mask(w, rows) if w.causal else None  # [L, Lk]
        stacked = (w.batch, w.key_heads, -1, w.head_dim)
        score_shape = (w.batch, w.heads, w.seq_len, w.key_len)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            scores = q.reshape(stacked) @ k.transpose(-2, -1) * scale  # [B, Hk, H/Hk L, Lk]
            if hidden is not None:
                scores = scores.view(score_shape).masked_fill(hidden, -math.inf)
                scores = scores.view(w.batch, w.key_heads, -1, w.key_len)
            return (scores.softmax(-1) @ v).view(w.query_shape)

        return attend

    def decoder(self, w: Workload) -> Decoder:
        scale = 1 / math.sqrt(w.head_dim)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            stacked = q.reshape(w.batch, w.key_heads, -1, w.head_dim)
            return ((stacked @ k.transpose(-2, -1) * scale).softmax(-1) @ v).view(q.shape)

        return KvCache(w, lambda length: self.prepare(replace(w, seq_len=length)), attend)

    def workspace_bytes(self, w: Workload) -> int:
        """Two score matrices at a time; the backward pass holds the weights and two more."""
        matrices = 3 if w.phase == "forward_backward" else 2
        scores = matrices * w.batch * w.heads * w.seq_len * w.key_len * w.element_bytes
        return scores + (w.seq_len * w.key_len if w.causal else 0)
