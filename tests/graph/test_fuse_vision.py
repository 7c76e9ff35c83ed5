"""What models of images and of their captions have beside other transformers: patches, and the activation of CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
from fusion_checks import counts, left
from onnx import TensorProto, helper
from test_fuse_patterns import compare, graph_of

from sparsert import Engine
from sparsert.errors import InputShapeError
from sparsert.ops.patches import Patches

RNG = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 3, 9, 7)])
def test_patches(shape: tuple[int, ...]) -> None:
    op, image = Patches(3, 4, 2), normal(*shape)
    np.testing.assert_array_equal(op.compute(image), naive.patches(op, image))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8)])
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputShapeError, match=r"expected \(batch, 3, height, width\)"):
        Patches(3, 4, 4).compute(normal(*shape))


def convolution(tmp_path: Path, biased: bool = True, perm: tuple[int, ...] = (0, 2, 1), **attributes: Any) -> Path:
    """Six features of patches of 4 times 4 pixels, and a row of their own before them."""
    attributes = {"strides": [4, 4], "kernel_shape": [4, 4], **attributes}
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"] if biased else ["image", "w"], ["pixels"], **attributes),
        helper.make_node("Shape", ["pixels"], ["batch"], start=0, end=2),
        helper.make_node("Concat", ["batch", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["pixels", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["tokens"], perm=perm),
        helper.make_node("Add", ["tokens", "places"], ["y"]),
    ]
    weight = normal(6, 3 // attributes.get("group", 1), 4, 4)
    constants = {"w": weight, "b": normal(6), "rest": np.array([-1]), "places": normal(1, 1, 1)}
    inputs = {"image": (TensorProto.FLOAT, ["batch", 3, 12, 12])}
    return graph_of(tmp_path, nodes, inputs, {"y": TensorProto.FLOAT}, constants)


@pytest.mark.parametrize("biased", [True, False])
def test_a_convolution_of_patches_is_a_linear(biased: bool, tmp_path: Path) -> None:
    path, image = convolution(tmp_path, biased), normal(2, 3, 12, 12)
    fused = compare(path, {"image": image})
    assert counts(fused)["Patches"] == counts(fused)["Linear"] == 1 and left(fused) == ["Add"]
    (got,) = Engine(path, batch_size=None, num_cores=1).run([image])
    np.testing.assert_allclose(got, naive.run_graph(fused, {"image": image})["y"], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"pads": [0, 0, 1, 1]},
        {"dilations": [2, 2]},
        {"group": 3},
        {"auto_pad": "SAME_UPPER"},
        {"perm": (2, 0, 1)},
    ],
    ids=str,
)
def test_other_convolutions_stay(attributes: dict[str, Any], tmp_path: Path) -> None:
    fused = compare(convolution(tmp_path, **attributes), {"image": normal(2, 3, 12, 12)})
    assert "Conv" in left(fused)


def sigmoid(tmp_path: Path, factor: float, other: str = "x", swapped: bool = False) -> Path:
    factors = [other, "s"][:: -1 if swapped else 1]
    nodes = [
        helper.make_node("Neg", ["x"], ["negative"]),
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["s"]),
        helper.make_node("Mul", factors, ["product"]),
        helper.make_node("Add", ["product", "negative"], ["y"]),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["batch", "sequence", 8])}
    return graph_of(tmp_path, nodes, inputs, {"y": TensorProto.FLOAT}, {"factor": np.float32(factor)})


@pytest.mark.parametrize("swapped", [True, False])
def test_the_activation_of_clip(swapped: bool, tmp_path: Path) -> None:
    path, x = sigmoid(tmp_path, 1.702, swapped=swapped), 3 * normal(2, 5, 8)
    fused = compare(path, {"x": x})
    assert counts(fused)["Gelu"] == 1 and "Sigmoid" not in left(fused)


@pytest.mark.parametrize(("factor", "other"), [(1.7, "x"), (1.702, "negative")])
def test_look_alikes_of_the_activation_stay(factor: float, other: str, tmp_path: Path) -> None:
    fused = compare(sigmoid(tmp_path, factor, other), {"x": normal(2, 5, 8)})
    assert "Sigmoid" in left(fused)
