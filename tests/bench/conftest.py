"""Options of the benchmarks."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow-setup", action="store_true", help="also variants whose set-up takes tens of seconds"
    )
