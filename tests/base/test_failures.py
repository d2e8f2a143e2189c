"""What failed in a run, from the logs of its tasks."""

import os
from pathlib import Path

from weaver_tasks.base.failures import failures

WELL = "2026-01-01 10:00:00,000 INFO 300 events\n"
TOLD = WELL + "2026-01-01 10:00:01,000 ERROR a.root: no such branch 'x'. Correct it.\n"
CRASHED = (
    WELL + "2026-01-01 10:00:01,000 DEBUG the task failed\nTraceback (most recent call last):\n"
    '  File "x.py", line 1, in <module>\nZeroDivisionError: division by zero\n'
)


def write(path: Path, text: str, *, time: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time, time))


def test_errors_of_this_run_in_the_order_in_which_they_came(tmp_path):
    write(tmp_path / "stage/old.log", TOLD.replace("a.root", "old.root"), time=99)
    write(tmp_path / "stage/later.log", TOLD, time=130)
    write(tmp_path / "stage/same.log", TOLD, time=140)
    write(tmp_path / "train/fold-0/first.log", CRASHED, time=110)
    write(tmp_path / "stage/well.log", WELL, time=120)
    write(tmp_path / "stage/empty.log", "", time=120)
    write(tmp_path / "stage/recovered.log", TOLD + WELL, time=120)
    write(tmp_path / "stage/bytes.log", "", time=120)
    (tmp_path / "stage/bytes.log").write_bytes(b"\xff\xfe" * 10)
    assert failures(tmp_path, since=100) == [
        f"{tmp_path / 'train/fold-0/first.log'}: ZeroDivisionError: division by zero",
        "a.root: no such branch 'x'. Correct it.",
    ]


def test_the_end_of_a_long_log_is_enough(tmp_path):
    write(tmp_path / "long.log", WELL * 10_000 + TOLD, time=1)
    assert failures(tmp_path, since=0) == ["a.root: no such branch 'x'. Correct it."]


def test_no_logs_are_no_failures(tmp_path):
    assert failures(tmp_path / "none", since=0) == []
