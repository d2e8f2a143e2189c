"""What all tests share: the jets in the repository, and larger samples where there are some."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines are noisy: an example that takes long says nothing about the code.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def jets() -> Path:
    """The folder of the demo's jets: train/<Process>.root (250 jets each), test/<Process>.root (100 each)."""
    return REPOSITORY / "tests" / "files" / "jets"


@pytest.fixture(scope="session")
def samples() -> Path:
    """A folder of larger samples, if there is one: small/, small_converted/, jets/."""
    folder = os.environ.get("WEAVER_TASKS_SAMPLES")
    if not folder:
        pytest.skip("set WEAVER_TASKS_SAMPLES to a folder of larger samples to run this test")
    return Path(folder)


@pytest.fixture(scope="session")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the runs of a session share their staged jets."""
    return tmp_path_factory.mktemp("staged")


@pytest.fixture(autouse=True)
def real_weaver() -> Iterator[None]:
    """A network configuration that was loaded makes `import weaver` mean this project's own; the next test gets the peer again."""
    yield
    alias = sys.modules.get("weaver_tasks.weaver_compat.imports")
    if alias is not None:
        alias.restore()
