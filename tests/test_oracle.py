"""The gate lets rounding through and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from plants import Plain
from subquad import oracle
from subquad.contract import AttentionFn, Workload
from subquad.inputs import FAMILIES


@dataclass(frozen=True)
class KeyMissing(Plain):
    """Full attention that overlooks the last key: the smallest fault a mask can have."""

    name: ClassVar[str] = "full_key_missing"

    def prepare(self, w: Workload) -> AttentionFn:
        attend = super().prepare(w)

        def overlooking(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend(q, k[:, :, :-1], v[:, :, :-1])

        return overlooking


@pytest.mark.parametrize("seq_len", [64, 2048, 8192])
def test_one_missing_key_stands_far_above_the_tolerance_at_any_length(seq_len: int) -> None:
    w = Workload(1, 1, seq_len, 64, False)
    q, k, v = FAMILIES["gaussian"]().draw(w, 0)
    rows = torch.arange(0, seq_len, seq_len // 64)
    sound = oracle.gate(Plain(), w, q, k, v, rows, {})
    faulty = oracle.gate(KeyMissing(), w, q, k, v, rows, {})
    assert sound.passed
    assert faulty.oracle_error is not None
    assert faulty.oracle_error > 1000 * faulty.tolerance
