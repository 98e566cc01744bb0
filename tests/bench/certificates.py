"""The certificate of every variant in one table: `python tests/bench/certificates.py -o FILE`.

Each line is what `subquad check NAME` finds here in full.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from subquad.certificate import PASSED, SKIPPED, Certificate, certify, environment
from subquad.discover import discover

COLUMNS = (
    "variant", "computes", "verdict", "checks passed", "skipped", "workloads",
    "nearest to its tolerance", "operations grow", "limits", "left out",
)  # fmt: skip


def row(certificate: Certificate) -> list[str]:
    v = certificate.variant
    by_name = {o.check: o for o in certificate.outcomes}
    statuses = [o.status for o in certificate.outcomes]
    errors = [o.worst for o in certificate.outcomes if o.worst and o.worst.margin.of == "error"]
    nearest = max(errors, key=lambda e: e.margin.share, default=None)
    growth, skipped = by_name["growth"].worst, [o for o in certificate.outcomes if o.status == SKIPPED]
    return [
        f"`{v.name}`",
        v.computes,
        certificate.verdict,
        str(statuses.count(PASSED)),
        str(len(skipped)),
        str(sum(o.workloads for o in certificate.outcomes)),
        "" if nearest is None else f"{nearest.margin.found:.1e} of {nearest.margin.allowed:.1e}",
        "" if growth is None else f"n^{growth.margin.found:.2f}",
        str(by_name["limits"].workloads or ""),
        left_out(certificate, [o.check for o in skipped]),
    ]


def left_out(certificate: Certificate, skipped: list[str]) -> str:
    if certificate.verdict != PASSED:
        reasons = next((o.refused for o in certificate.outcomes if o.refused), ())
        return "; ".join(reasons[:2]).replace("|", "/")
    return ", ".join(name.replace("_", " ") for name in skipped)


def table() -> Iterator[str]:
    yield "# Certificates"
    yield ""
    yield f"What `subquad check` finds of each ({environment()}, {torch.get_num_threads()} threads)."
    yield "An error is a relative Frobenius norm against the variant's own float64 definition; the"
    yield "tolerance is twice what plain arithmetic of the same definition makes in the same dtype."
    yield "Operations are counted, not timed, from 1024 to 4096 positions."
    yield ""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|{' --- |' * len(COLUMNS)}"
    for cls in discover().variants.values():
        yield f"| {' | '.join(row(certify(cls())))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w") as file:
        for line in table():
            print(line)
            file.write(line + "\n")


if __name__ == "__main__":
    main()
