"""The embedded PostgreSQL, on the real thing: each scenario runs in processes of its own, as an ordinary user and,
where the tests run as root, as root in both of its ways."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from river_fast import embedded, embedded_identity, embedded_programs
from river_fast.embedded_identity import Identity
from river_fast.embedded_programs import Programs
from river_fast.errors import ConfigError

ROOT = Path(__file__).parent.parent
UNPRIVILEGED = pwd.getpwnam("nobody")

# A child imports all it needs, then becomes the ordinary user (who may not be able to read this checkout).
PRELUDE = f"""
import json, os, signal, subprocess, sys, time
import psycopg
from river_fast import embedded
user, home = sys.argv[1:3]
if user == "ordinary" and os.geteuid() == 0:
    os.setgroups([]); os.setgid({UNPRIVILEGED.pw_gid}); os.setuid({UNPRIVILEGED.pw_uid})
def tell(value):
    print(json.dumps(value, default=str), flush=True)
def query(server, text):
    with psycopg.connect(server.url, autocommit=True) as conn:
        cursor = conn.execute(text)
        return cursor.fetchall() if cursor.description else None
def postmaster(server):
    return int((server.data_dir / "postmaster.pid").read_text().split()[0])
"""


def user_namespaces_allowed() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--map-user=65534", "--map-group=65534", "--", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


USERS = ["ordinary"]
if os.geteuid() == 0:
    USERS.append("root")
    if user_namespaces_allowed():
        USERS.append("root in a namespace")


class Place:
    """A home directory for a server, and processes of one user that use it."""

    def __init__(self, user: str, top: Path) -> None:
        self.user = user
        self.top = top
        self.home = top / "home"
        self._children: list[subprocess.Popen[str]] = []

    def spawn(self, code: str, **environment: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        environment.pop("DATABASE_URL", None)
        child = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code), self.user, str(self.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd="/",
        )
        self._children.append(child)
        return child

    def run(self, code: str, **environment: str) -> Any:
        """The last value the code told."""
        return self.result(self.spawn(code, **environment))

    def result(self, child: subprocess.Popen[str]) -> Any:
        out, err = child.communicate(timeout=90)
        assert child.returncode == 0, err
        return json.loads(out.splitlines()[-1]) if out else None

    def close(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.communicate()
        if self.home.exists():
            self.run("embedded.start(home).stop()")
        shutil.rmtree(self.top)


def make_place(user: str) -> Place:
    top = Path(tempfile.mkdtemp(prefix="rf-"))  # 0700: out of reach for the user that root's server would run as
    if user == "root":
        top.chmod(0o755)
    if user == "ordinary" and os.geteuid() == 0:
        os.chown(top, UNPRIVILEGED.pw_uid, UNPRIVILEGED.pw_gid)
    return Place(user, top)


@pytest.fixture(params=USERS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    place = make_place(request.param)
    yield place
    place.close()


def test_second_start_finds_what_the_first_left(place: Place) -> None:
    place.run("server = embedded.start(home); query(server, 'CREATE TABLE kept AS SELECT 42 AS n'); server.stop()")
    assert place.run("tell(query(embedded.start(home), 'SELECT n FROM kept'))") == [[42]]


def test_processes_that_start_at_once_share_one_server(place: Place) -> None:
    children = [
        place.spawn("tell(query(embedded.start(home), 'SELECT system_identifier::text, pg_postmaster_start_time()"
                    " FROM pg_control_system()'))")
        for _ in range(4)
    ]  # fmt: skip
    answers = [place.result(child) for child in children]
    assert answers == [answers[0]] * 4


def test_server_outlives_the_process_that_started_it(place: Place) -> None:
    first = place.run("tell(query(embedded.start(home), 'SELECT pg_postmaster_start_time()'))")
    assert place.run("tell(query(embedded.start(home), 'SELECT pg_postmaster_start_time()'))") == first


def test_killed_server_recovers_with_what_was_committed(place: Place) -> None:
    told = place.run("""
        server = embedded.start(home)
        query(server, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        held = psycopg.connect(server.url)  # a session whose backend is busy when its postmaster dies
        held.execute("SELECT 1")
        os.kill(postmaster(server), signal.SIGKILL)
        again = embedded.start(home)
        tell(query(again, "SELECT count(*) FROM kept"))
    """)
    assert told == [[1000]]


def test_pid_that_belongs_to_somebody_else_now_does_not_stop_a_start(place: Place) -> None:
    told = place.run("""
        server = embedded.start(home)
        dead = postmaster(server)
        os.kill(dead, signal.SIGKILL)
        owner = server.data_dir.stat().st_uid
        other = subprocess.Popen(["sleep", "120"], user=owner if owner != os.geteuid() else None)
        for stale in server.data_dir / "postmaster.pid", server.data_dir.parent / ".s.PGSQL.5432.lock":
            stale.write_text(stale.read_text().replace(str(dead), str(other.pid), 1))
        try:
            tell(query(embedded.start(home), "SELECT 1"))
        finally:
            other.kill()
            other.wait()
    """)
    assert told == [[1]]


def test_last_user_out_stops_a_server_that_nobody_wants_kept(place: Place) -> None:
    user = "server = embedded.start(home, stop_at_exit=True); tell(str(server.data_dir)); sys.stdin.read()"
    first, second = place.spawn(user), place.spawn(user)
    assert first.stdout is not None
    assert second.stdout is not None
    running = Path(json.loads(first.stdout.readline())) / "postmaster.pid"
    assert str(running.parent) == json.loads(second.stdout.readline())
    place.result(first)
    assert running.exists()
    place.result(second)
    assert not running.exists()


def test_server_that_somebody_wants_kept_is_kept(place: Place) -> None:
    place.run("embedded.start(home)")
    running = place.run("tell(str(embedded.start(home, stop_at_exit=True).data_dir / 'postmaster.pid'))")
    assert Path(running).exists()


def test_stop_may_be_called_again_and_start_after_it(place: Place) -> None:
    told = place.run("""
        server = embedded.start(home)
        server.stop()
        server.stop()
        again = embedded.start(home)
        tell(query(again, "SELECT 1"))
        server.stop()
        assert not (again.data_dir / "postmaster.pid").exists()
    """)
    assert told == [[1]]


def test_server_is_durable_private_and_speaks_utf8(place: Place) -> None:
    told = place.run("""
        server = embedded.start(home)
        names = ["fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "server_encoding", "lc_collate"]
        values = [query(server, f"SELECT setting FROM pg_settings WHERE name = '{name}'") for name in names[:5]]
        values.append(query(server, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'"))
        room = int(query(server, "SHOW max_connections")[0][0])
        tell([[value[0][0] for value in values], room >= 100, str(server.data_dir.parent)])
    """)
    assert told[:2] == [["on", "on", "on", "", "UTF8", "C"], True]
    status = Path(told[2]).stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    if place.user == "root" and everybody_can_reach(embedded_programs.find_programs().bin_dir):
        assert status.st_uid != 0
    else:
        assert status.st_uid == place.top.stat().st_uid


def everybody_can_reach(path: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def test_nothing_outside_the_home_directory_is_touched(place: Place) -> None:
    def outside() -> list[tuple[str, int, int, int]]:
        paths = [place.top, *place.top.parents, ROOT, *ROOT.parents, Path(sys.executable).parent, Path("/root")]
        known = [path for path in paths if path.exists()]
        return [(str(path), path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in known]

    before, users = outside(), Path("/etc/passwd").read_bytes()
    place.run("embedded.start(home).stop()")
    assert outside() == before
    assert Path("/etc/passwd").read_bytes() == users


def test_directory_too_deep_for_a_socket_gets_a_short_one_elsewhere(place: Place) -> None:
    place.home = place.top / ("deep" * 30)
    told = place.run("server = embedded.start(home); tell([query(server, 'SELECT 1'), server.url]); server.stop()")
    assert told[0] == [[1]]
    assert "host=%2Ftmp%2Friver_fast-" in told[1]
    assert not Path("/tmp", told[1].split("%2F")[-1].split("&")[0]).exists()


def test_interrupted_initdb_is_begun_anew(place: Place) -> None:
    told = place.run("""
        server = embedded.start(home)
        server.stop()
        server.data_dir.rename(server.data_dir.with_name("data.new"))
        (server.data_dir.with_name("data.new") / "global/pg_control").unlink()
        tell(query(embedded.start(home), "SELECT 1"))
    """)
    assert told == [[1]]


def test_callers_environment_is_not_the_servers(place: Place) -> None:
    told = place.run(
        "tell(query(embedded.start(home), 'SHOW data_directory'))",
        PGPORT="1", PGDATA="/nowhere", PGHOST="nowhere.invalid", PGDATABASE="nowhere", LC_ALL="xx_XX.UTF-8",
    )  # fmt: skip
    assert str(place.home) in told[0][0]


def test_root_server_runs_as_another_user_where_that_user_can_reach_it() -> None:
    """Shown by what `choose_identity` tries, in order: this needs no root."""
    tried: list[Identity] = []

    class Recorded(Identity):
        def can_use(self, programs: Programs, home: Path) -> bool:
            tried.append(self)
            return False

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(os, "geteuid", lambda: 0)
        context.setattr(embedded_identity, "Identity", Recorded)
        with pytest.raises(ConfigError, match="refuses to run as root"):
            embedded_identity.choose_identity(Programs(Path("/bin"), "15.0"), Path("/"))
    assert [identity.uid == 0 for identity in tried] == sorted(identity.uid == 0 for identity in tried)
    assert tried[-1].prefix[0] == "unshare"
    assert tried[-1].uid == 0


def test_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o755)
    mine = Identity("", os.geteuid(), os.getegid())
    with pytest.raises(ConfigError, match="mode 0700"):
        mine.make_directory(tmp_path / "d")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="symbolic link"):
        mine.make_directory(tmp_path / "link")


def test_missing_postgresql_is_told_with_its_remedies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RIVER_FAST_PG_BIN", raising=False)
    monkeypatch.setattr(embedded_programs, "_directories", lambda: iter([tmp_path]))
    with pytest.raises(ConfigError, match=r"(?s)no PostgreSQL.*apt-get install postgresql.*brew install"):
        embedded.start(tmp_path / "home")


def test_named_directory_without_postgresql_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RIVER_FAST_PG_BIN", str(tmp_path))
    with pytest.raises(ConfigError, match=r"RIVER_FAST_PG_BIN="):
        embedded_programs.find_programs()


def test_server_older_than_we_support_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("initdb", "pg_ctl", "postgres"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 13.9'\n")
        program.chmod(0o755)
    monkeypatch.delenv("RIVER_FAST_PG_BIN", raising=False)
    monkeypatch.setattr(embedded_programs, "_directories", lambda: iter([tmp_path]))
    with pytest.raises(ConfigError, match=r"has 13\.9"):
        embedded_programs.find_programs()


@pytest.mark.parametrize("data_dir", ["/proc/nowhere", "/dev/null", "/dev/null/below"])
def test_impossible_data_directory_is_a_config_error(data_dir: str) -> None:
    with pytest.raises(ConfigError):
        embedded.start(data_dir)
