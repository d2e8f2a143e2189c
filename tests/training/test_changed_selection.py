"""Whatever is changed and whenever a run is killed: the weights that were ever named the best exist, and undoing a change brings them back.

The stages are the real ones, called job by job as Snakemake does: what a job declares is deleted before it runs, and after it fails.
Only the steps of training and of validation are replaced: an epoch's weights are a line of text, its metrics come from a table.
"""

import itertools
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import stage_run
from weaver_tasks import select_best_epoch, train_epoch, validate_epoch
from weaver_tasks.base import files
from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.base.files import atomic_path, write_json
from weaver_tasks.jobs import epoch_chain
from weaver_tasks.training import device
from weaver_tasks.training.journal import refuse_removed

MOST_EPOCHS = 9
METRICS = ("loss", "accuracy")


@dataclass(frozen=True)
class Config:
    """What is changed between runs."""

    metric: str = "accuracy"
    mode: str = "max"
    epochs: int = 5
    patience: int | None = None
    keep: str = "best_and_last"

    def settings(self, stage: str) -> dict:
        """As the workflow gives them: early stopping to the training alone."""
        early = {"early_stopping": {"patience": self.patience}} if self.patience and stage == "train" else {}
        training = {"epochs": self.epochs, "keep_checkpoints": self.keep, "threads": 1, **early}
        return {
            "training": {**training, "scheduler": {"name": "none"}},
            "validation": {"metric": self.metric, "mode": self.mode},
            "meaning": "of the workflow",
        }

    @property
    def looks_back(self) -> bool:
        return self.patience is not None or self.keep == "best_and_last"


class Killed(BaseException):
    pass


class Runner:
    """A folder with a training, and what Snakemake does to it."""

    def __init__(self, template: Path, folder: Path, table: dict[str, list[int]]) -> None:
        shutil.copytree(template, folder)
        self.folder, self.table = folder, table
        self.checkpoints, self.metrics, self.best = folder / "checkpoints", folder / "metrics", folder / "best_epoch.json"
        self.params: dict[str, object] = {}  # of jobs that succeeded
        self.unfinished: set[str] = set()
        self.steps_left: float = float("inf")
        self.trained: list[int] = []

    def outputs(self, job: tuple[str, int]) -> list[Path]:
        stage, epoch = job
        if stage == "train":
            return [
                self.checkpoints / f"net_epoch-{epoch}_state.pt",
                self.checkpoints / f"net_epoch-{epoch}_optimizer.pt",
                self.metrics / f"train_epoch-{epoch}.json",
            ]
        if stage == "validate":
            return [self.metrics / f"val_epoch-{epoch}.json"]
        return [self.best, self.checkpoints / "net_best_epoch_state.pt", self.checkpoints / "net_best_epoch_optimizer.pt"]

    def before(self, job: tuple[str, int], config: Config) -> list[tuple[str, int]]:
        """The jobs whose outputs a job takes."""
        stage, epoch = job
        if stage == "train":
            past = [("validate", each) for each in range(epoch - 1)] if config.looks_back else []
            return [*([("train", epoch - 1)] if epoch else []), *past]
        if stage == "validate":
            return [("train", epoch)]
        return [("validate", each) for each in range(config.epochs)]

    def told(self, job: tuple[str, int], config: Config) -> object:
        """What Snakemake compares: params and the set of inputs."""
        early = (config.patience, config.metric, config.mode) if job[0] == "train" and config.patience else None
        choice = (config.metric, config.mode) if job[0] == "select" else None
        return [early, choice, self.before(job, config)]

    def planned(self, config: Config, *, late: bool) -> list[tuple[str, int]]:
        """The jobs that would run, in an order that their inputs allow. late: an epoch is validated beside the training of the next."""
        jobs = [job for epoch in range(config.epochs) for job in (("train", epoch), ("validate", epoch))]
        if late:
            jobs.sort(key=lambda job: (job[1] + (job[0] == "validate"), job[0] == "train"))
        jobs.append(("select", 0))
        runs = {job for job in jobs if str(job) in self.unfinished or str(self.told(job, config)) != self.params.get(str(job))}
        if not all(path.exists() for path in self.outputs(("select", 0))):
            runs.add(("select", 0))
        while True:
            more = {job for job in jobs if any(each in runs for each in self.before(job, config))}
            for job in runs:
                more |= {each for each in self.before(job, config) if not all(path.exists() for path in self.outputs(each))}
            if more <= runs:
                return [job for job in jobs if job in runs]
            runs |= more

    def run(self, config: Config, *, kill: int | None = None, late: bool = False) -> str:
        """'done', 'killed' at a step of the file system, or what refused."""
        self.steps_left, self.trained = float("inf") if kill is None else kill, []
        try:
            for job in self.planned(config, late=late):
                self.unfinished.add(str(job))
                self.remove(job)
                try:
                    self.call(job, config)
                except WeaverTasksError as error:
                    self.remove(job)
                    self.unfinished.discard(str(job))
                    self.params.pop(str(job), None)
                    return str(error)
                self.unfinished.discard(str(job))
                self.params[str(job)] = str(self.told(job, config))
        except Killed:
            return "killed"
        finally:
            self.steps_left = float("inf")
        return "done"

    def remove(self, job: tuple[str, int]) -> None:
        for path in self.outputs(job):
            path.unlink(missing_ok=True)

    def call(self, job: tuple[str, int], config: Config) -> None:
        stage, epoch = job
        common = ["--data-config", self.folder / "data_config.auto.yaml", "--inputs", self.folder / "inputs.json"]
        common += ["--network", self.folder / "network.py"]
        validations = [self.outputs(each)[0] for each in self.before(job, config) if each[0] == "validate"]
        if stage == "train":
            options = [
                *common,
                "--epochs",
                epoch,
                "--checkpoints",
                self.checkpoints,
                "--metrics",
                self.metrics,
                "--validation",
                *validations,
            ]
        elif stage == "validate":
            options = [*common, "--state", self.outputs(("train", epoch))[0], "--epoch", epoch, "--output", *self.outputs(job)]
        else:
            options = ["--validation", *validations, "--checkpoints", self.checkpoints, "--best", self.best]
        main = {"train": train_epoch, "validate": validate_epoch, "select": select_best_epoch}[stage].main
        main([*map(str, options), "--settings", json.dumps(config.settings(stage))])

    def step(self) -> None:
        """Between any two changes of the file system a run may be killed; a dead process does nothing more."""
        self.steps_left -= 1
        if self.steps_left < 0:
            raise Killed

    def named(self) -> tuple[int, str] | None:
        """What best_epoch.json names now, and its weights."""
        if not self.best.exists():
            return None
        return json.loads(self.best.read_text())["epoch"], (self.checkpoints / "net_best_epoch_state.pt").read_text()

    def kept_weights(self) -> set[str]:
        """All weights in the journal that would be published, not a placeholder."""
        entries = (self.checkpoints / ".journal").glob("*/state.pt")
        return {path.read_text() for path in entries if not (path.parent / "removed.json").exists()}

    def noted(self, config: Config) -> bool:
        """Whether an epoch was trained with this configuration, so that the journal knows how it chooses."""
        path = self.checkpoints / ".journal" / "choices.json"
        known = json.loads(path.read_text()) if path.exists() else []
        return {"metric": config.metric, "mode": config.mode, "epochs": config.epochs, "patience": config.patience} in known

    def expected(self, config: Config) -> int:
        """The epoch that this configuration selects, by hand: an epoch is stopped by what is known two epochs before it."""
        sign = 1 if config.mode == "max" else -1
        values = [sign * value for value in self.table[config.metric]]
        trained: list[int] = []
        for epoch in range(config.epochs):
            known = [each for each in trained if each <= epoch - 2]
            if config.patience and known and known[-1] - max(known, key=lambda each: (values[each], -each)) >= config.patience:
                break
            trained.append(epoch)
        return max(trained, key=lambda each: (values[each], -each))


class TableTrainer:
    """Trains an epoch by writing which one it is, after the weights that it starts from."""

    def __init__(self, runner: Runner, journal) -> None:
        self.runner, self.journal = runner, journal

    def train(self, task, *, before_writing=None) -> dict:
        for path in (self.journal.state(task.epoch - 1), self.journal.training_state(task.epoch - 1)):
            refuse_removed(path)
            assert path.read_text() in ("the start", f"{path.stem.rpartition('_')[2]}.pt of {task.previous}")
        before_writing()
        for name in ("state.pt", "optimizer.pt"):
            with atomic_path(self.journal.entry(task.digest) / name) as temporary:
                temporary.write_text(f"{name} of {task.digest}")
        self.runner.trained.append(task.epoch)
        self.journal.finish(task.digest, {"epoch": task.epoch})
        return {"epoch": task.epoch, "samples_per_second": 1.0}


@pytest.fixture(scope="module")
def fast():
    """The stages with the steps of training and validation replaced, and what only takes time left out. Gives a box for the runner."""
    box = SimpleNamespace(runner=None)
    with pytest.MonkeyPatch.context() as patch:
        configurations: dict = {}
        read = epoch_chain.load_data_configuration

        def load(path, **options):
            return configurations.setdefault(path.read_text(), read(path, **options))

        def validated(arguments, epoch, *_):
            refuse_removed(epoch.state)
            return {"epoch": epoch.number, **{name: float(box.runner.table[name][epoch.number]) for name in METRICS}}

        patch.setattr(epoch_chain, "load_data_configuration", load)
        patch.setattr("weaver_tasks.data.configuration.load_data_configuration", load)
        patch.setattr(train_epoch, "make_trainer", lambda work, _: TableTrainer(box.runner, work.journal))
        patch.setattr(validate_epoch, "validate_one", validated)
        patch.setattr(device, "prepare_process", lambda *_, **__: None)
        patch.setattr(os, "fsync", lambda _: None)
        for module, name in (
            (os, "replace"),
            (os, "link"),
            (os, "utime"),
            (Path, "unlink"),
            (shutil, "copyfile"),
            (files.tempfile, "mkstemp"),
        ):
            patch.setattr(module, name, stepping(getattr(module, name), box))
        yield box


def stepping(function, box):
    def stepped(*arguments, **options):
        if box.runner is not None:
            box.runner.step()
        return function(*arguments, **options)

    return stepped


@pytest.fixture(scope="module")
def make(tmp_path_factory, fast):
    """make(table) -> a runner in a new folder, in which init_model has run."""
    folder = tmp_path_factory.mktemp("selection")
    template = folder / "template"
    for name in ("checkpoints", "metrics"):
        (template / name).mkdir(parents=True)
    (template / "data_config.auto.yaml").write_text(stage_run.DATA + stage_run.CLASSES)
    (template / "network.py").write_text("def get_model(data_config): ...\n")
    write_json(template / "inputs.json", {"digest": "of the inputs"})
    write_json(template / "metrics" / "init_model.json", {"digest": "of the start"})
    for name in ("init_state", "init_optimizer"):
        (template / "checkpoints" / f"{name}.pt").write_text("the start")
    numbers = itertools.count()

    def made(table):
        fast.runner = None
        fast.runner = Runner(template, folder / str(next(numbers)), table)
        return fast.runner

    return made


@pytest.fixture(autouse=True)
def no_steps_between_tests(fast):
    yield
    fast.runner = None


# Few values: there are many equals.
TABLES = st.fixed_dictionaries({name: st.lists(st.integers(0, 5), min_size=MOST_EPOCHS, max_size=MOST_EPOCHS) for name in METRICS})
CHANGES = st.one_of(
    st.fixed_dictionaries({"metric": st.sampled_from(METRICS)}),
    st.fixed_dictionaries({"mode": st.sampled_from(["max", "min"])}),
    st.fixed_dictionaries({"epochs": st.integers(1, MOST_EPOCHS)}),
    st.fixed_dictionaries({"patience": st.sampled_from([None, 1, 2, 3])}),
    st.fixed_dictionaries({"keep": st.sampled_from(["best_and_last", "all"])}),
)
KILLS = st.one_of(st.none(), st.none(), st.integers(0, 400))
RUNS = st.lists(st.tuples(st.lists(CHANGES, min_size=1, max_size=2), KILLS, st.booleans()), min_size=2, max_size=6)
STARTS = st.builds(Config, metric=st.sampled_from(METRICS), mode=st.sampled_from(["max", "min"]), patience=st.sampled_from([None, 1, 2]))


def whatever_is_changed(make, table, config, runs):
    runner = make(table)
    named: dict[Config, tuple[int, str]] = {}
    first = config
    assert runner.run(config, kill=runs[-1][1]) in ("done", "killed")
    for changes, kill, late in runs:
        for change in changes:
            config = replace(config, **change)
        result = runner.run(config, kill=kill, late=late)
        if result == "done":
            assert runner.named() is not None
            assert runner.named()[0] == runner.expected(config)
            named[config] = runner.named()
        elif result != "killed":
            assert "removed" in result
        assert {weights for _, weights in named.values()} <= runner.kept_weights()
    # The first one can be gone back to in any case, if an epoch was trained with it.
    if runner.noted(first):
        assert runner.run(first) == "done"
        assert runner.named()[0] == runner.expected(first)
    for config, expected in named.items():
        assert runner.run(config) == "done"
        assert runner.trained == []
        assert runner.named() == expected
        assert runner.run(config) == "done"


def with_one_metric_and_more_to_train(make, table, config, runs):
    """As long as epochs and patience only grow, nothing is refused."""
    runner = make(table)
    for changes, kill, late in runs:
        for change in changes:
            config = grown(config, change)
        result = runner.run(config, kill=kill, late=late)
        assert result in ("done", "killed")
        if result == "done":
            assert runner.named()[0] == runner.expected(config)
    assert runner.run(config) == "done"
    assert runner.named()[0] == runner.expected(config)


def grown(config: Config, change: dict) -> Config:
    name, value = next(iter(change.items()))
    if name == "keep":
        return replace(config, keep=value)
    if name == "epochs":
        return replace(config, epochs=max(config.epochs, value))
    if name == "patience":
        return replace(config, patience=config.patience and (value and max(value, config.patience)))
    return config


def many(examples: int, slow: bool):
    def decorate(test):
        test = given(table=TABLES, config=STARTS, runs=RUNS)(test)
        test = settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])(test)
        return pytest.mark.slow(test) if slow else test

    return decorate


@many(50, slow=False)
def test_what_was_ever_named_the_best_stays(make, table, config, runs):
    whatever_is_changed(make, table, config, runs)


@many(500, slow=True)
def test_what_was_ever_named_the_best_stays_over_many_changes(make, table, config, runs):
    whatever_is_changed(make, table, config, runs)


@many(50, slow=False)
def test_a_higher_patience_and_more_epochs_always_go_on(make, table, config, runs):
    with_one_metric_and_more_to_train(make, table, config, runs)


@many(500, slow=True)
def test_a_higher_patience_and_more_epochs_always_go_on_over_many_changes(make, table, config, runs):
    with_one_metric_and_more_to_train(make, table, config, runs)


def test_what_was_named_without_training_anything_stays(make):
    runner = make({"accuracy": [5, 1, 1, 1, 1, 1, 1, 1, 1], "loss": [0, 0, 0, 0, 9, 0, 0, 0, 0]})
    for config in (Config(), Config(metric="loss"), Config(epochs=8)):
        assert runner.run(config) == "done"
    assert runner.run(Config(metric="loss")) == "done"
    assert runner.named()[0] == 4


def test_what_a_killed_training_had_chosen_so_far_stays(make):
    runner = make({"accuracy": [1, 5, 1, 1, 1, 1, 1, 1, 1], "loss": [9, 0, 0, 0, 0, 0, 0, 0, 0]})
    # Epoch by epoch, until the first has been removed of what loss would keep.
    kill = next(kill for kill in range(0, 400, 5) if killed_after(make, runner.table, kill, epoch=3))
    runner = make(runner.table)
    assert runner.run(Config(epochs=6), kill=kill) == "killed"
    runner.run(Config(epochs=6, metric="loss"))
    assert runner.run(Config(epochs=6)) == "done"
    assert runner.named()[0] == 1


def killed_after(make, table, kill, *, epoch) -> bool:
    runner = make(table)
    runner.run(Config(epochs=6), kill=kill)
    return epoch in runner.trained


@pytest.mark.parametrize("kill", range(220, 245))
def test_what_is_selected_after_a_kill_within_the_removal_stays(make, kill):
    """Epoch 3, which the killed job was removing, is the best by accuracy."""
    table = {"loss": [0] * 9, "accuracy": [1, 1, 1, 0, 0, 0, 0, 0, 0]}
    first = Config(metric="loss", mode="min")
    whatever_is_changed(make, table, first, [([{"metric": "accuracy"}], None, False), ([{"metric": "loss"}], kill, False)])


def test_what_is_stopped_stays_stopped_and_a_higher_patience_goes_on_from_there(make):
    # Epoch 3 is stopped by what is known of 0 and 1; epoch 2, then unknown, is better.
    runner = make({"accuracy": [3, 2, 4, 5, 6, 7, 8, 9, 9], "loss": [0] * 9})
    assert runner.run(Config(patience=1, epochs=9)) == "done"
    stopped = [json.loads((runner.metrics / f"train_epoch-{epoch}.json").read_text()).get("stopped", False) for epoch in range(9)]
    assert stopped == [False] * 3 + [True] * 6
    assert runner.named()[0] == 2
    assert runner.run(Config(patience=4, epochs=9)) == "done"
    assert runner.trained == [3, 4, 5, 6, 7, 8]
    assert runner.named()[0] == 7


def test_in_the_ordinary_course_two_checkpoints_stay(make):
    runner = make({"accuracy": [1, 5, 1, 1, 1, 1, 1, 1, 1], "loss": [0] * 9})
    assert runner.run(Config(epochs=9, keep="best_and_last")) == "done"
    assert len(runner.kept_weights()) == 2
    runner = make(runner.table)
    assert runner.run(Config(epochs=9, patience=2)) == "done"
    assert len(runner.kept_weights()) == 2
    assert len(list(runner.checkpoints.glob("net_epoch-*_state.pt"))) == 2
