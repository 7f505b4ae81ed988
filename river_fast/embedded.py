"""A PostgreSQL of one's own: started in a private directory, shared by whoever asks, found again next time.

Any thread of any process may call `start`; a file lock puts them in line. It owns its home directory and nothing else:
no user is created, no permission outside that directory is changed. The server listens on a Unix socket only, in a
directory that only its user (and root) can enter, which is why it may trust everyone who reaches it.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg

from river_fast.embedded_identity import Identity, choose_identity
from river_fast.embedded_programs import Programs, find_programs
from river_fast.errors import ConfigError, DatabaseError

if sys.platform != "win32":
    import fcntl
    import socket

PORT = 5432  # names the socket's file; nothing listens on TCP
SOCKET_PATH_MAX = 100  # sun_path holds 107 bytes on Linux, 103 on macOS
READY_TIMEOUT_S = 120.0  # a start after a crash replays the log first
ORPHANS_TIMEOUT_S = 30.0  # a killed postmaster's children hold its shared memory until they notice
STOP_TIMEOUT_S = 60
LOG_BYTES_MAX = 4 << 20  # a longer log is set aside at the next start

# For tests and small services; durability is PostgreSQL's default (fsync and synchronous_commit on).
SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def start(data_dir: str | os.PathLike[str] | None = None, *, stop_at_exit: bool = False) -> Embedded:
    """A running server, started if it is not: a second call, from this process or another, gets the same one.

    `data_dir`: the home of its data (created; what it holds is used again); default: `RIVER_FAST_PG_DATA`, else
    `river_fast` in the user's data directory (`/var/lib` for root). It is left running, unless everybody who uses it
    asked for `stop_at_exit`: then the last to exit stops it. `ConfigError` where there is no PostgreSQL or no place for
    it, `DatabaseError` where it will not start; both say what to do.
    """
    if sys.platform == "win32":
        raise ConfigError("the embedded PostgreSQL needs Linux or macOS; set DATABASE_URL to a server that runs")
    programs = find_programs()
    home = _make_home(data_dir)
    server = Embedded(programs, choose_identity(programs, home), home)
    server._start(stop_at_exit)
    return server


class Embedded:
    """The server that `start` returned."""

    def __init__(self, programs: Programs, identity: Identity, home: Path) -> None:
        self._identity = identity
        self._programs = programs
        # One cluster for each major version and each user that may own it: none ever finds files it cannot use.
        self._files = home / f"postgresql-{programs.major}{identity.suffix}"
        self._cluster = self._files / "data"
        self._socket_dir = self._files
        self._user_fd: int | None = None

    @property
    def url(self) -> str:
        """For psycopg, `DATABASE_URL` and every other client that knows libpq's URLs."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_dir), safe='')}&port={PORT}"

    @property
    def bin_dir(self) -> Path:
        """Where initdb, pg_ctl and postgres are."""
        return self._programs.bin_dir

    @property
    def version(self) -> str:
        """PostgreSQL's version, as `"15.18"`."""
        return self._programs.version

    @property
    def data_dir(self) -> Path:
        """PostgreSQL's own data directory, inside the home directory."""
        return self._cluster

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self._files / "log"

    def stop(self) -> None:
        """Stop the server now, for everybody: open transactions are rolled back. Idempotent."""
        with self._lock():
            self._shut_down()
            self._forget()

    def _start(self, stop_at_exit: bool) -> None:
        with self._lock():
            self._make_directories()
            if not self._answers():
                self._create_cluster()
                self._beside("keep").unlink(missing_ok=True)
                self._launch()
                if not self._answers():
                    raise DatabaseError(f"PostgreSQL does not answer; see {self.log_file}")
            if not stop_at_exit:
                self._beside("keep").touch()
            self._user_fd = os.open(self._beside("users"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._user_fd, fcntl.LOCK_SH)
        if stop_at_exit:
            atexit.register(self._leave, os.getpid())

    def _leave(self, pid: int) -> None:
        """At exit: the last user out stops the server, unless somebody wants it kept. A forked child is not a user."""
        if self._user_fd is None or os.getpid() != pid:
            return
        with self._lock():
            try:
                fcntl.flock(self._user_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                if not self._beside("keep").exists():
                    self._shut_down()
            self._forget()

    def _forget(self) -> None:
        if self._user_fd is not None:
            os.close(self._user_fd)
            self._user_fd = None

    def _beside(self, what: str) -> Path:
        """A file of the launcher's own, beside the server's directory: root writes nothing where another user could
        have laid a link."""
        return self._files.with_name(f"{self._files.name}.{what}")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            fd = os.open(self._beside("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot write {self._beside('lock')}: {error.strerror}; give another data_dir") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _make_directories(self) -> None:
        self._identity.make_directory(self._files)
        if len(os.fsencode(f"{self._files}/.s.PGSQL.{PORT}")) > SOCKET_PATH_MAX:
            digest = hashlib.sha256(os.fsencode(self._files)).hexdigest()[:12]
            self._socket_dir = Path("/tmp") / f"river_fast-{digest}"
            self._identity.make_directory(self._socket_dir)

    def _listening(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(5)
            try:
                probe.connect(f"{self._socket_dir}/.s.PGSQL.{PORT}")
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except OSError:
                return True  # a full backlog or a slow machine: somebody is there
            return True

    def _create_cluster(self) -> None:
        if (self._cluster / "PG_VERSION").exists():
            return
        # Under another name until it is whole: an interrupted initdb leaves nothing that looks like a cluster.
        half_made = self._files / "data.new"
        shutil.rmtree(half_made, ignore_errors=True)
        options = ["-U", "postgres", "-A", "trust", "--locale=C", "--encoding=UTF8", "--no-sync"]
        done = self._run("initdb", "-D", str(half_made), *options)
        if done.returncode != 0:
            shutil.rmtree(half_made, ignore_errors=True)
            raise DatabaseError(f"initdb failed in {self._files}: {_tail(done.stderr or done.stdout)}")
        half_made.rename(self._cluster)

    def _launch(self) -> None:
        crashed = (self._cluster / "postmaster.pid").exists()
        _set_log_aside(self.log_file)
        settings = {**SETTINGS, "unix_socket_directories": str(self._socket_dir)}
        options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in settings.items())
        command = ["pg_ctl", "start", "-D", str(self._cluster), "-l", str(self.log_file), "-s", "-w"]
        command += ["-t", f"{READY_TIMEOUT_S:.0f}", "-o", options]
        give_up = time.monotonic() + ORPHANS_TIMEOUT_S
        while True:
            if crashed:
                self._disown_reused_pids()
            done = self._run(*command)
            if done.returncode == 0:
                return
            if not crashed or time.monotonic() > give_up:
                raise DatabaseError(f"PostgreSQL did not start: {_tail(_read(self.log_file) or done.stderr)}")
            time.sleep(0.2)

    def _disown_reused_pids(self) -> None:
        """A crash leaves the postmaster's pid in two files, and PostgreSQL will not start while any process bears it.
        In a new container that may be anybody, and it may be the dead one itself, unburied. Unless it is a server of
        this directory, a pid that is dead takes its place (the rest of the file stays: by it PostgreSQL finds out
        whether old children still live)."""
        for path in (self._cluster / "postmaster.pid", self._socket_dir / f".s.PGSQL.{PORT}.lock"):
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                with open(fd, "r+") as file:
                    first, rest = file.readline(), file.read()
                    if not first.strip().isdigit() or str(self._cluster) in _command_line(int(first)):
                        continue  # one that cannot be read, PostgreSQL reports; one that is ours will end soon
                    dead = subprocess.Popen(["/bin/sh", "-c", ":"])
                    dead.wait()
                    file.seek(0)
                    file.write(f"{dead.pid}\n{rest}")
                    file.truncate()

    def _answers(self) -> bool:
        """Whether there is a server, once it takes sessions. One that was just killed listens for a moment longer."""
        give_up = time.monotonic() + READY_TIMEOUT_S
        while self._listening():
            try:
                psycopg.connect(self.url, connect_timeout=10, options="").close()  # PGOPTIONS may hold anything
                return True
            except psycopg.OperationalError as error:
                if time.monotonic() > give_up:
                    raise DatabaseError(f"PostgreSQL does not answer; see {self.log_file}") from error
            time.sleep(0.05)
        return False

    def _shut_down(self) -> None:
        if self._listening():
            stop = ["pg_ctl", "stop", "-D", str(self._cluster), "-s", "-w", "-t", str(STOP_TIMEOUT_S)]
            done = self._run(*stop, "-m", "fast")
            if done.returncode != 0 and self._listening():
                done = self._run(*stop, "-m", "immediate")
            if done.returncode != 0 and self._listening():
                raise DatabaseError(f"PostgreSQL does not stop: {_tail(done.stderr)}")
        if self._socket_dir != self._files:
            with contextlib.suppress(OSError):
                self._socket_dir.rmdir()

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._identity.run([str(self._programs.bin_dir / program), *arguments])


def _make_home(data_dir: str | os.PathLike[str] | None) -> Path:
    chosen = data_dir or os.environ.get("RIVER_FAST_PG_DATA")
    home = Path(chosen).expanduser().absolute() if chosen else _default_home()
    try:
        home.mkdir(parents=True)
    except FileExistsError:
        if not home.is_dir():
            raise ConfigError(f"data_dir {home} is not a directory") from None
    except OSError as error:
        raise ConfigError(f"cannot create the data directory {home}: {error.strerror}") from None
    else:
        home.chmod(0o755 if os.geteuid() == 0 else 0o700)  # root's server may run as another user, who must pass here
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"data_dir {home} cannot be written by this user")
    return home


def _default_home() -> Path:
    """In the user's data directory; for a service user without a home, a directory of its own in /tmp."""
    given = os.environ.get("XDG_DATA_HOME")
    if given:
        return Path(given).absolute() / "river_fast"
    if os.geteuid() == 0:
        parent = Path("/var/lib")
    elif sys.platform == "darwin":
        parent = Path("~/Library/Application Support").expanduser()
    else:
        parent = Path("~/.local/share").expanduser()
    nearest = next(place for place in (parent, *parent.parents) if place.exists())
    if os.access(nearest, os.W_OK):
        return parent / "river_fast"
    own = Path(tempfile.gettempdir()) / f"river_fast-{os.geteuid()}"
    Identity("", os.geteuid(), os.getegid()).make_directory(own)
    return own


def _command_line(pid: int) -> str:
    """How process `pid` was called; empty for one that is gone."""
    if sys.platform == "linux":  # where containers often lack ps
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace")
        return ""
    asked = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return asked.stdout


def _set_log_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name("log.1"))


def _read(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


def _tail(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-5:]) or "no reason given"
