"""Deviation from full attention, against cases whose answer is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from plants import Plain
from subquad.contract import AttentionFn, Workload
from subquad.inputs import FAMILIES
from subquad.probes.fidelity import mean_of_visible, measure
from subquad.probes.subject import Inputs, sample_rows
from subquad.settings import FidelitySettings

GAUSSIAN = FAMILIES["gaussian"]()


@dataclass(frozen=True)
class Mean(Plain):
    """The mean of the visible values: its skill is 0 by definition."""

    name: ClassVar[str] = "control_mean"

    def prepare(self, w: Workload) -> AttentionFn:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return mean_of_visible(w, Inputs(q, k, v, {}), torch.arange(w.seq_len)).to(v.dtype)

        return attend


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seq_len", [1, 40, 300])
def test_full_attention_has_skill_1_and_the_mean_has_0(causal: bool, seq_len: int) -> None:
    w = Workload(1, 4, seq_len, 8, causal, kv_heads=2)
    full = measure(Plain(), w, GAUSSIAN, 0, FidelitySettings())
    mean = measure(Mean(), w, GAUSSIAN, 0, FidelitySettings())
    assert full.deviation is not None
    assert full.deviation < 1e-6
    if seq_len == 1:  # one value: its mean is full attention, nothing is left to be better at
        assert full.skill is None or mean.deviation == pytest.approx(0, abs=1e-6)
        return
    assert full.skill == pytest.approx(1, abs=1e-5)
    assert mean.skill == pytest.approx(0, abs=1e-5)


def test_sampled_rows_estimate_the_deviation_of_all() -> None:
    w = Workload(1, 4, 512, 16, False)
    few = measure(Mean(), w, GAUSSIAN, 0, FidelitySettings(rows=64))
    every = measure(Mean(), w, GAUSSIAN, 0, FidelitySettings(rows=512))
    assert (few.rows, every.rows) == (64, 512)
    assert few.deviation == pytest.approx(every.deviation, rel=0.05)


def test_a_family_without_this_shape_gives_a_reason_and_no_number() -> None:
    w = Workload(1, 4, 64, 64, False)
    found = measure(Plain(), w, FAMILIES["captured"](), 0, FidelitySettings())
    assert found.deviation is None
    assert found.skill is None
    assert "head_dim 32" in found.reason


def test_rows_are_sorted_distinct_and_hold_both_ends() -> None:
    rows = sample_rows(Workload(1, 1, 1000, 8, False), 64, seed=3)
    assert len(rows) == len(rows.unique()) == 64
    assert (rows.diff() > 0).all()
    assert (int(rows[0]), int(rows[-1])) == (0, 999)
