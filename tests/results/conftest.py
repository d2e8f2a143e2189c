"""Real jets with scores that owe nothing to this project: scikit-learn's logistic regression on their substructure."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import uproot
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CLASSES = (
    "label_QCD",
    "label_Hbb",
    "label_Hcc",
    "label_Hgg",
    "label_H4q",
    "label_Hqql",
    "label_Zqq",
    "label_Wqq",
    "label_Tbqq",
    "label_Tbl",
)
PROCESSES = ("ZJetsToNuNu", "HToBB", "HToCC", "HToGG", "HToWW4Q", "HToWW2Q1L", "ZToQQ", "WToQQ", "TTBar", "TTBarLep")
FEATURES = ("jet_sdmass", "jet_nparticles", "jet_tau1", "jet_tau2", "jet_tau3", "jet_tau4", "jet_pt")
OBSERVERS = ("jet_pt", "jet_eta", "jet_sdmass", "jet_nparticles")


@dataclass(frozen=True)
class Scored:
    scores: np.ndarray  # (N, 10) float32, rows sum to 1
    labels: np.ndarray  # (N,)
    observers: dict[str, np.ndarray]
    groups: dict[str, slice]


def read_jets(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, slice]]:
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    labels, groups, start = [], {}, 0
    for label, process in enumerate(PROCESSES):
        arrays = uproot.open(folder / f"{process}.root")["tree"].arrays(list(names), library="np")
        for name in names:
            columns[name].append(arrays[name])
        size = len(arrays[names[0]])
        labels.append(np.full(size, label))
        groups[process] = slice(start, start + size)
        start += size
    return {name: np.concatenate(parts) for name, parts in columns.items()}, np.concatenate(labels), groups


@pytest.fixture(scope="session")
def scored(jets: Path) -> Scored:
    """The 1,000 test jets, scored by a classifier fitted to the training jets."""
    train, train_labels, _ = read_jets(jets / "train", FEATURES)
    test, labels, groups = read_jets(jets / "test", tuple(dict.fromkeys((*FEATURES, *OBSERVERS))))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    classifier.fit(np.stack([train[name] for name in FEATURES], axis=1), train_labels)
    scores = classifier.predict_proba(np.stack([test[name] for name in FEATURES], axis=1)).astype(np.float32)
    return Scored(scores, labels, {name: test[name] for name in OBSERVERS}, groups)
