"""A small run of the whole workflow: its configuration, and Snakemake in a folder of its own."""

import json
import subprocess
import sys
from pathlib import Path

import torch
import yaml

CLASSES = {"QCD": "ZJetsToNuNu", "Hbb": "HToBB", "Tbl": "TTBarLep"}


def configuration(jets: Path, repository: Path) -> dict:
    """A small run: three classes, a small PFN, three epochs."""
    return {
        "run": "small",
        "data": {
            "config": "data.yaml",
            "train": {name: str(jets / "train" / f"{process}.root") for name, process in CLASSES.items()},
            "test": {"all": [str(jets / "test" / f"{process}.root") for process in CLASSES.values()]},
        },
        "network": {
            "config": str(repository / "config" / "networks" / "pfn.py"),
            "options": {"Phi_sizes": [16, 16], "F_sizes": [16]},
        },
        "training": {"epochs": 3, "batch_size": 32, "lr": 0.005, "threads": 1, "scheduler": {"name": "none"}},
    }


def data_configuration(repository: Path) -> dict:
    document = yaml.safe_load((repository / "config" / "data" / "demo.yaml").read_text())
    classes = [f"label_{name}" for name in CLASSES]
    document["labels"]["value"] = classes
    document["weights"] |= {"reweight_classes": classes, "class_weights": [1, 1, 1]}
    for group in document["inputs"].values():
        group["length"] = 64
    return document


class Run:
    """A working folder with a configuration, and Snakemake in it."""

    def __init__(self, folder: Path, repository: Path, jets: Path) -> None:
        self.folder = folder
        self.repository = repository
        self.config = configuration(jets, repository)
        self.data = data_configuration(repository)
        self.results = folder / "results" / "small"
        self.head = ""

    def write(self) -> None:
        (self.folder / "config.yaml").write_text(self.head + yaml.safe_dump(self.config, sort_keys=False))
        (self.folder / "data.yaml").write_text(self.head + yaml.safe_dump(self.data, sort_keys=False))

    def command(self, *options: str) -> list[str]:
        self.write()
        snakefile = self.repository / "workflow" / "Snakefile"
        return [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(self.folder)),
            *("--cores", "2", *options, *([] if "--configfile" in options else ["--configfile", str(self.folder / "config.yaml")])),
        ]

    def snakemake(self, *options: str, code: int = 0) -> str:
        done = subprocess.run(self.command(*options), capture_output=True, text=True, cwd=self.folder)
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        return output

    def planned(self, *options: str) -> dict[str, int]:
        """How often each rule would run now."""
        output = self.snakemake("--dry-run", *options)
        if "Nothing to be done" in output:
            return {}
        table = output.rpartition("Job stats:")[2].splitlines()[3:]
        counts = {}
        for line in table:
            if not line.strip():
                break
            rule, count = line.split()
            counts[rule] = int(count)
        return {rule: count for rule, count in counts.items() if rule not in ("all", "total")}

    def trained(self) -> dict[int, str]:
        """epoch -> the digest of what was trained."""
        return {
            epoch: json.loads((self.results / f"metrics/train_epoch-{epoch}.json").read_text())["digest"]
            for epoch in range(self.config["training"]["epochs"])
        }

    def state(self, name: str) -> dict[str, torch.Tensor]:
        return torch.load(self.results / "checkpoints" / f"{name}_state.pt", weights_only=True)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
