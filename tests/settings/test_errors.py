"""Every mistake in a document is one line that names file, key, value and remedy."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, Tag

from weaver_tasks.base.errors import ConfigError, DataConfigError
from weaver_tasks.settings.errors import checked
from weaver_tasks.settings.fields import MAP, NOTHING, TEXT, FolderName, Number, Section, key, one_of, section

Groups = Annotated[Annotated[str, Tag(TEXT)] | Annotated[dict[FolderName, str], Field(max_length=3), Tag(MAP)], one_of(TEXT, MAP)]


class Training(Section):
    epochs: int = key(3, "Epochs.", affects=NOTHING, ge=1)
    device: Literal["cpu", "cuda"] | None = key(None, "Where.", affects=NOTHING)
    lr: Number = key(0.1, "Learning rate.", affects=NOTHING, gt=0)
    files: Annotated[list[str], Field(min_length=2)] | None = key(None, "Files.", affects=NOTHING)
    groups: Groups = key("a", "Groups.", affects=NOTHING)


class Document(Section):
    run: Annotated[str, Field(pattern="^[a-z]+$")] = key(..., "Name of the run.", affects=NOTHING)
    training: Training = section(Training, "How it is trained.")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"run": "a", "training": {"epoch": 3}}, "c.yaml: unknown key 'training.epoch'. Did you mean: epochs?"),
        ({"run": "a", "xyz": 3}, "c.yaml: unknown key 'xyz'. Known here: run, training."),
        ({"xyz": 3}, "c.yaml: unknown key 'xyz'. Known here: run, training."),
        ({}, "c.yaml: key 'run' is missing. (Name of the run.)"),
        ({"run": "a", "training": {"epochs": 0}}, "c.yaml: key 'training.epochs': 0 does not fit; expected at least 1. (Epochs.)"),
        (
            {"run": "a", "training": {"epochs": None}},
            "c.yaml: key 'training.epochs': nothing does not fit; expected a whole number. (Epochs.)",
        ),
        ({"run": "a", "training": {"lr": 0}}, "c.yaml: key 'training.lr': 0 does not fit; expected more than 0. (Learning rate.)"),
        (
            {"run": "a", "training": {"device": "cudaa"}},
            "c.yaml: key 'training.device': 'cudaa' does not fit; expected one of cpu, cuda, nothing. Did you mean: cuda?",
        ),
        (
            {"run": "a", "training": {"files": ["x"]}},
            "c.yaml: key 'training.files': ['x'] does not fit; expected at least 2 of them. (Files.)",
        ),
        ({"run": "a", "training": {"files": ["x", 1]}}, "c.yaml: key 'training.files[1]': 1 does not fit; expected text. (Files.)"),
        ({"run": "A"}, "c.yaml: key 'run': 'A' does not fit; expected text like ^[a-z]+$. (Name of the run.)"),
        (
            {"run": "a", "training": {"groups": {"a b": "x"}}},
            "c.yaml: key 'training.groups': 'a b' does not fit; expected text like ^[A-Za-z0-9][A-Za-z0-9._-]*$. "
            "(It becomes a folder's name: letters, digits, '.', '_' and '-'.)",
        ),
        (
            {"run": "a", "training": {"groups": 3}},
            "c.yaml: key 'training.groups': 3 does not fit; expected text or a map of keys. (Groups.)",
        ),
        ([], "c.yaml: the document: [] does not fit; expected a map of keys."),
        ({"run": "a", "x\ny": 1}, "c.yaml: unknown key 'x y'. Known here: run, training."),
        ({"run": "a" * 99 + "B"}, f"c.yaml: key 'run': '{'a' * 76}… does not fit; expected text like ^[a-z]+$. (Name of the run.)"),
    ],
)
def test_messages(document, message):
    with pytest.raises(ConfigError) as caught:
        checked(Document, document, where="c.yaml")
    assert str(caught.value) == message


def test_the_error_is_the_callers():
    with pytest.raises(DataConfigError):
        checked(Document, {}, where="d.yaml", error=DataConfigError)
    assert checked(Document, {"run": "a"}, where="d.yaml").training.epochs == 3
