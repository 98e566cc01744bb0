"""torch's own scaled dot product attention, one variant for each kernel.

`torch.nn.functional.scaled_dot_product_attention` picks a kernel by itself. Here the operator behind
it is called by its name, so the name of the variant is the kernel that runs, or it raises. The
`sdpa_kernel` context would pin it as well, at 10 us a call, more than small inputs take.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import AttentionFn, Computes, Limit, Variant, Workload, causal_mask
from subquad.variants.full_naive import FullNaive


def lower_right_bias(w: Workload) -> Tensor | None:
    """Additive mask [L, Lk] for causal cross lengths: `is_causal` puts query 0 at key 0 instead."""
    if not w.causal or w.kv_len is None:
        return None
    visible = causal_mask(w, torch.arange(w.seq_len, device=w.device))
    zeros = torch.zeros(visible.shape, dtype=w.torch_dtype, device=w.device)
    return zeros.masked_fill(~visible, -torch.inf)


def limits_to_naive(variant: Variant) -> list[Limit]:
    """Every form of full attention is the textbook's: causal, grouped and of cross lengths at once."""
    return [
        Limit(variant, FullNaive(), Workload(1, 4, 130, 32, causal=False, kv_len=70)),
        Limit(variant, FullNaive(), Workload(1, 4, 70, 32, causal=True, kv_heads=2, kv_len=130)),
    ]


@dataclass(frozen=True)
class FullSdpaMath(Variant):
    """softmax(Q Kᵀ / sqrt(D)) V by torch's math kernel, the composition of plain operators.

    Operator aten::_scaled_dot_product_attention_math. As torch has it, the call builds its own causal
    mask, computes bfloat16 and float16 in float32, and repeats keys and values of grouped heads.
    """

    name: ClassVar[str] = "full_sdpa_math"
    family: ClassVar[str] = "full"
    computes: ClassVar[Computes] = "exact"
    source: ClassVar[str] = (
        "Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1; torch SDPBackend.MATH"
    )

    def prepare(self, w: Workload) -> AttentionFn:
        bias = lower_right_bias(w)
        is_causal = w.causal and bias is None
        grouped = w.kv_heads is not None
        math = torch.ops.aten._scaled_dot_product_attention_math

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            output: Tensor = math(q, k, v, bias, 0.0, is_causal, None, enable_gqa=grouped)[0]
            return output

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Two score matrices (three with the backward pass) in at least float32."""
        element = max(4, w.element_bytes)
        matrices = 3 if w.phase == "forward_backward" else 2
        scores = matrices * w.batch * w.heads * w.seq_len * w.key_len * element
        return scores + (w.seq_len * w.key_len * w.element_bytes if w.causal else 0)

    def limits(self) -> list[Limit]:
        return limits_to_naive(self)


@dataclass(frozen=True)
class FullSdpaFlash(Variant):
    """softmax(Q Kᵀ / sqrt(D)) V in tiles with an online softmax, by torch's fused kernel.

    Operator aten::_scaled_dot_product_flash_attention_for_cpu, on CUDA
    aten::_scaled_dot_product_flash_attention (bfloat16 and float16, head_dim a multiple of 8 up to
    256). The CPU kernel has no lower-right causal form: causal with kv_len != seq_len takes a mask of
    L x Lk, built in `prepare`, and computes the hidden tiles too.
    """

    name: ClassVar[str] = "full_sdpa_flash"
    family: ClassVar[str] = "full"
    computes: ClassVar[Computes] = "exact"
    source: ClassVar[str] = "Dao 2023, arXiv 2307.08691, section 3.1; torch SDPBackend.FLASH_ATTENTION"

    def prepare(self, w: Workload) -> AttentionFn:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        flash_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        if w.device == "cuda":

            def attend_cuda(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                output: Tensor = flash(q, k, v, 0.0, w.causal)[0]  # lower-right, unlike sdpa's flag
                return output

            return attend_cuda
        bias = lower_right_bias(w)
        is_causal = w.causal and bias is None

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            output: Tensor = flash_cpu(q, k, v, 0.0, is_causal, attn_mask=bias)[0]
            return output

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """A tile of at most 256 x 512 scores a thread, the log-sum-exp of each row, the mask."""
        element = max(4, w.element_bytes)
        tile = min(256, w.seq_len) * (min(512, w.key_len) + w.head_dim)
        held = w.batch * w.heads * w.seq_len
        if w.phase == "forward_backward":
            tile *= 2
            held *= 2
        threads = torch.get_num_threads() if w.device == "cpu" else 1
        mask = w.seq_len * w.key_len * w.element_bytes if w.causal and w.kv_len is not None else 0
        return (threads * tile + held) * element + mask

    def limits(self) -> list[Limit]:
        return limits_to_naive(self)

    def unmet(self, w: Workload) -> list[str]:
        reasons = super().unmet(w)
        if w.device == "cuda":
            if w.dtype not in ("bfloat16", "float16"):
                reasons.append(f"dtype={w.dtype} (flash on CUDA supports bfloat16, float16)")
            if w.head_dim % 8 or w.head_dim > 256:
                reasons.append(f"head_dim={w.head_dim} (flash on CUDA needs a multiple of 8 up to 256)")
        return reasons
