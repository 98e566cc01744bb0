"""Infini-attention: softmax within a segment, and a matrix that holds all segments before it.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, n seq_len, D head dim, S segment,
R sampled query rows.
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
    one_of,
    phase_flops,
    repeat_heads,
    softmax_attention,
)
from subquad.variants.engines.recurrence import Here, Recurrence, State, attention_of_recurrence
from subquad.variants.linear_elu import phi


class _Infini(Recurrence):
    """State: the memory M [B * Hk, D, D] and z = sum phi(k) [B * Hk, D, 1]. Chunks are segments."""

    learned = ("beta",)

    def __init__(self, delta: bool) -> None:
        self.delta = delta

    def start(self, v: Tensor) -> State:
        heads, _, dim = v.shape
        return v.new_zeros(heads, dim, dim), v.new_zeros(heads, dim, 1)

    def absorb(self, state: State, k: Tensor, v: Tensor, here: Here) -> State:
        features = phi(k)
        if self.delta and here.at > 0:
            v = v - recall(state, features)
        columns = features.transpose(1, 2)
        return torch.baddbmm(state[0], columns, v), state[1] + columns.sum(2, keepdim=True)

    def read(self, state: State, q: Tensor, here: Here) -> Tensor:
        raise NotImplementedError("causal only")

    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        size = k.shape[1]
        scores = torch.bmm(q * (1 / math.sqrt(q.shape[2])), k.transpose(1, 2))
        later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        scores = torch.unflatten(scores, 1, (-1, size)).masked_fill(later, -math.inf)
        local = torch.bmm(scores.softmax(-1).flatten(1, 2), v)
        out = mix(local, state, q, size, here)
        return out, self.absorb(state, k, v, here)


def recall(state: State, features: Tensor) -> Tensor:
    """What the memory answers to phi(q) or phi(k) [B * Hk, C, D]."""
    return torch.bmm(features, state[0]) / torch.bmm(features, state[1])


def mix(local: Tensor, state: State, q: Tensor, size: int, here: Here) -> Tensor:
    """The gated sum of local attention and memory; queries are [B * Hk, G * size, D]."""
    group = q.shape[1] // size
    gate = here.learned["beta"].sigmoid().view(-1, group, 1, 1)
    gate = gate.repeat(len(q) // len(gate), 1, size, 1).flatten(1, 2)  # [B * Hk, G * size, 1]
    out = (1 - gate) * local
    return out if here.at == 0 else out + gate * recall(state, phi(q))


@dataclass(frozen=True)
class MemoryInfini(Variant):
    """out_i = (1 - g_h) local_i + g_h phi(q_i) M / (phi(q_i) z), g_h = sigmoid(beta_h), beta learned.

    `local` is causal softmax attention within the segment of S = `segment` positions that i is in. M
    and z = sum phi(k_j) hold the segments before it, phi = elu + 1; in the first segment the memory's
    part is zero, while local attention is still times 1 - g. After each segment M grows by
    sum phi(k_j) v_jᵀ (update=linear), or by sum phi(k_j) (v_j - what M gave for k_j)ᵀ (update=delta).
    """

    name: ClassVar[str] = "memory_infini"
    family: ClassVar[str] = "memory"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Munkhdalai et al. 2024, Infini-attention, arXiv 2404.07143, section 2.1"
    supports: ClassVar[Supports] = Supports(causal=(True,), phases=PHASES, cross=False)

    segment: int = 256
    update: str = "linear"

    def __post_init__(self) -> None:
        at_least("segment", self.segment, 1)
        one_of("update", self.update, ("linear", "delta"))

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        return {"beta": TensorSpec((w.heads,), -1.0, 1.0, learned=True)}

    def prepare(self, w: Workload) -> AttentionFn:
        return attention_of_recurrence(w, _Infini(self.update == "delta"), self.segment)

    def decoder(self, w: Workload) -> Decoder:
        return _SegmentAndMemory(self, w)

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, beta: Tensor) -> Tensor:
            k, v = repeat_heads(k, w.heads), repeat_heads(v, w.heads)
            gate = beta.sigmoid()[:, None, None]
            mask = causal_mask(w, rows)
            memory, total = torch.zeros_like(k.transpose(-2, -1) @ v), torch.zeros_like(k[:, :, :1])
            outputs, places = [], []
            for start in range(0, w.seq_len, self.segment):
                own = slice(start, start + self.segment)
                place = ((rows >= start) & (rows < start + self.segment)).nonzero()[:, 0]
                queries, keys, values = q[:, :, rows[place]], phi(k[:, :, own]), v[:, :, own]
                out = (1 - gate) * softmax_attention(queries, k[:, :, own], values, mask[place][:, own])
                if start > 0:
                    features = phi(queries)
                    out = out + gate * (features @ memory) / (features * total).sum(-1, True)
                    if self.update == "delta":
                        values = values - keys @ memory / (keys * total).sum(-1, True)
                outputs.append(out)
                places.append(place)
                memory = memory + keys.transpose(-2, -1) @ values
                total = total + keys.sum(2, keepdim=True)
            return torch.cat(outputs, dim=2)[:, :, torch.cat(places).argsort()]

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Scores and weights of a segment, its tensors; with gradients the memory before each."""
        size = min(self.segment, w.seq_len)
        rows = w.batch * w.heads * size
        keys = w.batch * w.key_heads * size
        one = 2 * rows * size + 4 * rows * w.head_dim + 3 * keys * w.head_dim
        memory = w.batch * w.key_heads * w.head_dim * (w.head_dim + 1)
        if w.phase == "forward":
            return (one + 2 * memory) * max(4, w.element_bytes)
        kept = -(-w.seq_len // self.segment) + 4
        return (2 * one + kept * memory) * max(4, w.element_bytes)

    def cost(self, w: Workload) -> Cost:
        """Local pairs; every key enters the memory and every query reads it after the first segment."""
        local, later = 0, max(0, w.seq_len - self.segment)
        for start in range(0, w.seq_len, self.segment):
            size = min(self.segment, w.seq_len - start)
            local += size * (size + 1) // 2
        memory = 2 * w.head_dim * (w.head_dim + 1)
        reads = w.heads + (w.key_heads if self.update == "delta" else 0)
        forward = 4 * w.batch * w.heads * w.head_dim * local
        forward += w.batch * memory * (w.key_heads * w.seq_len + reads * later)
        held = w.batch * w.key_heads * w.head_dim
        state = held * (w.head_dim + 1) * max(4, w.element_bytes)
        state += 2 * held * min(self.segment, w.seq_len) * w.element_bytes
        return Cost(
            phase_flops(w, forward), io_bytes(w), self.workspace_bytes(w), 1.0, state_bytes=state
        )

    def limits(self) -> list[Limit]:
        from subquad.variants.full_naive import FullNaive
        from subquad.variants.local_block import LocalBlock

        w = Workload(2, 4, 150, 16, causal=True, kv_heads=2)
        closed = {"beta": -30.0}  # sigmoid(-30) = 1e-13
        return [
            Limit(MemoryInfini(segment=150), FullNaive(), w, fixed=closed),
            Limit(MemoryInfini(segment=32), LocalBlock(32), w, fixed=closed),
        ]


class _SegmentAndMemory(Decoder):
    """State: M and z of the segments that are over, keys and values of the open one, positions."""

    def __init__(self, variant: MemoryInfini, w: Workload) -> None:
        self.variant, self.w = variant, w
        self.size = min(variant.segment, w.seq_len)
        self.recurrence = _Infini(variant.update == "delta")
        self.dtype = torch.promote_types(w.torch_dtype, torch.float32)

    def start(self) -> tuple[Any, ...]:
        w = self.w
        shape = (w.batch, w.key_heads, self.size, w.head_dim)
        buffers = [torch.empty(shape, dtype=w.torch_dtype, device=w.device) for _ in "kv"]
        none = torch.empty((w.batch * w.key_heads, 0, w.head_dim), dtype=self.dtype, device=w.device)
        return (*self.recurrence.start(none), *buffers, 0)

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        length = q.shape[2]
        *memory, keys, values, _ = self.start()
        whole = length - length % self.size
        for start in range(0, whole, self.size):
            own = slice(start, start + self.size)
            memory = list(self._absorbed(tuple(memory), k[:, :, own], v[:, :, own], start))
        keys[:, :, : length - whole] = k[:, :, whole:]
        values[:, :, : length - whole] = v[:, :, whole:]
        out = self.variant.prepare(replace(self.w, seq_len=length))(q, k, v, **extra)
        return out, (*memory, keys, values, length)

    def step(
        self, state: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        *memory, keys, values, at = state
        slot = at % self.size
        keys[:, :, slot], values[:, :, slot] = k[:, :, 0], v[:, :, 0]
        queries = torch.unflatten(q, 1, (self.w.key_heads, -1)).flatten(2, 3)  # [B, Hk, G, D]
        used = slice(0, slot + 1)
        local = F.scaled_dot_product_attention(queries, keys[:, :, used], values[:, :, used])
        learned = {name: x.to(self.dtype) for name, x in extra.items()}
        # Where the first segment is not over the memory is empty, whatever the position in it.
        here = Here(at - slot, {}, learned)
        rows = (x.flatten(0, 1).to(self.dtype) for x in (local, queries))
        out = mix(next(rows), tuple(memory), next(rows), 1, here).view(q.shape).to(q.dtype)
        if slot == self.size - 1:
            memory = list(self._absorbed(tuple(memory), keys, values, at - slot))
        return out, (*memory, keys, values, at + 1)

    def _absorbed(self, memory: State, k: Tensor, v: Tensor, start: int) -> State:
        keys, values = (x.flatten(0, 1).to(self.dtype) for x in (k, v))
        return self.recurrence.absorb(memory, keys, values, Here(start, {}, {}))
