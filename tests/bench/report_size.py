"""How long a report takes and what it needs: `python tests/bench/report_size.py ROWS`.

The run is made up: 50 variants at ten lengths, causal or not, forward and with gradients, by heads.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from subquad.report.render import render
from subquad.units import duration, size
from synthetic import ALL, build_run

VARIANTS = 50
LENGTHS = tuple(256 * 2**i for i in range(10))
PHASES = ("forward", "forward_backward")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    more = [replace(v, name=f"{v.name}_{i}") for i in range(VARIANTS) for v in ALL[2:]]
    heads = max(1, round(rows / (VARIANTS * len(LENGTHS) * len(PHASES) * 2)))
    run = build_run(
        [*ALL, *more][:VARIANTS],
        LENGTHS,
        causal=(False, True),
        heads=tuple(range(1, heads + 1)),
        phases=PHASES,
    )
    before, cpu = _peak(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        report = render(run, Path(folder))
        spent = time.process_time() - cpu
        page = report.html.stat().st_size
        everything = sum(path.stat().st_size for path in report.paths)
    print(f"{len(run.measurements)} rows: {duration(spent)} of CPU, {size(_peak())} at the peak "
          f"({size(before)} the run itself), page {size(page)}, report {size(everything)}")  # fmt: skip


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
