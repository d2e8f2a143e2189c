"""Evaluate predictions: metrics and plots, computed from prediction files and JSON alone.

    predictions/<group>.root, best_epoch.json, metrics/ -> evaluation/metrics.json, metrics.md, plots (PNG and PDF)

A classifier gives roc, scores and confusion, and efficiency_pt and efficiency_mass where the predictions hold such observers;
a regression gives regression; both give training where the training's metrics are there.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.files import atomic_path, read_json, write_json
from weaver_tasks.base.jet_observers import kinematic_observers
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.results.markdown import markdown
from weaver_tasks.results.metrics.evaluation import evaluate_classification, evaluate_regression, labeled_events
from weaver_tasks.results.metrics.members import compare_members, members_table
from weaver_tasks.results.plots.classification import plot_confusion, plot_kinematics, plot_roc, plot_scores
from weaver_tasks.results.plots.style import figure, save, say_why_empty
from weaver_tasks.results.plots.training import history_files, plot_members, plot_regression, plot_training, read_history
from weaver_tasks.results.predictions.columns import Predictions, left_out, read_predictions
from weaver_tasks.settings.model import EvaluationSettings
from weaver_tasks.settings.stage import stage_parser

logger = logging.getLogger("weaver_tasks")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with task(arguments) as record:
        settings, kind = arguments.settings.evaluation, arguments.settings.training.task
        predictions = _read(arguments, record, kind, settings) if arguments.predictions else None
        known = predictions is not None and len(predictions.scores) + sum(predictions.not_finite.values()) > 0
        nothing: dict[str, Any] = {"task": kind, "entries": 0, "groups": {}, "warnings": []}
        metrics = evaluate(predictions, kind, settings) if predictions and known else nothing
        for warning in metrics["warnings"]:
            logger.warning("%s", warning)
        best = read_json(record.read(arguments.best_epoch)) if arguments.best_epoch else None
        folder = arguments.output_dir
        members = _compared(arguments, record) if known else {}
        write_json(folder / "metrics.json", {**metrics, "best_epoch": best, **({"members": members} if members else {})})
        with atomic_path(folder / "metrics.md") as temporary:
            title = f"Evaluation of {folder.parent.name or 'the predictions'}"
            text = markdown(metrics, title) if known else f"# {title}\n\nThere are no test events.\n"
            temporary.write_text(text + (f"\n## The members\n\n{members_table(members)}" if members else ""))
        written = [folder / "metrics.json", folder / "metrics.md"]
        if predictions:
            written += draw(predictions, metrics, settings, folder) if known else _draw_nothing(predictions, kind, folder)
        if arguments.metrics:
            for path in history_files(arguments.metrics):
                record.read(path)
            written += plot_training(read_history(arguments.metrics), best, folder / "training.png")
        if arguments.members and arguments.members_metrics:
            histories = {member: read_history(folder / "metrics") for member, folder in arguments.members}
            written += plot_members(histories, folder / "training.png")
        for path in written:
            record.wrote(path)
        if known:
            _tell(metrics)
        else:
            logger.warning("no test events: there is nothing to measure")


def _compared(arguments: argparse.Namespace, record: TaskRecord) -> dict[str, dict[str, Any]]:
    """A comparison of the metrics of the members; {} if there are none."""
    return compare_members({member: read_json(record.read(folder / "evaluation" / "metrics.json")) for member, folder in arguments.members})


def _parser() -> argparse.ArgumentParser:
    parser = stage_parser("evaluate", __doc__)
    parser.add_argument(
        "--predictions", nargs="*", default=[], type=_named_file, metavar="GROUP=FILE", help="prediction files; none: the training alone"
    )
    parser.add_argument("--data-config", type=Path, help="names classes and labels of files that do not (weaver-core's Parquet)")
    parser.add_argument("--best-epoch", type=Path, help="best_epoch.json")
    parser.add_argument("--metrics", type=Path, metavar="DIR", help="the folder of the epochs' metrics, for the training curves")
    parser.add_argument(
        "--members",
        nargs="+",
        default=[],
        type=_named_file,
        metavar="MEMBER=DIR",
        help="the folders of merged folds or seeds",
    )
    parser.add_argument("--members-metrics", action="store_true", help="draw the training curves of the members")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="where metrics.json and the plots go")
    return parser


def _named_file(text: str) -> tuple[str, Path]:
    group, equals, path = text.partition("=")
    if not (group and equals and path):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=PATH")
    return group, Path(path)


def _read(arguments: argparse.Namespace, record: TaskRecord, kind: str, settings: EvaluationSettings) -> Predictions:
    labels = load_data_configuration(record.read(arguments.data_config)).labels if arguments.data_config else None
    for _, path in arguments.predictions:
        if path.is_file():
            record.read(path)
    return read_predictions(
        arguments.predictions,
        task=kind,
        weight=settings.weight,
        classes=labels.classes if labels else (),
        labels=labels.names if labels else (),
    )


def evaluate(predictions: Predictions, kind: str, settings: EvaluationSettings) -> dict[str, Any]:
    """Compute the metrics. Raises ConfigError for unknown names in `evaluation`."""
    return {"classification": evaluate_classification, "regression": evaluate_regression}[kind](predictions, settings)


def draw(predictions: Predictions, metrics: dict[str, Any], settings: EvaluationSettings, folder: Path) -> list[Path]:
    """Draw all plots into `folder`, from the groups with labels if only some groups have labels. Returns the files."""
    predictions = labeled_events(predictions)
    if metrics["task"] == "regression":
        return plot_regression(predictions, metrics, folder / "regression.png")
    return [
        *plot_roc(predictions, metrics, settings, folder / "roc.png"),
        *plot_scores(predictions, folder / "scores.png"),
        *plot_confusion(metrics, folder / "confusion.png", missing=left_out(predictions)),
        *plot_kinematics(predictions, metrics, settings, folder),
    ]


def _draw_nothing(predictions: Predictions, kind: str, folder: Path) -> list[Path]:
    """Draw empty plots, which the workflow expects, if no test event passes the selection."""
    kinematic = [f"efficiency_{name}" for name in kinematic_observers(predictions.observers)]
    written = []
    for name in ["regression"] if kind == "regression" else ["roc", "scores", "confusion", *kinematic]:
        with figure() as drawn:
            say_why_empty(drawn.subplots(), "no test event passes the selection")
            written += save(drawn, folder / f"{name}.png")
    return written


def _tell(metrics: dict[str, Any]) -> None:
    if metrics["task"] == "classification":
        logger.info("%d jets: accuracy %.4f, AUC %.4f", metrics["entries"], metrics["accuracy"], metrics["auc"])
        chosen = "evaluation.background" if metrics["background_chosen"] else "the first class; evaluation.background chooses another"
        logger.info("the background is %s (%s)", metrics["background"], chosen)
    for name, target in metrics.get("targets", {}).items():
        logger.info("%s: bias %.4g, resolution %.4g", name, target["bias"], target["resolution"])


if __name__ == "__main__":
    run_command(main)
