"""Write config/README.md, the table of every key of config.yaml, from the schema: python docs/config_reference.py"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
TARGET = REPOSITORY / "config" / "README.md"

HEAD = """# config.yaml

One file says which files, how to train, and on what; `demo.yaml` is a complete example. Files given by several `--configfile`s are merged
key by key, and `--config training='{epochs: 30}'` is laid over them. Unknown keys are refused. `data/` holds data
configurations and `networks/` network configurations, both in weaver's format.

| key | type | default | meaning |
|---|---|---|---|
"""


def reference() -> str:
    """The text of config/README.md."""
    schema = json.loads((REPOSITORY / "workflow" / "schemas" / "config.schema.json").read_text())
    return HEAD + "".join(_rows(schema, schema, ""))


def _rows(schema: dict[str, Any], root: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, child in schema["properties"].items():
        name = f"{prefix}{key}"
        if "properties" in child:
            yield f"| **`{name}`** | | | {child['description']} |\n"
            yield from _rows(child, root, f"{name}.")
        else:
            default = "*required*" if key in schema.get("required", []) else f"`{json.dumps(child.get('default'))}`"
            yield f"| `{name}` | {_type(child)} | {default} | {child['description']} |\n"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return "path, list of paths, or named groups of them"
    if "enum" in schema:
        return " \\| ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    types = schema["type"]
    return " or ".join([types] if isinstance(types, str) else types)


if __name__ == "__main__":
    TARGET.write_text(reference())
