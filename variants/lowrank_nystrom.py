"""Nyströmformer: softmax attention through landmarks and a pseudo-inverse."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
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
        m, group = self.segments(w), w.heads // w.key_heads
        scale = 1 / math.sqrt(w.head_dim)
        # Float16 and bfloat16 would lose the small singular values that Z lives on.
        work = torch.promote_types(w.torch_dtype, torch.float32)
        identity = torch.eye(m, dtype=work, device=w.device)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = q.to(work) * scale, k.to(work), v.to(work)
            q_means, k_means = segment_means(q, m), segment_means(k, m).transpose(-2, -1)
            by_group = (w.batch, w.key_heads, group)
            small = (q_means.view(*by_group, m, -1) @ k_means[:, :, None]).softmax(-1)
            inverse = iterated_inverse(small, identity, self.iterations)  # [B, Hk, G, m, m]
            rows = q_means.reshape(w.batch, w.key_heads, group * m, -1)
            summary = (rows @ k.transpose(-2, -1)).softmax(-1) @ v  # [B, Hk, G m, D]
            values = inverse @ summary.view(*by_group, m, -1)
            left = (q.view(*by_group, w.seq_len, -1) @ k_means[:, :, None]).softmax(-1)
            return (left @ values).view(w.query_shape).to(w.torch_dtype)

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
        """Scores and weights of m landmarks against queries and keys, the scaled queries."""
        m, heads = self.segments(w), w.batch * w.heads
        element = max(4, w.element_bytes)
        queries = heads * w.seq_len * w.head_dim
        keys = 2 * w.batch * w.key_heads * w.key_len * w.head_dim if element > w.element_bytes else 0
        small = heads * m * (8 * m + 2 * w.head_dim)
        if w.phase == "forward_backward":
            steps = 7 * self.iterations * heads * m * m  # every product of the iteration is kept
            scores = heads * m * (w.seq_len + w.key_len + 2 * max(w.seq_len, w.key_len))
            return (scores + 2 * queries + 2 * keys + small + steps) * element
        scores = 2 * heads * m * max(w.seq_len, w.key_len)
        return (scores + queries + keys + small) * element

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
    columns, rows = a.abs().sum(-2).amax(-1), a.abs().sum(-1).amax(-1)
    z = a.transpose(-2, -1) / (columns * rows)[..., None, None]
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * identity - az @ (15 * identity - az @ (7 * identity - az))) / 4
    return z
