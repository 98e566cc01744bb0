"""Controls: what attention is compared with when it is suspected of not being needed.

None reads queries or keys. Where a layer takes one sequence of vectors, that is the values with their
heads side by side.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, L seq_len, Lk key length, D head dim,
E = H D, R sampled query rows, T taps of a convolution, C positions of a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
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
    causal_mask,
    io_bytes,
    phase_flops,
    repeat_heads,
)

BLOCK = 64  # rows of the banded matrix of a convolution


def merged(x: Tensor) -> Tensor:
    """[B, H, L, D] to [B, L, H D]."""
    return x.transpose(1, 2).flatten(2)


def split(x: Tensor, heads: int) -> Tensor:
    """Undo `merged`; contiguous."""
    return torch.unflatten(x, 2, (heads, -1)).transpose(1, 2).contiguous()


def accumulator(w: Workload) -> torch.dtype:
    return torch.promote_types(w.torch_dtype, torch.float32)


def moved_bytes(w: Workload, values: bool = True) -> int:
    """Bytes of the output written once and of the values read once; queries and keys are not looked at.

    With gradients, each once more.
    """
    numbers = w.batch * w.heads * w.seq_len * w.head_dim
    if values:
        numbers += w.batch * w.key_heads * w.key_len * w.head_dim
    forward = numbers * w.element_bytes
    return 2 * forward if w.phase == "forward_backward" else forward


@dataclass(frozen=True)
class ControlMean(Variant):
    """out_i = the mean of the values that query i may see: all of them, or causal those up to i.

    Attention that weighs every key alike. Sums are float32 (float64 for float64).
    """

    name: ClassVar[str] = "control_mean"
    family: ClassVar[str] = "control"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = (
        "Zhang, Xiong, Su 2018, Average Attention Network, arXiv 1805.00631, section 3, its mean only"
    )
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def prepare(self, w: Workload) -> AttentionFn:
        work, ahead = accumulator(w), w.key_len - w.seq_len
        if not w.causal:

            def mean(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                means = repeat_heads(v.mean(2, keepdim=True, dtype=work).to(v.dtype), w.heads)
                return means.expand(w.query_shape).contiguous()

            return mean
        counts = torch.arange(ahead + 1, w.key_len + 1, dtype=work, device=w.device)[:, None]

        def running_mean(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            means = v.cumsum(2, dtype=work)[:, :, ahead:] / counts
            return repeat_heads(means.to(v.dtype), w.heads)

        return running_mean

    def decoder(self, w: Workload) -> Decoder:
        return _RunningMean(self, w)

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            visible = torch.ones(len(rows), w.key_len, dtype=v.dtype, device=v.device)
            if w.causal:
                visible = visible * causal_mask(w, rows)
            return visible / visible.sum(-1, keepdim=True) @ repeat_heads(v, w.heads)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Causal: running sums, means, their conversion; heads that share values, repeated."""
        element = max(4, w.element_bytes)
        if not w.causal:
            backward = w.batch * w.key_heads * w.key_len * w.head_dim if w.phase != "forward" else 0
            return w.batch * w.heads * w.head_dim * element + backward * element
        sums = w.batch * w.key_heads * w.key_len * w.head_dim
        return (2 if w.phase == "forward" else 3) * sums * element

    def cost(self, w: Workload) -> Cost:
        """One addition for each value, and causal one division for each running sum."""
        forward = w.batch * w.key_heads * w.head_dim * (w.key_len + (w.seq_len if w.causal else 1))
        state = w.batch * w.key_heads * w.head_dim * max(4, w.element_bytes)
        return Cost(
            phase_flops(w, forward), moved_bytes(w), self.workspace_bytes(w), 1.0, state_bytes=state
        )

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(self, FullNaive(), Workload(2, 4, 67, 16, c, kv_heads=2, kv_len=101), key_scale=0.0)
            for c in (False, True)
        ]


class _RunningMean(Decoder):
    """State: the sum of all values so far [B, Hk, 1, D] and how many they are."""

    def __init__(self, variant: ControlMean, w: Workload) -> None:
        self.variant, self.w = variant, w

    def start(self) -> tuple[Any, ...]:
        shape = (self.w.batch, self.w.key_heads, 1, self.w.head_dim)
        return torch.zeros(shape, dtype=accumulator(self.w), device=self.w.device), 0

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        length = v.shape[2]
        out = self.variant.prepare(replace(self.w, seq_len=length))(q, k, v)
        return out, (v.sum(2, keepdim=True, dtype=accumulator(self.w)), length)

    def step(
        self, state: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        total, count = state[0] + v, state[1] + 1
        return repeat_heads((total / count).to(v.dtype), self.w.heads), (total, count)


@dataclass(frozen=True)
class ControlIdentity(Variant):
    """out_i = v_i: a copy, the least that any variant has to do; nothing moves between positions."""

    name: ClassVar[str] = "control_identity"
    family: ClassVar[str] = "control"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "no paper: attention whose matrix is the identity"
    supports: ClassVar[Supports] = Supports(phases=PHASES, cross=False)

    def prepare(self, w: Workload) -> AttentionFn:
        if w.kv_heads is not None:
            return lambda q, k, v: repeat_heads(v, w.heads)
        if w.phase == "forward_backward":
            return lambda q, k, v: v * 1  # its gradient is a copy too, where that of clone is not
        return lambda q, k, v: v.clone(memory_format=torch.contiguous_format)

    def decoder(self, w: Workload) -> Decoder:
        return _Copy(w)

    def oracle(self, w: Workload) -> OracleFn:
        return lambda q, k, v, rows: repeat_heads(v, w.heads)[:, :, rows]

    def workspace_bytes(self, w: Workload) -> int:
        return 0

    def cost(self, w: Workload) -> Cost:
        """No arithmetic: one for each number moved, since a cost must be positive."""
        moved = w.batch * w.heads * w.seq_len * w.head_dim
        return Cost(phase_flops(w, moved), moved_bytes(w), self.workspace_bytes(w), 1.0, state_bytes=0)

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive
        from subquad.variants.local_window import LocalWindow

        return [
            Limit(self, FullNaive(), Workload(2, 2, 1, 16, causal=True)),
            Limit(self, LocalWindow(1), Workload(2, 4, 67, 16, causal=False, kv_heads=2)),
        ]


class _Copy(Decoder):
    """The state is empty."""

    def __init__(self, w: Workload) -> None:
        self.heads = w.heads

    def start(self) -> tuple[Any, ...]:
        return ()

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        return repeat_heads(v, self.heads).clone(), ()

    def step(
        self, state: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        return repeat_heads(v, self.heads).clone(), ()


@dataclass(frozen=True)
class ControlZero(Variant):
    """out_i = 0: no attention at all; a model keeps only what goes around it.

    The query gives the shape, and a gradient of zero.
    """

    name: ClassVar[str] = "control_zero"
    family: ClassVar[str] = "control"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "no paper: a layer of attention taken out"
    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def prepare(self, w: Workload) -> AttentionFn:
        everywhere = torch.ones((), dtype=torch.bool, device=w.device)
        return lambda q, k, v: q.masked_fill(everywhere, 0.0)

    def decoder(self, w: Workload) -> Decoder:
        return _Nothing()

    def oracle(self, w: Workload) -> OracleFn:
        return lambda q, k, v, rows: 0.0 * q[:, :, rows]

    def workspace_bytes(self, w: Workload) -> int:
        return 0

    def cost(self, w: Workload) -> Cost:
        """No arithmetic: one for each number written, since a cost must be positive."""
        written = w.batch * w.heads * w.seq_len * w.head_dim
        moved = moved_bytes(w, values=False)
        return Cost(phase_flops(w, written), moved, self.workspace_bytes(w), 1.0, state_bytes=0)

    def limits(self) -> list[Limit]:
        """The delta rule that never writes."""
        from subquad.variants.linear_delta import LinearDelta

        w = Workload(2, 2, 67, 16, causal=True)
        return [Limit(LinearDelta(), self, w, fixed={"beta": 0.0})]


class _Nothing(Decoder):
    """The state is empty."""

    def start(self) -> tuple[Any, ...]:
        return ()

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        return torch.zeros_like(q), ()

    def step(
        self, state: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        return torch.zeros_like(q), ()


@dataclass(frozen=True)
class ControlConv(Variant):
    """Convolution: out_i = sum_t softmax(a_h)_t v_(i - t), t of T = `taps` offsets, zeros outside.

    a [H, T] is learned: one kernel for each head, shared by its D features, as attention weights are,
    but the same at every position. Causal offsets are 0 .. T - 1; otherwise -((T - 1) // 2) .. T // 2.
    Blocks of positions are multiplied by the banded matrix of the kernel, in float32 at least.
    """

    name: ClassVar[str] = "control_conv"
    family: ClassVar[str] = "control"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Wu et al. 2019, LightConv, arXiv 1901.10430, section 3"
    supports: ClassVar[Supports] = Supports(cross=False)

    taps: int = 16

    def __post_init__(self) -> None:
        at_least("taps", self.taps, 1)

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        return {"kernel": TensorSpec((w.heads, self.taps), -1.0, 1.0, learned=True)}

    def first_offset(self, w: Workload) -> int:
        """The offset t of the first tap: below zero it looks ahead."""
        return 0 if w.causal else -((self.taps - 1) // 2)

    def prepare(self, w: Workload) -> AttentionFn:
        taps, work = self.taps, accumulator(w)
        rows = min(BLOCK, w.seq_len)
        blocks, ahead = -(-w.seq_len // rows), -self.first_offset(w)
        width = rows + taps - 1
        padding = (0, 0, taps - 1 - ahead, blocks * rows - w.seq_len + ahead)
        # Row r of a block holds tap t in column r + T - 1 - t, and nothing (index T) elsewhere.
        tap = torch.arange(rows)[:, None] + taps - 1 - torch.arange(width)
        index = torch.where((tap >= 0) & (tap < taps), tap, taps).flatten().to(w.device)
        matrix = (w.key_heads, 1, -1, width)

        def attend(q: Tensor, k: Tensor, v: Tensor, kernel: Tensor) -> Tensor:
            weights = F.pad(kernel.to(work).softmax(-1), (0, 1))
            band = weights.index_select(1, index).view(matrix)  # [Hk, 1, G C, C + T - 1]
            windows = F.pad(v.to(work), padding).unfold(2, width, rows).transpose(-2, -1)
            out = torch.unflatten(band @ windows, 3, (-1, rows))  # [B, Hk, N, G, C, D]
            out = out.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :, : w.seq_len]
            return out.to(v.dtype).contiguous()

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, kernel: Tensor) -> Tensor:
            v, weights = repeat_heads(v, w.heads), kernel.softmax(-1)
            out = torch.zeros_like(v[:, :, rows])
            for tap in range(self.taps):
                at = rows - (self.first_offset(w) + tap)
                inside = (at >= 0) & (at < w.key_len)
                seen = v[:, :, at.clamp(0, w.key_len - 1)].masked_fill(~inside[:, None], 0)
                out = out + weights[:, tap, None, None] * seen
            return out

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Padded values, their overlapping windows, the output before it is in its order."""
        rows = min(BLOCK, w.seq_len)
        values = w.batch * w.key_heads * w.seq_len * w.head_dim
        windows = values * (rows + self.taps - 1) // rows
        out = w.batch * w.heads * w.seq_len * w.head_dim
        gradients = windows if w.phase == "forward_backward" else 0
        bands = 2 * w.heads * rows * (rows + self.taps)
        return (values + windows + gradients + out + bands) * max(4, w.element_bytes)

    def cost(self, w: Workload) -> Cost:
        forward = 2 * w.batch * w.heads * w.seq_len * w.head_dim * self.taps
        return Cost(phase_flops(w, forward), io_bytes(w), self.workspace_bytes(w), 1.0)

    def limits(self) -> list[Limit]:
        """One tap is a copy; taps of equal weight over all of a sequence give running sums / T."""
        w = Workload(2, 4, 67, 16, causal=True, kv_heads=2)
        one = Workload(1, 2, 67, 16, causal=False)
        return [Limit(ControlConv(1), ControlIdentity(), each) for each in (w, one)]


@dataclass(frozen=True)
class ControlFourier(Variant):
    """Re(F_L X F_E): Fourier transform over features and positions of the values of all heads X [L, E].

    F_n has entries exp(-2 pi i j k / n), not normalised. Nothing is learned. Every position enters
    each, so there is no causal form. Transforms of half precision are taken in float32.
    """

    name: ClassVar[str] = "control_fourier"
    family: ClassVar[str] = "control"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Lee-Thorp et al. 2021, FNet, arXiv 2105.03824, section 3.2"
    supports: ClassVar[Supports] = Supports(causal=(False,), grouped=False, cross=False)

    def prepare(self, w: Workload) -> AttentionFn:
        work, features = accumulator(w), w.heads * w.head_dim
        # The spectrum of real numbers is its own mirror image, so half of the features is enough.
        rows = -torch.arange(w.seq_len, device=w.device) % w.seq_len
        columns = torch.arange((features - 1) // 2, 0, -1, device=w.device)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            half = torch.fft.rfftn(merged(v).to(work), dim=(1, 2)).real  # [B, L, E // 2 + 1]
            mirrored = half.index_select(1, rows).index_select(2, columns)
            return split(torch.cat([half, mirrored], dim=2).to(v.dtype), w.heads)

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        def angles(rows: Tensor, n: int) -> Tensor:
            turns = rows[:, None] * torch.arange(n, device=rows.device) % n  # in n-ths, still exact
            return (turns - n * (2 * turns > n)).double() * (2 * math.pi / n)

        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            features = w.heads * w.head_dim
            x = merged(v)
            along = angles(rows, w.seq_len)
            across = angles(torch.arange(features, device=v.device), features)
            cos = along.cos().to(x) @ x @ across.cos().to(x)
            sin = along.sin().to(x) @ x @ across.sin().to(x)
            return split(cos - sin, w.heads)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Values, half of a complex spectrum, its real part; backward a whole complex spectrum."""
        numbers = w.batch * w.heads * w.seq_len * w.head_dim
        return (5 if w.phase == "forward_backward" else 3) * numbers * max(4, w.element_bytes)

    def cost(self, w: Workload) -> Cost:
        """5/2 N log2 N for a transform of N real numbers, as is usual."""
        numbers = w.seq_len * w.heads * w.head_dim
        forward = w.batch * math.ceil(2.5 * numbers * math.log2(max(2, numbers)))
        return Cost(phase_flops(w, forward), io_bytes(w), self.workspace_bytes(w), 1.0)
