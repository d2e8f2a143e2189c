"""Measure the time and memory of training steps with torch's profiler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function, schedule

from weaver_tasks.base.files import atomic_path
from weaver_tasks.base.progress import Progress
from weaver_tasks.training.step import TrainStep

_WARM_UP = 3
_ROWS = 40


def profile_steps(engine: TrainStep, batches: Iterator[Any], *, steps: int, trace: Path, table: Path) -> dict[str, float]:
    """Train some warm-up steps, then record `steps` steps.

    trace: a Chrome trace (.json or .json.gz), for https://ui.perfetto.dev or chrome://tracing. table: the operators,
    sorted by time. Returns the mean seconds per recorded step that are spent waiting for the batch and computing.
    """
    engine.model.train()
    engine.runner.train()
    on_gpu = engine.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    when = schedule(wait=0, warmup=_WARM_UP, active=steps, repeat=1)
    with (
        Progress("profiled training", total=None) as bar,
        profile(activities=activities, schedule=when, record_shapes=True, profile_memory=True, acc_events=True) as profiler,
    ):
        held = []
        for _ in range(_WARM_UP + steps):
            with record_function("wait for the batch"):
                batch = next(batches)
            # Keep the batches: nothing here waits for the GPU, so a released batch could be overwritten before it is copied.
            held.append(batch)
            with record_function("training step"):
                engine.step(batch)
            bar.advance(len(batch.entry))
            profiler.step()
    averages = profiler.key_averages()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    with atomic_path(table) as temporary:
        temporary.write_text(averages.table(sort_by=order, row_limit=_ROWS, max_name_column_width=60))
    with atomic_path(trace) as temporary:
        profiler.export_chrome_trace(str(temporary))
    spent = {event.key: event.cpu_time_total / 1e6 for event in averages}
    return {
        "seconds_waiting": spent["wait for the batch"] / steps,
        "seconds_computing": spent["training step"] / steps,
    }
