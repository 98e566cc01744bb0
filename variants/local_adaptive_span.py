"""Adaptive attention span: every head learns how far it looks back.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, n seq_len, D head dim, N query blocks
of a step, S rows of a block, M keys that such a block meets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    causal_mask,
    io_bytes,
    phase_flops,
    repeat_heads,
)
from subquad.variants.engines.blocks import ROWS, Step
from subquad.variants.local_window import LocalWindow

CPU_SCORES = 2**18  # scores of one step: they stay in the cache
CUDA_SCORES = 2**26


@dataclass(frozen=True)
class LocalAdaptiveSpan(Variant):
    """out_i = sum_j m(|i - j|) exp(s_ij) v_j / sum_j m(|i - j|) exp(s_ij), j <= i when causal.

    m(x) = clamp((R + z - x) / R, 0, 1) with R = `ramp`: all keys within the learned span z of the
    head, those R further on less and less. z is one number a head, between 0 and `span`, so that no
    key at a distance of `span` + R or more counts.
    """

    name: ClassVar[str] = "local_adaptive_span"
    family: ClassVar[str] = "local"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Sukhbaatar et al. 2019, Adaptive span, arXiv 1905.07799, section 2.2"
    supports: ClassVar[Supports] = Supports(cross=False)

    span: int = 256
    ramp: int = 32

    def __post_init__(self) -> None:
        at_least("span", self.span, 0)
        at_least("ramp", self.ramp, 1)

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        return {"z": TensorSpec((w.heads,), 0.0, float(self.span), learned=True)}

    def prepare(self, w: Workload) -> AttentionFn:
        spans = _Spans(self.span, self.ramp, tuple(self._steps(w)), w.causal)
        if w.phase == "forward":
            return spans.run

        def attend(q: Tensor, k: Tensor, v: Tensor, z: Tensor) -> Tensor:
            out: Tensor = _Spanned.apply(q, k, v, z, spans)  # type: ignore[no-untyped-call]
            return out

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, z: Tensor) -> Tensor:
            k, v = repeat_heads(k, w.heads), repeat_heads(v, w.heads)
            keys = torch.arange(w.key_len, device=rows.device)
            distance = (rows[:, None] - keys).abs().to(q.dtype)
            z = z.clamp(0, self.span)[:, None, None]
            soft = ((self.ramp + z - distance) / self.ramp).clamp(0, 1)  # [H, R, n]
            if w.causal:
                soft = soft * causal_mask(w, rows)
            scores = q[:, :, rows] @ k.mT / math.sqrt(w.head_dim)
            largest = scores.masked_fill(soft == 0, -math.inf).amax(-1, keepdim=True)
            # A hidden key may score above them all: its exp is never taken.
            weights = soft * (scores - largest).masked_fill(soft == 0, 0.0).exp()
            return weights @ v / weights.sum(-1, keepdim=True)

        return attend

    def visible_pairs(self, w: Workload) -> int:
        """Pairs within the largest span and its ramp, where every head may look."""
        return self._widest(w).visible_pairs(w)

    def workspace_bytes(self, w: Workload) -> int:
        steps = self._steps(w)
        step = max(steps, key=lambda s: s.blocks * s.size * s.span)
        item = max(4, w.element_bytes)
        scores = w.batch * w.heads * step.blocks * step.size * step.span
        keys = w.batch * w.key_heads * step.blocks * step.span * w.head_dim
        queries = w.batch * w.heads * step.blocks * step.size * w.head_dim
        if w.phase == "forward":
            return (2 * scores + 2 * keys + 3 * queries) * item
        totals = 2 * w.batch * w.key_heads * w.seq_len * w.head_dim * item
        return (5 * scores + 4 * keys + 5 * queries) * item + (totals if w.element_bytes < 4 else 0)

    def cost(self, w: Workload) -> Cost:
        forward = 4 * w.batch * w.heads * w.head_dim * self.visible_pairs(w)
        learned = w.heads * w.element_bytes
        return Cost(
            flops=phase_flops(w, forward),
            bytes=io_bytes(w) + (2 if w.phase == "forward_backward" else 1) * learned,
            workspace_bytes=self.workspace_bytes(w),
            exponent=1.0,
        )

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive

        return [
            limit
            for causal in (False, True)
            for w in (Workload(2, 2, 150, 16, causal),)
            for limit in (
                Limit(LocalAdaptiveSpan(200), FullNaive(), w, fixed={"z": 150.0}),
                # A ramp of 1 is a window: z + 1 keys to either side of the query and itself.
                Limit(
                    LocalAdaptiveSpan(200, 1),
                    LocalWindow(21 if causal else 41),
                    w,
                    fixed={"z": 20.0},
                ),
            )
        ]

    def _widest(self, w: Workload) -> LocalWindow:
        """The window that every key of some weight is in."""
        reach = self.span + self.ramp - 1
        return LocalWindow(reach + 1 if w.causal else 2 * reach + 1)

    def _steps(self, w: Workload) -> list[Step]:
        before, after = self._widest(w).reach(w)
        budget = CPU_SCORES if w.device == "cpu" else CUDA_SCORES
        limit = max(1, budget // (w.batch * w.heads * ROWS * (before + ROWS + after)))
        n = w.seq_len
        steps: list[Step] = []
        for start in range(0, n, ROWS):
            size = min(ROWS, n - start)
            low, high = max(0, start - before), min(n, start + size + after)
            if steps and steps[-1].blocks < limit and _alike(steps[-1], size, start - low, high - low):
                steps[-1] = replace(steps[-1], blocks=steps[-1].blocks + 1)
            else:
                steps.append(Step(start, 1, size, low, high - low))
        return steps


def _alike(last: Step, size: int, before: int, span: int) -> bool:
    return (last.size, last.start - last.first, last.span) == (size, before, span)


@dataclass(frozen=True)
class _Spans:
    """Steps whose scores are weighted by distance."""

    span: int
    ramp: int
    steps: Sequence[Step]
    causal: bool

    def run(self, q: Tensor, k: Tensor, v: Tensor, z: Tensor) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for step in self.steps:
            part = self.attend(step, *self.pieces(step, q, k, v), z)
            step.of_queries(out, k.shape[1]).copy_(part)
        return out

    def pieces(self, step: Step, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, Hk, N, G, S, D], scaled, and k, v [B * Hk, N, M, D], float32 at least."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        queries = step.of_queries(q, k.shape[1]).to(dtype) * q.shape[-1] ** -0.5
        return queries, step.of_keys(k).to(dtype), step.of_keys(v).to(dtype)

    def attend(self, step: Step, q: Tensor, k: Tensor, v: Tensor, z: Tensor) -> Tensor:
        soft = self.soft(step, z.to(q.dtype), q.shape[1])
        scores = q.flatten(3, 4).flatten(0, 1) @ k.mT  # [B * Hk, N, G * S, M]
        scores = scores.view(*q.shape[:-1], step.span)
        # exp(score + log m) where m > 0; the gradient of m comes through log, since m exp(s) / m is.
        hidden = soft == 0
        logs = soft.masked_fill(hidden, 1.0).log().masked_fill(hidden, -math.inf)
        weights = (scores + logs).softmax(-1).flatten(3, 4).flatten(0, 1)
        return (weights @ v).view(q.shape)

    def soft(self, step: Step, z: Tensor, key_heads: int) -> Tensor:
        """m of each row and key of a block, [Hk, 1, G, S, M]; 0 for the future when causal."""
        rows = torch.arange(step.size, device=z.device)[:, None] + (step.start - step.first)
        distance = rows - torch.arange(step.span, device=z.device)
        spans = z.clamp(0, self.span).view(key_heads, 1, -1, 1, 1)
        soft = ((self.ramp + spans - distance.abs()) / self.ramp).clamp(0, 1)
        return soft.masked_fill(distance < 0, 0.0) if self.causal else soft


class _Spanned(torch.autograd.Function):
    """A backward that recomputes each step, so that nothing but the inputs is kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, z: Tensor, spans: _Spans) -> Tensor:
        ctx.save_for_backward(q, k, v, z)
        ctx.spans = spans
        return spans.run(q, k, v, z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, z = ctx.saved_tensors
        spans: _Spans = ctx.spans
        dtype, key_heads = torch.promote_types(q.dtype, torch.float32), k.shape[1]
        dq = torch.empty_like(q)
        dk, dv = torch.zeros_like(k, dtype=dtype), torch.zeros_like(v, dtype=dtype)
        dz = torch.zeros_like(z, dtype=dtype)
        for step in spans.steps:
            pieces = spans.pieces(step, q, k, v)
            leaves = tuple(x.detach().requires_grad_() for x in (*pieces, z.to(dtype)))
            with torch.enable_grad():
                out = spans.attend(step, *leaves)
            upstream = step.of_queries(grad, key_heads).to(dtype)
            gq, gk, gv, gz = torch.autograd.grad(out, leaves, upstream)
            step.of_queries(dq, key_heads).copy_(gq * q.shape[-1] ** -0.5)
            step.add_to_keys(dk, gk)
            step.add_to_keys(dv, gv)
            dz += gz
        return dq, dk.to(k.dtype), dv.to(v.dtype), dz.to(z.dtype), None
