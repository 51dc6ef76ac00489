"""BF16 in OpenVINO: on which CPUs it pays, and which operations stay in FP32 for all that.

A BF16 value has 8 significant bits, as many as a pixel. What carries the image itself is therefore
kept in FP32: the first convolution, and the sums of the residual branches, to which every block
adds a little. The last convolution adds up in FP32 anyway. On an AMD EPYC, for `srgan-x4`,
`srgan-real-x4` and `srresnet-x4`: 54.8, 55.6 and 55.0 dB, as with the last one in FP32, at 0.8 of
its CPU time; 52.9, 54.1 and 53.5 dB without the sums, and 52.0, 53.9 and 53.9 without the first.
"""

from collections.abc import Iterator

import numpy as np
import openvino
from openvino import opset13

from srgan_edge.machine import cpu_flags

_MARK = "DisablePrecisionConversion_0"
"""Key of the attribute by which OpenVINO's CPU plugin keeps an operation's own precision."""

_MARKED = f"""
<net name="marked" version="11"><layers>
<layer id="0" name="in" type="Parameter" version="opset1">
<data shape="1" element_type="f32"/>
<rt_info>
<attribute name="{_MARK.removesuffix("_0")}" version="0" value="dynamic:f16"/>
</rt_info>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="out" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>
"""
"""A graph with one marked operation: Python can copy the attribute but not make it. The plugin
reads "to f16" as "to any lower precision"."""


def pays(core: openvino.Core) -> bool:
    """Return True if BF16 is faster than FP32 on this CPU.

    Intel's AVX512-BF16 multiplies no faster than FP32 unless there is AMX too: on a Xeon without it
    BF16 took 1.7 times the CPU time for `srgan-x4` and 1.6 times for `edge-x4`, on AMD half of it.
    """
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    flags = cpu_flags()
    return "amx_bf16" in flags or "GenuineIntel" not in flags


def keep_image_in_fp32(core: openvino.Core, model: openvino.Model) -> None:
    """Mark the operations of a residual network that carry the image itself."""
    operations = model.get_ordered_ops()
    head = next(op for op in operations if op.get_type_name() == "Convolution")
    _fold_scale_into(head)
    (marked,) = core.read_model(_MARKED, openvino.Tensor(np.zeros(0, np.uint8))).get_parameters()
    mark = marked.get_rt_info()[_MARK]
    for op in (head, *_residual_sums(operations)):
        op.set_rt_info(mark, _MARK)


def _fold_scale_into(head: openvino.Node) -> None:
    """Move a factor on the input of a convolution into its weights.

    The runtime would do so itself, and thereby replace the convolution by one without the mark.
    """
    factor = head.input_value(0).get_node()
    if factor.get_type_name() != "Multiply":
        return
    by_constant = {
        value.get_node().get_type_name() == "Constant": value for value in factor.input_values()
    }
    weights = head.input_value(1).get_node()
    if len(by_constant) < 2 or weights.get_type_name() != "Constant":
        return
    scaled = weights.data.astype(np.float64) * by_constant[True].get_node().data
    head.input(0).replace_source_output(by_constant[False])
    head.input(1).replace_source_output(opset13.constant(scaled.astype(np.float32)).output(0))


def _residual_sums(operations: list[openvino.Node]) -> Iterator[openvino.Node]:
    """Yield the additions of two feature maps; those of biases have a constant on one side."""
    for op in operations:
        if op.get_type_name() == "Add":
            shapes = [value.get_partial_shape() for value in op.input_values()]
            if all(shape.rank.is_static and len(shape) == 4 for shape in shapes) and all(
                value.get_node().get_type_name() not in ("Constant", "Reshape")
                for value in op.input_values()
            ):
                yield op
