"""Validation against metrics computed by hand from the model and the jets, and the loops that networks bring themselves."""

import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import stage_run
from weaver_tasks import validate_epoch
from weaver_tasks.settings.stage import stage_settings


@pytest.fixture
def run(tmp_path, staged):
    def make(name="run", *, training=None, **kinds):
        made = stage_run.StageRun(tmp_path / name, staged=staged, **kinds)
        made.settings["training"].update(training or {})
        made.call("init_model")
        made.call("train_epoch", epochs=[0])
        made.call("validate_epoch")
        return made

    return make


def validation_events(run):
    """Inputs and labels of the trailing fifth of each file, and the trained model."""
    from weaver_tasks.base.files import read_json
    from weaver_tasks.data.configuration import load_data_configuration
    from weaver_tasks.data.loading.loader import EpochLoader
    from weaver_tasks.networks.loading import load_network

    configuration = load_data_configuration(run.data_config)
    model = load_network(run.network, configuration, {}).model
    model.load_state_dict(torch.load(run.checkpoint("net_epoch-0_state"), weights_only=True))
    loader = EpochLoader(read_json(run.inputs), configuration, stage_settings(run.settings), split="val", seed=1, epoch=0, threads=0)
    batches = list(loader)
    inputs = [torch.from_numpy(np.concatenate([batch.inputs[name] for batch in batches])) for name in configuration.input_names]
    labels = np.concatenate([batch.labels[configuration.label_names[0]] for batch in batches])
    entries = {(file, entry) for batch in batches for file, entry in zip(batch.file.tolist(), batch.entry.tolist(), strict=True)}
    with torch.no_grad():
        return model.eval()(*inputs), labels, entries


def test_metrics_are_those_of_all_validation_events_once(run):
    validated = run()
    logits, labels, entries = validation_events(validated)
    assert entries == {(file, entry) for file in range(3) for entry in range(200, 250)}
    metrics = validated.read("val_epoch-0.json")
    assert metrics["samples"] == 150
    assert metrics["accuracy"] == (logits.argmax(1).numpy() == labels).mean()
    assert metrics["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item(), rel=1e-6)
    expected = roc_auc_score(labels, logits.double().softmax(1).numpy(), multi_class="ovo")
    assert metrics["auc"] == pytest.approx(expected, abs=1e-6)


def test_epochs_validated_by_one_task_are_those_validated_one_by_one(run, monkeypatch):
    made = run()
    made.settings["meaning"] = "of what the workflow knows"
    made.call("train_epoch", epochs=[0, 1, 2])
    for epoch in range(3):
        made.call("validate_epoch", epoch=epoch)
    one_by_one = [facts(made.read(f"val_epoch-{epoch}.json")) for epoch in range(3)]
    for path in made.checkpoints.rglob("validation-*.json"):
        path.unlink()
    made.call("validate_epoch", epochs=[0, 1, 2])
    assert [facts(made.read(f"val_epoch-{epoch}.json")) for epoch in range(3)] == one_by_one
    outputs = made.record("validate_epoch")["outputs"]
    assert sorted(outputs) == [str(made.metrics / f"val_epoch-{epoch}.json") for epoch in range(3)]
    # What the journal has, or what was stopped, is not validated again: the others are.
    kept = sorted(made.checkpoints.rglob("validation-*.json"))
    assert len(kept) == 3
    next(path for path in kept if json.loads(path.read_text())["epoch"] == 1).unlink()
    validated, validate_one = [], validate_epoch.validate_one
    monkeypatch.setattr(validate_epoch, "validate_one", lambda *asked: validated.append(asked[1].number) or validate_one(*asked))
    stopped = made.metrics / "train_epoch-2.json"
    stopped.write_text(json.dumps({"epoch": 2, "stopped": True}))
    made.call("validate_epoch", epochs=[0, 1, 2])
    assert validated == [1]
    assert [facts(made.read(f"val_epoch-{epoch}.json")) for epoch in (0, 1)] == one_by_one[:2]
    assert made.read("val_epoch-2.json") == {"epoch": 2, "stopped": True}


def facts(metrics):
    """Metrics without how long they took."""
    return {name: value for name, value in metrics.items() if "second" not in name}


def test_the_batch_size_does_not_matter_to_what_is_counted(run):
    validated = run()
    first = validated.read("val_epoch-0.json")
    validated.settings["training"]["batch_size_val"] = 7
    validated.call("validate_epoch")
    second = validated.read("val_epoch-0.json")
    assert first["accuracy"] == second["accuracy"]
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)


def test_regression_metrics(run):
    validated = run(data=stage_run.DATA + stage_run.MASS, training={"task": "regression"})
    values, truth, _ = validation_events(validated)
    metrics = validated.read("val_epoch-0.json")
    error = values[:, 0].numpy() - truth
    assert metrics["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert metrics["mse"] == pytest.approx(np.square(error).mean(), rel=1e-5)
    assert metrics["loss"] == pytest.approx(metrics["mse"], rel=1e-5)
    assert "accuracy" not in metrics


CUSTOM = (
    stage_run.NETWORK
    + """
from weaver_tasks.settings.stage import stage_settings
from weaver.utils.nn.tools import train_classification, evaluate_classification, _flatten_preds

def get_loss(data_config, **kwargs):
    return torch.nn.CrossEntropyLoss(label_smoothing=0.05)

def get_train_fn(data_config, **kwargs):
    return train_classification

def get_evaluate_fn(data_config, **kwargs):
    return evaluate_classification
"""
)


def test_a_networks_own_loops_train_as_ours(run):
    """weaver's loop, behind its import name, on our batches: the same weights as our loop to rounding, the same accuracy."""
    loss_only = CUSTOM[: CUSTOM.index("def get_train_fn")]
    ours, theirs = run("ours", network=loss_only), run("theirs", network=CUSTOM)
    states = [torch.load(each.checkpoint("net_epoch-0_state"), weights_only=True) for each in (ours, theirs)]
    for name, expected in states[0].items():
        assert torch.allclose(states[1][name].float(), expected.float(), atol=1e-6), name
    assert ours.read("val_epoch-0.json")["accuracy"] == theirs.read("val_epoch-0.json")["accuracy"]


def test_a_networks_own_loops_get_padded_inputs_whatever_the_loader_is_told(run):
    own = run(network=CUSTOM)
    expected, accuracy = torch.load(own.checkpoint("net_epoch-0_state"), weights_only=True), own.read("val_epoch-0.json")["accuracy"]
    shutil.rmtree(own.checkpoints)
    own.settings["loading"] = {"pad_on_device": True}
    for stage in ("init_model", "train_epoch", "validate_epoch"):
        own.call(stage, epochs=[0])
    found = torch.load(own.checkpoint("net_epoch-0_state"), weights_only=True)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert own.read("val_epoch-0.json")["accuracy"] == accuracy


INIT_OPT = (
    stage_run.NETWORK
    + """
def init_opt(args, model, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=args.start_lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99 ** step)
    scheduler._update_per_step = True
    return optimizer, scheduler
"""
)


def test_a_networks_own_optimizer_and_schedule_go_on_exactly(tmp_path, staged):
    states = []
    for name, blocks in (("whole", [[0, 1]]), ("jobs", [[0], [1]])):
        training = stage_run.StageRun(tmp_path / name, staged=staged, network=INIT_OPT)
        training.call("init_model")
        for block in blocks:
            training.call("train_epoch", epochs=block)
        states.append(torch.load(training.checkpoint("net_epoch-1_state"), weights_only=True))
        assert training.read("train_epoch-1.json")["lr"] == pytest.approx(5e-3 * 0.99**12, rel=1e-6)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_networks_own_evaluation_runs_on_one_rank_whatever_the_batches(run):
    """Five batches of 30 for two ranks: weaver's loop gathers the rows of all ranks, which must then be as many on each."""
    loops = (
        "\nfrom weaver.utils.nn.tools import train_classification, evaluate_classification\n"
        "def get_train_fn(data_config, **kwargs): return train_classification\n"
        "def get_evaluate_fn(data_config, **kwargs): return evaluate_classification\n"
    )
    made = run("own", network=stage_run.NETWORK + loops, training={"batch_size_val": 30, "optimizer": {"name": "adamW", "options": {}}})
    alone = made.read("val_epoch-0.json")
    for path in made.checkpoints.rglob("validation-*.json"):
        path.unlink()
    made.call("train_epoch", epochs=[0, 1])
    made.settings["training"]["ranks"] = 2
    done = made.run("validate_epoch", epochs=[0, 1])
    assert done.returncode == 0, done.stderr
    shared = made.read("val_epoch-0.json")
    assert (shared["accuracy"], shared["samples"]) == (alone["accuracy"], alone["samples"]) == (shared["accuracy"], 150)
    assert made.read("val_epoch-1.json")["samples"] == 150
    assert done.stderr.count("epoch 0: accuracy") == done.stderr.count("epoch 1: accuracy") == 1


def test_three_ranks_say_once_what_they_have_found(run):
    made = run(training={"batch_size_val": 100})
    for path in made.checkpoints.rglob("validation-*.json"):
        path.unlink()
    expected = made.read("val_epoch-0.json")
    made.settings["training"]["ranks"] = 3
    done = made.run("validate_epoch")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 0: loss") == 1
    assert "150/150" in done.stderr  # two batches, of 100 and 50, and none for the third rank
    assert made.read("val_epoch-0.json")["loss"] == expected["loss"]
