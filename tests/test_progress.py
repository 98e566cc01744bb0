"""What a log shows of a sweep: no long silence."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from subquad import progress
from subquad.progress import Bar


def test_a_log_is_not_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(n) for n in (0, 5, 20, 31, 31, 40, 70, 70))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    out = io.StringIO()
    with Bar(Console(file=out), "a run") as bar:
        for cell in ("one", "two", "three", "four", "five"):
            bar.doing(cell)
    assert out.getvalue().splitlines() == ["[0/0] three", "[0/0] five"]
