"""A TCP proxy before PostgreSQL that a test can cut, freeze or refuse."""

from __future__ import annotations

import contextlib
import select
import socket
import threading

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Proxy:
    """`conninfo` leads through it. `cut()` closes what runs; `frozen` keeps connections open and passes nothing;
    `swallowing` passes what the client asks and loses what the server answers; `refusing` closes new connections."""

    def __init__(self, dsn: str) -> None:
        params = conninfo_to_dict(dsn)
        self._host, self._port = str(params["host"]), int(params.get("port") or 5432)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.conninfo = make_conninfo(**{**params, "host": "127.0.0.1", "port": self._listening.getsockname()[1]})
        self.frozen = False
        self.refusing = False
        self.swallowing = False
        self.accepted = 0
        self.asked: list[bytes] | None = None  # a list: gets all that clients send
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        with self._lock:
            for pair in self._pairs:
                for side in pair:
                    with contextlib.suppress(OSError):
                        side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        self._thread.join(10)
        self._listening.close()
        for pair in self._pairs:
            for side in pair:
                side.close()

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                peers = {a: b for pair in self._pairs for a, b in (pair, pair[::-1])}
            watched = [self._listening, *(() if self.frozen else peers)]
            ready, _, _ = select.select(watched, [], [], 0.02)
            for side in ready:
                if side is self._listening:
                    self._accept()
                elif side in peers:
                    self._pass(side, peers[side])

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        self.accepted += 1
        if self.refusing:
            client.close()
            return
        server = self._connect()
        with self._lock:
            self._pairs.append((client, server))

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            data = source.recv(65536)
            if data:
                if self.asked is not None and any(source is client for client, _ in self._pairs):
                    self.asked.append(data)
                if not (self.swallowing and any(source is server for _, server in self._pairs)):
                    target.sendall(data)
                return
        except OSError:
            pass
        with self._lock:
            self._pairs = [pair for pair in self._pairs if source not in pair]
        source.close()
        target.close()
