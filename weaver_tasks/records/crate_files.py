"""Add files to an RO-Crate, each once, named relative to the folder of the run."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote

from rocrate.model import ContextEntity, Entity
from rocrate.rocrate import ROCrate

from weaver_tasks.records.crate_parameters import encoding_format


class Files:
    """Makes the entities of the files of a crate, one for each file."""

    def __init__(self, crate: ROCrate, run_folder: Path) -> None:
        self._crate = crate
        self._run_folder = os.path.abspath(run_folder)
        self._known: dict[str, Entity] = {}

    def name(self, path: str | Path) -> str:
        """The name of a file in the crate: relative to the folder of the run, or a URI."""
        if "://" in str(path):
            return str(path)
        absolute = os.path.abspath(path)
        if absolute.startswith(f"{self._run_folder}/"):
            return quote(absolute[len(self._run_folder) + 1 :])
        return Path(absolute).as_uri()

    def file(self, path: str | Path, *, checksum: str | None = None, size: int | None = None) -> Entity:
        """The entity of a file, with its SHA-256 and its size in bytes if they are known."""
        name = self.name(path)
        if name not in self._known:
            self._known[name] = self._crate.add(self._entity(name))
        entity = self._known[name]
        if checksum and " " not in checksum:
            entity["sha256"] = checksum
        if size is not None:
            entity["contentSize"] = str(size)
        return entity

    def _entity(self, name: str) -> Entity:
        properties = {"@type": "File", "name": os.path.basename(unquote(name)), "encodingFormat": encoding_format(name)}
        if "://" not in name and not os.path.exists(os.path.join(self._run_folder, unquote(name))):
            # The file was removed, and parts of a crate must exist, so it is described as a CreativeWork.
            gone = {"@type": "CreativeWork", "name": os.path.basename(name), "description": f"{name}, which has been removed since."}
            return ContextEntity(self._crate, f"#removed/{name}", properties=gone)
        return Entity(self._crate, name, properties=properties)

    def close(self) -> None:
        """Make all files parts of the crate at once, because the library searches all parts each time one is added."""
        parts = [entity for entity in self._known.values() if entity.type == "File"]
        self._crate.root_dataset["hasPart"] = [*self._crate.root_dataset.get("hasPart", []), *parts]
