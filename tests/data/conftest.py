"""What tests of data share."""

import pytest

from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.data.staging.stage import Staging, stage_file


@pytest.fixture
def staged(tmp_path):
    """A function that stages files as columns and opens them: (data configuration, files, ...) -> sources."""

    def stage(path, files, *, split="train", options=None):
        configuration = load_data_configuration(path)
        staging = Staging(configuration=configuration, split=split, mode="columnar", options=options or StagingOptions())
        sources = []
        for number, file in enumerate(files):
            record = stage_file(str(file), tmp_path / "staged" / split / f"{number}.arrow", staging, group=file.stem)
            assert not record["bad"], record["bad"]
            sources.append(open_source(record, configuration, staging.options))
        return sources

    return stage
