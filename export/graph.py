"""The few moves on a graph that all changes to it are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[np.float32]


def constant_of(value: ir.Value) -> Array:
    """The content of an input that does not depend on the picture."""
    assert value.const_value is not None, f"{value.name} is no constant"
    return value.const_value.numpy()


def add_constant(graph: ir.Graph, name: str, content: NDArray[np.generic] | np.generic) -> ir.Value:
    """A new constant of the graph, for nodes to read."""
    value = ir.val(name, const_value=ir.tensor(np.asarray(content, order="C"), name=name))
    graph.register_initializer(value)
    return value


def insert_before(
    place: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
) -> ir.Value:
    """The output of a new node, inserted before `place`."""
    node = ir.node(op_type, inputs, attributes=attributes or {})
    graph = place.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(place, node)
    return node.outputs[0]


def checked(model: ir.Model) -> onnx.ModelProto:
    """The model as a message, once onnx found nothing wrong with it."""
    result = ir.to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    return result
