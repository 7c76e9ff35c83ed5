"""Tests of sparsert.cpu, on copies of /proc and /sys and on lists of features."""

from __future__ import annotations

import copy
import os
import pickle
import platform
from collections.abc import Iterator
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from sparsert import context, cpu
from sparsert.errors import EngineError
from sparsert.tiers import TIERS, Tier

HASWELL = {"avx2", "fma", "sse4.2"}
VNNI = HASWELL | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"}
ALDERLAKE = HASWELL | {"avxvnni"}
NEOVERSE_N1 = {"neon", "dotprod", "lse"}
NEOVERSE_V1 = NEOVERSE_N1 | {"i8mm", "sve"}
EVERYTHING = frozenset(feature for tier in TIERS.values() for feature in tier.features)

x86 = pytest.mark.skipif("sse2" not in cpu.host_features(), reason="LLVM for this host knows no x86 CPU")
arm = pytest.mark.skipif("neon" not in cpu.host_features(), reason="LLVM for this host knows no CPU of ARM")


@pytest.mark.parametrize(
    ("host", "environ", "tier"),
    [
        (VNNI, {}, "avx512_vnni"),
        (VNNI - {"avx512vnni"}, {}, "avx2"),
        (VNNI - {"avx512bw"}, {}, "avx2"),
        (HASWELL, {}, "avx2"),
        (HASWELL - {"fma"}, {}, "generic"),
        (ALDERLAKE, {}, "avx_vnni"),
        (ALDERLAKE, {"SPARSERT_ISA": "avx2"}, "avx2"),
        (ALDERLAKE, {"NUMBA_CPU_FEATURES": "-avxvnni"}, "avx2"),
        (VNNI | ALDERLAKE, {}, "avx512_vnni"),
        (VNNI | ALDERLAKE, {"SPARSERT_ISA": "avx_vnni"}, "avx_vnni"),
        pytest.param(ALDERLAKE, {"NUMBA_CPU_NAME": "haswell"}, "avx2", marks=x86),
        pytest.param(VNNI | ALDERLAKE, {"NUMBA_CPU_NAME": "sierraforest"}, "avx_vnni", marks=x86),
        pytest.param(VNNI | ALDERLAKE, {"NUMBA_CPU_NAME": "sapphirerapids"}, "avx512_vnni", marks=x86),
        (NEOVERSE_V1, {}, "neon_i8mm"),
        (NEOVERSE_V1, {"SPARSERT_ISA": "neon_dot"}, "neon_dot"),
        (NEOVERSE_V1, {"NUMBA_CPU_FEATURES": "-i8mm"}, "neon_dot"),
        (NEOVERSE_N1, {}, "neon_dot"),
        (NEOVERSE_N1 - {"dotprod"}, {}, "generic"),
        pytest.param(NEOVERSE_V1, {"NUMBA_CPU_NAME": "neoverse-v1"}, "neon_i8mm", marks=arm),
        pytest.param(NEOVERSE_V1, {"NUMBA_CPU_NAME": "apple-m1"}, "neon_dot", marks=arm),
        pytest.param(NEOVERSE_V1, {"NUMBA_CPU_NAME": "cortex-a72"}, "generic", marks=arm),
        pytest.param(NEOVERSE_V1, {"NUMBA_CPU_NAME": "no-such-cpu"}, "generic", marks=arm),
        (set(), {}, "generic"),
        pytest.param(VNNI, {"NUMBA_CPU_NAME": "haswell"}, "avx2", marks=x86),
        (VNNI, {"NUMBA_CPU_NAME": "x86-64"}, "generic"),
        (VNNI, {"NUMBA_CPU_NAME": "generic"}, "generic"),
        (VNNI, {"NUMBA_CPU_NAME": "no-such-cpu"}, "generic"),
        (VNNI, {"NUMBA_CPU_NAME": 'no "such" cpu'}, "generic"),
        (VNNI, {"NUMBA_CPU_NAME": "zn\u00e9ver4\n"}, "generic"),
        pytest.param(VNNI, {"NUMBA_CPU_NAME": "skylake-avx512"}, "avx2", marks=x86),
        pytest.param(VNNI, {"NUMBA_CPU_NAME": "knl"}, "avx2", marks=x86),
        pytest.param(VNNI, {"NUMBA_CPU_NAME": "cascadelake"}, "avx512_vnni", marks=x86),
        pytest.param(VNNI, {"NUMBA_CPU_NAME": "znver4"}, "avx512_vnni", marks=x86),
        pytest.param(HASWELL, {"NUMBA_CPU_NAME": "znver4"}, "avx2", marks=x86),
        (set(), {"NUMBA_CPU_NAME": "znver4"}, "generic"),
        (VNNI, {"NUMBA_CPU_FEATURES": "-avx512vnni"}, "avx2"),
        (VNNI, {"NUMBA_CPU_FEATURES": "-avx2"}, "generic"),
        (HASWELL, {"NUMBA_CPU_FEATURES": "+avx512f,+avx512vnni"}, "avx2"),
        (VNNI, {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+avx2, +fma"}, "avx2"),
        (VNNI, {"SPARSERT_ISA": "avx2"}, "avx2"),
        (VNNI, {"SPARSERT_ISA": " Generic "}, "generic"),
        (HASWELL, {"SPARSERT_ISA": "avx2"}, "avx2"),
        (HASWELL, {"SPARSERT_ISA": ""}, "avx2"),
    ],
)
def test_isa(host: set[str], environ: dict[str, str], tier: str) -> None:
    assert cpu.isa(host, environ) == tier


@pytest.mark.parametrize(
    ("host", "environ", "words"),
    [
        (
            HASWELL,
            {"SPARSERT_ISA": "avx512_vnni"},
            "asks for more than this CPU offers to the process, whose best is 'avx2'",
        ),
        pytest.param(
            VNNI,
            {"SPARSERT_ISA": "avx512_vnni", "NUMBA_CPU_NAME": "haswell"},
            "whose best is 'avx2'.*choose from avx2, generic",
            marks=x86,
        ),
        (NEOVERSE_N1, {"SPARSERT_ISA": "neon_i8mm"}, "whose best is 'neon_dot'.*choose from neon_dot, generic"),
        (VNNI, {"SPARSERT_ISA": "neon_dot"}, "asks for more than this CPU offers"),
        (VNNI, {"SPARSERT_ISA": "avx1024"}, "is no tier"),
        # neither of two tiers contains the other
        (VNNI, {"SPARSERT_ISA": "avx_vnni"}, "whose best is 'avx512_vnni'.*choose from avx512_vnni, avx2, generic"),
        (ALDERLAKE, {"SPARSERT_ISA": "avx512_vnni"}, "whose best is 'avx_vnni'.*choose from avx_vnni, avx2, generic"),
    ],
)
def test_isa_can_only_be_forced_down(host: set[str], environ: dict[str, str], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        cpu.isa(host, environ)


@pytest.mark.parametrize("tier", TIERS.values(), ids=TIERS)
def test_portable_stand_ins_let_any_host_run_the_tiers_that_have_them(tier: Tier) -> None:
    environ = {"SPARSERT_ISA": tier.name, "SPARSERT_PORTABLE": "1"}
    assert cpu.isa(tier.features, environ) == tier.name
    if tier.portable or not tier.features:
        assert cpu.isa(set(), environ) == tier.name
    else:
        with pytest.raises(EngineError, match="asks for more"):
            cpu.isa(set(), environ)


def test_portable_stand_ins_do_not_change_the_choice() -> None:
    assert cpu.isa(HASWELL, {"SPARSERT_PORTABLE": "1"}) == "avx2"


@pytest.mark.parametrize(
    "tier",
    [pytest.param(tier, marks=arm if tier.architecture == "aarch64" else x86, id=name) for name, tier in TIERS.items()],
)
def test_llvm_enables_the_features_of_a_tier_for_its_cpu_and_of_no_better_one(tier: Tier) -> None:
    assert cpu.isa(EVERYTHING, {"NUMBA_CPU_NAME": tier.cpu}) == tier.name


@pytest.mark.parametrize("tier", TIERS.values(), ids=TIERS)
def test_a_tier_can_be_forced_wherever_its_features_are(tier: Tier) -> None:
    assert cpu.isa(EVERYTHING, {"SPARSERT_ISA": tier.name}) == tier.name
    assert cpu.isa(tier.features, {}) == tier.name
    assert tier.rates in TIERS


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        ("processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimddp\nCPU part\t: 0xd0c", {"neon", "dotprod"}),
        ("Features\t: asimd asimddp i8mm bf16 sve\n\nFeatures\t: asimd", {"neon", "dotprod", "i8mm", "bf16"}),
        ("Features\t: fp asimd", {"neon"}),
        ("flags\t: asimddp", set()),
        ("", set()),
    ],
)
def test_features_of_arm_on_linux(tmp_path: Path, cpuinfo: str, features: set[str]) -> None:
    assert cpu.arm_features(write(tmp_path, {"proc/cpuinfo": cpuinfo})) == features
    assert cpu.arm_features(tmp_path / "nowhere") == set()


SYSCTL = """#!/bin/sh
# as on an M2: four cores that are fast and four that are not
case "$2" in
hw.physicalcpu) echo 8 ;;
hw.optional.AdvSIMD | hw.optional.arm.FEAT_DotProd | hw.optional.arm.FEAT_I8MM) echo 1 ;;
hw.optional.arm.FEAT_BF16) echo 0 ;;
hw.l1dcachesize) echo 65536 ;;
hw.l1icachesize) echo 131072 ;;
hw.l2cachesize) echo 4194304 ;;
*) echo "sysctl: unknown oid '$2'" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What macOS on ARM has and lacks: sysctl, no affinity, nothing in /proc and /sys, and LLVM reports no features."""
    tool = tmp_path / "bin" / "sysctl"
    tool.parent.mkdir()
    tool.write_text(SYSCTL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(cpu, "_ROOT", tmp_path)
    monkeypatch.setattr(cpu, "ARCHITECTURE", "aarch64")
    monkeypatch.setattr(llvm, "get_host_cpu_features", dict)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    cached = (cpu.host_features, cpu.cpu_architecture)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def test_macos_on_arm(macos: None) -> None:
    assert cpu.host_features() == {"neon", "dotprod", "i8mm"}
    assert cpu.tier_of(cpu.host_features()) == "neon_i8mm"
    assert cpu.cache_sizes() == {"L1_data": 65536, "L1_instruction": 131072, "L2": 4194304, "L3": 0}
    assert cpu.core_list() == list(range(8))
    assert cpu.available_cores() == 8
    architecture = cpu.cpu_architecture()
    assert (architecture.isa, architecture.dotprod, architecture.i8mm, architecture.bf16) == ("neon", True, True, False)
    assert cpu.cpu_quantization_compatible()


def test_without_affinity_no_thread_is_pinned(macos: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERT_PIN", "1")
    assert context._choose_cores(cpu.available_cores()) == []


@pytest.mark.parametrize(("name", "warned"), [("generic", True), ("apple-m2", False)])
def test_a_cpu_that_llvm_does_not_know_gets_a_hint(
    macos: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, warned: bool
) -> None:
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: name)
    cpu._llvm_cpu_name.cache_clear()
    assert cpu._llvm_cpu_name() == name
    cpu._llvm_cpu_name.cache_clear()
    assert ("set NUMBA_CPU_NAME to its name" in caplog.text) == warned


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def machine(root: Path, cores: list[tuple[int, int]]) -> Path:
    """A /sys in which logical CPU i is (package, core) = cores[i]."""
    for index, (package, core) in enumerate(cores):
        base = f"sys/devices/system/cpu/cpu{index}/topology"
        write(root, {f"{base}/physical_package_id": str(package), f"{base}/core_id": str(core)})
    return root


def test_one_hyperthread_per_core(tmp_path: Path) -> None:
    machine(tmp_path, [(0, 0), (0, 1), (0, 0), (0, 1)])
    assert cpu.core_list(range(4), tmp_path) == [0, 1]
    assert cpu.thread_list(range(4), tmp_path) == [0, 1, 2, 3]
    assert cpu.core_list([1, 2, 3], tmp_path) == [2, 1]
    assert cpu.available_cores([1, 3], tmp_path) == 1


def test_cores_are_listed_socket_by_socket(tmp_path: Path) -> None:
    machine(tmp_path, [(0, 0), (1, 0), (0, 1), (1, 1)])
    assert cpu.core_list(range(4), tmp_path) == [0, 2, 1, 3]


def test_unknown_topology_counts_every_cpu(tmp_path: Path) -> None:
    assert cpu.core_list([3, 5], tmp_path) == [3, 5]
    assert cpu.available_cores([3, 5], tmp_path) == 2


def test_l3_groups(tmp_path: Path) -> None:
    for index, shared in enumerate(["0-1", "0-1", "2-3", "2-3"]):
        write(tmp_path, {f"sys/devices/system/cpu/cpu{index}/cache/index3/shared_cpu_list": shared})
    assert cpu.l3_groups(range(4), tmp_path) == [[0, 1], [2, 3]]
    assert cpu.l3_groups([7, 8], tmp_path) == [[7, 8]]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "150000 100000"}, 2),
        ({"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "10000 100000"}, 1),
        ({"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "garbage"}, 8),
        # A parent's limit holds for its children, and a container sees its own group as the root.
        ({"proc/self/cgroup": "0::/pod/app", "sys/fs/cgroup/pod/cpu.max": "300000 100000"}, 3),
        ({"proc/self/cgroup": "0::/hidden", "sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        (
            {
                "proc/self/cgroup": "4:memory:/a\n3:cpu,cpuacct:/a",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            8,
        ),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    machine(tmp_path, [(0, core) for core in range(8)])
    assert cpu.available_cores(range(8), write(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SPARSERT_NUM_THREADS": "", "OMP_NUM_THREADS": " "}, None),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"SPARSERT_NUM_THREADS": " 2 ", "OMP_NUM_THREADS": "7"}, 2),
        # OpenMP ignores what is no number of threads, and so do we.
        *(({"OMP_NUM_THREADS": value}, None) for value in ["0", "-1", "many", ",2", "1.5", "9" * 5000]),
    ],
)
def test_default_cores(environ: dict[str, str], expected: int | None) -> None:
    assert cpu.default_cores(environ) == (expected or cpu.available_cores())


@pytest.mark.parametrize("value", ["0", "-1", "many", "4,2", "1.5", "1_0", "\u0664", "10000", "9" * 5000])
def test_a_number_of_cores_that_is_none(value: str) -> None:
    with pytest.raises(EngineError, match="SPARSERT_NUM_THREADS='.*Expected an integer from 1 to 9999"):
        cpu.default_cores({"SPARSERT_NUM_THREADS": value, "OMP_NUM_THREADS": "2"})


def test_cache_sizes(tmp_path: Path) -> None:
    first = sorted(os.sched_getaffinity(0))[0] if hasattr(os, "sched_getaffinity") else 0
    base = f"sys/devices/system/cpu/cpu{first}/cache"
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1M"), ("3", "Unified", "32768K")]
    ):
        write(
            tmp_path,
            {f"{base}/index{index}/level": level, f"{base}/index{index}/type": kind, f"{base}/index{index}/size": size},
        )
    expected = {"L1_data": 48 * 2**10, "L1_instruction": 32 * 2**10, "L2": 2**20, "L3": 32 * 2**20}
    assert cpu.cache_sizes(tmp_path) == expected
    assert set(cpu.cache_sizes(tmp_path / "nowhere").values()) == {0}


def test_this_machine() -> None:
    architecture = cpu.cpu_architecture()
    assert architecture.num_available_physical_cores == cpu.available_cores() >= 1
    assert architecture["num_threads"] >= len(cpu.core_list())
    assert set(cpu.core_list()) <= set(cpu.thread_list())
    assert cpu.cpu_details() == (cpu.available_cores(), architecture.isa, architecture.vnni)
    assert cpu.cpu_vnni_compatible() == architecture.vnni
    if cpu.cpu_avx512_compatible():
        assert cpu.cpu_avx2_compatible()


def test_architecture_is_read_only() -> None:
    architecture = cpu.cpu_architecture()
    with pytest.raises(AttributeError):
        architecture.isa = "avx9"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = architecture.nothing
    assert copy.deepcopy(dict(architecture)) == dict(architecture)
    assert pickle.loads(pickle.dumps(dict(architecture))) == dict(architecture)
