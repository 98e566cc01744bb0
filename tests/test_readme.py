"""What the README says is so."""

from __future__ import annotations

import re
from pathlib import Path

from subquad.discover import discover

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_variants_is_the_catalog() -> None:
    table = README[README.index("## Variants") : README.index("Grouped and multi-query forms")]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) == set(discover().variants)


def test_every_link_and_picture_is_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [t for t in targets if "://" not in t and not (ROOT / t).exists()]
    assert missing == []
