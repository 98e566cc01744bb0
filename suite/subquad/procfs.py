"""What Linux tells in /proc of this process and this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


def status_bytes(field: str) -> int:
    """A size of this process (VmData, VmRSS, VmHWM), in bytes."""
    return _kib(PROC / "self/status", field) * 1024


def memory_bytes(field: str) -> int:
    """A size of the machine (MemTotal, MemAvailable), in bytes; a cgroup's limit, where lower."""
    value = _kib(PROC / "meminfo", field) * 1024
    limit = _cgroup_limit()
    if limit is None:
        return value
    return min(value, limit if field == "MemTotal" else limit - _cgroup_used())


def oom_kills() -> int:
    """How often the kernel's out-of-memory killer struck since boot."""
    for line in (PROC / "vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def load() -> float:
    """Runnable processes, averaged over the last minute."""
    return float((PROC / "loadavg").read_text().split()[0])


@dataclass(frozen=True)
class CpuTimes:
    """Ticks since boot, over all CPUs: all of them, and those the hypervisor took away."""

    total: int
    steal: int

    @classmethod
    def now(cls) -> CpuTimes:
        ticks = [int(x) for x in (PROC / "stat").read_text().splitlines()[0].split()[1:9]]
        return cls(total=sum(ticks), steal=ticks[7])

    def steal_share_since(self, before: CpuTimes) -> float | None:
        """Share of CPU time the hypervisor took since `before`; None for a span without a tick."""
        total = self.total - before.total
        return (self.steal - before.steal) / total if total > 0 else None


def _kib(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(f"{path} has no {field}")


def _cgroup_limit() -> int | None:
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text().strip() if path.exists() else "max"
    return None if text == "max" else int(text)


def _cgroup_used() -> int:
    path = Path("/sys/fs/cgroup/memory.current")
    return int(path.read_text()) if path.exists() else 0
