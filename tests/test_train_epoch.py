"""The epoch chain as the workflow runs it: jobs, blocks, the journal, kills, ranks, mistakes."""

import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import stage_run
from weaver_tasks.training import padding

# A trimmer that draws lengths at random and counts its calls in a buffer that state_dict leaves out.
TRIMMING = stage_run.NETWORK.replace(
    "        self.norm =",
    '        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64), persistent=False)\n        self.norm =',
).replace(
    "        return self.jet(",
    """        if self.training:
            self.calls += 1
            length = 20 + int(self.calls) % 5 + int(torch.randint(15, (1,)))
            features, mask = features[..., :length], mask[..., :length]
        return self.jet(""",
)


@pytest.fixture
def run(tmp_path, staged):
    """Makes runs with a fresh network: run(name, **of StageRun)."""

    def make(name="run", *, training=None, **kinds):
        made = stage_run.StageRun(tmp_path / name, staged=staged, **kinds)
        made.settings["training"].update(training or {})
        made.call("init_model")
        return made

    return make


def tensors(run, epochs=range(4)) -> dict:
    """All tensors of all checkpoints, flat."""
    flat = {}
    for epoch in epochs:
        for part in ("state", "optimizer"):
            content = torch.load(run.checkpoints / f"net_epoch-{epoch}_{part}.pt", weights_only=True)
            content.pop("state_checksum", None)
            content.pop("digest", None)
            flat |= flattened(content, f"{epoch}.{part}")
    return flat


def flattened(value, name) -> dict:
    if isinstance(value, dict):
        return {key: leaf for each in value for key, leaf in flattened(value[each], f"{name}.{each}").items()}
    if isinstance(value, (list, tuple)):
        return {key: leaf for index, each in enumerate(value) for key, leaf in flattened(each, f"{name}.{index}").items()}
    return {name: value}


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name


BLOCKS = {
    "jobs": [[epoch] for epoch in range(6)],
    "pairs": [[0, 1], [2, 3], [4, 5]],
    "four": [[0, 1, 2, 3], [4, 5]],
}


def test_blocks_of_any_length_give_the_same_bits(run):
    """Six epochs in one process, as six jobs, as pairs and as four and two; with dropout, batch norm and a random trimmer."""
    whole = run("whole", network=TRIMMING, training={"epochs": 6})
    whole.call("train_epoch", epochs=list(range(6)))
    expected = tensors(whole, range(6))
    assert any(name.endswith("buffers.calls") for name in expected)
    for name, blocks in BLOCKS.items():
        jobs = run(name, network=TRIMMING, training={"epochs": 6})
        for block in blocks:
            jobs.call("train_epoch", epochs=block)
        assert_same(tensors(jobs, range(6)), expected)
    for block in BLOCKS["four"]:
        whole.call("train_epoch", epochs=block)
        assert whole.record("train_epoch")["trained_epochs"] == []
    metrics = whole.read("train_epoch-3.json")
    assert metrics["samples"] == 600
    assert {"epoch", "loss", "accuracy", "samples", "samples_per_second", "lr", "seconds", "digest"} <= metrics.keys()
    assert metrics["loss"] < whole.read("train_epoch-0.json")["loss"]


def test_finished_epochs_are_published_without_training(run):
    training = run()
    training.call("train_epoch", epochs=[0, 1])
    assert training.record("train_epoch")["trained_epochs"] == [0, 1]
    expected = tensors(training, range(2))
    for path in [*training.checkpoints.glob("net_epoch-*"), *training.metrics.glob("train_epoch-*")]:
        path.unlink()  # as Snakemake does before it reruns a job
    training.run("train_epoch", epochs=[0])
    assert training.record("train_epoch")["trained_epochs"] == []
    training.call("train_epoch", epochs=[1, 2])
    assert training.record("train_epoch")["trained_epochs"] == [2]
    assert training.record("train_epoch")["epochs_from_journal"] == [1]
    assert_same(tensors(training, range(2)), expected)


def test_publishing_imports_no_torch(run):
    training = run()
    training.call("train_epoch", epochs=[0])
    code = "import sys; from weaver_tasks.train_epoch import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [training.command("train_epoch", epochs=[0])[0], "-c", code, *training.arguments("train_epoch", epochs=[0])]
    subprocess.run(command, check=True, env=stage_run.environment())


@pytest.mark.parametrize(
    ("change", "retrains"),
    [
        ({"epochs": 6}, []),
        ({"snapshot_minutes": 5, "keep_checkpoints": "all", "epochs_per_job": 7}, []),
        ({"lr": 1e-3}, [0, 1]),
        ({"batch_size": 50}, [0, 1]),
        ({"scheduler": {"name": "none"}}, []),
        ({"scheduler": {"name": "flat+cos", "warmup": 0}}, []),
        ({"scheduler": {"name": "flat+cos", "warmup": 1.5}}, [0, 1]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_epoch_reruns_exactly_when_what_it_would_do_has_changed(run, change, retrains):
    training = run()
    training.call("train_epoch", epochs=[0, 1])
    training.settings["training"].update(change)
    training.call("train_epoch", epochs=[0, 1])
    assert training.record("train_epoch")["trained_epochs"] == retrains


def test_a_damaged_checkpoint_is_trained_again_to_the_same_bits(run):
    """The published file and that of the journal are one: deleting the former alone would bring the damage back."""
    training = run()
    training.call("train_epoch", epochs=[0])
    published = training.checkpoints / "net_epoch-0_state.pt"
    whole = published.read_bytes()
    with published.open("r+b") as file:
        file.seek(len(whole) // 2)
        file.write(bytes(byte ^ 0xFF for byte in whole[len(whole) // 2 :][:64]))
    published.unlink()
    training.call("train_epoch", epochs=[0])
    assert training.record("train_epoch")["trained_epochs"] == [0]
    assert published.read_bytes() == whole


def test_a_comment_in_the_network_retrains_nothing_and_other_data_does(run):
    training = run()
    training.call("train_epoch", epochs=[0])
    training.network.write_text("# a comment\n" + training.network.read_text())
    training.call("train_epoch", epochs=[0])
    assert training.record("train_epoch")["trained_epochs"] == []
    training.inputs.write_text(training.inputs.read_text().replace('"digest": "', '"digest": "other'))
    training.call("train_epoch", epochs=[0])
    assert training.record("train_epoch")["trained_epochs"] == [0]


def test_epochs_with_a_number_of_steps_go_on_in_one_stream(run):
    """samples_per_epoch: epochs are pieces of one endless stream, in jobs as in one loop."""
    training = {"samples_per_epoch": 400}
    whole = run("whole", training=training)
    whole.call("train_epoch", epochs=[0, 1, 2])
    single = run("single", training=training)
    for epoch in range(3):
        single.call("train_epoch", epochs=[epoch])
    assert_same(tensors(single, range(3)), tensors(whole, range(3)))
    assert whole.read("train_epoch-2.json")["samples"] == 400


def test_padding_on_the_device_changes_no_bit(run, monkeypatch):
    """Of an epoch and of its validation; and the journal takes the two trainings for one."""
    calls = []
    padded = padding._padded
    monkeypatch.setattr(padding, "_padded", lambda *arguments: calls.append(None) or padded(*arguments))
    on_host, on_device = run("host"), run("device")
    for training in (on_host, on_device):
        assert not calls
        training.settings["loading"] = {"pad_on_device": training is on_device}
        training.call("train_epoch", epochs=[0])
        training.call("validate_epoch")
    assert len(calls) == 2 * (6 + 2)  # two packed columns of each batch of training and validation
    assert_same(tensors(on_device, range(1)), tensors(on_host, range(1)))
    assert on_device.read("train_epoch-0.json")["digest"] == on_host.read("train_epoch-0.json")["digest"]
    one, other = on_host.read("val_epoch-0.json"), on_device.read("val_epoch-0.json")
    assert [one[name] for name in ("loss", "accuracy", "auc")] == [other[name] for name in ("loss", "accuracy", "auc")]


def test_regression(run):
    training = run(data=stage_run.DATA + stage_run.MASS, training={"task": "regression", "optimizer": {"name": "adamW"}})
    training.call("train_epoch", epochs=[0, 1, 2, 3])
    metrics = [training.read(f"train_epoch-{epoch}.json") for epoch in range(4)]
    assert metrics[3]["mse"] < 0.5 * metrics[0]["mse"]
    assert metrics[3]["loss"] == pytest.approx(metrics[3]["mse"], rel=1e-5)
    assert "accuracy" not in metrics[3]


def journal(run) -> set:
    """What is in the journal, snapshots too, by name and time."""
    return {(path, path.stat().st_mtime_ns) for path in (run.checkpoints / ".journal").rglob("*.*") if path.exists()}


def finished_epochs(run) -> set:
    """The epochs that the journal says are finished, each with its metrics, which tell the seconds that its training took."""
    return {(path, path.read_text()) for path, _ in journal(run) if path.name == "metrics.json"}


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "kills"), [(1, 10), (2, 10)])
def test_killed_at_any_moment_it_ends_at_the_same_bits(run, ranks, kills):
    """SIGKILL of the task, or of the launcher of its ranks, at ten random moments of six epochs: no finished epoch is trained twice."""
    training = {"epochs": 6, "batch_size": 10 // ranks, "snapshot_minutes": 1e-9, "ranks": ranks}
    epochs = list(range(6))
    whole = run("whole", network=TRIMMING, training=training)
    assert whole.run("train_epoch", epochs=epochs).returncode == 0
    killed = run("killed", network=TRIMMING, training=training)
    dice, seen = random.Random(1), set()
    for _ in range(kills):
        before = journal(killed)
        process = subprocess.Popen(killed.command("train_epoch", epochs=epochs), env=stage_run.environment(), stderr=subprocess.DEVNULL)
        while process.poll() is None and journal(killed) == before:
            time.sleep(0.01)
        # Each life gets on, and some reach the next epoch.
        time.sleep(dice.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert seen <= finished_epochs(killed)
        seen = finished_epochs(killed)
    last = killed.run("train_epoch", epochs=epochs)
    assert last.returncode == 0, last.stderr
    assert seen <= finished_epochs(killed)
    assert len(finished_epochs(killed)) == 6
    assert_same(tensors(killed, epochs), tensors(whole, epochs))
    assert len(killed.record("train_epoch")["trained_epochs"]) == 6 - len(seen)


@pytest.mark.slow
def test_two_ranks(run):
    """The launcher, its ranks, and the chain over them."""
    ranks = {"ranks": 2, "batch_size": 50}
    whole, single = run("whole", training=ranks), run("single", training=ranks)
    done = whole.run("train_epoch", epochs=[0, 1])
    assert done.returncode == 0, done.stderr
    for epoch in range(2):
        assert single.run("train_epoch", epochs=[epoch]).returncode == 0
    assert_same(tensors(single, range(2)), tensors(whole, range(2)))
    assert whole.read("train_epoch-1.json")["ranks"] == 2
    done = whole.run("validate_epoch", epoch=1)
    assert done.returncode == 0, done.stderr
    two = whole.read("val_epoch-1.json")
    whole.settings["training"]["ranks"] = 1
    whole.call("validate_epoch", epoch=1)
    one = whole.read("val_epoch-1.json")
    assert [one[name] for name in ("loss", "accuracy", "auc", "samples")] == [two[name] for name in ("loss", "accuracy", "auc", "samples")]


@pytest.mark.slow
def test_the_ranks_of_torchrun_train_as_our_own(run):
    ranks = {"ranks": 2, "batch_size": 50}
    ours, theirs = run("ours", training=ranks), run("theirs", training=ranks)
    assert ours.run("train_epoch", epochs=[0, 1]).returncode == 0
    python, *command = theirs.command("train_epoch", epochs=[0, 1])
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    done = subprocess.run(torchrun, capture_output=True, text=True, env=stage_run.environment())
    assert done.returncode == 0, done.stderr
    assert_same(tensors(theirs, range(2)), tensors(ours, range(2)))
    assert theirs.read("train_epoch-1.json")["ranks"] == 2


@pytest.mark.slow
def test_a_failing_rank_ends_the_job_with_its_own_line(run):
    """One of two ranks meets a loss that is not a number."""
    broken = stage_run.NETWORK.replace(
        "return self.jet(", 'import os\n        return float("nan" if os.environ["RANK"] == "1" else 1) * self.jet('
    )
    done = run(network=broken, training={"ranks": 2, "batch_size": 50}).run("train_epoch", epochs=[0])
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 1, done.stderr
    assert "the loss is nan" in errors[0]
    assert ".root entries" in errors[0]
    assert "Traceback" not in done.stderr


def test_a_foreign_checkpoint_is_refused_in_one_line(run):
    training, other = run(), run("other", training={"lr": 1e-3})
    for each in (training, other):
        each.call("train_epoch", epochs=[0])
    (training.checkpoints / "net_epoch-0_optimizer.pt").unlink()
    (training.checkpoints / "net_epoch-0_optimizer.pt").write_bytes((other.checkpoints / "net_epoch-0_optimizer.pt").read_bytes())
    done = training.run("train_epoch", epochs=[1])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("ERROR: ")
    assert "net_epoch-0" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_not_a_number_names_files_and_entries(run):
    broken = stage_run.NETWORK.replace("return self.jet(", "return float('nan') * self.jet(")
    done = run(network=broken).run("train_epoch", epochs=[0])
    assert done.returncode == 2
    assert "epoch 0, step 0: the loss is nan" in done.stderr
    assert "HToBB.root entries" in done.stderr


def test_early_stopping_leaves_a_record_and_the_last_checkpoint(run):
    training = run(training={"early_stopping": {"patience": 1}})
    training.settings["validation"] = {"metric": "accuracy", "mode": "max"}
    training.call("train_epoch", epochs=[0, 1, 2])
    for epoch, accuracy in enumerate([0.9, 0.8]):
        (training.metrics / f"val_epoch-{epoch}.json").write_text(f'{{"epoch": {epoch}, "accuracy": {accuracy}}}')
    validations = [str(training.metrics / f"val_epoch-{epoch}.json") for epoch in range(2)]
    from weaver_tasks.train_epoch import main

    main([*training.arguments("train_epoch", epochs=[3]), "--validation", *validations])
    assert training.read("train_epoch-3.json")["stopped"] is True
    training.call("validate_epoch", epoch=3)
    assert training.read("val_epoch-3.json") == {"epoch": 3, "stopped": True}
    training.call("select_best_epoch")
    assert '"epoch": 0' in (training.folder / "best_epoch.json").read_text()


def test_early_stopping_is_final(run):
    """An epoch that was not yet validated when one was stopped may be better: nothing is trained after the gap all the same."""
    training = run(training={"early_stopping": {"patience": 1}})
    training.settings["validation"] = {"metric": "accuracy", "mode": "max"}
    training.call("train_epoch", epochs=[0, 1, 2])
    for epoch, accuracy in enumerate([0.8, 0.7, 0.9]):
        (training.metrics / f"val_epoch-{epoch}.json").write_text(f'{{"epoch": {epoch}, "accuracy": {accuracy}}}')
    validations = [str(training.metrics / f"val_epoch-{epoch}.json") for epoch in range(3)]
    from weaver_tasks.train_epoch import main

    for epoch in (3, 4):
        main([*training.arguments("train_epoch", epochs=[epoch]), "--validation", *validations[: epoch - 1]])
        assert training.record("train_epoch")["stopped_epochs"] == [epoch]


@pytest.mark.slow
def test_ranks_that_see_different_epochs_missing_end_together(run):
    """As when another process has finished them in between: what the first rank finds counts."""
    training = run(training={"ranks": 2})
    assert training.run("train_epoch", epochs=[0]).returncode == 0
    code = """
import os, sys
from weaver_tasks import train_epoch
from weaver_tasks.jobs import epoch_chain
if os.environ["RANK"] == "1":
    epoch_chain.EpochChain.missing = lambda self: list(self.arguments.epochs)
train_epoch.main(sys.argv[1:])
"""
    before = training.checkpoint("net_epoch-0_state").read_bytes()
    command = ["-c", code, *training.arguments("train_epoch", epochs=[0])]
    asked = f"import sys; from weaver_tasks.training.launch import run_ranks; raise SystemExit(run_ranks({command!r}, ranks=2))"
    subprocess.run([sys.executable, "-c", asked], check=True, env=stage_run.environment(), timeout=600)
    assert training.record("train_epoch")["trained_epochs"] == []
    assert training.checkpoint("net_epoch-0_state").read_bytes() == before
