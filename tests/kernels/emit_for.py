"""Compile the hot kernels for another architecture's CPU with LLVM alone, and print their assembly as JSON.

Numba makes code for its own architecture only. This takes the IR that micro-kernels write into Numba's functions and
puts it into functions of its own. A process of its own, since the tier is fixed when kernels are imported.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import llvmlite.binding as llvm
from kernel_list import hot_kernels
from llvmlite import ir
from numba import int64

from sparsert import cpu
from sparsert.tiers import TIERS, Tier


class _Context:
    """What a micro-kernel asks of Numba while it writes its IR."""

    @staticmethod
    def get_dummy_value() -> None:
        return None


def assembly(kernel: Any, arity: int, machine: llvm.TargetMachine) -> str:
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * arity), "call")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    signature, write = kernel._defn(None, *[int64] * arity)
    write(_Context, builder, signature, function.args)
    builder.ret_void()
    module.triple = machine.triple
    compiled = llvm.parse_assembly(str(module))
    # as Numba does it
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(compiled, passes)
    return machine.emit_assembly(compiled)


def main() -> None:
    tier: Tier = TIERS[sys.argv[1]]
    cpu.isa = lambda: tier.name
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(f"{tier.architecture}-unknown-linux-gnu")
    features = ",".join(f"+{feature}" for feature in tier.features)
    machine = target.create_target_machine(cpu=tier.cpu, features=features, opt=3, reloc="pic")
    texts = {name: assembly(kernel, arity, machine) for name, (kernel, arity) in hot_kernels().items()}
    json.dump(texts, sys.stdout)


if __name__ == "__main__":
    main()
