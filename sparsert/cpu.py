"""What the CPU can do, and how much of it this process may use.

Two questions, two answers. *Instructions*: :func:`isa` names the tier of kernels to compile. *Cores*:
:func:`default_cores` is what the environment asks for, else all; :func:`core_list` and :func:`available_cores` respect
the affinity mask and the cgroup quota, because ``os.cpu_count()`` counts cores that a container may not touch.
Functions that read files take ``root`` so that they can be pointed at a copy of ``/proc`` and ``/sys``.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsert.errors import EngineError
from sparsert.tiers import TIERS

__all__ = [
    "ARCHITECTURE",
    "MOST_CORES",
    "CpuArchitecture",
    "arm_features",
    "available_cores",
    "cache_sizes",
    "core_list",
    "cpu_architecture",
    "cpu_avx2_compatible",
    "cpu_avx512_compatible",
    "cpu_avx_type",
    "cpu_details",
    "cpu_quantization_compatible",
    "cpu_vnni",
    "cpu_vnni_compatible",
    "default_cores",
    "host_features",
    "isa",
    "l3_groups",
    "portable",
    "thread_list",
    "tier_of",
]

_log = logging.getLogger(__name__)

_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})

_ROOT = Path("/")

MOST_CORES = 9999
"""No machine has more; larger numbers of cores are refused."""

_CPU_NAME = re.compile("[a-z0-9._+-]+")
"""Of CPUs that LLVM knows; in its assembly other characters could be anything."""

_COUNT = re.compile("[0-9]{1,4}")  # int() would take signs, underscores and the digits of any script as well


ARCHITECTURE: str = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine())
"""The host's, as LLVM's triples begin: "x86_64" or "aarch64" where there are tiers."""

_LINUX_NAMES = {"asimd": "neon", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16"}
_MACOS_NAMES = {"AdvSIMD": "neon", "arm.FEAT_DotProd": "dotprod", "arm.FEAT_I8MM": "i8mm", "arm.FEAT_BF16": "bf16"}
"""What systems call the features of ARM that are asked for here, and LLVM's names."""


@functools.lru_cache(maxsize=1)
def host_features() -> frozenset[str]:
    """Instruction-set features of the host, under LLVM's names (``avx2``, ``avx512vnni``, ...)."""
    import llvmlite.binding as llvm

    try:
        found = frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)
    except RuntimeError:  # LLVM cannot tell on this platform
        found = frozenset()
    return found | arm_features() if ARCHITECTURE == "aarch64" else found


def arm_features(root: Path = _ROOT) -> frozenset[str]:
    """Features of an ARM CPU as the system tells of them: LLVM leaves some out on Linux, and all on macOS."""
    if platform.system() == "Darwin":
        return frozenset(name for theirs, name in _MACOS_NAMES.items() if _sysctl(f"hw.optional.{theirs}") == 1)
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Features":  # of the first core; the kernel reports what all of them have
            return frozenset(_LINUX_NAMES[word] for word in value.split() if word in _LINUX_NAMES)
    return frozenset()


def tier_of(features: Iterable[str]) -> str:
    """Name the best tier that ``features`` (LLVM names) can run."""
    present = frozenset(features)
    return next(name for name, tier in TIERS.items() if present.issuperset(tier.features))


@functools.lru_cache(maxsize=1)
def _llvm_cpu_name() -> str:
    """The host's CPU as LLVM calls it, whose features Numba's code may have; on ARM, LLVM reports few of them itself.

    A virtual machine may hide which CPU it runs on, as those of containers on macOS do.
    """
    import llvmlite.binding as llvm

    name = llvm.get_host_cpu_name()
    if name == "generic" and "dotprod" in host_features():
        _log.warning(
            "this CPU multiplies bytes (dotprod), but LLVM cannot tell which one it is, so kernels go without; set "
            "NUMBA_CPU_NAME to its name, apple-m1 or neoverse-n1 for instance"
        )
    return name


@functools.lru_cache(maxsize=16)
def _features_of(name: str, asked: frozenset[str]) -> frozenset[str]:
    """Those of the ``asked`` features that LLVM enables for a CPU's name; none for a name that it does not know.

    llvmlite lists the host's features only. But LLVM inlines a function just where the caller's CPU has all features of
    the function, so each feature gets a function that needs it, with a caller on the CPU in question.
    """
    if not asked or not _CPU_NAME.fullmatch(name):
        return frozenset()
    import llvmlite.binding as llvm

    base = "" if ARCHITECTURE == "aarch64" else "+64bit"  # without it an unknown name would end the process
    functions = [
        f'define void @has_{feature}(ptr %p) "target-cpu"="{name}" "target-features"="{base}" '
        f"{{ call void @needs_{feature}(ptr %p) ret void }}\n"
        f'define void @needs_{feature}(ptr %p) "target-cpu"="{name}" "target-features"="+{feature},{base}" '
        "{ store volatile i8 0, ptr %p ret void }\n"
        for feature in asked
    ]
    llvm.initialize_native_target()
    module = llvm.parse_assembly("".join(functions))
    module.triple = llvm.get_process_triple()
    machine = llvm.Target.from_triple(module.triple).create_target_machine(cpu="generic")
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    optimized = str(module)
    return frozenset(feature for feature in asked if f"call void @needs_{feature}(" not in optimized)


def _allowed_features(host: frozenset[str], environ: Mapping[str, str]) -> frozenset[str]:
    """Features that code generation may use: the host's, less what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES take away."""
    name = environ.get("NUMBA_CPU_NAME", "").lower()
    tiers = [tier for tier in TIERS.values() if tier.architecture == ARCHITECTURE]  # LLVM knows no other's features
    asked = host.intersection(feature for tier in tiers for feature in tier.features)
    allowed = set(_features_of(name, asked) if name else host)
    for feature in environ.get("NUMBA_CPU_FEATURES", "").split(","):
        feature = feature.strip()
        if feature.startswith("+"):
            allowed.add(feature[1:])
        elif feature.startswith("-"):
            allowed.discard(feature[1:])
    return host & allowed


def portable(environ: Mapping[str, str] | None = None) -> bool:
    """Whether kernels write portable IR where they would use an instruction of their tier; for tests only.

    ``SPARSERT_PORTABLE=1`` lets ``SPARSERT_ISA`` ask for such a tier (:attr:`~sparsert.tiers.Tier.portable`) on any
    host: its layouts and code paths then run there, slowly.
    """
    return (os.environ if environ is None else environ).get("SPARSERT_PORTABLE", "").strip() == "1"


def isa(host: Iterable[str] | None = None, environ: Mapping[str, str] | None = None) -> str:
    """Name the tier of kernels to compile, one of :data:`sparsert.tiers.TIERS`.

    The host's features are intersected with those of ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES``, since LLVM aborts
    the process on an instruction that its target lacks. ``SPARSERT_ISA`` forces another tier that they can run.

    Parameters
    ----------
    host, environ
        Features of the host and environment variables; by default the real ones.

    Raises
    ------
    EngineError
        ``SPARSERT_ISA`` holds an unknown tier, or one that this process cannot run.
    """
    features = host_features() if host is None else frozenset(host)
    environ = os.environ if environ is None else environ
    if host is None and ARCHITECTURE == "aarch64" and not environ.get("NUMBA_CPU_NAME"):
        environ = {**environ, "NUMBA_CPU_NAME": _llvm_cpu_name()}
    allowed = _allowed_features(features, environ)
    best = tier_of(allowed)
    forced = environ.get("SPARSERT_ISA", "").strip().lower()
    if not forced:
        return best
    if forced not in TIERS:
        raise EngineError(
            f"SPARSERT_ISA={forced!r} is no tier. Expected one of {', '.join(TIERS)}; unset it to use {best}."
        )
    stands_in = TIERS[forced].portable and portable(environ)
    if not allowed.issuperset(TIERS[forced].features) and not stands_in:
        runnable = [name for name, tier in TIERS.items() if allowed.issuperset(tier.features)]
        raise EngineError(
            f"SPARSERT_ISA={forced!r} asks for more than this CPU offers to the process, whose best is {best!r}. "
            f"Unset the variable or choose from {', '.join(runnable)}."
        )
    return forced


def _read(path: Path) -> str:
    """Text of a file of ``/proc`` or ``/sys``, or ``""`` where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _parse_cpus(text: str) -> list[int]:
    """Expand a kernel CPU list such as ``"0-3,8"``."""
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit():
            cpus.extend(range(int(first), int(last if last.isdigit() else first) + 1))
    return cpus


def _affinity() -> list[int]:
    """Logical CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _topology(cpu: int, root: Path) -> tuple[int, int]:
    """(package, core) of a logical CPU; a CPU of unknown topology is a core of its own."""
    base = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    package, core = _read(base / "physical_package_id"), _read(base / "core_id")
    # Virtual machines report package -1; cores of unknown id must not be merged into one.
    return (int(package) if package.lstrip("-").isdigit() else 0, int(core) if core.isdigit() else cpu)


def _sysctl(name: str) -> int:
    """An integer that macOS tells of the machine, or 0."""
    try:
        answer = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5)  # noqa: S603, S607
        return int(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def core_list(affinity: Iterable[int] | None = None, root: Path = _ROOT) -> list[int]:
    """One logical CPU of every physical core that this process may use, neighbours in the machine side by side."""
    cpus = sorted(_affinity() if affinity is None else affinity)
    if affinity is None and platform.system() == "Darwin":
        return cpus[: _sysctl("hw.physicalcpu") or len(cpus)]
    first: dict[tuple[int, int], int] = {}
    for cpu in cpus:
        first.setdefault(_topology(cpu, root), cpu)
    return [first[key] for key in sorted(first)]


def thread_list(affinity: Iterable[int] | None = None, root: Path = _ROOT) -> list[int]:
    """Every logical CPU that this process may use: :func:`core_list` first, then the remaining hyperthreads."""
    cores = core_list(affinity, root)
    cpus = sorted(_affinity() if affinity is None else affinity)
    return cores + [cpu for cpu in cpus if cpu not in set(cores)]


def l3_groups(cores: Iterable[int] | None = None, root: Path = _ROOT) -> list[list[int]]:
    """``cores`` (by default :func:`core_list`) grouped by the last-level cache that they share."""
    groups: dict[str, list[int]] = {}
    for cpu in core_list(root=root) if cores is None else cores:
        shared = _read(root / f"sys/devices/system/cpu/cpu{cpu}/cache/index3/shared_cpu_list")
        groups.setdefault(shared, []).append(cpu)
    return list(groups.values())


def _ancestors(group: str) -> Iterator[str]:
    """A cgroup path and every parent up to the root, without the leading slash."""
    parts = [part for part in group.split("/") if part]
    for count in range(len(parts), -1, -1):
        yield "/".join(parts[:count])


def _quotas(root: Path) -> Iterator[float]:
    """CPU limits, in CPUs, of the cgroups (v1 and v2) of this process and their parents."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            for path in _ancestors(group):
                quota, _, period = _read(mount / path / "cpu.max").partition(" ")
                if quota.isdigit() and period.isdigit() and int(period) > 0:
                    yield int(quota) / int(period)
        elif "cpu" in controllers.split(","):
            # The controller is mounted under its own name or together with cpuacct.
            for directory in (controllers, "cpu", "cpu,cpuacct"):
                for path in _ancestors(group):
                    base = mount / directory / path
                    v1_quota, v1_period = _read(base / "cpu.cfs_quota_us"), _read(base / "cpu.cfs_period_us")
                    if v1_quota.isdigit() and v1_period.isdigit() and int(v1_period) > 0:
                        yield int(v1_quota) / int(v1_period)


def available_cores(affinity: Iterable[int] | None = None, root: Path = _ROOT) -> int:
    """Number of physical cores to use by default: those in the affinity mask, but no more than the cgroup quota.

    A quota of 1.5 CPUs counts as two cores: one thread more than the quota loses less than one thread too few.
    """
    cores = len(core_list(affinity, root))
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(root))]))


def default_cores(environ: Mapping[str, str] | None = None) -> int:
    """Number of cores to use where no argument says: ``SPARSERT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else all.

    As with OpenMP, the first number of a list such as ``4,2`` counts, and what is no number is ignored. All means
    :func:`available_cores`.

    Raises
    ------
    EngineError
        ``SPARSERT_NUM_THREADS`` is not an integer from 1 to 9999.
    """
    environ = os.environ if environ is None else environ
    own = environ.get("SPARSERT_NUM_THREADS", "").strip()
    if own:
        if not (_COUNT.fullmatch(own) and int(own)):
            raise EngineError(
                f"SPARSERT_NUM_THREADS={own!r} is no number of cores. Expected an integer from 1 to {MOST_CORES}; "
                "unset it to use all cores."
            )
        return int(own)
    openmp = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(openmp) if _COUNT.fullmatch(openmp) and int(openmp) else available_cores()


def cpu_avx_type() -> str:
    """Vector instructions of the hardware: ``"avx512"``, ``"avx2"``, ``"neon"`` or ``"generic"``."""
    features = host_features()
    if features >= _AVX512:
        return "avx512"
    if features >= _AVX2:
        return "avx2"
    return "neon" if ARCHITECTURE == "aarch64" or "neon" in features else "generic"


def cpu_vnni() -> bool:
    """Whether the hardware has the AVX-512 VNNI instructions."""
    return host_features() >= _AVX2 | _AVX512 | {"avx512vnni"}


_MACOS_CACHES = {"L1_data": "l1d", "L1_instruction": "l1i", "L2": "l2", "L3": "l3"}


def cache_sizes(root: Path = _ROOT) -> dict[str, int]:
    """Bytes of the first usable core's caches, under the keys L1_data, L1_instruction, L2 and L3; 0 if unknown."""
    if platform.system() == "Darwin":
        return {name: _sysctl(f"hw.{theirs}cachesize") for name, theirs in _MACOS_CACHES.items()}
    sizes = {"L1_data": 0, "L1_instruction": 0, "L2": 0, "L3": 0}
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    cpu = _affinity()[0]
    for index in range(6):
        base = root / f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
        level, kind, text = _read(base / "level"), _read(base / "type"), _read(base / "size")
        name = {"Data": "L1_data", "Instruction": "L1_instruction"}.get(kind) if level == "1" else f"L{level}"
        digits = text.rstrip("KMG")
        if name in sizes and digits.isdigit():
            sizes[name] = int(digits) * units.get(text[-1:], 1)
    return sizes


class CpuArchitecture(Mapping[str, Any]):
    """A read-only dictionary whose keys are attributes too."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        # Copying and pickling look for special names before __init__ has run, when even _values is missing.
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(f"no attribute {name!r}. Known are {', '.join(self._values)}")
        return self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"can't set attribute {name!r}: the CPU is as it is")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values})"


def _vendor(root: Path) -> str:
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "vendor_id":
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


@functools.lru_cache(maxsize=1)
def cpu_architecture() -> CpuArchitecture:
    """Describe the CPU: vendor, isa, vnni, sockets, cores, threads, caches and features, as attributes or keys."""
    everything = list(range(os.cpu_count() or 1))
    online = _parse_cpus(_read(_ROOT / "sys/devices/system/cpu/online")) or everything
    cores, usable_cores = core_list(online), core_list()
    sockets = len({_topology(cpu, _ROOT)[0] for cpu in cores}) or 1
    usable_sockets = len({_topology(cpu, _ROOT)[0] for cpu in usable_cores}) or 1
    usable_threads = _affinity()
    caches = cache_sizes()
    features = host_features()
    return CpuArchitecture(
        {
            "vendor": _vendor(_ROOT),
            "isa": cpu_avx_type(),
            "tier": tier_of(features),
            "vnni": cpu_vnni(),
            "num_sockets": sockets,
            "available_sockets": usable_sockets,
            "cores_per_socket": max(1, len(cores) // sockets),
            "available_cores_per_socket": max(1, len(usable_cores) // usable_sockets),
            "threads_per_core": max(1, len(online) // max(1, len(cores))),
            "available_threads_per_core": max(1, len(usable_threads) // max(1, len(usable_cores))),
            "num_physical_cores": len(cores),
            "num_available_physical_cores": available_cores(),
            "num_threads": len(online),
            "threads_per_socket": max(1, len(online) // sockets),
            "L1_data_cache_size": caches["L1_data"],
            "L1_instruction_cache_size": caches["L1_instruction"],
            "L2_cache_size": caches["L2"],
            "L3_cache_size": caches["L3"],
            "bf16": "avx512bf16" in features or "bf16" in features,
            "dotprod": "dotprod" in features,
            "i8mm": "i8mm" in features,
        }
    )


def cpu_details() -> tuple[int, str, bool]:
    """Return (usable physical cores, vector instructions, VNNI)."""
    return available_cores(), cpu_avx_type(), cpu_vnni()


def cpu_vnni_compatible() -> bool:
    """Whether the CPU has AVX-512 VNNI."""
    return cpu_vnni()


def cpu_avx2_compatible() -> bool:
    """Whether the CPU has AVX2 (every CPU with AVX-512 does)."""
    return cpu_avx_type() in ("avx2", "avx512")


def cpu_avx512_compatible() -> bool:
    """Whether the CPU has AVX-512 F, BW, VL and DQ."""
    return cpu_avx_type() == "avx512"


def cpu_quantization_compatible() -> bool:
    """Whether int8 models gain speed here, with products of four bytes or emulated on AVX2."""
    return cpu_avx2_compatible() or "dotprod" in host_features()
