"""Addresses lose their credentials and nothing else."""

import json
import logging
import subprocess
import sys

import pytest

from weaver_tasks.base import addresses
from weaver_tasks.base.command_line import open_log
from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.files import read_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.plan.files import expand, patterns_of, without_credentials

CLEANED = {
    "https://example.org/a.root": "https://example.org/a.root",
    "https://example.org/a.root?authz=SECRET01": "https://example.org/a.root",
    "https://user:SECRET01@example.org:8443/a.root": "https://example.org:8443/a.root",
    "https://SECRET01@example.org/a.root": "https://example.org/a.root",
    "https://example.org/a.root?id=17&token=SECRET01": "https://example.org/a.root?id=17",
    "https://example.org/a.root?versionId=abc&X-Amz-Signature=SECRET01&X-Amz-Expires=3600": "https://example.org/a.root?versionId=abc",
    "https://example.org/a.root?sv=2024-01-01&sp=r&sig=SECRET01%3D&se=2026": "https://example.org/a.root?se=2026",
    "https://example.org/a.root?SECRET01": "https://example.org/a.root",
    "https://example.org/a.root?Expires=1790000000": "https://example.org/a.root",
    "https://example.org/a.root#SECRET01": "https://example.org/a.root",
    "https://example.org/with@sign/a.root?x=12": "https://example.org/with@sign/a.root?x=12",
    "root://someone@example.org//store/a.root?authz=Bearer%20SECRET01": "root://example.org//store/a.root",
    "root://example.org//store/a.zip?xrdcl.unzip=a.root": "root://example.org//store/a.zip?xrdcl.unzip=a.root",
    "simplecache::https://user:SECRET01@example.org/a.root?key=SECRET01": "simplecache::https://example.org/a.root",
    "/local/a?b.root": "/local/a?b.root",
}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(addresses, "_complete", {})
    monkeypatch.setattr(addresses, "_secrets", set())
    monkeypatch.setattr(addresses, "_published", [])
    monkeypatch.setenv(addresses.VARIABLE, "")


@pytest.mark.parametrize("address", CLEANED)
def test_an_address_loses_its_credentials(address):
    assert addresses.clean(address) == CLEANED[address]
    assert addresses.clean(CLEANED[address]) == CLEANED[address]
    assert addresses.remember(address) == CLEANED[address]
    assert addresses.complete(CLEANED[address]) == address


@pytest.mark.parametrize("address", [address for address in CLEANED if "://" in address])
def test_so_does_a_text_that_holds_it(address):
    for text in ("{}: is missing.", "see '{}', and go on", "Cannot open ({}).", '{{"url": "{}"}}'):
        assert addresses.without_credentials(text.format(address)) == text.format(CLEANED[address])


def test_known_secrets_are_hidden_wherever_they_stand(monkeypatch):
    addresses.remember("https://user:SECRET%2001@example.org/a.root?authz=Bearer%20TOKEN01")
    monkeypatch.setenv("BEARER_TOKEN", "TOKEN02")
    assert addresses.without_credentials("SECRET%2001 SECRET 01 TOKEN01 TOKEN02 user") == "*** *** *** *** user"


def test_a_name_of_a_user_is_not_hidden():
    addresses.remember("root://someone@example.org//a.root")
    assert addresses.without_credentials("/home/someone/a") == "/home/someone/a"


def test_tasks_find_the_complete_addresses_of_their_workflow_and_no_variable_holds_them(monkeypatch):
    name = addresses.remember("https://example.org/a.root?authz=SECRET01")
    addresses.publish()
    addresses.remember("https://example.org/b.root?authz=SECRET02")
    addresses.publish()
    code = "import os, sys; from weaver_tasks.base.addresses import complete; print(complete(sys.argv[1]), 'SECRET' in str(os.environ))"
    for letter, secret in (("a", "SECRET01"), ("b", "SECRET02")):
        done = subprocess.run(
            [sys.executable, "-c", code, name.replace("a.root", f"{letter}.root")], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [f"https://example.org/{letter}.root?authz={secret}", "False"]
    monkeypatch.setenv(addresses.VARIABLE, "/proc/1/fd/9999")
    assert addresses.complete("https://example.org/c.root") == "https://example.org/c.root"


def test_errors_logs_and_records_hold_none(tmp_path, monkeypatch):
    source = "https://example.org/a.root?authz=SECRET01"
    assert str(ConfigError(f"{source}: is wrong.")) == "https://example.org/a.root: is wrong."
    open_log("test", tmp_path / "log")
    logger = logging.getLogger("weaver_tasks")
    try:
        raise ValueError(source)
    except ValueError:
        logger.debug("read %s", source, exc_info=True)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "x", "--sources", source])
    record = TaskRecord("test", {"source": source})
    record.read(source, checksum="x")
    record.write(tmp_path / "record.json")
    assert read_json(tmp_path / "record.json")["inputs"] == {"https://example.org/a.root": "x"}
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    for file in tmp_path.iterdir():
        assert "https://example.org/a.root" in file.read_text()
        assert "SECRET" not in file.read_text()


def test_the_files_of_a_configuration(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "SECRET01")
    given = {
        "a": ["https://example.org/a.root?authz=$MY_TOKEN", "/local/x.root"],
        "b": {"files": "https://u:SECRET02@example.org/b.root", "split": 2},
    }
    cleaned = without_credentials(given)
    assert "SECRET" not in json.dumps(cleaned)
    assert cleaned["b"] == {"files": "https://example.org/b.root", "split": 2}
    assert addresses.complete("https://example.org/a.root") == "https://example.org/a.root?authz=SECRET01"
    twice = {"a": ["https://example.org/a.root?authz=SECRET01", "https://example.org/a.root?authz=SECRET02"]}
    with pytest.raises(ConfigError, match=r"listed twice.*count as credentials"):
        list(expand(patterns_of(without_credentials(twice), "train"), "train", "config.yaml"))
