"""A batch, and how it is made of the events of windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration
    from weaver_tasks.data.loading.collate import InputAssembler
    from weaver_tasks.data.loading.event_stream import PlannedBatch, Position


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """B events, as numpy arrays. A batch stays valid for as long as it is held; then its inputs' memory is used again.

    inputs: group -> float32 (B, variables, length), flat groups (B, variables) or, with one variable, (B,). From a loader that does not
        pad: packed column -> `collate.Unpadded`, in place of its jagged groups.
    labels: name -> int64 or float32, (B,) or, per particle, (B, length).
    observers: the observers (in prediction) and monitor variables, name -> (B,) of any type, jagged ones awkward arrays.
    weights: (B,) float32, those by which the events were accepted, or None.
    file: (B,) index into the manifest's files; entry: (B,) the entry in that file.
    number: the batch's place in the epoch, over all ranks. end_position: where the stream is after this batch.
    """

    inputs: dict[str, Any]
    labels: dict[str, np.ndarray]
    observers: dict[str, Any] = field(default_factory=dict)
    weights: np.ndarray | None = None
    file: np.ndarray
    entry: np.ndarray
    number: int
    end_position: Position

    def __len__(self) -> int:
        return len(self.entry)


def make_batch(planned: PlannedBatch, assembler: InputAssembler, configuration: DataConfiguration) -> Batch:
    """Gather the events of a batch."""
    events = [(part.window, part.window.order[part.begin : part.end]) for part in planned.parts]
    plain = {name: _joined([window.plain[name][which] for window, which in events]) for name in events[0][0].plain}
    return Batch(
        inputs=assembler.assemble([(window.packed, window.pieces[which], window.rows[which]) for window, which in events]),
        labels={name: plain.pop(name) for name in configuration.label_names if name in plain},
        observers=plain,
        weights=None if events[0][0].weights is None else _joined([window.weights[which] for window, which in events]),
        file=_joined([window.files[which] for window, which in events]),
        entry=_joined([window.entries[which] for window, which in events]),
        number=planned.number,
        end_position=planned.end_position,
    )


def _joined(arrays: Sequence[Any]) -> Any:
    if len(arrays) == 1:
        return arrays[0]
    return ak.concatenate(list(arrays)) if isinstance(arrays[0], ak.Array) else np.concatenate(arrays)
