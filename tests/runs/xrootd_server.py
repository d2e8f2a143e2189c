"""A real XRootD server on the loopback, where one is installed."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


@contextlib.contextmanager
def serving():
    """The address of an XRootD server's folder, the folder, and its process."""
    program = shutil.which("xrootd")
    pytest.importorskip("fsspec_xrootd")
    if program is None:
        pytest.skip("no xrootd server is installed: apt-get install xrootd-server")
    # Not pytest's folder: another pytest that starts takes away the right of other users to enter it.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield from _serving(Path(folder), program)


def _serving(folder, program):
    served = folder / "served"
    (served / "data").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = folder / "xrootd.cfg"
    configuration.write_text(
        f"all.export /data\noss.localroot {served}\nall.adminpath {folder}/adm\nall.pidpath {folder}/adm\n"
        f"xrd.port {port}\nxrd.network nodnr\nxrootd.chksum adler32\n"
    )
    folder.chmod(0o755)
    as_nobody = []
    if folder.stat().st_uid == 0:
        shutil.chown(folder, "nobody")
        as_nobody = ["-R", "nobody"]
    server = subprocess.Popen(
        [program, "-c", configuration, "-l", folder / "log", *as_nobody], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    try:
        yield f"root://127.0.0.1:{port}//data", served / "data", server
    finally:
        server.kill()
        server.wait()
