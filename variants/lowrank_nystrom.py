"""Nyströmformer: softmax attention through landmarks and a pseudo-inverse."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.contract import (
    AttentionFn,
    Computes,
    Cost,
    Limit,
    OracleFn,
    Supports,
    Variant,
    Workload,
    at_least,
    io_bytes,
    phase_flops,
    repeat_heads,
)
from subquad.variants.engines.blocks import KERNEL_BYTES
from subquad.variants.full_naive import FullNaive


@dataclass(frozen=True)
class LowrankNystrom(Variant):
    """softmax(Q K~ᵀ) Z (softmax(Q~ Kᵀ) V), Z the iterated pseudo-inverse of A = softmax(Q~ K~ᵀ).

    All scores are divided by sqrt(D). Q~ and K~ are the means of m = min(landmarks, L, Lk) segments of
    neighbouring queries and keys; where m does not divide the length, the first (length mod m)
    segments are one longer. Z starts as Aᵀ / (|A|_1 |A|_inf), for each head on its own, and takes
    `iterations` steps of
    Z = Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4. Without the paper's convolution of the values. A
    landmark averages over every position of its segment, so there is no causal form.
    """

    landmarks: int = 64
    iterations: int = 6  # section 3.2 and the authors' code

    name: ClassVar[str] = "lowrank_nystrom"
    family: ClassVar[str] = "lowrank"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = "Xiong et al. 2021, arXiv 2102.03902, section 3.2"
    supports: ClassVar[Supports] = Supports(causal=(False,))

    def __post_init__(self) -> None:
        at_least("landmarks", self.landmarks, 1)
        at_least("iterations", self.iterations, 1)

    def segments(self, w: Workload) -> int:
        return min(self.landmarks, w.seq_len, w.key_len)

    def prepare(self, w: Workload) -> AttentionFn:
        m = self.segments(w)
        stacked = (w.batch, w.key_heads, -1, w.head_dim)
        by_group = (w.batch, w.key_heads, w.heads // w.key_heads, m, w.head_dim)
        # Float16 and bfloat16 would lose the small singular values that Z lives on.
        work = torch.promote_types(w.torch_dtype, torch.float32)
        identity = torch.eye(m, dtype=work, device=w.device)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = q.to(work), k.to(work), v.to(work)
            q_means, k_means = segment_means(q, m), segment_means(k, m)[:, :, None]
            scaled = q_means.view(by_group) * (1 / math.sqrt(w.head_dim))
            small = (scaled @ k_means.transpose(-2, -1)).softmax(-1)
            inverse = iterated_inverse(small, identity, self.iterations)  # [B, Hk, G, m, m]
            summary = F.scaled_dot_product_attention(q_means.reshape(stacked), k, v)  # [B, Hk, G m, D]
            values = (inverse @ summary.view(by_group)).flatten(1, 2)  # [B, H, m, D]
            keys = k_means.expand(by_group).flatten(1, 2)
            return F.scaled_dot_product_attention(q, keys, values).to(w.torch_dtype)

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        m = self.segments(w)

        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            k, v = repeat_heads(k, w.heads), repeat_heads(v, w.heads)
            root = math.sqrt(w.head_dim)
            q_means, k_means = segment_means(q, m), segment_means(k, m)
            left = (q[:, :, rows] @ k_means.transpose(-2, -1) / root).softmax(-1)
            small = (q_means @ k_means.transpose(-2, -1) / root).softmax(-1)
            right = (q_means @ k.transpose(-2, -1) / root).softmax(-1)
            identity = torch.eye(m, dtype=q.dtype, device=q.device)
            return left @ (iterated_inverse(small, identity, self.iterations) @ (right @ v))

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Landmarks, what they read and A and Z, inputs in float32; with gradients every step of Z."""
        m, heads = self.segments(w), w.batch * w.heads
        element = max(4, w.element_bytes)
        small = heads * m * (4 * m + 4 * w.head_dim)
        inputs = w.batch * w.head_dim * (w.heads * w.seq_len + 2 * w.key_heads * w.key_len)
        converted = inputs if w.element_bytes < element else 0
        if w.phase == "forward":
            return (small + converted) * element + KERNEL_BYTES
        steps = 4 * self.iterations * heads * m * m
        return (small + steps + inputs + 2 * converted) * element + KERNEL_BYTES

    def cost(self, w: Workload) -> Cost:
        m, heads = self.segments(w), w.batch * w.heads
        attend = 4 * heads * m * (w.seq_len + w.key_len) * w.head_dim
        landmarks = 4 * heads * m * m * w.head_dim
        inverse = 8 * heads * self.iterations * m**3
        flops = phase_flops(w, attend + landmarks + inverse)
        return Cost(flops, io_bytes(w), self.workspace_bytes(w), exponent=1.0)

    def limits(self) -> list[Limit]:
        """A landmark for each position: S S⁺ S V = S V, once the iteration has converged.

        Float64, since the pseudo-inverse multiplies rounding by the condition of S.
        """
        full = LowrankNystrom(landmarks=32, iterations=40)
        w = Workload(1, 2, 32, 32, causal=False, dtype="float64")
        grouped = Workload(1, 4, 32, 32, causal=False, kv_heads=2, dtype="float64")
        return [Limit(full, FullNaive(), each, tolerance=1e-8) for each in (w, grouped)]


def segment_means(x: Tensor, m: int) -> Tensor:
    """[..., L, D] to [..., m, D]: means over m segments, the first (L mod m) one longer."""
    short, longer = divmod(x.shape[-2], m)
    cut = longer * (short + 1)
    head, tail = x[..., :cut, :], x[..., cut:, :]
    means = tail.reshape(*x.shape[:-2], m - longer, short, x.shape[-1]).mean(-2)
    if longer == 0:
        return means
    first = head.reshape(*x.shape[:-2], longer, short + 1, x.shape[-1]).mean(-2)
    return torch.cat([first, means], dim=-2)


def iterated_inverse(a: Tensor, identity: Tensor, iterations: int) -> Tensor:
    """Pseudo-inverse [..., m, m] by the third-order iteration of section 3.2."""
    shape, a = a.shape, a.view(-1, *a.shape[-2:])
    columns, rows = a.abs().sum(-2).amax(-1), a.abs().sum(-1).amax(-1)
    z = a.transpose(-2, -1) / (columns * rows)[..., None, None]
    for _ in range(iterations):
        az = torch.bmm(a, z)
        inner = torch.baddbmm(identity, az, 7 * identity - az, beta=15, alpha=-1)
        inner = torch.baddbmm(identity, az, inner, beta=13, alpha=-1)
        z = torch.bmm(z, inner).mul_(0.25)
    return z.view(shape)
