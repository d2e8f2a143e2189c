"""Describe the inputs and outputs of a network, as network configurations return them (weaver's model_info)."""

from __future__ import annotations

from typing import Any


def model_info(data_config: Any, *, output: str = "softmax") -> dict[str, Any]:
    """weaver's model_info for a model that takes all input groups in order. Batch size and lengths of particle lists are dynamic.

    Groups whose names share the part before the first '_' (pf_features, pf_mask) share their length.
    """
    inputs = list(data_config.input_names)
    shapes = {name: (1, *data_config.input_shapes[name][1:]) for name in inputs}
    axes = {name: {0: "N", 2: f"n_{name.partition('_')[0]}"} if len(shape) == 3 else {0: "N"} for name, shape in shapes.items()}
    return {"input_names": inputs, "input_shapes": shapes, "output_names": [output], "dynamic_axes": {**axes, output: {0: "N"}}}
