"""Local attention around a predicted position (local-p).

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, L queries, Lk keys, D head dim,
C queries of a chunk, M keys of a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.contract import (
    AttentionFn,
    Computes,
    Cost,
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

CPU_GATHER = 2**18  # elements of the keys that one chunk gathers: they stay in the cache
CUDA_GATHER = 2**26


def predict(q: Tensor, w_p: Tensor, v_p: Tensor, key_len: int) -> Tensor:
    """p = Lk sigmoid(v_p . tanh(W_p q)) of queries [B, H, R, D] in float64, [B, H, R].

    Which keys a query sees hangs on it, so whoever asks gets the same, whatever its precision.
    """
    hidden = torch.tanh(q.double() @ w_p.double().mT)
    return key_len * torch.sigmoid((hidden @ v_p.double()[:, :, None]).squeeze(-1))


def first_key(p: Tensor, half_window: int, key_len: int) -> Tensor:
    """The first key of the window of p [..], int64; below 0 where the window begins before the keys."""
    # Where the sigmoid rounds to 1, p is Lk, and the last key is still its middle.
    return p.detach().floor().long().clamp(max=key_len - 1) - (half_window - 1)


@dataclass(frozen=True)
class LocalPredictive(Variant):
    """Softmax over the keys within `half_window` of a predicted position, times a Gaussian there.

    out_t = sum_s a_ts exp(-(s - p_t)² / (2 sigma²)) v_s, with a_t the softmax over the 2 `half_window`
    integers s from floor(p_t) - `half_window` + 1 on, as far as there are keys, and
    p_t = Lk sigmoid(v_p . tanh(W_p q_t)). `sigma` None is half of `half_window`. The product is not
    normalised again. W_p [H, D, D] and v_p [H, D] are learned; p is computed in float64.
    """

    name: ClassVar[str] = "local_predictive"
    family: ClassVar[str] = "local"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = (
        "Luong, Pham, Manning 2015, arXiv 1508.04025, section 3.2 (local-p; D = 10 in section 4.1)"
    )
    supports: ClassVar[Supports] = Supports(causal=(False,))

    half_window: int = 10
    sigma: float | None = None

    def __post_init__(self) -> None:
        at_least("half_window", self.half_window, 1)
        if self.sigma is not None and not self.sigma > 0:
            raise ValueError(f"sigma must be > 0, got {self.sigma}")

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        bound = w.head_dim**-0.5
        square = (w.heads, w.head_dim, w.head_dim)
        return {
            "w_p": TensorSpec(square, -bound, bound, learned=True),
            "v_p": TensorSpec(square[:2], -1.0, 1.0, learned=True),
        }

    def prepare(self, w: Workload) -> AttentionFn:
        windows = _Windows(self.half_window, self.width(w), self.sigma_in_use, self._chunk(w))
        if w.phase == "forward":
            return windows.run

        def attend(q: Tensor, k: Tensor, v: Tensor, w_p: Tensor, v_p: Tensor) -> Tensor:
            p = predict(q, w_p, v_p, w.key_len)
            out: Tensor = _Windowed.apply(q, k, v, p, windows)  # type: ignore[no-untyped-call]
            return out

        return attend

    @property
    def sigma_in_use(self) -> float:
        return self.half_window / 2 if self.sigma is None else self.sigma

    def width(self, w: Workload) -> int:
        """M: the most keys that a query sees."""
        return min(2 * self.half_window, w.key_len)

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, w_p: Tensor, v_p: Tensor) -> Tensor:
            q = q[:, :, rows]
            p = predict(q, w_p, v_p, w.key_len)[..., None]  # [B, H, R, 1]
            first = first_key(p, self.half_window, w.key_len)
            keys = torch.arange(w.key_len, device=q.device)
            visible = (keys >= first) & (keys < first + 2 * self.half_window)
            scores = q @ repeat_heads(k, w.heads).mT / math.sqrt(w.head_dim)
            weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
            away = (keys - p).to(q.dtype) / self.sigma_in_use
            return weights * (away.square() / -2).exp() @ repeat_heads(v, w.heads)

        return attend

    def visible_pairs(self, w: Workload) -> int:
        """At most: a window over an end of the keys holds fewer of them."""
        return w.seq_len * self.width(w)

    def workspace_bytes(self, w: Workload) -> int:
        item = max(4, w.element_bytes)
        rows = w.batch * w.heads * w.seq_len
        chunk = min(self._chunk(w), w.seq_len) * w.batch * w.heads
        gathered = chunk * self.width(w) * w.head_dim
        predicted = 8 * rows * w.head_dim  # the hidden layer, in float64
        if w.phase == "forward":
            predicted = 3 * 8 * chunk * w.head_dim
            return predicted + 8 * rows + 2 * gathered * item + chunk * w.head_dim * item
        totals = 2 * w.batch * w.key_heads * w.key_len * w.head_dim * item
        return 3 * predicted + 6 * gathered * item + (totals if w.element_bytes < 4 else 0)

    def cost(self, w: Workload) -> Cost:
        rows = w.batch * w.heads * w.seq_len
        forward = rows * w.head_dim * (4 * self.width(w) + 2 * w.head_dim + 2)
        learned = w.heads * w.head_dim * (w.head_dim + 1) * w.element_bytes
        return Cost(
            flops=phase_flops(w, forward),
            bytes=io_bytes(w) + (2 if w.phase == "forward_backward" else 1) * learned,
            workspace_bytes=self.workspace_bytes(w),
            exponent=1.0,
        )

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        wide = LocalPredictive(half_window=200, sigma=1e6)
        return [
            Limit(wide, FullNaive(), Workload(2, 2, 150, 16, False, kv_len=kv_len))
            for kv_len in (None, 90, 190)
        ]

    def _chunk(self, w: Workload) -> int:
        budget = CPU_GATHER if w.device == "cpu" else CUDA_GATHER
        return max(1, budget // (w.batch * w.heads * self.width(w) * w.head_dim))


@dataclass(frozen=True)
class _Windows:
    """Attention of each query to M = `width` neighbouring keys, C = `chunk` queries at a time."""

    half_window: int
    width: int
    sigma: float
    chunk: int

    def run(self, q: Tensor, k: Tensor, v: Tensor, w_p: Tensor, v_p: Tensor) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for rows in self.chunks(q):
            p = predict(q[:, :, rows], w_p, v_p, k.shape[2])
            out[:, :, rows] = self.of_rows(q[:, :, rows], k, v, p)
        return out

    def chunks(self, q: Tensor) -> list[slice]:
        return [slice(i, i + self.chunk) for i in range(0, q.shape[2], self.chunk)]

    def of_rows(self, q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
        starts = self.starts(p, k.shape[2])
        keys, values = self.gather(k, starts), self.gather(v, starts)
        return self.attend(q, keys, values, p, starts, k.shape[2])

    def starts(self, p: Tensor, key_len: int) -> Tensor:
        """The first key that each query reads, [B, H, C]: moved to where M keys are."""
        first = first_key(p, self.half_window, key_len)
        return first.clamp(0, key_len - self.width)

    def gather(self, x: Tensor, starts: Tensor) -> Tensor:
        """M neighbouring rows of x [B, Hk, Lk, D] for each query, [B, H, C, M, D]."""
        runs = x.unfold(2, self.width, 1).transpose(-1, -2)  # [B, Hk, Lk - M + 1, M, D], no copy
        return runs[(*self._heads(x, starts), starts)]

    def add_gathered(self, total: Tensor, starts: Tensor, part: Tensor) -> None:
        """Add part [B, H, C, M, D] to the rows of total [B, Hk, Lk, D] that it was gathered from."""
        b, h = self._heads(total, starts)
        keys = (b * total.shape[1] + h) * total.shape[2] + starts  # of the first, in all
        keys = keys[..., None] + torch.arange(self.width, device=keys.device)
        flat = total.view(-1, total.shape[-1])
        flat.index_add_(0, keys.flatten(), part.flatten(0, 3))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, p: Tensor, starts: Tensor, key_len: int
    ) -> Tensor:
        """Queries [B, H, C, D] on k, v [B, H, C, M, D] around p [B, H, C] (float64)."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k, v = q.to(dtype) * q.shape[-1] ** -0.5, k.to(dtype), v.to(dtype)
        keys = starts[..., None] + torch.arange(self.width, device=starts.device)
        first = first_key(p, self.half_window, key_len)[..., None]
        hidden = (keys < first) | (keys >= first + 2 * self.half_window)
        scores = (k @ q[..., None]).squeeze(-1)  # [B, H, C, M]
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        near = ((keys - p[..., None]) / self.sigma).square().div(-2).exp().to(dtype)
        return ((weights * near)[..., None, :] @ v).squeeze(-2)

    def _heads(self, x: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Batch element and key head of each query head, to index x with."""
        batch, heads = starts.shape[:2]
        b = torch.arange(batch, device=x.device)[:, None, None]
        h = torch.arange(heads, device=x.device)[:, None] // (heads // x.shape[1])
        return b, h


class _Windowed(torch.autograd.Function):
    """A backward that gathers each chunk once more, so that nothing but the inputs is kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, p: Tensor, windows: _Windows) -> Tensor:
        ctx.save_for_backward(q, k, v, p)
        ctx.windows = windows
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for rows in windows.chunks(q):
            out[:, :, rows] = windows.of_rows(q[:, :, rows], k, v, p[:, :, rows])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p = ctx.saved_tensors
        windows: _Windows = ctx.windows
        dtype = torch.promote_types(q.dtype, torch.float32)
        dq, dp = torch.empty_like(q), torch.empty_like(p)
        dk, dv = (torch.zeros(k.shape, dtype=dtype, device=k.device) for _ in "kv")
        for rows in windows.chunks(q):
            starts = windows.starts(p[:, :, rows], k.shape[2])
            pieces = (q[:, :, rows], windows.gather(k, starts), windows.gather(v, starts))
            qs, ks, vs = (x.to(dtype).detach().requires_grad_() for x in pieces)
            ps = p[:, :, rows].detach().requires_grad_()
            with torch.enable_grad():
                out = windows.attend(qs, ks, vs, ps, starts, k.shape[2])
            upstream = grad[:, :, rows].to(dtype)
            gq, gk, gv, gp = torch.autograd.grad(out, (qs, ks, vs, ps), upstream)
            dq[:, :, rows], dp[:, :, rows] = gq, gp
            windows.add_gathered(dk, starts, gk)
            windows.add_gathered(dv, starts, gv)
        return dq, dk.to(k.dtype), dv.to(v.dtype), dp, None
