"""What the README says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from subquad.discover import discover
from subquad.report.readme import filled

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_variants_is_the_catalog() -> None:
    table = README[README.index("## Variants") : README.index("Grouped and multi-query forms")]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) == set(discover().variants)


def test_every_link_and_picture_is_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [t for t in targets if "://" not in t and not (ROOT / t).exists()]
    assert missing == []


def test_its_figures_are_those_of_the_committed_results() -> None:
    assert "<!-- figures: " in README
    assert filled(README, ROOT / "results") == README, "make readme"


def test_figures_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown figures 'luck'"):
        filled("<!-- figures: luck reference/cpu -->\n<!-- end of figures -->", ROOT / "results")
