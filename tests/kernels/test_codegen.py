"""What LLVM makes of the hot kernels, for CPUs that need not be this one: the right instructions, and no others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_assembly import hot_loops

import sparsert
from sparsert.cpu import host_features
from sparsert.kernels.formats import FORMATS
from sparsert.kernels.formats.streams import GROUP_SIZES
from sparsert.tiers import TIERS, Tier

X86 = [tier for tier in TIERS.values() if tier.architecture == "x86_64"]
TARGETS = {tier.cpu: tier for tier in X86} | {"znver4": TIERS["avx512_vnni"]}
"""CPUs to compile for, and the tier that each is to get."""

WITH_DOT4 = [target for target, tier in TARGETS.items() if tier.dot4]
WITH_PAIRS = [target for target, tier in TARGETS.items() if tier.pairs]

NARROWED = {name: record.rows[:-1] for name, record in FORMATS.items() if len(record.rows) > 1}
"""Numbers of vectors of a narrow row, by format."""

# The expected instructions are those of x86, and another tier than the host's own has had its turn with the host's.
pytestmark = [
    pytest.mark.skipif("sse2" not in host_features(), reason="LLVM for this host has no x86 target"),
    pytest.mark.skipif("SPARSERT_ISA" in os.environ, reason="tested in the process of the host's own tier"),
]


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Assembly of every kernel by target and name, compiled by one process a target."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "SPARSERT_"))}
    script = Path(__file__).with_name("compile_for.py")
    texts = {}
    for target, tier in TARGETS.items():
        environment = {
            **inherited,
            "NUMBA_CPU_NAME": target,
            "NUMBA_CPU_FEATURES": "",
            "NUMBA_CACHE_DIR": str(tmp_path_factory.mktemp(target)),
            "PYTHONPATH": str(Path(sparsert.__file__).parents[1]),
        }
        command = [sys.executable, str(script), ",".join(tier.features)]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert finished.returncode == 0, f"{target}: {finished.stderr[-2000:]}"
        found = json.loads(finished.stdout)
        assert found["tier"] == tier.name
        texts[target] = found["assembly"]
    return texts


def spills(body: list[str]) -> list[str]:
    return [line for line in body if "(%rsp)" in line and "mm" in line]


def registers(tier: Tier) -> tuple[str, tuple[str, ...]]:
    """What a whole vector of a tier is called in assembly, and what a part of one."""
    return ("%zmm", ("ymm", "xmm")) if tier.vector_bytes == 64 else ("%ymm", ("xmm",))


@pytest.mark.parametrize("target", WITH_DOT4)
@pytest.mark.parametrize(
    ("kernel", "instruction"),
    [
        *((f"{name} 0", "vfmadd" if record.floating else "vpdpbusd") for name, record in FORMATS.items()),
        *(
            (f"{name} 0 of {row}", "vfmadd" if FORMATS[name].floating else "vpdpbusd")
            for name, rows in NARROWED.items()
            for row in rows
        ),
        ("context", "vpdpbusd"),
        ("scores", "vpdpbusd"),
    ],
)
def test_loops_use_products_of_four_bytes_and_spill_nothing(
    assembly: dict[str, dict[str, str]], target: str, kernel: str, instruction: str
) -> None:
    whole, narrower = registers(TARGETS[target])
    for body in hot_loops(assembly[target][kernel], instruction):
        products = [line for line in body if line.startswith(instruction)]
        assert all(whole in line for line in products)
        assert not spills(body)
        others = [line for line in body if not line.startswith(("vpxor", "vxorps"))]
        assert not any(part in line for line in others for part in narrower)


@pytest.mark.parametrize("target", WITH_DOT4)
def test_the_unstructured_loop_has_eight_shuffles_for_four_products(
    assembly: dict[str, dict[str, str]], target: str
) -> None:
    for body in hot_loops(assembly[target]["unstructured 0"], "vpdpbusd"):
        steps = sum(line.startswith("vpdpbusd") for line in body) // 4
        assert sum(line.startswith("vpunpck") for line in body) == 8 * steps
        assert not any(line.startswith("vperm") for line in body)
        # 4 loads, 4 offsets, 8 shuffles, 4 products, 1 broadcast, and what moves the pointers
        assert len(body) <= 25 * steps


@pytest.mark.parametrize("target", WITH_DOT4)
def test_the_loop_of_pairs_has_four_shuffles_for_four_products(
    assembly: dict[str, dict[str, str]], target: str
) -> None:
    for body in hot_loops(assembly[target]["pairs 0"], "vpdpbusd"):
        steps = sum(line.startswith("vpdpbusd") for line in body) // 4
        assert sum(line.startswith("vpunpck") for line in body) == 4 * steps
        assert not any(line.startswith("vperm") for line in body)
        # 4 loads, 2 offsets, 4 shuffles, 4 products, 1 broadcast, and what moves the pointers
        assert len(body) <= 17 * steps


@pytest.mark.parametrize("target", WITH_PAIRS)
def test_the_loops_of_pairs_in_pairs_have_no_shuffle(assembly: dict[str, dict[str, str]], target: str) -> None:
    for variant, size in enumerate(GROUP_SIZES):
        for body in hot_loops(assembly[target][f"pairs {variant}"], "vpmaddubsw"):
            assert not any(line.startswith(("vpunpck", "vperm", "vpshuf")) for line in body)
            groups = sum(line.startswith("vpmaddubsw") for line in body) // (2 * size)
            # a pair is 2 loads, 2 products, 2 sums, a broadcast and an offset; a group adds to 4 sums and moves on
            assert len(body) <= (8 * size + 8) * groups


@pytest.mark.parametrize("target", WITH_PAIRS)
@pytest.mark.parametrize(
    ("kernel", "width", "products_per_entry"),
    [
        ("unstructured", "", 2),
        ("blocks", "", 4),
        ("pairs", "", 2),
        ("blocks", " of 2", 2),
        ("blocks", " of 3", 3),
        ("dense", "", 4),
        ("dense", " of 2", 4),
        ("pairs", " of 2", 1),
    ],
)
def test_loops_use_products_in_pairs_and_spill_nothing(
    assembly: dict[str, dict[str, str]], target: str, kernel: str, width: str, products_per_entry: int
) -> None:
    for variant, size in enumerate(GROUP_SIZES):
        for body in hot_loops(assembly[target][f"{kernel} {variant}{width}"], "vpmaddubsw"):
            products = [line for line in body if line.startswith("vpmaddubsw")]
            assert len(products) % (products_per_entry * size) == 0
            assert all("%ymm" in line for line in products)
            assert not spills(body)


@pytest.mark.parametrize("target", WITH_PAIRS)
@pytest.mark.parametrize("kernel", ["context", "scores"])
def test_attention_uses_integer_products_in_pairs(
    assembly: dict[str, dict[str, str]], target: str, kernel: str
) -> None:
    for body in hot_loops(assembly[target][kernel], "vpmaddubsw"):
        assert all("%ymm" in line for line in body if line.startswith("vpmaddubsw"))


@pytest.mark.parametrize("target", [target for target, tier in TARGETS.items() if tier.vector_bytes < 64])
def test_no_kernel_contains_what_its_tier_forbids(assembly: dict[str, dict[str, str]], target: str) -> None:
    evex = r"%zmm|%k[0-7]|\{%?1to|mm(1[6-9]|2[0-9]|3[01])\b"
    forbidden = evex if TARGETS[target].features else r"%[yz]mm|\tv\w+"
    for name, text in assembly[target].items():
        found = re.search(forbidden, text)
        assert not found, f"{name} contains {found and found[0]!r}"


@pytest.mark.parametrize("kernel", ["unstructured 0", "blocks 0", "dense 0", "scores", "context", "probabilities"])
def test_avx_vnni_products_have_the_encoding_of_cpus_without_avx512(
    assembly: dict[str, dict[str, str]], kernel: str
) -> None:
    text = assembly["alderlake"][kernel]
    products = [line.strip() for line in text.splitlines() if "vpdpbusd" in line]
    assert products
    assert all(re.fullmatch(r"\{vex\}\s+vpdpbusd\s.*%ymm\d+", line) for line in products)
    assert "vpmaddubsw" not in text
