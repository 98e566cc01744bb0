"""Gaussian inputs: every entry drawn on its own, no structure for a method to exploit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import Workload
from subquad.inputs.family import InputFamily


@dataclass(frozen=True)
class Gaussian(InputFamily):
    """q and k are N(0, scale²), v is standard normal.

    The scores qk / sqrt(D) have standard deviation scale², so `scale` sets how peaked the softmax is;
    v stays as it is, because it only sets the unit of the output. Drawn on the CPU in float32 in the
    order q, k, v and then moved and cast, so that the numbers do not depend on device or dtype.

    Raises:
        ValueError: scale is not positive and finite.
    """

    name: ClassVar[str] = "gaussian"

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale must be > 0 and finite, got {self.scale}")

    def draw(self, w: Workload, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        q = torch.randn(w.query_shape, generator=generator) * self.scale
        k = torch.randn(w.key_shape, generator=generator) * self.scale
        v = torch.randn(w.key_shape, generator=generator)
        to = (w.device, w.torch_dtype)
        return q.to(*to), k.to(*to), v.to(*to)
