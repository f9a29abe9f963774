"""An S3-compatible server over HTTP (moto), in a process of its own, with a log and with faults."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Self

from penstock.server.port import free_port

__all__ = ["BUCKET", "ObjectServer"]

BUCKET = "bucket"
KEY_ID = "test-key"


class ObjectServer:
    """Serves one bucket; what it holds stays when it is away for a while.

    Args:
        log: File of all requests that were answered, one a line: method, path, status.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def requests(self, start: int = 0) -> list[tuple[str, str, int]]:
        """Method, path and status of every request answered so far, from the ``start``-th on."""
        lines = self._log.read_text().splitlines()[start:]
        return [(method, path, int(status)) for method, path, status in map(str.split, lines)]

    def up(self) -> None:
        """Answer again."""
        self._tell("up")

    def down(self) -> None:
        """Refuse connections."""
        self._tell("down")

    def fail(self, count: int) -> None:
        """Answer so many requests with 503."""
        self._tell(f"fail {count}")

    def _tell(self, command: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n", f"{command}: see {self._log}"

    def _make_bucket(self) -> None:
        request = urllib.request.Request(  # noqa: S310 - of this test
            f"{self.endpoint}/{BUCKET}",
            method="PUT",
            headers={
                "Authorization": f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/"
                "aws4_request, SignedHeaders=host, Signature=0"
            },
        )
        urllib.request.urlopen(request).close()  # noqa: S310 - same

    def __enter__(self) -> Self:
        self._log.touch()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.port), str(self._log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.up()
            self._make_bucket()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()


class _Application:
    """Moto behind a check of the key and a log."""

    def __init__(self, log: Path) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._moto = DomainDispatcherApplication(create_backend_app)
        self._log = log
        self._lock = threading.Lock()
        self.failing = 0

    def __call__(self, environ, start_response):
        place = environ["PATH_INFO"] + (
            f"?{environ['QUERY_STRING']}" * bool(environ["QUERY_STRING"])
        )

        def note_and_start(status, headers, *rest):
            with self._lock, self._log.open("a") as log:
                log.write(f"{environ['REQUEST_METHOD']} {place} {status.split()[0]}\n")
            return start_response(status, headers, *rest)

        with self._lock:
            failing = self.failing > 0
            self.failing -= failing
        if failing:
            note_and_start("503 Service Unavailable", [])
            return [b"<Error><Code>SlowDown</Code></Error>"]
        if f"Credential={KEY_ID}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            note_and_start("403 Forbidden", [])
            return [b"<Error><Code>InvalidAccessKeyId</Code></Error>"]
        return self._moto(environ, note_and_start)


def main(port: int, log: Path) -> None:
    """Obey commands from standard input until it ends."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log_request(self, *_: object) -> None:
            pass

    application = _Application(log)
    server = None
    for line in sys.stdin:
        command, _, count = line.strip().partition(" ")
        if command == "up" and server is None:
            server = make_server(
                "127.0.0.1", port, application, threaded=True, request_handler=Silent
            )
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        elif command == "down" and server is not None:
            server.shutdown()
            server.server_close()
            server = None
        elif command == "fail":
            application.failing = int(count)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
