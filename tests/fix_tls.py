"""TLS before PostgreSQL, whether or not the server itself has it."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

CERTIFICATE = Path(__file__).parent / "data" / "tls_test.pem"  # made for these tests, trusted by nobody


class TlsFront:
    """`conninfo` leads to the server of `dsn` through TLS; a context manager."""

    def __init__(self, dsn: str) -> None:
        params = conninfo_to_dict(dsn)
        self._host, self._port = str(params["host"]), int(params.get("port") or 5432)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(CERTIFICATE)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.02)
        self.conninfo = make_conninfo(**{**params, "host": "127.0.0.1", "port": self._listening.getsockname()[1]})
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name="tls front", daemon=True)]

    def __enter__(self) -> TlsFront:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        for thread in self._threads:
            thread.join(10)
        self._listening.close()

    def _run(self) -> None:
        while not self._closed:
            with contextlib.suppress(TimeoutError):
                client, _ = self._listening.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(client,), name="tls", daemon=True))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, self._connect() as server:
            client.settimeout(10)
            client.recv(8)  # SSLRequest
            client.sendall(b"S")
            with self._tls.wrap_socket(client, server_side=True) as secured:
                self._pass(secured, server)

    def _pass(self, secured: ssl.SSLSocket, server: socket.socket) -> None:
        others: dict[socket.socket, socket.socket] = {secured: server, server: secured}
        while not self._closed:
            for side in [secured] if secured.pending() else select.select([*others], [], [], 0.02)[0]:
                data = side.recv(65536)
                if not data:
                    return
                others[side].sendall(data)

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server
