"""The README's program runs as printed, after the commands printed above it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from river_fast import embedded

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=110, check=False)


def program() -> str:
    (found,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the embedded server of this test lives; no other server is named."""
    top = Path(tempfile.mkdtemp(prefix="rf-readme-"))
    top.chmod(0o755)
    for name in ("DATABASE_URL", "RIVER_FAST_DSN", "PGHOST", "PGSERVICE", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RIVER_FAST_PG_DATA", str(top / "pg"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield top
    embedded.start(top / "pg").stop()
    shutil.rmtree(top)


def test_program_runs_as_printed(home: Path) -> None:
    commands = re.findall(r"^river-fast (migrate-up)\b", README, re.MULTILINE)
    assert commands == ["migrate-up"]
    run(home, "-m", "river_fast", *commands)
    (home / "app.py").write_text(program())
    done = run(home, "app.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["sending to ada@example.com", "the job is completed"]
    assert done.stderr == ""
    for line in done.stdout.splitlines():
        assert f"`{line}`" in README, "the README says what it prints"


def test_program_is_about_twenty_lines() -> None:
    code = [line for line in program().splitlines() if line.strip()]
    assert len(code) <= 20


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
