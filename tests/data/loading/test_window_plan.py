"""The plan of a pass: every entry once, windows bounded, and nothing that depends on anything but the plan's arguments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaver_tasks.data.loading.options import SplitOptions, split_options
from weaver_tasks.data.loading.window_plan import PlannedFile, Window, entry_at, plan_windows
from weaver_tasks.settings.stage import Fold, stage_settings


def planned(sizes: list[int], groups: int = 3) -> list[PlannedFile]:
    return [PlannedFile(index=10 + place, group=f"group{place % groups}", entries=size) for place, size in enumerate(sizes)]


def entries(windows: list[Window]) -> list[tuple[int, int]]:
    return [
        (int(file), entry)
        for window in windows
        for file, first, last in zip(window.files, window.first, window.last, strict=True)
        for entry in range(first, last)
    ]


@st.composite
def option_sets(draw: st.DrawFn) -> SplitOptions:
    by_files = draw(st.booleans())
    return SplitOptions(
        fetch_by_files=by_files,
        fetch_step=draw(st.integers(0, 4)) if by_files else draw(st.floats(0.01, 1.5)),
        split_num=draw(st.integers(1, 4)),
        max_window_events=draw(st.integers(1, 60)),
        shuffle=draw(st.booleans()),
        in_memory=draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), option_sets(), st.integers(0, 2**40), st.integers(0, 5))
def test_a_pass_holds_every_entry_exactly_once(sizes: list[int], options: SplitOptions, seed: int, pass_number: int) -> None:
    files = planned(sizes)
    windows = plan_windows(files, options, seed=(seed,), pass_number=pass_number)
    seen = entries(windows)
    assert sorted(seen) == [(file.index, entry) for file in files for entry in range(file.entries)]
    if not options.in_memory:
        assert all(window.entries <= max(options.max_window_events, len(files)) for window in windows)
    assert [window.number for window in windows] == list(range(len(windows)))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.floats(0.05, 0.95), st.floats(0.1, 1.0), st.booleans(), st.integers(0, 99))
def test_training_and_validation_part_every_file(
    sizes: list[int], boundary: float, data_fraction: float, shuffle: bool, pass_number: int
) -> None:
    files = planned(sizes)
    common = SplitOptions(data_fraction=data_fraction, shuffle=shuffle, fetch_step=0.1)
    training = plan_windows(files, dataclasses.replace(common, stop=boundary), seed=(1,), pass_number=pass_number)
    validation = plan_windows(files, dataclasses.replace(common, start=boundary), seed=(1,), pass_number=pass_number)
    seen = entries(training) + entries(validation)
    assert len(seen) == len(set(seen))
    split = {file.index: int(entry_at(boundary, file.entries)) for file in files}
    assert all(entry < split[file] for file, entry in entries(training))
    assert all(entry >= split[file] for file, entry in entries(validation))


def test_the_plan_is_the_same_again_and_other_for_another_seed_or_pass() -> None:
    files = planned([100] * 6)
    options = SplitOptions(shuffle=True, fetch_step=0.2, data_fraction=0.5)

    def plan(**changes: int) -> list[tuple[int, int]]:
        return entries(plan_windows(files, options, seed=(changes.get("seed", 1),), pass_number=changes.get("pass_number", 0)))

    assert plan() == plan()
    assert plan() != plan(seed=2)
    assert plan() != plan(pass_number=1)


def test_a_data_fraction_is_one_stretch_of_each_file_and_reaches_all_of_it_over_the_epochs() -> None:
    files = planned([40, 41, 7])
    options = SplitOptions(shuffle=True, data_fraction=0.3, fetch_step=1.0, stop=0.8)
    reached: set[tuple[int, int]] = set()
    taken = []
    for pass_number in range(200):
        windows = plan_windows(files, options, seed=(5,), pass_number=pass_number)
        for window in windows:
            assert len(window.files) == len(set(window.files))
        seen = entries(windows)
        taken.append(len(seen))
        reached.update(seen)
    assert reached == {(file.index, entry) for file in files for entry in range(int(entry_at(0.8, file.entries)))}
    assert np.mean(taken) == pytest.approx(0.3 * (32 + 32 + 5), rel=0.02)


def test_without_shuffling_a_data_fraction_is_the_leading_part() -> None:
    windows = plan_windows(planned([100, 10]), SplitOptions(data_fraction=0.29, fetch_step=1.0), seed=(1,))
    assert entries(windows) == [(10, entry) for entry in range(29)] + [(11, 0), (11, 1)]


def test_as_many_windows_as_weaver_cuts() -> None:
    files = planned([1000] * 4, groups=2)
    count = lambda **options: len(plan_windows(files, SplitOptions(**options), seed=(1,)))  # noqa: E731
    assert count(fetch_step=0.01) == 100
    assert count(fetch_step=0.01, stop=0.8) == 80
    assert count(fetch_step=0.3) == 4
    assert count(fetch_step=0.1, data_fraction=0.5) == 5
    assert count(fetch_step=0.1, split_num=3) == 30
    assert count(fetch_step=0) == 1
    assert count(fetch_step=3, fetch_by_files=True) == 2
    assert count(fetch_step=0, fetch_by_files=True) == 1
    assert count(fetch_step=1.0, max_window_events=1000) == 4
    assert count(fetch_step=0.001, in_memory=True) == 1


def test_split_num_takes_the_files_of_each_group_one_after_another() -> None:
    files = [PlannedFile(index=index, group="a", entries=30) for index in range(5)]
    files += [PlannedFile(index=5 + index, group="b", entries=30) for index in range(3)]
    windows = plan_windows(files, SplitOptions(fetch_step=1.0, split_num=3), seed=(1,))
    read = [dict(zip(window.files.tolist(), (window.last - window.first).tolist(), strict=True)) for window in windows]
    assert read == [{0: 30, 1: 20, 5: 30}, {1: 10, 2: 30, 3: 10, 6: 30}, {3: 20, 4: 30, 7: 30}]


def test_windows_of_many_small_files_are_of_even_size() -> None:
    windows = plan_windows(planned([3] * 2000), SplitOptions(shuffle=True, fetch_step=0.01), seed=(1,))
    sizes = np.array([window.entries for window in windows])
    assert len(sizes) == 100
    assert sizes.min() > 35
    assert sizes.max() < 90


def test_a_file_fraction_draws_other_files_each_pass_and_the_same_when_asked() -> None:
    files = planned([10] * 20)
    options = SplitOptions(shuffle=True, file_fraction=0.25, fetch_step=1.0)

    def read(options: SplitOptions, pass_number: int) -> set[int]:
        return {int(file) for window in plan_windows(files, options, seed=(1,), pass_number=pass_number) for file in window.files}

    drawn = [read(options, pass_number) for pass_number in range(40)]
    assert all(len(files) == 5 for files in drawn)
    assert set.union(*drawn) == {file.index for file in files}
    fixed = dataclasses.replace(options, same_each_pass=True)
    assert read(fixed, 0) == read(fixed, 7)
    assert len(read(dataclasses.replace(options, file_fraction=0.001), 0)) == 1


def test_options_of_the_splits_follow_config_yaml() -> None:
    config = {
        "data": {"data_fraction": 0.5, "train_val_split": 0.7},
        "loading": {"fetch_step": 0.05, "split_num": 2},
        "training": {"batch_size": 100, "batch_size_val": 250, "samples_per_epoch": 10_000},
        "sampling": {"max_resample": 3},
        "fold": {"variable": "event_no", "folds": 5, "index": 2},
    }
    train = split_options(stage_settings(config), "train", world_size=4, own_files=False)
    assert (train.start, train.stop, train.data_fraction) == (0.0, 0.7, 0.5)
    assert (train.steps, train.endless, train.drop_last, train.sample, train.max_resample) == (25, True, True, True, 3)
    assert train.fold == Fold(variable="event_no", folds=5, index=2)
    validation = split_options(stage_settings(config), "val", world_size=4, own_files=False)
    assert (validation.start, validation.stop, validation.batch_size) == (0.7, 1.0, 250)
    assert (validation.steps, validation.sample, validation.shuffle, validation.drop_last, validation.whole_batches) == (
        None, False, False, False, True,
    )  # fmt: skip
    assert split_options(stage_settings(config), "val", own_files=True).start == 0.0
    assert split_options(stage_settings(config), "train", own_files=True).stop == 1.0


def test_weavers_way_of_validating_takes_its_share_of_the_training_steps() -> None:
    config = {"training": {"batch_size": 100, "batch_size_val": 50, "steps_per_epoch": 90}, "validation": {"reweight": True}}
    validation = split_options(stage_settings(config), "val", own_files=False)
    assert validation.steps == round(90 * 100 * 0.2 / 0.8 / 50)
    assert validation.sample
    assert validation.drop_last
    config["training"]["steps_per_epoch_val"] = -1
    assert split_options(stage_settings(config), "val", own_files=False).steps is None


@pytest.mark.parametrize("entries", [1, 7, 100, 5000])
def test_a_small_fraction_takes_an_entry_of_every_file(entries):
    files = [PlannedFile(index=index, group="a", entries=entries) for index in range(3)]
    windows = plan_windows(files, SplitOptions(start=0.8, stop=1.0, data_fraction=0.001), seed=(0,))
    rest = entries - int(0.8 * entries + 1e-9)
    assert sum(window.entries for window in windows) == 3 * max(1, int(0.001 * rest))
