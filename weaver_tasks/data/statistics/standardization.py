"""Computes the standardization of the input variables in two passes over the training events."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.events.block import Block, packed_columns
from weaver_tasks.data.statistics.percentiles import PERCENTILES, RefinedCounts, ValueCounts

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration, Variable


class VariableSums:
    """Counts of the values of each packed column (by name), and the number of events."""

    def __init__(self, doing: str, counts: Mapping[str, Any]) -> None:
        self.doing = doing
        self.counts = counts
        self.entries = 0

    def add(self, block: Block) -> None:
        self.entries += len(block)
        for name, counts in self.counts.items():
            counts.add(block.packed[name].own_values())

    def end_file(self) -> None:
        """Nothing to do: counts are exact, so they do not depend on the order of the files."""

    def arrays(self) -> dict[str, np.ndarray]:
        found = {f"{name}/{key}": array for name, counts in self.counts.items() for key, array in counts.arrays().items()}
        return {"entries": np.array(self.entries), **found}

    def add_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.entries += int(arrays["entries"])
        for name, counts in self.counts.items():
            counts.add_arrays({key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")})


def next_pass(configuration: DataConfiguration, done: Sequence[VariableSums], part: bool = False) -> VariableSums | None:
    """Return empty sums for the next pass; None if there is none.

    The first pass counts all values in coarse bins. The second counts the values near the percentiles in fine bins; it is needed
    only if the center of a variable is auto.
    """
    columns = packed_columns(configuration)
    automatic = automatic_variables(configuration)
    if not done:
        return VariableSums("counting values", {column.name: ValueCounts(column.variables) for column in columns})
    if len(done) > 1 or not automatic:
        return None
    again = [column.name for column in columns if automatic.intersection(column.variables)]
    return VariableSums("refining percentiles", {name: RefinedCounts(done[0].counts[name]) for name in again})


def automatic_variables(configuration: DataConfiguration) -> set[str]:
    """Return the variables whose center and scale must be computed."""
    return {variable.name for group in configuration.inputs for variable in group.variables if variable.center == "auto"}


def describe_variables(
    configuration: DataConfiguration, coarse: Mapping[str, ValueCounts], refined: Mapping[str, RefinedCounts]
) -> dict[str, dict[str, Any]]:
    """Return for each variable: center, scale, low and high (of the transformed value), percentiles 16, 50 and 84 (if computed),
    and the numbers of values, of NaN and of infinite values.

    Centers given in the configuration are kept. If the center is auto, it becomes the median, and the scale becomes the inverse of
    the larger distance from the median to the 16th or 84th percentile (1 if that is 0). Variables named *_mask are not transformed.
    Raises DataConfigError when there are no values, or so many infinite ones that a percentile is infinite.
    """
    variables = {variable.name: variable for group in configuration.inputs for variable in group.variables}
    described = {}
    for column, counts in coarse.items():
        percentiles = refined[column].percentiles() if column in refined else [[] for _ in counts.variables]
        for place, name in enumerate(counts.variables):
            seen = {
                "values": int(counts.total[place]),
                "not_a_number": int(counts.not_a_number[place]),
                "infinite": int(counts.infinite[place]),
            }
            described[name] = _describe(variables[name], percentiles[place], seen, f"{configuration.path}: inputs.{column}")
    return described


def _describe(variable: Variable, percentiles: list[float], seen: dict[str, int], where: str) -> dict[str, Any]:
    center, scale = variable.center, variable.scale
    if center == "auto" and variable.name.endswith("_mask"):
        center = None
    if center == "auto":
        center, scale = _center_and_scale(variable.name, percentiles, seen, where)
    found = {f"{percentile:g}": value for percentile, value in zip(PERCENTILES, percentiles, strict=False)}
    return {"center": center, "scale": scale, "low": variable.low, "high": variable.high, "percentiles": found or None, **seen}


def _center_and_scale(name: str, percentiles: list[float], seen: dict[str, int], where: str) -> tuple[float, float]:
    remedy = f"Give it a center and a scale in the data configuration: [{name}, 0, 1]."
    if not percentiles:
        raise DataConfigError(f"{where}: '{name}' has no values in the training events, so its standardization is unknown. {remedy}")
    low, middle, high = percentiles
    if not all(map(math.isfinite, percentiles)):
        raise DataConfigError(f"{where}: {seen['infinite']} of {seen['values']} values of '{name}' are infinite. Clip them, or: {remedy}")
    width = max(high - middle, middle - low)
    return middle, 1.0 if width == 0 else 1.0 / width
