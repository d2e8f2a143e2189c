"""A run of the four training stages on jets in the repository: staged once, fixed standardization, no weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from weaver_tasks import stage_inputs
from weaver_tasks.base.digests import digest

REPOSITORY = Path(__file__).parent.parent.parent
PROCESSES = ("HToBB", "TTBar", "ZJetsToNuNu")

DATA = """
treename: tree
selection: jet_pt > 500
new_variables:
  part_mask: ak.ones_like(part_energy)
  part_pt_log: np.log(np.hypot(part_px, part_py))
  mass_in_100: jet_sdmass / 100
preprocess: {method: manual}
inputs:
  pf_features:
    length: 40
    vars: [[part_pt_log, 1.7, 0.7], [part_deta, 0, 3], [part_dphi, 0, 3], [part_charge, null]]
  pf_mask:
    length: 40
    vars: [[part_mask, null]]
"""
CLASSES = "labels: {type: simple, value: [label_Hbb, label_Tbqq, label_QCD]}\n"
MASS = "labels: {type: custom, value: {mass: mass_in_100}}\n"

NETWORK = """
import torch

class Tagger(torch.nn.Module):
    def __init__(self, outputs, dropout):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)
        self.particle = torch.nn.Sequential(torch.nn.Conv1d(4, 24, 1), torch.nn.ReLU(), torch.nn.Conv1d(24, 24, 1), torch.nn.ReLU())
        self.jet = torch.nn.Sequential(torch.nn.Linear(24, 24), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(24, outputs))

    def forward(self, features, mask):
        return self.jet((self.particle(self.norm(features)) * mask).mean(-1))

def get_model(data_config, dropout=0.1, **kwargs):
    outputs = len(data_config.label_value)
    info = {
        "input_names": list(data_config.input_names),
        "input_shapes": {name: (1, *shape[1:]) for name, shape in data_config.input_shapes.items()},
        "output_names": ["softmax"],
        "dynamic_axes": {},
    }
    return Tagger(outputs, dropout), info
"""


class StageRun:
    """The folder of a run. `settings` may be changed between calls; it goes to each stage as it is."""

    def __init__(self, folder: Path, *, staged: Path, data: str = DATA + CLASSES, network: str = NETWORK) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.data_config = folder / "data_config.auto.yaml"
        self.data_config.write_text(data)
        self.network = folder / "network.py"
        self.network.write_text(network)
        self.inputs = folder / "inputs.json"
        self.inputs.write_text(staged_jets(staged, data).read_text())
        self.checkpoints, self.metrics = folder / "checkpoints", folder / "metrics"
        self.settings = {
            "seed": 1,
            "training": {
                "epochs": 4,
                "batch_size": 100,
                "lr": 5e-3,
                "threads": 1,
                "optimizer": {"name": "ranger", "options": {}},
                "scheduler": {"name": "flat+decay", "warmup": 0, "horizon": None},
            },
        }

    def copied(self, folder: Path) -> "StageRun":
        """The same run in another folder, where a test may change it. Hard links become copies."""
        shutil.copytree(self.folder, folder)
        moved = {name: folder / path.relative_to(self.folder) for name, path in vars(self).items() if isinstance(path, Path)}
        copy = StageRun.__new__(StageRun)
        vars(copy).update({**vars(self), **moved, "settings": json.loads(json.dumps(self.settings))})
        return copy

    def checkpoint(self, name: str) -> Path:
        return self.checkpoints / f"{name}.pt"

    def common(self) -> list[str]:
        paths = {"--data-config": self.data_config, "--inputs": self.inputs, "--network": self.network}
        return [str(part) for pair in paths.items() for part in pair]

    def arguments(self, stage: str, *, epochs: list[int] | None = None, epoch: int = 0) -> list[str]:
        checkpoints, metrics = self.checkpoints, self.metrics
        validated = epochs or [epoch]
        states = [self.checkpoint(f"net_epoch-{number}_state") for number in validated]
        outputs = [metrics / f"val_epoch-{number}.json" for number in validated]
        own: dict[str, list] = {
            "init_model": ["--state", self.checkpoint("init_state"), "--optimizer", self.checkpoint("init_optimizer")],
            "train_epoch": ["--epochs", *(epochs or []), "--checkpoints", checkpoints, "--metrics", metrics],
            "validate_epoch": ["--state", *states, "--epoch", *validated, "--output", *outputs],
            "select_best_epoch": ["--checkpoints", checkpoints, "--best", self.folder / "best_epoch.json"],
        }
        own["init_model"] += ["--metrics", metrics / "init_model.json"]
        own["select_best_epoch"] += ["--validation", *sorted(metrics.glob("val_epoch-*.json"))]
        common = [] if stage == "select_best_epoch" else self.common()
        record = ["--record", self.folder / "records" / f"{stage}.json", "--log-file", self.folder / "logs" / f"{stage}.log"]
        return [*common, *map(str, own[stage]), *map(str, record), "--settings", json.dumps(self.settings)]

    def call(self, stage: str, **which) -> None:
        """Run a stage in this process."""
        __import__(f"weaver_tasks.{stage}")
        sys.modules[f"weaver_tasks.{stage}"].main(self.arguments(stage, **which))

    def command(self, stage: str, **which) -> list[str]:
        return [sys.executable, "-m", f"weaver_tasks.{stage}", *self.arguments(stage, **which)]

    def run(self, stage: str, **which) -> subprocess.CompletedProcess[str]:
        """Run a stage as the workflow does."""
        return subprocess.run(self.command(stage, **which), capture_output=True, text=True, env=environment(), check=False)

    def record(self, stage: str) -> dict:
        return json.loads((self.folder / "records" / f"{stage}.json").read_text())

    def read(self, name: str) -> dict:
        return json.loads((self.metrics / name).read_text())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def staged_jets(folder: Path, data: str) -> Path:
    """inputs.json of the jets as `data` stages them, made once for each configuration."""
    folder = folder / digest(data)
    inputs = folder / "inputs.json"
    if inputs.exists():
        return inputs
    folder.mkdir(parents=True)
    configuration = folder / "data.yaml"
    configuration.write_text(data)
    records = []
    for process in PROCESSES:
        records.append(str(folder / f"{process}.json"))
        source = REPOSITORY / "tests" / "files" / "jets" / "train" / f"{process}.root"
        paths = {"--sources": source, "--records": records[-1], "--staged": folder / f"{process}.arrow"}
        options = {"--data-config": configuration, "--split": "train", "--group": process, **paths}
        stage_inputs.main([str(part) for pair in options.items() for part in pair])
    stage_inputs.main(["--gather", *records, "--output", str(inputs)])
    return inputs
