"""One loop, one job an epoch, and going on from a snapshot give the same bits."""

import itertools

import numpy as np
import pytest
import torch

from weaver_tasks.base.errors import CheckpointError, ConfigError, TrainingError
from weaver_tasks.training.schedules import NAMES

OPTIMIZERS = (
    {"name": "ranger", "options": {"weight_decay": 0.01}},
    {"name": "adamW", "options": {"weight_decay": 0.01, "lr_mult": ["jet", 5.0], "clip_grad_norm": 1.0}},
    {"name": "radam"},
    {"name": "SGD", "options": {"momentum": 0.9}},
)
ALL_OPTIMIZERS = ("adam", "Adagrad", "Adadelta", "Adamax", "ASGD", "NAdam", "RMSprop", "Rprop", "Adafactor")


def one_loop(chain):
    trainer = chain.trainer()
    for epoch in range(chain.settings.epochs):
        chain.train(trainer, epoch)
    return [chain.tensors(epoch) for epoch in range(chain.settings.epochs)]


def check_jobs(chain, settings):
    whole = chain("whole", **settings)
    expected = one_loop(whole)
    jobs = chain("jobs", **settings)
    for epoch in range(jobs.settings.epochs):
        jobs.train(jobs.trainer(), epoch)
    jobs.assert_same(expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each["name"])
def test_a_job_per_epoch_equals_one_loop(chain, optimizer):
    check_jobs(chain, {"optimizer": optimizer, "epochs": 3})


@pytest.mark.parametrize("name", NAMES)
def test_schedules_go_on_exactly(chain, name):
    check_jobs(chain, {"scheduler": {"name": name, "warmup": 0.5}, "epochs": 3})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "schedule"), list(itertools.product((*ALL_OPTIMIZERS, *(each["name"] for each in OPTIMIZERS)), NAMES)))
def test_every_optimizer_and_schedule(chain, name, schedule):
    check_jobs(chain, {"optimizer": {"name": name}, "scheduler": {"name": schedule, "warmup": 1.5}})


class Killed(Exception):
    pass


def killed_after(chain, steps: int):
    """Batches that break off after so many steps of a process's life."""
    counter = itertools.count(1)

    def open_batches(epoch, position):
        batches = chain.open_batches(epoch, position)
        plain = batches.__iter__

        def until():
            for batch in plain():
                if next(counter) > steps:
                    raise Killed
                yield batch

        return _Wrapped(batches, until)

    return open_batches


class _Wrapped:
    def __init__(self, batches, until):
        self.steps, self.samples, self._until = batches.steps, batches.samples, until

    def __iter__(self):
        return self._until()


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:2], ids=lambda each: each["name"])
def test_goes_on_from_a_snapshot(chain, optimizer, monkeypatch):
    monkeypatch.setattr("weaver_tasks.training.epoch._CLOCK_EVERY", 2)
    settings = {"batch_size": 50, "epochs": 2, "optimizer": optimizer}
    expected = one_loop(chain("whole", **settings))
    broken = chain("broken", **settings, snapshot_minutes=1e-9)
    sums = []
    for epoch in range(2):
        for life in itertools.count():
            assert life < 10
            trainer = broken.trainer(open_batches=killed_after(broken, 5))
            try:
                sums.append(broken.train(trainer, epoch))
            except Killed:
                continue
            break
        assert life == 3  # 15 steps, of which 4, then 4 (of 5) are kept each time
    broken.assert_same(expected)
    assert [metrics["samples"] for metrics in sums] == [750, 750]
    assert not list(broken.journal.folder.rglob("snapshot.pt"))


def test_snapshots_change_nothing(chain, monkeypatch):
    monkeypatch.setattr("weaver_tasks.training.epoch._CLOCK_EVERY", 1)
    expected = one_loop(chain("whole", epochs=2))
    watched = chain("watched", epochs=2, snapshot_minutes=1e-9)
    one_loop(watched)
    watched.assert_same(expected)


def test_loss_falls_and_metrics_add_up(chain):
    training = chain("plain", epochs=6, batch_size=50, optimizer={"name": "adamW"})
    trainer = training.trainer()
    metrics = [training.train(trainer, epoch) for epoch in range(6)]
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert metrics[-1]["accuracy"] > 0.6
    assert all(each["samples"] == 750 and each["steps"] == 15 for each in metrics)


def test_not_a_number_names_the_entries(chain, events):
    broken = chain("nan")
    bad = events.inputs["pf_features"].copy()
    bad[7] = float("nan")
    broken.events = type(events)({**events.inputs, "pf_features": bad}, events.labels, events.file, events.entry)
    with pytest.raises(TrainingError, match=r"epoch 0, step \d+: the loss is nan. The batch holds entries \[.*\b7\b"):
        broken.train(broken.trainer(), 0)


def test_refuses_checkpoints_that_do_not_belong_together(chain):
    one, other = chain("one", epochs=2), chain("other", epochs=2, lr=1e-3)
    for each in (one, other):
        each.train(each.trainer(), 0)
    one.journal.state(0).unlink()
    one.journal.state(0).write_bytes(other.journal.state(0).read_bytes())
    with pytest.raises(
        CheckpointError, match=r"net_epoch-0_state\.pt: damaged, or not the weights that net_epoch-0_optimizer\.pt belongs to"
    ):
        one.train(one.trainer(), 1)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_refuses_a_damaged_checkpoint_by_name(chain, kept):
    training = chain("one", epochs=2)
    training.train(training.trainer(), 0)
    path = training.journal.training_state(0)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:kept])
    with pytest.raises(CheckpointError, match=r"net_epoch-0_optimizer\.pt: damaged checkpoint"):
        training.train(training.trainer(), 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler's own
def test_compiled_models_write_bare_checkpoints(chain):
    """torch.compile changes neither the names in the checkpoint nor, without optimization, the bits."""
    plain, compiled = chain("plain", epochs=1), chain("compiled", epochs=1, compile={"backend": "eager"})
    for each in (plain, compiled):
        each.train(each.trainer(), 0)
    compiled.assert_same([plain.tensors(0)])


def test_options_that_torch_compile_refuses_are_told(chain):
    with pytest.raises(ConfigError, match=r"training\.compile: torch\.compile refuses \{'mode': 'nope'\}.*nope"):
        chain("compiled", epochs=1, compile={"mode": "nope"}).trainer()


def test_bf16_trains_on_the_cpu(chain):
    training = chain("bf16", epochs=1, amp="bf16", optimizer={"name": "adamW"})
    metrics = training.train(training.trainer(), 0)
    assert metrics["loss"] < 3
    assert training.tensors(0)["state"]["jet.0.weight"].dtype.is_floating_point


@pytest.fixture
def scaler(monkeypatch):
    """Gradient scaling, which fp16 needs, on the CPU, where torch has it too: the scale doubles every third step."""

    def make(settings, device):
        return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)

    monkeypatch.setattr("weaver_tasks.training.step.gradient_scaler", make)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_scaled_gradients_train_to_the_same_bits_in_jobs_too(chain, same_bits, request, clip):
    """Scales are powers of two: dividing by them loses nothing, also before gradients are clipped."""
    settings = {"optimizer": {"name": "adamW", "options": {"clip_grad_norm": clip}}, "epochs": 2}
    plain = one_loop(chain("plain", **settings))
    request.getfixturevalue("scaler")
    jobs = chain("scaled", **settings)
    for epoch in range(2):
        jobs.train(jobs.trainer(), epoch)
    for epoch, expected in enumerate(plain):
        same_bits(jobs.tensors(epoch)["state"], expected["state"], f"epoch {epoch}")
    # Fourteen steps: the scale has grown four times, over the end of a job.
    assert jobs.tensors(1)["training_state"]["scaler"]["scale"] == 2.0**14
    assert jobs.tensors(1)["training_state"]["scaler"]["_growth_tracker"] == 2


def test_a_step_whose_gradients_overflow_is_left_out(chain, scaler):
    training = chain("overflow", epochs=1, optimizer={"name": "adamW"})
    engine = training.trainer().engine
    batch = next(iter(training.open_batches(0, None)))
    before = {name: value.clone() for name, value in engine.model.named_parameters()}
    weight = engine.model.jet[0].weight
    hook = weight.register_hook(lambda gradient: gradient * float("inf"))
    engine.step(batch)
    assert all(torch.equal(before[name], value) for name, value in engine.model.named_parameters())
    assert engine.scaler.get_scale() == 2.0**9
    hook.remove()
    engine.step(batch)
    assert not torch.equal(before["jet.0.weight"], weight)


class Broken:
    """The batches of a chain, of which those of some steps have infinite features."""

    def __init__(self, batches, steps):
        self.batches, self.broken = batches, steps
        self.steps, self.samples = batches.steps, batches.samples

    def __iter__(self):
        for number, batch in enumerate(self.batches):
            if number in self.broken:
                batch.inputs["pf_features"] = np.full_like(batch.inputs["pf_features"], np.inf)
            yield batch


def test_with_a_scaler_a_step_that_is_not_finite_is_passed_over(chain, scaler):
    training = chain("one", epochs=2, optimizer={"name": "adamW", "options": {}})
    batches = lambda epoch, position: Broken(training.open_batches(epoch, position), {2, 4} if epoch == 0 else ())  # noqa: E731
    trainer = training.trainer(open_batches=batches)
    metrics = training.train(trainer, 0)
    assert np.isfinite(metrics["loss"])
    assert (metrics["steps"], metrics["samples"]) == (7, 700)
    content = training.tensors(0)["training_state"]
    assert {float(state["step"]) for state in content["optimizer"]["state"].values()} == {5.0}
    assert content["scaler"]["scale"] < 2.0**10
    assert all(torch.isfinite(parameter).all() for parameter in trainer.engine.model.parameters())


def test_with_a_scaler_too_many_of_them_in_a_row_stop_the_training(chain, scaler):
    training = chain("one", epochs=1, batch_size=10, optimizer={"name": "adamW", "options": {}})
    batches = lambda epoch, position: Broken(training.open_batches(epoch, position), range(1000))  # noqa: E731
    with pytest.raises(TrainingError, match=r"epoch 0, step 50: the loss is nan"):
        training.train(training.trainer(open_batches=batches), 0)
