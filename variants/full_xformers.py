"""Full softmax attention by xformers' memory-efficient operator (CUDA only)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from subquad.contract import AttentionFn, Computes, Limit, Supports, Variant, Workload
from subquad.variants.full_sdpa import limits_to_naive


@dataclass(frozen=True)
class FullXformers(Variant):
    """softmax(Q Kᵀ / sqrt(D)) V by xformers' memory_efficient_attention, its own choice of kernel.

    The operator takes [B, L, H, D]; tensors go in and out as transposed views, so no copy is made
    here. Grouped heads take its form [B, L, Hk, H/Hk, D], keys and values expanded without a copy.
    """

    name: ClassVar[str] = "full_xformers"
    family: ClassVar[str] = "full"
    computes: ClassVar[Computes] = "exact"
    source: ClassVar[str] = "Rabe & Staats 2021, arXiv 2112.05682; xformers memory_efficient_attention"
    supports: ClassVar[Supports] = Supports(
        dtypes=("float32", "bfloat16", "float16"), devices=("cpu", "cuda")
    )
    requires: ClassVar[tuple[str, ...]] = ("xformers>=0.0.33",)

    def prepare(self, w: Workload) -> AttentionFn:
        from xformers.ops import memory_efficient_attention
        from xformers.ops.fmha.attn_bias import LowerTriangularFromBottomRightMask

        bias = LowerTriangularFromBottomRightMask() if w.causal else None
        group = w.heads // w.key_heads

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            if group > 1:
                q = q.reshape(w.batch, w.seq_len, w.key_heads, group, w.head_dim)
                k, v = (x[:, :, :, None].expand(-1, -1, -1, group, -1) for x in (k, v))
            output: Tensor = memory_efficient_attention(q, k, v, attn_bias=bias)
            return (output.flatten(2, 3) if group > 1 else output).transpose(1, 2)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """The log-sum-exp of each row, and with the backward pass float32 gradients."""
        rows = w.batch * w.heads * w.seq_len
        return 4 * rows * (2 + w.head_dim) if w.phase == "forward_backward" else 4 * rows

    def limits(self) -> list[Limit]:
        return limits_to_naive(self)

    def unmet(self, w: Workload) -> list[str]:
        reasons = super().unmet(w)
        if w.device == "cpu":
            reasons.append("device=cpu (xformers has no CPU operator)")
        if w.kv_heads is not None and w.phase == "forward_backward":
            reasons.append(f"kv_heads={w.kv_heads} (xformers has no backward pass for grouped heads)")
        return reasons
