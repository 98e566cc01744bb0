"""Decoding with stored keys and values: the engine of every decoder that looks at past positions.

Dimensions: B batch, Hk key/value heads, D head dim, n capacity in positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.contract import AttentionFn, Decoder, Variant, Workload


class KvCache(Decoder):
    """Keys and values in buffers of n slots [B, Hk, n, D], each position written once.

    A state is (keys, values, positions so far). With `sinks` and `window` only the first `sinks`
    positions and the newest `window` are kept: a later position takes the slot of the one that left,
    and since softmax does not mind the order of keys, they stay where they are.

    `prompt(length)` gives what answers a prompt of that length, `attend` what answers one query
    [B, H, 1, D] on the kept keys [B, Hk, m, D].
    """

    def __init__(
        self,
        w: Workload,
        prompt: Callable[[int], AttentionFn],
        attend: AttentionFn,
        window: int | None = None,
        sinks: int = 0,
    ) -> None:
        self.w, self.prompt, self.attend = w, prompt, attend
        self.sinks = min(sinks, w.seq_len)
        self.slots = w.seq_len if window is None else min(w.seq_len, window + sinks)

    def slot(self, position: int) -> int:
        """Where a position's key goes."""
        if position < self.slots:
            return position
        return self.sinks + (position - self.sinks) % (self.slots - self.sinks)

    def start(self) -> tuple[Any, ...]:
        shape = (self.w.batch, self.w.key_heads, self.slots, self.w.head_dim)
        empty = [torch.empty(shape, dtype=self.w.torch_dtype, device=self.w.device) for _ in "kv"]
        return (*empty, 0)

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        keys, values, _ = self.start()
        length = q.shape[2]
        kept = [*range(min(self.sinks, length)), *range(self._oldest(length), length)]
        slots = [self.slot(p) for p in kept]
        for buffer, x in ((keys, k), (values, v)):
            if kept == slots:  # the whole past in its order: no index, no copy of the copy
                buffer[:, :, :length] = x
            else:
                buffer[:, :, slots] = x[:, :, kept]
        return self.prompt(length)(q, k, v, **extra), (keys, values, length)

    def step(
        self, state: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        keys, values, at = state
        slot, used = self.slot(at), min(at + 1, self.slots)
        keys[:, :, slot] = k[:, :, 0]
        values[:, :, slot] = v[:, :, 0]
        out = self.attend(q, keys[:, :, :used], values[:, :, :used], **extra)
        return out, (keys, values, at + 1)

    def _oldest(self, length: int) -> int:
        """The first position after the sinks that is still kept."""
        return max(min(self.sinks, length), length - (self.slots - self.sinks))


def softmax_cache(variant: Variant, w: Workload, window: int | None = None, sinks: int = 0) -> KvCache:
    """The decoder of plain softmax over what is kept; the variant answers the prompt."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=w.kv_heads is not None)

    return KvCache(w, lambda n: variant.prepare(replace(w, seq_len=n)), attend, window, sinks)
