"""Everything measured of one cell by itself: memory, oracle error, deviation.

Memory comes first, while the process is fresh. Each finished part is handed over at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from subquad import answer, oracle
from subquad.contract import Variant, Workload
from subquad.inputs.family import InputFamily
from subquad.probes import fidelity, memory
from subquad.probes.subject import call_of, called_bytes, draw, sample_rows, set_up
from subquad.record import Deviation, Gate, Memory
from subquad.settings import FidelitySettings, GateSettings, MemorySettings, ProbeSettings
from subquad.task import Reporter

CALLS = 8  # a probe runs the variant a few times; its step may take that many call limits


@dataclass(frozen=True)
class CellTask:
    """The task of one cell's process: the probes in `probes`, in their order."""

    variant: Variant
    workload: Workload
    inputs: Sequence[InputFamily]  # the first one is gated and weighed
    seed: int
    probes: Mapping[str, ProbeSettings]
    setup_limit_s: float
    call_limit_s: float

    def __call__(self, report: Reporter) -> None:
        for name, settings in self.probes.items():
            match settings:
                case MemorySettings():
                    report.part(name, self._memory(report))
                case GateSettings():
                    self._step("check against its definition", report)
                    report.part(name, self._gate(settings))
                case FidelitySettings():
                    self._step("deviation from full attention", report)
                    report.part(name, self._fidelity(settings))

    def _step(self, what: str, report: Reporter) -> None:
        report.step(f"{self.variant.name}: {what}", self.setup_limit_s + CALLS * self.call_limit_s)

    def _memory(self, report: Reporter) -> Memory:
        w = self.workload
        inputs = draw(self.inputs[0], w, self.seed, self.variant.extra_inputs(w))
        report.step(f"set-up of {self.variant.name}", self.setup_limit_s)
        attend, kept_bytes = memory.kept(partial(set_up, self.variant, w, inputs), w.device)
        call = call_of(w, attend, inputs)
        report.step(f"call of {self.variant.name}", self.call_limit_s)
        call()
        report.step(f"{self.variant.name}: peak memory", CALLS * self.call_limit_s)
        given = called_bytes(w, inputs, answer.learned(self.variant, w))
        return memory.measure(call, given, kept_bytes, w.device)

    def _gate(self, settings: GateSettings) -> Gate:
        w, variant = self.workload, self.variant
        inputs = draw(self.inputs[0], w, self.seed, variant.extra_inputs(w))
        rows = sample_rows(w, settings.rows, self.seed)
        return oracle.gate(variant, w, inputs.q, inputs.k, inputs.v, rows, inputs.extra)

    def _fidelity(self, settings: FidelitySettings) -> list[Deviation]:
        return [
            fidelity.measure(self.variant, self.workload, family, self.seed, settings)
            for family in self.inputs
        ]
