"""Functions of single numbers that networks have between their layers."""

from __future__ import annotations

import numpy as np

from sparsert.arrays.compiled import erf, exp, gelu, gelu_tanh, sigmoid, silu, tanh
from sparsert.arrays.registry import Compute, Form, operator

__all__ = [
    "Celu",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Mish",
    "PRelu",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
]


@operator(6, 13)
def Exp(form: Form) -> Compute:
    return exp


@operator(9, 13)
def Erf(form: Form) -> Compute:
    return erf


@operator(6, 13)
def Tanh(form: Form) -> Compute:
    return tanh


@operator(6, 13)
def Sigmoid(form: Form) -> Compute:
    return sigmoid


@operator(20)
def Gelu(form: Form) -> Compute:
    return gelu_tanh if form.attributes["approximate"] == "tanh" else gelu


@operator(24)
def Swish(form: Form) -> Compute:
    alpha = form.attributes["alpha"]
    return silu if alpha == 1 else lambda x: x * sigmoid(x * x.dtype.type(alpha))


@operator(6, 13, 14)
def Relu(form: Form) -> Compute:
    return lambda x: np.maximum(x, x.dtype.type(0))


@operator(6, 16)
def LeakyRelu(form: Form) -> Compute:
    alpha = form.attributes["alpha"]
    return lambda x: np.where(x < 0, x * x.dtype.type(alpha), x)


@operator(7, 9, 16)
def PRelu(form: Form) -> Compute:
    return lambda x, slope: np.where(x < 0, x * slope, x)


@operator(10, 22)
def ThresholdedRelu(form: Form) -> Compute:
    alpha = form.attributes["alpha"]
    return lambda x: np.where(x > x.dtype.type(alpha), x, x.dtype.type(0))


@operator(6, 22)
def Elu(form: Form) -> Compute:
    alpha = form.attributes["alpha"]
    return lambda x: np.where(x < 0, x.dtype.type(alpha) * np.expm1(x), x)


@operator(6, 22)
def Selu(form: Form) -> Compute:
    alpha, gamma = form.attributes["alpha"], form.attributes["gamma"]
    return lambda x: x.dtype.type(gamma) * np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0)))


@operator(12)
def Celu(form: Form) -> Compute:
    alpha = form.attributes["alpha"]
    return lambda x: np.where(x < 0, x.dtype.type(alpha) * np.expm1(x / x.dtype.type(alpha)), x)


@operator(6, 22)
def HardSigmoid(form: Form) -> Compute:
    alpha, beta = form.attributes["alpha"], form.attributes["beta"]
    return lambda x: np.clip(x * x.dtype.type(alpha) + x.dtype.type(beta), x.dtype.type(0), x.dtype.type(1))


@operator(14, 22)
def HardSwish(form: Form) -> Compute:
    return lambda x: x * np.clip(x * x.dtype.type(1 / 6) + x.dtype.type(0.5), x.dtype.type(0), x.dtype.type(1))


@operator(1, 22)
def Softplus(form: Form) -> Compute:
    return lambda x: np.logaddexp(x, x.dtype.type(0))


@operator(1, 22)
def Softsign(form: Form) -> Compute:
    return lambda x: x / (x.dtype.type(1) + np.absolute(x))


@operator(18, 22)
def Mish(form: Form) -> Compute:
    return lambda x: x * np.tanh(np.logaddexp(x, x.dtype.type(0)))
