"""Full softmax attention on scores of 8-bit queries and keys, by the sageattention package (CUDA only).

Dimensions: B batch, H query heads, Hk key/value heads, L queries, Lk keys, D head dim, R sampled rows.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.contract import (
    AttentionFn,
    Computes,
    OracleFn,
    Supports,
    Variant,
    Workload,
    softmax_attention,
)

QUERY_BLOCK, KEY_BLOCK = 128, 64  # rows that share a scale in sageattention 1.0


def to_8_bits(x: Tensor, block: int) -> Tensor:
    """x [B, H, n, D] rounded to 255 levels, half away from zero, one scale for each `block` rows."""
    length = x.shape[2]
    padded = torch.unflatten(F.pad(x, (0, 0, 0, -length % block)), 2, (-1, block))
    scale = padded.abs().amax((-2, -1), keepdim=True) / 127
    levels = padded / scale.clamp(min=torch.finfo(x.dtype).tiny)
    rounded = levels.sign() * (levels.abs() + 0.5).floor() * scale
    return rounded.flatten(2, 3)[:, :, :length]


@dataclass(frozen=True)
class FullSage(Variant):
    """softmax(Q̃ K̃ᵀ / sqrt(D)) V with Q̃ and K̃ of 8 bits, by sageattn; forward only.

    The mean of all keys is taken from each first, which softmax does not see. A block of rows has one
    scale, so with `causal` the rounding of a key, and nothing else, knows of later ones.
    """

    name: ClassVar[str] = "full_sage"
    family: ClassVar[str] = "full"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = "Zhang et al. 2024, SageAttention, arXiv 2410.02367, sections 4.2-4.3"
    supports: ClassVar[Supports] = Supports(dtypes=("bfloat16", "float16"), phases=("forward",))
    requires: ClassVar[tuple[str, ...]] = ("sageattention>=1,<2",)

    def prepare(self, w: Workload) -> AttentionFn:
        sageattn = import_module("sageattention").sageattn

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            output: Tensor = sageattn(q, k, v, tensor_layout="HND", is_causal=w.causal)
            return output

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            # The kernel smooths keys in the workload's dtype: another rounding, other levels.
            given = k.to(w.torch_dtype)
            smooth = (given - given.float().mean(2, keepdim=True).to(given.dtype)).float()
            queries = to_8_bits(q.float() / math.sqrt(w.head_dim), QUERY_BLOCK) * math.sqrt(w.head_dim)
            keys = to_8_bits(smooth, KEY_BLOCK)
            return softmax_attention(
                queries[:, :, rows].to(q.dtype), keys.to(q.dtype), v, self.mask(w, rows)
            )

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Smooth keys, queries and keys of 8 bits, and values in float16."""
        queries = w.batch * w.heads * w.seq_len * w.head_dim
        keys = w.batch * w.key_heads * w.key_len * w.head_dim
        return queries + (1 + 2 * w.element_bytes) * keys

    def unmet(self, w: Workload) -> list[str]:
        reasons = super().unmet(w)
        if w.device == "cpu":
            reasons.append("device=cpu (sageattention is CUDA only)")
        if w.head_dim not in (64, 96, 128):
            reasons.append(f"head_dim={w.head_dim} (sageattention has 64, 96 and 128)")
        if w.causal and w.kv_len is not None:
            reasons.append(f"kv_len={w.kv_len} (causal sageattention needs kv_len = seq_len)")
        return reasons
