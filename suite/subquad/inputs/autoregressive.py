"""Autoregressive inputs: neighbours in the sequence are alike, as in text, sound and images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import Workload
from subquad.inputs.family import InputFamily


@dataclass(frozen=True)
class Autoregressive(InputFamily):
    """q, k and v are stationary AR(1) along the sequence: unit variance, correlation rho**|i - j|.

    q, k and v, their heads and their channels are independent of each other; rho = 0 gives
    standard normal inputs. Drawn on the CPU in float32 in the order q, k, v and then moved and cast,
    so that the numbers do not depend on device or dtype.

    Raises:
        ValueError: rho is not in [0, 1).
    """

    name: ClassVar[str] = "autoregressive"

    rho: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.rho < 1:
            raise ValueError(f"rho must be in [0, 1), got {self.rho}")

    def draw(self, w: Workload, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = (w.query_shape, w.key_shape, w.key_shape)
        q, k, v = (ar1_(torch.randn(shape, generator=generator), self.rho) for shape in shapes)
        to = (w.device, w.torch_dtype)
        return q.to(*to), k.to(*to), v.to(*to)


def ar1_(noise: Tensor, rho: float) -> Tensor:
    """Turn white noise [B, H, L, D] in place into x[t] = rho x[t-1] + sqrt(1 - rho²) noise[t].

    x[0] is noise[0], which makes the process stationary from its first position. In log2(L) passes:
    when x[t] holds the terms up to lag `step`, adding rho**step x[t - step] doubles them.
    """
    noise[:, :, 1:] *= math.sqrt(1 - rho * rho)
    step, weight = 1, rho
    # Terms with a weight below float32's resolution are left out: they would be lost in rounding.
    while step < noise.shape[2] and weight > torch.finfo(noise.dtype).eps:
        noise[:, :, step:] += weight * noise[:, :, :-step]
        step, weight = 2 * step, weight * weight
    return noise
