"""Check what `make demo` left: every artefact, and a tagger that has learned."""

import json
import sys
from pathlib import Path

run = Path(sys.argv[1])
artefacts = """
files.json inputs.json standardization.json reweighting.json reweighting.png data_config.auto.yaml
staged/train/QCD/ZJetsToNuNu.arrow checkpoints/init_state.pt checkpoints/init_optimizer.pt
checkpoints/net_epoch-0_state.pt checkpoints/net_epoch-0_optimizer.pt
metrics/train_epoch-0.json metrics/val_epoch-0.json best_epoch.json
checkpoints/net_best_epoch_state.pt checkpoints/net_best_epoch_optimizer.pt
predictions/higgs.root predictions/other.root
evaluation/metrics.json evaluation/roc.png evaluation/confusion.png evaluation/scores.png evaluation/training.png
export/model.onnx export/preprocess.json export/parity.json provenance/ro-crate-metadata.json report.html
""".split()  # noqa: SIM905
missing = [name for name in artefacts if not (run / name).exists()]
if missing:
    sys.exit(f"{run}: missing {', '.join(missing)}")

metrics = json.loads((run / "evaluation/metrics.json").read_text())
parity = json.loads((run / "export/parity.json").read_text())
classes = len(metrics["confusion_matrix"])
print(f"accuracy {metrics['accuracy']:.3f} ({classes} classes), AUC {metrics['auc']:.3f}, parity {parity['max_abs_difference']:.1e}")
if metrics["accuracy"] < 3 / classes or metrics["auc"] < 0.85 or parity["max_abs_difference"] > 1e-5:
    sys.exit("the demo's tagger is not good enough: accuracy >= 3 x chance, AUC >= 0.85, parity <= 1e-5 are wanted")
