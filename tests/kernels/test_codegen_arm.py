"""What LLVM makes of the hot kernels for CPUs of ARM, on any host: the right instructions, nothing spilled."""

from __future__ import annotations

import os
import re

import pytest
from kernel_assembly import emitted, hot_loops

from sparsert.kernels.formats import FORMATS, Format
from sparsert.tiers import TIERS

PRODUCT = {"neon_dot": "sdot", "neon_i8mm": "usdot"}
"""The product of four bytes, by tier."""


def parts_of(record: Format) -> list[str]:
    """Ends of the names of a format's accumulators."""
    return ["", *(f" of {row}" for row in record.rows[:-1])]


INTEGER, FLOAT = (
    [f"{name} 0{part}" for name, record in FORMATS.items() if record.floating == floating for part in parts_of(record)]
    for floating in (False, True)
)
"""Accumulators of whole rows and of fewer vectors."""

pytestmark = pytest.mark.skipif("SPARSERT_ISA" in os.environ, reason="tested in the process of the host's own tier")


def test_every_tier_of_arm_is_looked_at() -> None:
    assert set(PRODUCT) == {name for name, tier in TIERS.items() if tier.architecture == "aarch64"}


def count(body: list[str], *instructions: str) -> int:
    return sum(line.split()[0] in instructions for line in body)


def uses_memory_on_the_stack(line: str) -> bool:
    return re.match(r"(ld|st)[ru]?[rp]\s.*\[sp\b", line) is not None


@pytest.mark.parametrize("tier", PRODUCT)
@pytest.mark.parametrize("kernel", [*INTEGER, "context", "scores"])
def test_loops_use_products_of_four_bytes_and_spill_nothing(tier: str, kernel: str) -> None:
    for body in hot_loops(emitted(tier)[kernel], PRODUCT[tier]):
        assert not any(map(uses_memory_on_the_stack, body))
        # nothing is taken apart into elements
        assert not count(body, "umov", "smov", "ins", "smull", "umull", "mul", "mla")


@pytest.mark.parametrize("tier", PRODUCT)
@pytest.mark.parametrize("kernel", FLOAT)
def test_loops_of_floats_multiply_and_add_and_spill_nothing(tier: str, kernel: str) -> None:
    for body in hot_loops(emitted(tier)[kernel], "fmla"):
        assert not any(map(uses_memory_on_the_stack, body))
        assert not count(body, "fmul", "fadd", "umov", "ins")


# Beyond the products themselves: shifted bytes cost an exclusive or a vector and a product for all four vectors.
@pytest.mark.parametrize(
    ("kernel", "products", "instructions", "shuffles"),
    [
        # 4 loads (two at once), one of four weights, 16 products, and what moves the pointers
        ("dense 0", 16, 22, 0),
        ("scores", 16, 22, 0),
        # 4 loads, 4 offsets, 8 shuffles, 4 products, 1 broadcast, and what moves the pointers
        ("unstructured 0", 4, 26, 8),
        # twice: 4 loads, 2 offsets, 4 shuffles, 4 products, 1 broadcast; and what moves the pointers
        ("pairs 0", 8, 36, 8),
        # twice: 4 loads, 1 offset, 4 products, 1 broadcast; and what moves the pointers
        ("blocks 0", 8, 24, 0),
    ],
)
def test_loops_are_as_short_as_the_instructions_allow(
    kernel: str, products: int, instructions: int, shuffles: int
) -> None:
    for tier, product in PRODUCT.items():
        shifted = TIERS[tier].signed_dot4
        for body in hot_loops(emitted(tier)[kernel], product):
            steps = count(body, product) // (products + shifted * products // 4)
            vectors = 4 if kernel in ("dense 0", "scores") else products
            assert count(body, "zip1", "zip2", "uzp1", "uzp2", "trn1", "trn2", "tbl", "ext") == shuffles * steps
            assert len(body) <= (instructions + shifted * (products // 4 + vectors)) * steps


@pytest.mark.parametrize("kernel", ["dense 0", "scores"])
@pytest.mark.parametrize("tier", PRODUCT)
def test_weights_of_adjacent_rows_are_elements_of_one_vector(tier: str, kernel: str) -> None:
    for body in hot_loops(emitted(tier)[kernel], PRODUCT[tier]):
        by_element = [line for line in body if re.search(r"\.4b\[[0-3]\]$", line)]
        assert len(by_element) >= 16
        assert not count(body, "ld1r", "dup")


def test_the_tier_without_i8mm_has_no_instruction_of_it() -> None:
    for name, text in emitted("neon_dot").items():
        found = re.search(r"\t(usdot|sudot|smmla|ummla|usmmla)\t", text)
        assert not found, f"{name} contains {found and found[0]!r}"


def test_packing_saturates_and_rounding_is_one_instruction() -> None:
    for tier in PRODUCT:
        text = emitted(tier)["gelu_quads"]
        words = text.split()
        assert "fcvtns" in words and "sqxtn" in words and "sqxtun" in words
        assert not {"frintn", "frintx", "smin", "smax"} & set(words)


# All that no machine here has are relative to the first one; see sparsert.kernels.formats.base.Format.
COUNTED = {"avx512_vnni": ("vpdpbusd", "vfmadd"), "avx_vnni": ("vpdpbusd", "vfmadd")}
COUNTED |= {tier: (product, "fmla") for tier, product in PRODUCT.items()}


def products_per_instruction(tier: str, name: str) -> float:
    """Of the loop of an accumulator that has most products, in bytes of a vector."""
    record = TIERS[tier]
    product = COUNTED[tier][FORMATS[name].floating]
    counts = []
    for body in hot_loops(emitted(tier)[f"{name} 0"], product):
        found = sum(line.startswith(product) for line in body)
        # one product in five is for the bytes that were shifted
        shifted = record.signed_dot4 and not FORMATS[name].floating
        counts.append((found, (found * 4 / 5 if shifted else found) / len(body)))
    return record.vector_bytes * max(counts)[1]


@pytest.mark.parametrize("tier", [tier for tier in COUNTED if tier != "avx512_vnni"])
@pytest.mark.parametrize("name", FORMATS)
def test_rates_that_nobody_measured_follow_from_the_instructions(tier: str, name: str) -> None:
    rates = FORMATS[name].rates
    ratio = products_per_instruction(tier, name) / products_per_instruction("avx512_vnni", name)
    # other versions of LLVM move pointers with an instruction more or less
    assert rates[tier] == pytest.approx(rates["avx512_vnni"] * ratio, rel=0.15)
