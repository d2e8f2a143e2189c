"""How long the provenance of a run with many input files takes: the crate, the lineage of a file, and checking every file.

    python benchmarks/provenance.py [--files 10000] [--json FILE]

Limit: 60 s of processor time for the crate of 10,000 staging tasks. Exits with 1 when it is exceeded. Records are made up after one of a
real task; the files that they name are small.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from weaver_tasks import lineage, provenance
from weaver_tasks.base.record import RECORDS, TaskRecord

REPOSITORY = Path(__file__).resolve().parent.parent
LIMITS = {"crate_seconds": 60.0}
SETTINGS = {"staging": {"mode": "columnar"}, "data": {"extra_selection": {"train": None, "val": None, "test": None}}, "meaning": "0" * 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--files", type=int, default=10_000)
    arguments = parser.parse_args()
    metrics: dict[str, float] = {"files": arguments.files}
    with tempfile.TemporaryDirectory(prefix="weaver-tasks-provenance-") as folder:
        run = Path(folder) / "results" / "large"
        make_run(run, arguments.files)
        crate = run / "provenance" / "ro-crate-metadata.json"
        options = ["--run-dir", str(run), "--workflow", str(REPOSITORY / "workflow"), "--output", str(crate)]
        with measured(metrics, "crate_seconds"):
            provenance.main([*options, "--settings", json.dumps({"run": "large", **SETTINGS})])
        metrics["crate_megabytes"] = crate.stat().st_size / 1e6
        with measured(metrics, "lineage_seconds"):
            lineage.main([str(run / "inputs.json")])
        with measured(metrics, "verify_seconds"):
            lineage.main([str(run), "--verify"])
    for name, value in metrics.items():
        print(f"{name:20} {value:10.1f}" + (f"   (limit {LIMITS[name]:.0f})" if name in LIMITS else ""))
    if arguments.json:
        arguments.json.write_text(json.dumps(metrics, indent=1) + "\n")
    raise SystemExit(any(metrics[name] > limit for name, limit in LIMITS.items()))


@contextlib.contextmanager
def measured(metrics: dict[str, float], name: str) -> Iterator[None]:
    """Processor time of the block, whose output is dropped."""
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    metrics[name] = time.process_time() - start


def make_run(run: Path, files: int) -> None:
    """A run of which so many files are staged and gathered."""
    places = {"jets/0.root": run.parent.parent, "staged/train/Hbb/0.arrow": run, "staged/train/Hbb/0.json": run}
    sample = TaskRecord("stage_inputs", SETTINGS)
    checksum = hashlib.sha256(b"jets").hexdigest()
    for number in range(files):
        for name, folder in places.items():
            write(folder / name.replace("0.", f"{number}."), "jets")
    source, *staged = (folder / name for name, folder in places.items())
    sample.read(source)
    for path in staged:
        sample.wrote(path)
    record = run / RECORDS / "stage_inputs" / "train-Hbb-0.json"
    sample.write(record)
    # As the workflow calls it.
    command = f"python -m weaver_tasks.stage_inputs --sources {source} --staged {staged[0]} --records {staged[1]}"
    text = json.dumps({**json.loads(record.read_text()), "command": command})
    gather = TaskRecord("stage_inputs", SETTINGS)
    for number in range(files):
        write(
            record.with_name(f"train-Hbb-{number}.json"),
            re.sub(r"\b0\.(root|arrow|json)", rf"{number}.\1", text).replace("Hbb-0", f"Hbb-{number}"),
        )
        gather.read(run / "staged" / "train" / "Hbb" / f"{number}.json", checksum=checksum)
    gather.wrote(write(run / "inputs.json", "{}"))
    gather.write(run / RECORDS / "stage_inputs" / "gather.json")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


if __name__ == "__main__":
    main()
