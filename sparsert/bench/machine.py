"""What a figure must say about the machine that it comes from."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

from sparsert import __version__, cpu

__all__ = ["caption", "describe_machine", "now"]


def describe_machine() -> dict[str, Any]:
    """Keys ``cpu`` (model name), ``cores`` (usable physical), ``isa``, ``system``, ``python``, ``load_average``."""
    return {
        "cpu": _cpu_name(),
        "cores": len(cpu.core_list()),
        "isa": cpu.isa(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def now() -> str:
    """Date and time with the time zone, ISO 8601."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def caption(machine: dict[str, Any], date: str, versions: dict[str, str] | None = None) -> str:
    """One line under a figure: machine, versions, date."""
    named = {"sparsert": __version__} if versions is None else versions
    parts = [f"{machine['cores']} cores of {machine['cpu']} ({machine['isa']})"]
    parts += [" ".join(item) for item in named.items()]
    return ", ".join([*parts, date[:10]])
