"""Show the lineage of a file as a tree in the terminal, with one branch per stage or one per task."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rich.text import Text
from rich.tree import Tree

from weaver_tasks.records.read import Runs, Task

_LISTED = 4  # maximum number of files that are listed by name


def lineage_tree(title: str, last: Sequence[Task], files: Iterable[str], runs: Runs, *, each_task: bool) -> Tree:
    """A tree of the tasks that made some files, and of all tasks before them.

    last: the tasks that made the `files` (absolute paths). each_task: one branch for each task, instead of one for all tasks of a stage.
    A branch that was already shown is only named.
    """
    tree = Tree(Text(title, style="bold"))
    groups = _Groups(last, runs, each_task=each_task)
    waiting = [(tree, groups.of(last[0]), list(files))] if last else []
    for task in last[1:]:
        if not any(groups.of(task) == key for _, key, _ in waiting):
            waiting.append((tree, groups.of(task), list(task.outputs)))
    waiting.reverse()
    shown: set[str] = set()
    while waiting:
        parent, key, used = waiting.pop()
        branch = parent.add(_label(used, groups.tasks[key], again=key in shown))
        if key in shown:
            continue
        shown.add(key)
        sources, made = groups.inputs(key)
        for path, checksum in list(sources.items())[: _LISTED if len(sources) > _LISTED + 1 else None]:
            branch.add(_source(path, checksum))
        if len(sources) > _LISTED + 1:
            branch.add(Text(f"… and {len(sources) - _LISTED} other files that no task made", style="dim"))
        # This is a stack, so the last item is shown first.
        waiting += reversed([(branch, other, paths) for other, paths in made.items()])
    return tree


class _Groups:
    """The tasks of a chain, grouped by the branch of the tree that shows them."""

    def __init__(self, last: Sequence[Task], runs: Runs, *, each_task: bool) -> None:
        from weaver_tasks.records.lineage import chain

        self._runs, self._each = runs, each_task
        self.tasks: dict[str, list[Task]] = {}
        for task in chain(last, runs):
            self.tasks.setdefault(self.of(task), []).append(task)

    def of(self, task: Task) -> str:
        return f"{task.run}/{task.name if self._each else task.stage}"

    def inputs(self, key: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        """The inputs of a group: files that no task made -> checksum, and other groups -> the files that were read from them."""
        sources: dict[str, str] = {}
        made: dict[str, dict[str, None]] = {}
        for task in self.tasks[key]:
            for path, checksum in task.inputs.items():
                maker = self._runs.maker(path)
                if maker is None:
                    sources[path] = checksum
                elif self.of(maker) != key:
                    made.setdefault(self.of(maker), {})[path] = None
        return sources, {other: list(paths) for other, paths in made.items()}


def _label(used: Sequence[str], tasks: Sequence[Task], *, again: bool) -> Text:
    """The label of a branch: file, stage, time, version of the code, digest."""
    text = Text()
    text.append(_files(used), style="cyan")
    stage = tasks[0].stage if len(tasks) == 1 else f"{len(tasks)} tasks of {tasks[0].stage}"
    text.append(f"  {stage}", style="bold")
    if again:
        text.append("  (above)", style="dim")
        return text
    start, end = min(task.content["start"] for task in tasks), max(task.content["end"] for task in tasks)
    text.append(f"  {start[:19].replace('T', ' ')}")
    if len(tasks) > 1:
        text.append(f" to {end[11:19] if end[:10] == start[:10] else end[:19].replace('T', ' ')}")
    text.append(f"  {', '.join(dict.fromkeys(task.code for task in tasks))}", style="green")
    checksums = [task.outputs[path] for task in tasks for path in used if path in task.outputs]
    if len(checksums) == 1:
        text.append(f"  {checksums[0][:12]}", style="dim")
    return text


def _source(path: str, checksum: str) -> Text:
    text = Text(shown(path), style="cyan")
    text.append("  (no task made it)", style="dim")
    text.append(f"  {checksum[:12] if ' ' not in checksum else checksum}", style="dim")
    return text


def _files(paths: Sequence[str]) -> str:
    if len(paths) == 1:
        return shown(paths[0])
    return f"{shown(paths[0])} … {os.path.basename(paths[-1])} ({len(paths)} files)"


def shown(path: str) -> str:
    """A path as a user would type it in the current folder."""
    if "://" in path:
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
