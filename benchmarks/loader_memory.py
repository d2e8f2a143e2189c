"""Peak anonymous memory of a process that goes through an epoch of 4 and of 64 times the same files.

    python benchmarks/loader_memory.py [--json FILE] [--small 4] [--large 64]

From staged files and on the fly (`staging.mode: none`), with windows of 1,000 events, to which `loading.max_window_events` holds both: of
those that are held at a time, the smaller epoch has as many. Only anonymous memory counts (RssAnon in /proc): pages of mapped files can
be dropped by the system at any time. With memory that does not depend on the data, both columns are equal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from loader import REPOSITORY, prepare, stage
from staging_memory import watched

MODES = {"staged": "columnar.json", "on the fly": "none.json"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--small", type=int, default=4, help="times the files")
    parser.add_argument("--large", type=int, default=64)
    parser.add_argument("--measure", nargs=2, metavar=("MANIFEST", "TIMES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        loop(Path(arguments.measure[0]), int(arguments.measure[1]))
        return
    arguments.files, arguments.data_config = None, REPOSITORY / "config" / "data" / "jetclass_full.yaml"
    metrics: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-memory-") as folder:
        prepare(arguments, Path(folder))
        stage(Path(folder))
        for mode, manifest in MODES.items():
            peaks = [peak(Path(folder) / manifest, times) for times in (arguments.small, arguments.large)]
            metrics[mode] = {"anonymous_mb": peaks, "growth": peaks[1] / peaks[0]}
            print(f"{mode:<12}{peaks[0]:>8.0f} MB {peaks[1]:>8.0f} MB   growth {peaks[1] / peaks[0]:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(metrics, indent=1) + "\n")


def peak(manifest: Path, times: int) -> float:
    """Megabytes at most."""
    command = [sys.executable, __file__, "--measure", str(manifest), str(times)]
    return watched(command)["peak_anonymous_mb"]


def loop(manifest_path: Path, times: int) -> None:
    """Go through an epoch of a file, so many times over."""
    from weaver_tasks.data.configuration import load_data_configuration
    from weaver_tasks.data.loading.loader import EpochLoader
    from weaver_tasks.settings.stage import stage_settings

    manifest = json.loads(manifest_path.read_text())
    one = [record for record in manifest["files"] if record["split"] == "train"][:1]
    settings = stage_settings(
        {
            "data": {"train_val_split": 0.9999},
            "loading": {"fetch_step": 1.0, "max_window_events": 1000},
            "training": {"batch_size": 512},
        }
    )
    configuration = load_data_configuration(manifest_path.parent / "data.yaml")
    for _ in EpochLoader({**manifest, "files": one * times}, configuration, settings, split="train", seed=1, epoch=0, threads=2):
        pass


if __name__ == "__main__":
    main()
