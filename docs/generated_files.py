"""Make anew the files of this checkout that follow from the models of the configurations: python docs/generated_files.py"""

import json
from pathlib import Path

from weaver_tasks.data.configuration.document import DataDocument
from weaver_tasks.settings.model import Configuration
from weaver_tasks.settings.schema import json_schema, readme

REPOSITORY = Path(__file__).parent.parent
SCHEMAS = {
    "workflow/schemas/config.schema.json": lambda: json_schema(Configuration, title="config.yaml"),
    "workflow/schemas/data_config.schema.json": lambda: json_schema(DataDocument, title="data configuration"),
}


def generated() -> dict[str, str]:
    """path -> text."""
    schemas = {path: json.dumps(make(), indent=2, ensure_ascii=False) + "\n" for path, make in SCHEMAS.items()}
    return {**schemas, "config/README.md": readme()}


if __name__ == "__main__":
    for name, text in generated().items():
        (REPOSITORY / name).write_text(text, encoding="utf-8")
