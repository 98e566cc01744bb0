"""Which attention to use at each length: the fastest exact one, and what an approximation would gain.

An approximation is named only where it is surely faster than the fastest exact variant at that length
(Holm over the variants there: who asks, asks about one length): otherwise there is no reason to give
anything up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from subquad.analyze.slices import Fastest, Slice, Timings, fastest
from subquad.analyze.standing import Standing, standing
from subquad.analyze.summary import Row
from subquad.analyze.verdicts import Judged, Verdict

REAL = ("captured", "autoregressive", "lowrank_sink", "needle", "gaussian")
"""Families of inputs on which closeness counts, the most telling first."""
ESTIMATES = ("restricted", "approximate")
USABLE = 0.5
"""Least skill of a stand-in: nearer to full attention than to averaging."""


@dataclass(frozen=True)
class Gain:
    """A variant that is surely faster than the fastest exact one; `judged` is its time over that's.

    `skill` is its closeness to full attention on the inputs of the advice, None where not measured.
    """

    row: Row
    judged: Judged
    skill: float | None

    @property
    def usable(self) -> bool:
        """Whether it may stand in for full attention, as far as is known."""
        return self.skill is None or self.skill >= USABLE


@dataclass(frozen=True)
class Advice:
    """What to use at one length.

    `closest` is the gain with the best skill among approximations and restrictions of softmax
    attention, the fastest of them where no skill was measured; `quickest` the fastest of them. `other`
    is the fastest that computes a function of its own, which a model has to be trained with.
    `contenders` counts approximations with a time, surely faster or not.
    """

    seq_len: int
    exact: Fastest | None
    closest: Gain | None
    quickest: Gain | None
    other: Gain | None
    contenders: int
    inputs: str | None


def advice(part: Slice, timings: Timings) -> list[Advice]:
    """For every length of a slice. Controls give no advice."""
    inputs = closeness_on(part)
    found = []
    for n in part.seq_lens:
        here = [r for r in part.at(n) if r["family"] != "control"]
        exact = fastest([r for r in here if r["computes"] == "exact"], timings)
        gains: Mapping[str, Gain] = {}
        if exact is not None:
            against = standing(Slice(part.axes, tuple(here)), timings, exact.row["label"])
            gains = _gains(here, against, n, inputs)
        estimates = [g for g in gains.values() if g.row["computes"] in ESTIMATES]
        others = [g for g in gains.values() if g.row["computes"] == "different"]
        timed = [r for r in here if r["computes"] in ESTIMATES and r["time_s"] is not None]
        found.append(
            Advice(
                seq_len=n,
                exact=exact,
                closest=_closest(estimates),
                quickest=min(estimates, key=_time, default=None),
                other=min(others, key=_time, default=None),
                contenders=len(timed),
                inputs=inputs,
            )
        )
    return found


def closeness_on(part: Slice) -> str | None:
    """The family of inputs on which most approximations have a skill; of equals the most telling."""
    columns = [c for c in (part.rows[0] if part.rows else {}) if c.startswith("skill_")]
    counts = {
        c.removeprefix("skill_"): sum(r[c] is not None for r in part.rows if r["computes"] in ESTIMATES)
        for c in columns
    }
    known = sorted(name for name, count in counts.items() if count)
    return max(known, key=lambda name: (counts[name], -_place(name)), default=None)


def _place(name: str) -> int:
    family = name.split("[")[0].split("(")[0]
    return REAL.index(family) if family in REAL else len(REAL)


def _gains(here: Sequence[Row], against: Standing, n: int, inputs: str | None) -> dict[str, Gain]:
    found = {}
    for row in here:
        judged = against.judged.get((row["label"], n))
        if judged is not None and judged.verdict is Verdict.FASTER:
            skill = row[f"skill_{inputs}"] if inputs else None
            found[row["label"]] = Gain(row, judged, skill)
    return found


def _closest(estimates: Sequence[Gain]) -> Gain | None:
    known = [g for g in estimates if g.skill is not None]
    if known:
        return max(known, key=lambda g: (g.skill or 0.0, -_time(g)))
    return min(estimates, key=_time, default=None)


def _time(gain: Gain) -> float:
    return float(gain.row["time_s"])
