"""What will run: a fused graph lowered to native segments and array nodes."""

from sparsert.plan.program import Program, compile_graph
from sparsert.plan.report import Report, StepReport

__all__ = ["Program", "Report", "StepReport", "compile_graph"]
