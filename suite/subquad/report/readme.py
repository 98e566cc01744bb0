"""The figures of README.md, written by `make readme` from the committed results.

A block begins with `<!-- figures: KIND RUN -->` and ends with `<!-- end of figures -->`; what stands
between them is made, so nobody types a number.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from subquad import units
from subquad.analyze.advice import Advice, advice
from subquad.analyze.slices import Slice, describe, is_fit, naming, slices, timings
from subquad.analyze.summary import rows
from subquad.record import Run
from subquad.report.markdown import escape, table
from subquad.report.tables import speed_text
from subquad.store import load

ABSENT = "–"
_BLOCK = re.compile(r"(<!-- figures: (\w+) ([\w/.-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def filled(text: str, results: Path) -> str:
    """The text with every block made anew from the runs below `results`.

    Raises:
        ValueError: a block of a kind that does not exist.
    """

    def block(found: re.Match[str]) -> str:
        start, kind, name, end = found.groups()
        if kind not in KINDS:
            raise ValueError(
                f"unknown figures {kind!r} in {start.strip()}: known are {', '.join(KINDS)}"
            )
        return f"{start}{KINDS[kind](load(results / name, name))}\n{end}"

    return _BLOCK.sub(block, text)


def advice_block(run: Run) -> str:
    """Which attention to use, for the workload with most times."""
    parts = slices(r for r in rows(run) if r["task"] is None)
    part = max(parts, key=lambda p: sum(is_fit(r) for r in p.rows))
    found = [a for a in advice(part, timings([run])) if a.exact]
    head = ["seq_len", "exact", "its time", "faster, and nearest to softmax", "skill", "times as fast"]
    body = [_line(a) for a in found]
    return f"{table(head, body, right=('seq_len', 'its time', 'skill'))}\n\n*{_where(part, found)}*"


def _line(a: Advice) -> list[str]:
    assert a.exact is not None
    line = [str(a.seq_len), f"`{a.exact.row['label']}`", units.seconds(a.exact.row["time_s"])]
    if a.closest is None:
        return [*line, "none surely faster", ABSENT, ABSENT]
    skill = ABSENT if a.closest.skill is None else f"{a.closest.skill:.2f}"
    name = f"`{a.closest.row['label']}`"
    return [
        *line,
        name if a.closest.usable else f"{name}, too far off",
        skill,
        speed_text(a.closest.judged),
    ]


def _where(part: Slice, found: list[Advice]) -> str:
    names = [n for n in naming([part]) if n not in ("inputs", "allocator", "hardware")]
    on = next((a.inputs for a in found if a.inputs), None)
    skill = f" Skill (1 is full attention, 0 averaging) is on {escape(on)} inputs." if on else ""
    return f"{escape(describe(part.axes, names))}.{skill} In brackets the 95 % interval."


KINDS: Mapping[str, Callable[[Run], str]] = {"advice": advice_block}


def main() -> int:
    """Rewrite README.md of the current folder."""
    path = Path("README.md")
    old = path.read_text(encoding="utf-8")
    new = filled(old, Path("results"))
    path.write_text(new, encoding="utf-8")
    print("README.md: " + ("rewritten" if new != old else "its figures are those of the results"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
