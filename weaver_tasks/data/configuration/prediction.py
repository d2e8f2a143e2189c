"""A separate data configuration for test files: another selection and other observers, for the same network."""

from __future__ import annotations

import dataclasses

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.configuration import DataConfiguration


def prediction_configuration(fitted: DataConfiguration, test: DataConfiguration) -> DataConfiguration:
    """Return the configuration of the test files (`test`) with the standardization of the training (`fitted`).

    `test` may leave out the labels. Raises DataConfigError when the two have different inputs or classes.
    """
    where = f"{test.path}, of the test files"
    trained = _described_inputs(fitted)
    for name, found in _described_inputs(test).items():
        if trained.get(name) != found:
            raise DataConfigError(
                f"{where}: input group '{name}' is {found}, but the network was trained on {trained.get(name)} ({fitted.path}). "
                "Give both the same inputs."
            )
    if test.input_names != fitted.input_names:
        raise DataConfigError(f"{where}: inputs are {', '.join(test.input_names)}, but {', '.join(fitted.input_names)} in {fitted.path}.")
    if test.labels is not None and test.labels != fitted.labels:
        raise DataConfigError(f"{where}: other labels than in {fitted.path}. Give both the same, or none to predict without labels.")
    for name, parameters in test.preprocess_params.items():
        if parameters["center"] != "auto" and parameters != fitted.preprocess_params[name]:
            raise DataConfigError(f"{where}: variable '{name}' has other parameters than in {fitted.path}. Give it the same.")
    return dataclasses.replace(test, inputs=fitted.inputs)


def _described_inputs(configuration: DataConfiguration) -> dict[str, str]:
    return {
        group.name: f"{group.length} x ({', '.join(variable.name for variable in group.variables)}), pad_mode {group.pad_mode}"
        for group in configuration.inputs
    }
