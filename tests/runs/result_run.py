"""What the stages of the results start from: real test jets read in place, a configuration, a network with fixed weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from weaver_tasks.base.digests import file_checksum
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.networks.loading import load_network

REPOSITORY = Path(__file__).parent.parent.parent
JETS = REPOSITORY / "tests" / "files" / "jets" / "test"
PROCESSES = ("HToBB", "TTBar", "ZJetsToNuNu")

DATA = """
treename: tree
selection: jet_pt > 500
test_time_selection: (jet_pt > 520) & (jet_nparticles > 10)
new_variables:
  part_mask: ak.ones_like(part_energy)
  part_pt_log: np.log(np.hypot(part_px, part_py))
  part_e_log: np.log(part_energy)
  part_d0: np.tanh(part_d0val)
  is_heavy: jet_sdmass > 100
preprocess: {method: manual}
inputs:
  pf_features:
    length: 128
    pad_mode: wrap
    vars:
      - [part_pt_log, 1.7, 0.7]
      - [part_e_log, 2.0, 0.7]
      - [part_deta, 0, 3, -2, 2]
      - [part_dphi, 0, 3, -2, 2]
      - [part_charge, null]
      - [part_d0, null]
  pf_mask:
    length: 128
    pad_mode: constant
    vars: [[part_mask, null]]
"""
CLASSES = "labels: {type: simple, value: [label_QCD, label_Hbb, label_Tbqq]}\n"
OBSERVERS = "observers: [jet_pt, jet_sdmass, jet_nparticles, label_Wqq, is_heavy, part_energy, part_isMuon]\n"
MASS = "labels: {type: custom, value: {mass: jet_sdmass / 100, pt: jet_pt / 500}}\nobservers: [jet_pt]\n"
ELECTRON = """
labels:
  type: custom
  value:
    particle: _pad(part_isElectron + 2 * part_isMuon, maxlen=128, value=0)
    particle_mask: _pad(ak.ones_like(part_energy), maxlen=128, value=0)
  names: [hadron, electron, muon]
observers: [jet_pt]
"""

NETWORK = """
import torch
from weaver_tasks.networks.pfn import ParticleFlowNetwork

class Tagger(torch.nn.Module):
    def __init__(self, outputs, for_inference):
        super().__init__()
        self.pfn = ParticleFlowNetwork(6, outputs, Phi_sizes=(32, 32), F_sizes=(32,), for_inference=for_inference)

    def forward(self, features, mask):
        return self.pfn(features, mask)

class PerParticle(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.layers = torch.nn.Conv1d(6, outputs, 1)

    def forward(self, features, mask):
        return self.layers(features)

def get_model(data_config, per_particle=False, outputs=None, for_inference=False, **kwargs):
    outputs = outputs or len(data_config.label_value)
    info = {
        "input_names": list(data_config.input_names),
        "input_shapes": {name: (1, *shape[1:]) for name, shape in data_config.input_shapes.items()},
        "output_names": ["softmax"],
        "dynamic_axes": {"pf_features": {0: "N", 2: "n_pf"}, "pf_mask": {0: "N", 2: "n_pf"}, "softmax": {0: "N"}},
    }
    return (PerParticle(outputs) if per_particle else Tagger(outputs, for_inference)), info
"""


class ResultRun:
    """The folder of a run. `settings` goes to each stage as it is."""

    def __init__(
        self, folder: Path, *, data: str = DATA + CLASSES + OBSERVERS, network: str = NETWORK, options: dict | None = None
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.data_config = self.write("data_config.auto.yaml", data)
        self.network = self.write("network.py", network)
        self.inputs = self.write("inputs.json", json.dumps(manifest()))
        self.options = options or {}
        self.settings = {
            "training": {"task": "classification", "batch_size": 32, "device": "cpu", "threads": 1},
            "network": {"options": self.options},
            "evaluation": {},
            "export": {"opset": 15, "tolerance": 1e-5},
        }
        self.state = folder / "net_best_epoch_state.pt"
        torch.manual_seed(4)
        model = self.model()
        with torch.no_grad():
            # Neither all jets alike nor all scores 0 or 1.
            # Neither all jets alike, nor every score 0 or 1.
            list(model.parameters())[-2].mul_(0.5)
        torch.save(model.state_dict(), self.state)

    def write(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text)
        return self.folder / name

    def model(self, **options) -> torch.nn.Module:
        configuration = load_data_configuration(self.data_config)
        return load_network(self.network, configuration.weaver, {**self.options, **options}).model.eval()

    def arguments(self, stage: str, *own) -> list[str]:
        common = ["--settings", json.dumps(self.settings), "--log-file", self.folder / "logs" / f"{stage}.log"]
        if stage in ("predict", "export_onnx"):
            common += ["--data-config", self.data_config, "--inputs", self.inputs, "--network", self.network]
        return [*map(str, common), *map(str, own)]

    def predict(self, group: str = "TTBar", *own, name: str | None = None, model: Path | None = None) -> Path:
        """Predict a group in this process. Returns the prediction file."""
        from weaver_tasks import predict

        output = self.folder / "predictions" / (name or f"{group}.root")
        record = self.folder / "provenance" / "tasks" / f"predict-{output.name}.json"
        own = ("--group", group, "--model", model or self.state, "--output", output, "--record", record, *own)
        predict.main(self.arguments("predict", *own))
        return output

    def evaluate(self, *own) -> Path:
        """Evaluate all predictions in this process. Returns the folder of the figures."""
        from weaver_tasks import evaluate

        files = sorted((self.folder / "predictions").iterdir())
        folder = self.folder / "evaluation"
        record = self.folder / "provenance" / "tasks" / "evaluate.json"
        named = [f"{file.stem}={file}" for file in files]
        evaluate.main(self.arguments("evaluate", "--predictions", *named, "--output-dir", folder, "--record", record, *own))
        return folder

    def export(self, *own) -> Path:
        """Export in this process. Returns the folder of the models."""
        from weaver_tasks import export_onnx

        folder = self.folder / "export"
        record = self.folder / "provenance" / "tasks" / "export_onnx.json"
        own = ("--state", self.state, "--output-dir", folder, "--record", record, *own)
        export_onnx.main(self.arguments("export_onnx", *own))
        return folder

    def run(self, stage: str, *own) -> subprocess.CompletedProcess:
        """Run a stage as the workflow does."""
        command = [sys.executable, "-m", f"weaver_tasks.{stage}", *self.arguments(stage, *own)]
        return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def manifest(files: int = 2) -> dict:
    """The test jets, each process in `files` files (the same one, several times over), read in place."""
    listed = [
        {
            "split": "test",
            "group": process,
            "source": str(JETS / f"{process}.root"),
            "checksum": file_checksum(JETS / f"{process}.root"),
            "bytes": (JETS / f"{process}.root").stat().st_size,
            "tree": "tree",
            "entries": 100,
            "kept": 100,
            "staged": None,
            "staging_digest": "",
            "events_digest": "",
            "bad": None,
        }
        for process in PROCESSES
        for _ in range(files)
    ]
    return {"mode": "none", "files": listed, "digest": "jets"}
