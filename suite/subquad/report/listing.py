"""What the terminal shows beside runs: the catalog of variants and this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from subquad import units

WIDE = 150  # columns from which a source fits beside the rest


def catalog_table(catalog: Mapping[str, Sequence[Mapping[str, Any]]], console: Console) -> None:
    """Variants by family, one line each, then whatever did not load and why.

    Sources are shown where the terminal is wide; `--json` has everything.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    for column in ("computes", "causal", "decode", "parameters"):
        table.add_column(column)
    if console.width >= WIDE:
        table.add_column("source", no_wrap=True)
    family = None
    for entry in catalog["variants"]:
        if family not in (None, entry["family"]):
            table.add_row()
        family = entry["family"]
        params = " ".join(f"{name}={_value(value)}" for name, value in entry["params"].items())
        cells = [
            *(entry["name"], entry["computes"], CAUSAL[tuple(entry["causal"])]),
            *("yes" if entry["decode"] else "", "; ".join(filter(None, [params, *entry["missing"]]))),
        ]
        if console.width >= WIDE:
            cells.append(entry["source"])
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    for broken in catalog["broken"]:
        line = f"did not load: {broken['name']} ({broken['origin']}): {broken['reason']}"
        console.print(Text(line), soft_wrap=True)


CAUSAL = {(False, True): "both", (True, False): "both", (True,): "only", (False,): "no", (): ""}


def info_table(record: Mapping[str, Any], console: Console) -> None:
    """One line a fact; nested facts are indented under their name by a dot."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _flat(record):
        table.add_row(Text(name), Text(value))
    console.print(table)


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int) and name.endswith("_bytes"):
            lines.append((prefix + name.removesuffix("_bytes"), units.size(value)))
        else:
            lines.append((prefix + name, _value(value)))
    return lines


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
