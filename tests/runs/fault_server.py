"""A web server with the faults that users meet: http://host/<fault>/<file> serves a file of a folder with that fault."""

import base64
import collections
import functools
import http.server
import ssl
import threading
import time
import urllib.parse

TOKEN = "SECRETTOKEN"
PASSWORD = "SECRETPASSWORD"
BASIC = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()
SURVIVED = ("right", "redirect", "signed", "slow", "drop_once", "busy_once", "busy_date")
"""The faults with which every mode reads what it reads of a local file."""
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class Handler(http.server.BaseHTTPRequestHandler):
    """counts: requests by fault and method. ended: set when the server ends, for answers that never come."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder, counts, ended, *arguments):
        self.folder, self.counts, self.ended = folder, counts, ended
        super().__init__(*arguments)

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def refuse(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)
        fault, name = address.path.strip("/").split("/", 1)
        self.counts[fault] += 1
        given = self.headers.get("Authorization", "")
        if fault == "silent":
            self.ended.wait()
        elif fault == "busy" or (fault in ("busy_once", "busy_date") and self.counts[fault] <= 2):
            after = {"busy_once": "0", "busy_date": self.date_time_string(time.time() + 0.2)}
            self.refuse(503, **({"Retry_After": after[fault]} if fault in after else {}))
        elif fault == "too_many":
            self.refuse(429, Retry_After="3600")
        elif fault == "password" and given != BASIC:
            self.refuse(401, WWW_Authenticate='Basic realm="x"')
        elif fault == "token" and given != f"Bearer {TOKEN}" and TOKEN not in address.query:
            self.refuse(403)
        elif fault == "redirect":
            self.refuse(302, Location=f"/right/{name}")
        elif fault == "signed":
            self.refuse(302, Location=f"/token/{name}?X-Sig={TOKEN}")
        elif fault == "page":
            self.give(200, PAGE, type="text/html")
        elif not (self.folder / name).is_file():
            self.refuse(404)
        else:
            self.serve(fault, self.folder / name)

    def serve(self, fault, path):
        content, wanted = path.read_bytes(), self.headers.get("Range")
        changed = {"ETag": f'"{path.stat().st_mtime_ns:x}-{len(content)}"', "Last-Modified": self.date_time_string(path.stat().st_mtime)}
        if not wanted or fault in ("no_ranges", "cut"):
            self.give(200, content, fault=fault, **changed)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        first, last = int(first), min(int(last) if last else len(content), len(content) - 1)
        part = content[: last + 1 - first] if fault == "other_range" else content[first : last + 1]
        self.give(206, part, fault=fault, Content_Range=f"bytes {first}-{last}/{len(content)}", **changed)

    def give(self, status, content, *, fault="", type="application/octet-stream", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", type)
        if fault == "cut":
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(content) // 2
        drops = fault == "drop" or (fault == "drop_once" and self.counts[fault] in (2, 4))
        try:
            if fault == "slow":
                for first in range(0, len(content), 1 << 14):
                    self.wfile.write(content[first : first + (1 << 14)])
                    self.ended.wait(0.02)
            elif drops or fault == "cut":
                self.wfile.write(content[:half])
                self.close_connection = True
            elif fault == "stalls":
                self.wfile.write(content[:half])
                self.ended.wait()
            else:
                self.wfile.write(content)
        except OSError:
            # The client has gone.
            self.close_connection = True


class FaultServer:
    """Serves a folder until it is closed. address: without a slash at its end. counts: the requests for each fault.

    certificate, key, users: files, for https to whoever has one of the certificates in `users`.
    """

    def __init__(self, folder, *, certificate=None, key=None, users=None):
        self.counts = collections.Counter()
        self._ended = threading.Event()
        handler = functools.partial(Handler, folder, self.counts, self._ended)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=users)
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(certificate, key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        scheme = "https" if certificate else "http"
        self.address = f"{scheme}://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
