"""Recurrent controls: the gated layers that attention replaced, by torch's own kernels.

The layer's input is the values with their heads side by side; queries and keys are not read.

Dimensions: B batch, H heads, L seq_len, D head dim, E = H D inputs and hidden units, P gates of a
layer, R sampled query rows.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from subquad.contract import (
    PHASES,
    AttentionFn,
    Computes,
    Cost,
    Decoder,
    OracleFn,
    Supports,
    TensorSpec,
    Variant,
    Workload,
    io_bytes,
    phase_flops,
)
from subquad.variants.controls import accumulator, merged, split

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
State = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Recurrent(Variant):
    """One layer of E units over the positions in order. Half precision is computed in float32."""

    family: ClassVar[str] = "control"
    computes: ClassVar[Computes] = "different"
    supports: ClassVar[Supports] = Supports(causal=(True,), phases=PHASES, grouped=False, cross=False)
    gates: ClassVar[int]  # P
    held: ClassVar[tuple[int, int]]  # tensors [B, L, E] at the peak, forward and with backward
    states: ClassVar[int]  # tensors [B, E] of a state; the first is the output

    @staticmethod
    @abstractmethod
    def layer(x: Tensor, state: State, weights: list[Tensor], train: bool) -> tuple[Tensor, State]:
        """Outputs [B, L, E] of inputs [B, L, E] and the state after them, by torch's kernel."""

    @staticmethod
    @abstractmethod
    def cell(x: Tensor, state: State, weights: list[Tensor]) -> State:
        """One position by torch's kernel: [B, E]."""

    @staticmethod
    @abstractmethod
    def definition(inputs: Tensor, hidden: Tensor, state: State) -> State:
        """One position: the two products [B, P E] with their biases, and the state before."""

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        """Weights as torch.nn shapes, orders and draws them: within 1 / sqrt(E)."""
        units = w.heads * w.head_dim
        rows, bound = self.gates * units, 1 / math.sqrt(units)
        shapes = ((rows, units), (rows, units), (rows,), (rows,))
        return {
            name: TensorSpec(shape, -bound, bound, learned=True)
            for name, shape in zip(WEIGHTS, shapes, strict=True)
        }

    def start(self, w: Workload) -> State:
        """The state before the first position: zeros."""
        shape = (w.batch, w.heads * w.head_dim)
        zeros = (torch.zeros(shape, dtype=accumulator(w), device=w.device) for _ in range(self.states))
        return tuple(zeros)

    def prepare(self, w: Workload) -> AttentionFn:
        state, train = self.start(w), w.phase == "forward_backward"

        def attend(q: Tensor, k: Tensor, v: Tensor, **extra: Tensor) -> Tensor:
            x = merged(v).to(accumulator(w))
            hidden, _ = self.layer(x, state, self._weights(w, extra), train)
            return split(hidden.to(v.dtype), w.heads)

        return attend

    def decoder(self, w: Workload) -> Decoder:
        return _Unrolled(self, w)

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
            weight_ih, weight_hh, bias_ih, bias_hh = (extra[name] for name in WEIGHTS)
            x = merged(v)
            state = tuple(x.to(v.dtype) for x in self.start(w))
            outputs = []
            for at in range(int(rows.max()) + 1):
                inputs = x[:, at] @ weight_ih.T + bias_ih
                state = self.definition(inputs, state[0] @ weight_hh.T + bias_hh, state)
                outputs.append(state[0])
            return split(torch.stack(outputs, dim=1)[:, rows], w.heads)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Inputs, gates and hidden states as torch's kernels hold them, and converted weights."""
        hidden = w.batch * w.seq_len * w.heads * w.head_dim
        element = max(4, w.element_bytes)
        weights = 2 * self.gates * (w.heads * w.head_dim) ** 2 if w.element_bytes < element else 0
        kept = self.held[w.phase == "forward_backward"]
        return (kept * hidden + weights) * element

    def cost(self, w: Workload) -> Cost:
        """Two products of E inputs with P E rows of weights at each position."""
        units = w.heads * w.head_dim
        forward = 4 * w.batch * w.seq_len * self.gates * units**2
        weights = 2 * self.gates * units * (units + 1) * w.element_bytes
        return Cost(
            phase_flops(w, forward),
            io_bytes(w) + weights,
            self.workspace_bytes(w),
            exponent=1.0,
            state_bytes=self.states * w.batch * units * max(4, w.element_bytes),
        )

    def _weights(self, w: Workload, extra: Mapping[str, Tensor]) -> list[Tensor]:
        return [extra[name].to(accumulator(w)) for name in WEIGHTS]


class _Unrolled(Decoder):
    """State: that of the layer, in float32 at least."""

    def __init__(self, variant: _Recurrent, w: Workload) -> None:
        self.variant, self.w = variant, w

    def start(self) -> tuple[Any, ...]:
        return self.variant.start(self.w)

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        x = merged(v).to(accumulator(self.w))
        weights = self.variant._weights(self.w, extra)
        hidden, state = self.variant.layer(x, self.start(), weights, False)
        return split(hidden.to(v.dtype), self.w.heads), state

    def step(
        self, state: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, **extra: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        x = merged(v).to(accumulator(self.w))[:, 0]
        after = self.variant.cell(x, state, self.variant._weights(self.w, extra))
        return split(after[0][:, None].to(v.dtype), self.w.heads), after


@dataclass(frozen=True)
class ControlGru(_Recurrent):
    """GRU: h_i = (1 - z) n + z h_(i-1), r and z sigmoid gates, n = tanh(W x + b + r (U h + c)).

    The reset gate r multiplies after the product, as torch and cuDNN have it.
    """

    name: ClassVar[str] = "control_gru"
    source: ClassVar[str] = "Cho et al. 2014, arXiv 1406.1078, section 2.3; as in torch.nn.GRU"
    gates: ClassVar[int] = 3
    held: ClassVar[tuple[int, int]] = (5, 10)  # as measured
    states: ClassVar[int] = 1

    @staticmethod
    def layer(x: Tensor, state: State, weights: list[Tensor], train: bool) -> tuple[Tensor, State]:
        out, h = torch.gru(x, state[0][None], weights, True, 1, 0.0, train, False, True)
        return out, (h[0],)

    @staticmethod
    def cell(x: Tensor, state: State, weights: list[Tensor]) -> State:
        return (torch.gru_cell(x, state[0], *weights),)

    @staticmethod
    def definition(inputs: Tensor, hidden: Tensor, state: State) -> State:
        reset_x, update_x, new_x = inputs.chunk(3, dim=1)
        reset_h, update_h, new_h = hidden.chunk(3, dim=1)
        update = (update_x + update_h).sigmoid()
        new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
        return ((1 - update) * new + update * state[0],)


@dataclass(frozen=True)
class ControlLstm(_Recurrent):
    """LSTM: c_i = f c_(i-1) + i g, h_i = o tanh(c_i), with sigmoid gates i, f, o and g = tanh."""

    name: ClassVar[str] = "control_lstm"
    source: ClassVar[str] = (
        "Hochreiter & Schmidhuber 1997, Long short-term memory, with forget gates; as in torch.nn.LSTM"
    )
    gates: ClassVar[int] = 4
    held: ClassVar[tuple[int, int]] = (21, 25)  # as measured, oneDNN's workspace with it
    states: ClassVar[int] = 2

    @staticmethod
    def layer(x: Tensor, state: State, weights: list[Tensor], train: bool) -> tuple[Tensor, State]:
        start = [s[None] for s in state]
        out, h, c = torch.lstm(x, start, weights, True, 1, 0.0, train, False, True)
        return out, (h[0], c[0])

    @staticmethod
    def cell(x: Tensor, state: State, weights: list[Tensor]) -> State:
        return torch.lstm_cell(x, state, *weights)

    @staticmethod
    def definition(inputs: Tensor, hidden: Tensor, state: State) -> State:
        gates = (inputs + hidden).chunk(4, dim=1)
        into, forget, out = gates[0].sigmoid(), gates[1].sigmoid(), gates[3].sigmoid()
        cell = forget * state[1] + into * gates[2].tanh()
        return out * cell.tanh(), cell
