"""Remote files: credentials from the environment, faults of servers, limits on silence, replaced files."""

import io
import os
import re
import shutil
import subprocess
import time
import types

import fsspec
import pytest

from fault_server import PASSWORD, SURVIVED, TOKEN, FaultServer
from weaver_tasks.base import addresses
from weaver_tasks.base.errors import InputFileError
from weaver_tasks.base.remote_limits import RemoteLimits, limits, set_limits
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.readers import open_reader
from weaver_tasks.data.readers.remote import RemoteFile, RemoteFileError, open_stream, remote_state
from weaver_tasks.data.readers.remote_failures import failure_of, of_status
from weaver_tasks.data.readers.remote_state import RemoteState
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.data.staging.stage import Staging, stage_file

pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def jet_file(request):
    return request.getfixturevalue("jets") / "train" / "HToBB.root"


@pytest.fixture
def server(tmp_path, jet_file):
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(jet_file, folder / "jets.root")
    server = FaultServer(folder)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    before = limits()
    set_limits(RemoteLimits(silence=0.4, retries=2, longest_wait=0.3))
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE", "X509_USER_PROXY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    yield
    set_limits(before)


def staged(server, fault, mode, tmp_path, repository, *, split="train", query="", name="jets.root"):
    configuration = load_data_configuration(repository / "config" / "data" / "demo.yaml")
    source = addresses.remember(f"{server.address}/{fault}/{name}{query}")
    target = {"columnar": tmp_path / "out.arrow", "copy": tmp_path / "out.root", "none": None}[mode]
    return stage_file(source, target, Staging(configuration=configuration, split=split, mode=mode), group="g")


@pytest.mark.parametrize("mode", ["columnar", "copy", "none"])
@pytest.mark.parametrize("fault", SURVIVED)
def test_what_a_retry_survives_is_read_as_a_right_file(server, fault, mode, tmp_path, repository, jet_file):
    record = staged(server, fault, mode, tmp_path, repository)
    assert record["bad"] is None
    assert record["remote"]["size"] == jet_file.stat().st_size
    if mode == "copy":
        assert (tmp_path / "out.root").read_bytes() == jet_file.read_bytes()


REFUSED = {
    "missing": "404 Not Found: it has no such file. Correct the address",
    "password": "401 Unauthorized. Give valid credentials",
    "token": "403 Forbidden. Give valid credentials",
    "busy": r"503 Service Unavailable \(tried 3 times\). The server is busy",
    "too_many": "429 Too Many Requests, and the server asks to wait 3600 s",
    "drop": r"the connection was lost .* \(tried 3 times\)",
    "silent": r"the server was silent for 0.4 s \(tried 2 times\)",
    "stalls": r"the server was silent for 0.4 s \(tried 2 times\)",
    "page": "sends a web page .* instead of the file",
}


@pytest.mark.parametrize("mode", ["columnar", "copy", "none"])
@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_read_is_a_bad_file_with_reason_and_remedy(server, fault, mode, tmp_path, repository):
    name = "none.root" if fault == "missing" else "jets.root"
    # Test files are tried once only, too, though without labels they would be read in another way.
    record = staged(server, "right" if fault == "missing" else fault, mode, tmp_path, repository, split="test", name=name)
    assert record["bad"].startswith(f"{server.address}/")
    assert re.search(REFUSED[fault], record["bad"])
    assert "damaged" not in record["bad"]
    assert not record["staged"]


def test_servers_without_ranges_serve_copies(server, tmp_path, repository):
    for fault in ("no_ranges", "cut"):
        for mode in ("columnar", "none"):
            assert "knows no ranges" in (bad := staged(server, fault, mode, tmp_path, repository)["bad"])
            assert "Set staging.mode: copy." in bad
    assert staged(server, "no_ranges", "copy", tmp_path, repository)["bad"] is None
    assert f"{server.address}/cut/jets.root: is truncated" in staged(server, "cut", "copy", tmp_path, repository)["bad"]
    assert "other bytes than those asked for" in staged(server, "other_range", "columnar", tmp_path, repository)["bad"]
    assert staged(server, "other_range", "copy", tmp_path, repository)["bad"] is None


def test_limits_are_on_silence_and_not_on_length(server, tmp_path, jet_file):
    """A transfer of many times the limit is right where it always flows."""
    content = jet_file.read_bytes()
    (tmp_path / "served" / "long.root").write_bytes(content * (1 + (1 << 20) // len(content)))
    out, begin = io.BytesIO(), time.monotonic()
    RemoteFile(f"{server.address}/slow/long.root", parts=False).copy_to(out)
    assert time.monotonic() - begin > 2 * limits().silence
    assert out.getvalue() == (tmp_path / "served" / "long.root").read_bytes()


def test_a_full_disk_is_no_fault_of_the_server(server):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        RemoteFile(f"{server.address}/right/jets.root", parts=False).copy_to(Full())
    assert server.counts["right"] == 2


# Credentials


def test_credentials_in_an_address_are_used_and_named_nowhere(server, tmp_path, repository):
    for fault, source in (
        ("token", f"{server.address}/token/jets.root?authz={TOKEN}"),
        ("password", f"{server.address}/password/jets.root".replace("://", f"://user:{PASSWORD}@")),
    ):
        name = addresses.remember(source)
        assert name == f"{server.address}/{fault}/jets.root"
        for mode in ("columnar", "copy", "none"):
            record = staged(server, fault, mode, tmp_path, repository)
            assert record["bad"] is None
            assert "SECRET" not in repr(record)
        for file in tmp_path.glob("out.*"):
            assert b"SECRET" not in file.read_bytes()
        addresses._complete.pop(name)


@pytest.mark.parametrize("by", ["BEARER_TOKEN", "BEARER_TOKEN_FILE", "FSSPEC_HTTP"])
def test_tokens_come_from_the_environment(server, by, tmp_path, monkeypatch):
    address = f"{server.address}/token/jets.root"
    with pytest.raises(RemoteFileError, match="403"):
        remote_state(address)
    if by == "FSSPEC_HTTP":
        # fsspec reads the variable when it is imported.
        conf = {}
        fsspec.config.set_conf_env(conf, {"FSSPEC_HTTP": f'{{"headers": {{"Authorization": "Bearer {TOKEN}"}}}}'})
        monkeypatch.setitem(fsspec.config.conf, "http", conf["http"])
        monkeypatch.setenv("X509_CERT_DIR", str(tmp_path))  # another environment: other sessions
    else:
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        monkeypatch.setenv(by, TOKEN if by == "BEARER_TOKEN" else str(tmp_path / "token"))
    assert remote_state(address).size


def test_passwords_come_from_netrc(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login user password {PASSWORD}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert remote_state(f"{server.address}/password/jets.root").size


def test_a_token_of_the_environment_goes_over_secure_connections_only(monkeypatch):
    from weaver_tasks.data.readers.remote_http import _bearer

    session = types.SimpleNamespace(headers={}, auth=None)
    monkeypatch.setenv("BEARER_TOKEN", TOKEN)
    assert _bearer("https://example.org/a.root", session) == {"Authorization": f"Bearer {TOKEN}"}
    for address in ("http://example.org/a.root", "https://user:password@example.org/a.root", "https://example.org/a.root?authz=other"):
        assert _bearer(address, session) == {}


@pytest.fixture
def secure(tmp_path, jet_file):
    """An https server of an authority of its own, which wants a certificate of the user; the files of both certificates."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl is installed")
    for name in ("server", "user"):
        options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.pem"]
        subprocess.run(["openssl", "req", "-x509", *options, *files], check=True, capture_output=True)
    proxy = tmp_path / "proxy.pem"
    proxy.write_text((tmp_path / "user.pem").read_text() + (tmp_path / "user.key").read_text())
    proxy.chmod(0o600)
    (tmp_path / "secure").mkdir()
    shutil.copy(jet_file, tmp_path / "secure" / "jets.root")
    server = FaultServer(tmp_path / "secure", certificate=tmp_path / "server.pem", key=tmp_path / "server.key", users=tmp_path / "user.pem")
    yield server, tmp_path / "server.pem", proxy
    server.close()


def test_certificates_come_from_the_environment(secure, monkeypatch):
    server, authority, proxy = secure
    address = f"{server.address}/token/jets.root"
    monkeypatch.setenv("BEARER_TOKEN", TOKEN)
    monkeypatch.setenv("X509_USER_PROXY", str(proxy))
    with pytest.raises(RemoteFileError, match=r"no secure connection .*SSL_CERT_FILE"):
        remote_state(address)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert remote_state(address).size
    monkeypatch.delenv("X509_USER_PROXY")
    with pytest.raises(RemoteFileError, match="cannot be read: "):
        remote_state(address)
    monkeypatch.setenv("X509_USER_PROXY", str(authority.parent / "none.pem"))
    with pytest.raises(RemoteFileError, match=r"none\.pem cannot be used .* Make a new one, or unset X509_USER_PROXY"):
        remote_state(address)


# Replaced files


def replace(path, jet_file):
    """Write another file of the same size in place of one."""
    content = bytearray(jet_file.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 5_000_000_000))


def test_a_replaced_file_is_refused_by_name_where_it_is_read_again(server, tmp_path, repository, jet_file):
    record = staged(server, "right", "none", tmp_path, repository)
    configuration = load_data_configuration(repository / "config" / "data" / "demo.yaml")
    assert len(open_source(record, configuration).read(0, 50)) > 0
    replace(tmp_path / "served" / "jets.root", jet_file)
    for read in (lambda source: source.read(0, 50), lambda source: list(source.blocks(0, 50))):
        with pytest.raises(InputFileError, match=r"jets\.root: was replaced on the server .* ETag"):
            read(open_source(record, configuration))


def test_a_file_replaced_while_it_is_open_is_noticed(server, tmp_path, jet_file):
    file = RemoteFile(f"{server.address}/right/jets.root")
    replace(tmp_path / "served" / "jets.root", jet_file)
    with pytest.raises(RemoteFileError, match="was replaced while it was read"):
        file.read([(0, 10)])


@pytest.mark.parametrize(
    ("then", "now", "word"),
    [
        (RemoteState(1, "a", "m", None, "s"), RemoteState(1, "a", "n", None, "s"), ""),
        (RemoteState(1, "a"), RemoteState(2, "a"), "bytes"),
        (RemoteState(1, "a"), RemoteState(1, "b"), "ETag"),
        (RemoteState(1, None, "m"), RemoteState(1, None, "n"), "modified"),
        (RemoteState(1, None, "m", "adler32 1"), RemoteState(1, None, "n", "adler32 1"), ""),
        (RemoteState(1, None, "m", "adler32 1"), RemoteState(1, None, "m", "adler32 2"), "checksum"),
        (RemoteState(1, "a", None, None, "one:1"), RemoteState(1, "b", None, None, "other:1"), ""),
        (RemoteState(None), RemoteState(5, "x"), ""),
    ],
)
def test_what_tells_another_file(then, now, word):
    assert (word in then.difference(now)) if word else then.difference(now) == ""


# Streams and messages


def test_a_remote_stream_reads_as_a_local_file(server, jet_file):
    content = jet_file.read_bytes()
    file = RemoteFile(f"{server.address}/right/jets.root")
    with open_stream(file.source, file) as stream:
        assert stream.read() == content
        for place, length in ((0, 10), (len(content) - 5, 50), (100, 100_000), (len(content) + 1, 3)):
            stream.seek(place)
            assert stream.read(length) == content[place : place + length]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("File did not open properly: [ERROR] Server responded with an error: [3011] Unable to open /x; no such file", "no such file"),
        ("[ERROR] Server responded with an error: [3010] Unable to open /x; Permission denied", "does not allow"),
        ("[FATAL] Auth failed: No protocols left to try", "X509_USER_PROXY"),
        ("[ERROR] Operation expired", "silent"),
        ("[FATAL] Connection error", "no connection"),
        ("[FATAL] Invalid address", "no server"),
    ],
)
def test_what_xrootd_says_is_put_into_words(message, words):
    failure = failure_of(OSError(message))
    assert words in f"{failure.reason} {failure.remedy}"


def test_what_is_no_fault_of_a_server_stays_an_exception():
    assert failure_of(KeyError("x")) is None
    assert of_status(418, "I'm a teapot", None).repeats == 0


def test_a_server_that_does_not_exist_is_told():
    with (
        pytest.raises(RemoteFileError, match=r"http://127\.0\.0\.1:9/a\.root: cannot be read: no connection to 127\.0\.0\.1:9"),
        open_reader("http://127.0.0.1:9/a.root"),
    ):
        pass
