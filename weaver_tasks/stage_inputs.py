"""Stage input files: select events, compute the new variables, and write the columns to memory-mappable files.

    python -m weaver_tasks.stage_inputs --data-config data.yaml --split train --group Hbb --sources a.root --records a.json --staged a.arrow
    python -m weaver_tasks.stage_inputs --gather a.json b.json --output inputs.json
    python -m weaver_tasks.stage_inputs --gather-run results/my_run --splits train val --output inputs.json

The first form stages some files and writes a record of each: checksum, entries read and kept, or why it is bad. The others
gather the records, of the files named or of those in the run's files.json, and fail if files are bad or do not fit together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weaver_tasks.base.addresses import is_remote, remember
from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.errors import ConfigError, InputFileError
from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.progress import Progress
from weaver_tasks.base.record import RECORDS, TaskRecord
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.readers.hdf5_links import companions
from weaver_tasks.data.readers.remote_state import RemoteState
from weaver_tasks.data.staging.manifest import make_manifest
from weaver_tasks.data.staging.places import expand_path
from weaver_tasks.data.staging.source_checksums import keep, recorded
from weaver_tasks.data.staging.stage import Staging, stage_file, staged_before
from weaver_tasks.jobs.options import add_data_configuration
from weaver_tasks.settings.stage import stage_parser

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("stage_inputs", __doc__)
    add_data_configuration(parser, "the data configuration of this split", required=False)
    parser.add_argument("--split", choices=["train", "val", "test"])
    parser.add_argument("--group", help="the name of the files' group")
    parser.add_argument("--sources", nargs="+", default=[], metavar="FILE", help="paths or URLs")
    parser.add_argument("--records", nargs="+", type=Path, default=[], metavar="JSON", help="one for each source")
    parser.add_argument("--staged", nargs="+", type=Path, default=[], metavar="FILE", help="one for each source; none in mode none")
    parser.add_argument("--gather", nargs="+", type=Path, metavar="JSON", help="records to gather")
    parser.add_argument("--gather-run", type=Path, metavar="DIR", help="gather the records of the files in DIR/files.json")
    parser.add_argument("--splits", nargs="+", choices=["train", "val", "test"], help="of these splits only, with --gather-run")
    parser.add_argument("--output", type=Path, help="inputs.json, with --gather or --gather-run")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="with --gather: fail when the training files give fewer events")
    arguments = parser.parse_args(argv)
    if arguments.gather_run:
        arguments.gather = _listed_records(arguments.gather_run, arguments.splits)
    if arguments.gather is not None:
        if not arguments.output:
            parser.error("--gather wants --output")
        with task(arguments) as record:
            _gather(arguments, record)
        return
    if not (arguments.data_config and arguments.split and arguments.group and arguments.sources):
        parser.error("--data-config, --split, --group and --sources are required, or --gather")
    if len(arguments.records) != len(arguments.sources) or len(arguments.staged) not in (0, len(arguments.sources)):
        parser.error("--records and --staged want one file for each of --sources")
    arguments.sources = [remember(source) if is_remote(source) else source for source in arguments.sources]
    with task(arguments) as record:
        _stage(arguments, record)


def _stage(arguments: argparse.Namespace, record: TaskRecord) -> None:
    settings = arguments.settings
    mode = settings.staging.mode
    if mode != "none" and not arguments.staged:
        raise ConfigError(f"--staged is missing: staging.mode '{mode}' writes a file for each source. Name them, or set mode none.")
    staging = Staging(
        configuration=load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions),
        split=arguments.split,
        mode=mode,
        options=StagingOptions.from_settings(settings),
        custom_functions=arguments.custom_functions,
        recorded={
            source: known
            for source, output in zip(arguments.sources, arguments.records, strict=True)
            if (known := recorded(output, source)) is not None
        },
    )
    record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
    targets = arguments.staged if mode != "none" else [None] * len(arguments.sources)
    found: list[str] = []
    with Progress(f"staging {arguments.group}", total=None) as progress:
        for source, target, output in zip(arguments.sources, targets, arguments.records, strict=True):
            file = staged_before(output, source, target, staging, group=arguments.group)
            if file is not None:
                found.append(source)
            else:
                # The old record is removed first, so that it never describes events of another task.
                output.unlink(missing_ok=True)
                file = stage_file(source, target, staging, group=arguments.group)
            write_json(output, file)
            for kept in [] if file["bad"] else keep(output, file):
                record.wrote(kept)
            progress.advance(file["entries"])
            _report(file)
            others = companions(source)
            for path in (source, *others) if others else ():
                record.read(path)
            if not others:
                record.read(source, checksum=file["checksum"] or _described(file))
            record.wrote(output)
            if file["staged"]:
                record.wrote(expand_path(file["staged"]))
    if found:
        logger.info("%d of %d files were staged before and have not changed", len(found), len(arguments.sources))
    record.note(staged_before=found)


def _described(file: Mapping[str, Any]) -> str:
    """What a record holds of an input whose checksum is not known."""
    state = RemoteState.recorded(file.get("remote"))
    return "not known: remote, or not readable" if state is None else f"remote: {state.size} bytes, {state.identity() or 'no ETag or time'}"


def _report(file: dict) -> None:
    if file["bad"]:
        logger.warning("bad file: %s", file["bad"])
        return
    if not file["entries"]:
        logger.warning("%s: has no entries", file["source"])
    logger.info("%s: kept %d of %d entries", file["source"], file["kept"], file["entries"])
    if not file.get("labeled", True):
        logger.info("%s: has no labels: its events are predicted, and evaluation leaves them out", file["source"])
    if file["on_the_fly"] and file["mode"] == "columnar":
        logger.info("%s: read anew each epoch, since these change: %s", file["source"], ", ".join(file["on_the_fly"]))


def _listed_records(run: Path, splits: list[str] | None) -> list[Path]:
    """The paths of the records of the files of a run. Raises ConfigError if the run was not started."""
    if not (run / "files.json").is_file():
        raise ConfigError(
            f"{run}/files.json: is missing, the list of input files. A workflow that uses this one as a module calls its start_run() in "
            "`onstart:` (docs/as_a_module.md)."
        )
    files = read_json(run / "files.json")["files"]
    return [run / "staged" / f["split"] / f["group"] / f"{f['name']}.json" for f in files if not splits or f["split"] in splits]


def _check_present(records: list[Path], run: Path) -> None:
    missing = [path for path in records if not path.exists()]
    if missing:
        _forget_tasks(missing, run)
        raise InputFileError(
            f"{missing[0]}: is missing, though its file was staged ({len(missing)} of {len(records)}). Run again to make it."
        )


def _forget_tasks(records: list[Path], run: Path) -> None:
    """Delete the task records of the jobs that wrote some file records. These are the declared outputs, so the jobs run again."""
    written = set(map(str, records))
    for path in (run / RECORDS / "stage_inputs").rglob("*.json"):
        # Another gathering task may delete it at the same time.
        with contextlib.suppress(FileNotFoundError):
            if not written.isdisjoint(json.loads(path.read_text())["outputs"]):
                path.unlink()


def _gather(arguments: argparse.Namespace, record: TaskRecord) -> None:
    staging = arguments.settings.staging
    if arguments.gather_run:
        _check_present(arguments.gather, arguments.gather_run)
    files = [read_json(path) for path in arguments.gather]
    for path in arguments.gather:
        record.read(path)
    try:
        manifest = make_manifest(
            files,
            on_bad_file=staging.on_bad_file,
            max_bad_fraction=staging.max_bad_fraction,
            evaluation_weight=arguments.settings.evaluation.weight,
        )
    except InputFileError:
        # The next run must try these files again.
        bad = [path for path, file in zip(arguments.gather, files, strict=True) if file["bad"]]
        if arguments.gather_run:
            _forget_tasks(bad, arguments.gather_run)
        else:
            for path in bad:
                path.unlink(missing_ok=True)
        raise
    check_batch(files, arguments.batch)
    write_json(arguments.output, manifest)
    record.note(bad_files=[file["bad"] for file in files if file["bad"]])
    record.wrote(arguments.output)
    kept, entries = (sum(file[key] for file in files) for key in ("kept", "entries"))
    logger.info("%d files, %d entries, %d events kept", len(files), entries, kept)


def check_batch(files: Sequence[Mapping[str, Any]], batch: int) -> None:
    """Raises ConfigError if the training files have fewer events than `batch`, one batch over all ranks."""
    kept = [file["kept"] for file in files if file["split"] == "train" and not file["bad"]]
    if kept and sum(kept) < batch:
        raise ConfigError(
            f"training.batch_size: a batch has {batch} events over all ranks, but only {sum(kept)} of the training files pass the "
            "selection. Give a smaller one, or more files."
        )


if __name__ == "__main__":
    run_command(main)
