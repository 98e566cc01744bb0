"""Planted workloads whose time is known, through children, rounds and intervals. Run alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from plants import Plain, Slow
from subquad.analyze.intervals import ratio_interval
from subquad.analyze.summary import rows
from subquad.discover import discover
from subquad.settings import GateSettings, TimeSettings
from test_sweep import measure, sweep

pytestmark = [pytest.mark.timing, pytest.mark.slow]
TIME = TimeSettings(min_processes=5, max_processes=5, rounds=6)
PROBES = {"gate": GateSettings(rows=8), "time": TIME}


def test_planted_deadlines_have_the_ratio_they_were_given(tmp_path: Path) -> None:
    """A call that spins to a deadline of 2 ms, and one of 3 ms: 1.5 within one percent."""
    quick, slow = Slow(sleep_s=0.002), Slow(sleep_s=0.003)
    asked = sweep(baseline="full_slow", probes=PROBES)
    found, _ = measure(type(asked)(**{**vars(asked), "variants": (quick, slow)}), tmp_path)
    by_deadline = {m.cell.params["sleep_s"]: m.timing for m in found.measurements}
    first, second = by_deadline[0.002], by_deadline[0.003]
    assert first
    assert second
    interval = ratio_interval(second, first)
    assert interval
    assert interval.estimate == pytest.approx(1.5, rel=0.01)


def test_no_live_row_beats_this_machines_ceiling(tmp_path: Path) -> None:
    catalog = discover()
    exact = [catalog[name]() for name in ("full_sdpa_flash", "full_chunked", "local_window")]
    asked = sweep(Plain(), *exact, seq_lens=(256, 1024), probes=PROBES)
    found, _ = measure(asked, tmp_path)
    shares = [r["roofline_share"] for r in rows(found)]
    assert len(shares) == 10
    assert all(share is not None and 0 < share <= 1 for share in shares), shares
