"""Retention, and the engine of linear attention whose whole state fades by one factor a position.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, D head dim, R sampled query rows,
C chunk, N = B * Hk; M divides N: factors are [M, ...] with M = Hk where batch elements share them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from subquad.contract import (
    PHASES,
    AttentionFn,
    Computes,
    Cost,
    Decoder,
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
from subquad.variants.engines.recurrence import (
    Here,
    Recurrence,
    RecurrentDecoder,
    State,
    attention_of_recurrence,
)


class Decays(NamedTuple):
    """How much is left of position j at position i of one chunk, the product of the factors between."""

    within: Tensor  # [M, C, C]: of j at i, 0 where j > i
    since: Tensor  # [M, C, 1]: of what was before the chunk at i
    until: Tensor  # [M, C, 1]: of j at the end of the chunk
    whole: Tensor  # [M, 1, 1]: of what was before the chunk at its end

    @classmethod
    def of(cls, factors: Tensor, dtype: torch.dtype) -> Decays:
        """From the factors [M, C] of the positions, in [0, 1].

        The sums are taken in float64: differences of float32 sums would lose the digits that a long
        chunk of small factors needs. Later positions would overflow exp: they are cut to 1, then 0.
        """
        sums = floored(factors).log().cumsum(1)
        size = sums.shape[1]
        earlier = torch.ones(size, size, dtype=dtype, device=sums.device).tril_()
        within = (sums[:, :, None] - sums[:, None]).to(dtype).clamp(max=0.0).exp() * earlier
        ends = (sums[:, :, None], (sums[:, -1:] - sums)[:, :, None], sums[:, -1:, None])
        return cls(within, *(x.to(dtype).exp() for x in ends))


def floored(factors: Tensor) -> Tensor:
    """Factors in [0, 1] as float64, none so small that a quotient of products could overflow.

    What a smaller one would leave of the past is below a rounding of their own dtype. Its gradient is
    that at the floor, and not zero: the result is linear in each factor.
    """
    floor = 1e-17 if factors.dtype == torch.float64 else 2e-9
    if not torch.is_grad_enabled():
        return factors.clamp(min=floor).double()
    exact = factors.double()
    return exact + (floor - exact.detach()).clamp(min=0.0)


def scaled(x: Tensor, factors: Tensor) -> Tensor:
    """x [N, G * C, D] times factors [M, C, D or 1], the same for the G heads of a group."""
    count, rows, _ = factors.shape
    return (x.view(-1, count, x.shape[1] // rows, rows, x.shape[2]) * factors[:, None]).view(x.shape)


class FadingState(Recurrence):
    """State [N, D, D]: S_t = f_t S_(t-1) + k_t v_t^T, read as q_t S_t / sqrt(D)."""

    def start(self, v: Tensor) -> State:
        heads, _, dim = v.shape
        return (v.new_zeros(heads, dim, dim),)

    @abstractmethod
    def decays(self, size: int, here: Here) -> Decays:
        """Those of a chunk of that many positions."""

    @abstractmethod
    def factor(self, here: Here) -> Tensor:
        """f [M, 1, 1] at one position."""

    def absorb(self, state: State, k: Tensor, v: Tensor, here: Here) -> State:
        return self._after(state, k, v, self.decays(k.shape[1], here))

    def read(self, state: State, q: Tensor, here: Here) -> Tensor:
        return torch.bmm(q * q.shape[2] ** -0.5, state[0])

    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        decays = self.decays(k.shape[1], here)
        q = q * q.shape[2] ** -0.5
        weights = scaled(torch.bmm(q, k.transpose(1, 2)), decays.within)
        out = torch.baddbmm(torch.bmm(weights, v), scaled(q, decays.since), state[0])
        return out, self._after(state, k, v, decays)

    def token(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        after = torch.baddbmm(scaled(state[0], self.factor(here)), k.transpose(1, 2), v)
        return torch.bmm(q * q.shape[2] ** -0.5, after), (after,)

    def _after(self, state: State, k: Tensor, v: Tensor, decays: Decays) -> State:
        kept = scaled(state[0], decays.whole)
        return (torch.baddbmm(kept, scaled(k, decays.until).transpose(1, 2), v),)


@dataclass(frozen=True)
class FadingVariant(Variant):
    """What linear attention with one D x D state per key head has in common; causal only.

    `products` counts the D x D products that each key takes part in.
    """

    family: ClassVar[str] = "linear"
    computes: ClassVar[Computes] = "different"
    supports: ClassVar[Supports] = Supports(causal=(True,), phases=PHASES)
    products: ClassVar[int] = 1

    chunk: int = 64

    def __post_init__(self) -> None:
        at_least("chunk", self.chunk, 1)

    @abstractmethod
    def recurrence(self, w: Workload) -> Recurrence:
        """The recurrence of a workload."""

    def prepare(self, w: Workload) -> AttentionFn:
        return attention_of_recurrence(w, self.recurrence(w), self.chunk)

    def decoder(self, w: Workload) -> Decoder:
        return RecurrentDecoder(w, self.recurrence(w), self.chunk)

    def state_bytes(self, w: Workload) -> int:
        """One D x D state per key head, in float32 at least."""
        return w.batch * w.key_heads * w.head_dim**2 * max(4, w.element_bytes)

    def gate_bytes(self, w: Workload) -> int:
        specs = self.extra_inputs(w).values()
        return sum(math.prod(spec.shape) for spec in specs) * w.element_bytes

    def workspace_bytes(self, w: Workload) -> int:
        """The tensors of a chunk, and with gradients the states between chunks."""
        rows, size = min(self.chunk, w.key_len), max(4, w.element_bytes)
        wide = w.heads * (3 * w.head_dim + 2 * rows) + w.key_heads * (3 * w.head_dim + 5 * rows)
        one, state = w.batch * rows * wide * size, self.state_bytes(w)
        if w.phase == "forward":
            return one + 2 * state
        return 2 * one + (-(-w.key_len // self.chunk) + 6) * state + self.gate_bytes(w)

    def cost(self, w: Workload) -> Cost:
        """Each key enters D x D sums and fades them, each query reads as many."""
        queries, keys = w.heads * w.seq_len, w.key_heads * w.key_len
        forward = w.batch * w.head_dim**2 * (2 * queries + (1 + 2 * self.products) * keys)
        passes = 2 if w.phase == "forward_backward" else 1
        return Cost(
            flops=phase_flops(w, forward),
            bytes=io_bytes(w) + passes * self.gate_bytes(w),
            workspace_bytes=self.workspace_bytes(w),
            exponent=1.0,
            state_bytes=self.state_bytes(w) if "decode" in self.supports.phases else None,
        )


def position_by_position(
    w: Workload, q: Tensor, rows: Tensor, state: Tensor, advance: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """What the query rows `rows` (sorted) read of a state [B, Hk, D, D] that goes from key to key.

    For oracles: `advance(state, t)` is the state after position t. Of the states, gradients keep one
    in sqrt(Lk), and make the others again.
    """
    grouped = torch.unflatten(q[:, :, rows], 1, (w.key_heads, -1)) / math.sqrt(w.head_dim)
    where = (rows + (w.key_len - w.seq_len)).tolist()
    queries = dict(zip(where, grouped.unbind(3), strict=True))  # [B, Hk, G, D] at its position

    def walk(state: Tensor, low: int, high: int) -> tuple[Tensor, ...]:
        seen = []
        for t in range(low, high):
            state = advance(state, t)
            if t in queries:
                seen.append(queries[t] @ state)
        return state, *seen

    outputs: list[Tensor] = []
    piece = math.isqrt(w.key_len) + 1
    for low in range(0, w.key_len, piece):
        high = min(low + piece, w.key_len)
        state, *seen = checkpoint(walk, state, low, high, use_reentrant=False, preserve_rng_state=False)
        outputs += seen
    return torch.stack(outputs, 3).flatten(1, 2)


def causal_workloads() -> list[Workload]:
    """Where the limits of these variants are held: more than one chunk, with gradients and groups."""
    whole = Workload(2, 2, 150, 16, causal=True)
    return [whole, replace(whole, heads=4, kv_heads=2, phase="forward_backward")]


class _Retention(FadingState):
    """The factors are the same everywhere, so those of the longest chunk hold all shorter ones."""

    def __init__(self, gammas: Tensor, chunk: int, dtype: torch.dtype) -> None:
        self.whole = Decays.of(gammas[:, None].expand(-1, chunk), dtype)
        self.gammas = gammas.to(dtype)[:, None, None]

    def decays(self, size: int, here: Here) -> Decays:
        within, since, until, _ = self.whole
        return Decays(
            within[:, :size, :size],
            since[:, :size],
            until[:, until.shape[1] - size :],
            since[:, size - 1 : size],
        )

    def factor(self, here: Here) -> Tensor:
        return self.gammas


@dataclass(frozen=True)
class LinearRetention(FadingVariant):
    """out_i = sum_(j <= i) gamma^(i - j) (q_i.k_j) / sqrt(D) v_j, gamma = 1 - 2^(-5 - h) of key head h.

    That is retention alone: without xPos (the rotation of q and k) and without the group norm and
    gate behind it. `gamma` gives all heads one decay. Computed in float32 (float64 for float64) in
    chunks of `chunk` positions: the past of a chunk is a D x D state.
    """

    name: ClassVar[str] = "linear_retention"
    source: ClassVar[str] = (
        "Sun et al. 2023, Retentive Network, arXiv 2307.08621, section 2.1-2.2, equations 5-8"
    )

    gamma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma is not None and not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must be in (0, 1], got {self.gamma}")

    def gammas(self, w: Workload) -> Tensor:
        """The decays [Hk] in float64."""
        if self.gamma is not None:
            return torch.full((w.key_heads,), self.gamma, dtype=torch.float64, device=w.device)
        heads = torch.arange(w.key_heads, dtype=torch.float64, device=w.device)
        return 1 - torch.exp2(-5 - heads)

    def recurrence(self, w: Workload) -> Recurrence:
        dtype = torch.promote_types(w.torch_dtype, torch.float32)
        return _Retention(self.gammas(w), min(self.chunk, w.key_len), dtype)

    def oracle(self, w: Workload) -> OracleFn:
        gammas = self.gammas(w).repeat_interleave(w.heads // w.key_heads)[:, None, None]

        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            distance = (rows + w.key_len - w.seq_len)[:, None] - torch.arange(
                w.key_len, device=q.device
            )
            left = torch.where(distance >= 0, gammas ** distance.clamp(min=0), 0.0).to(q.dtype)
            scores = q[:, :, rows] @ repeat_heads(k, w.heads).transpose(-2, -1) / math.sqrt(w.head_dim)
            return (scores * left) @ repeat_heads(v, w.heads)

        return attend

    def limits(self) -> list[Limit]:
        from subquad.variants.linear_maps import LinearIdentity

        # Nothing fades.
        plain = replace(self, gamma=1.0)
        return [Limit(plain, LinearIdentity(), w) for w in causal_workloads()]
