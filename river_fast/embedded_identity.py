"""As whom an embedded PostgreSQL runs: PostgreSQL refuses to be root.

Root's server runs as an existing unprivileged user (`postgres`, else `nobody`) where that user can reach the programs
and the directory, else as root in a user namespace that calls it somebody else. No user is created, no permission
changed. Runs on any thread; owns nothing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from river_fast.embedded_programs import Programs
from river_fast.errors import ConfigError

if sys.platform != "win32":
    import pwd


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom the server's programs run. `suffix` names its clusters."""

    suffix: str
    uid: int
    gid: int
    prefix: tuple[str, ...] = ()  # put before each command

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        # Neither the caller's PG* settings nor a sanitizer preloaded into this process are the server's business.
        drop = ("PG", "LD_PRELOAD", "DYLD_INSERT", "LC_", "LANG", "TZ")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
        other = self.uid != os.geteuid()
        return subprocess.run(
            [*self.prefix, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            cwd="/",
            env={**environment, "LC_ALL": "C"},
            user=self.uid if other else None,
            group=self.gid if other else None,
            extra_groups=[] if other else None,
            umask=0o077,
            start_new_session=True,
        )

    def can_use(self, programs: Programs, home: Path) -> bool:
        """Whether the programs start and the directory can be reached: tried, not deduced from permission bits."""
        script = 'cd "$1" && exec "$2" --version'
        try:
            done = self.run(["/bin/sh", "-c", script, "sh", str(home), str(programs.bin_dir / "postgres")])
        except (OSError, subprocess.SubprocessError):
            return False  # no unshare on this machine, or changing the user is forbidden
        return done.returncode == 0

    def make_directory(self, path: Path) -> None:
        """`path` as a directory of this identity's alone; `ConfigError` where it is anybody else's."""
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot create {path}: {error.strerror}") from None
        if path.is_symlink():
            raise ConfigError(f"{path} is a symbolic link; remove it, or give a data_dir")
        if self.uid != os.geteuid() == path.lstat().st_uid and not any(path.iterdir()):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)  # just made, now or in a start that was cut off
        status = path.lstat()
        if status.st_uid != self.uid or status.st_mode & 0o077:
            raise ConfigError(f"{path} must belong to user {self.uid} alone (mode 0700); remove it, or give a data_dir")


def choose_identity(programs: Programs, home: Path) -> Identity:
    """This process's own user; for root the first of the ways above that works here, else `ConfigError`."""
    if os.geteuid() != 0:
        return Identity("", os.geteuid(), os.getegid())
    known = []
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            known.append(pwd.getpwnam(name))
    for user in known:
        identity = Identity(f"-{user.pw_name}", user.pw_uid, user.pw_gid)
        if identity.can_use(programs, home):
            return identity
    for user in known:  # the namespace's name must be one that initdb can look up
        prefix = ("unshare", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}", "--")
        identity = Identity("-root", 0, 0, prefix)
        if identity.can_use(programs, home):
            return identity
    raise ConfigError(
        f"PostgreSQL refuses to run as root, no other user can reach both {programs.bin_dir} and {home}, and user "
        "namespaces are not allowed here: run as an ordinary user, give a data_dir that user postgres or nobody can "
        "reach, or set DATABASE_URL to a server that runs"
    )
