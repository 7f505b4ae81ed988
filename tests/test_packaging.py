"""What is shipped, and that it works where it is installed: sdist, the wheel made from it, and each kind of psycopg."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests" / "one_job.py"
SHIPPED = ("_ext", "river_fast", "tests", "bench", "make")


def run(*command: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DATABASE_URL")}
    done = subprocess.run(
        command, cwd=cwd, env={**clean, **(environment or {})}, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def source() -> Iterator[Path]:
    """A copy of what is in the repository, without what was built there."""
    top = Path(tempfile.mkdtemp(prefix="rf-dist-"))
    built = shutil.ignore_patterns("*.so", "__pycache__", "*.c.bak", ".*cache", ".hypothesis", ".benchmarks")
    for name in SHIPPED:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, top / name, ignore=built)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, top)
    yield top
    shutil.rmtree(top)


@pytest.fixture(scope="module")
def dist(source: Path) -> Path:
    """The sdist, and the wheel built from it."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", cwd=source)
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def test_wheel_holds_what_runs_and_nothing_else(source: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if name.startswith("river_fast/")}
    wanted = {
        path.relative_to(source).as_posix()
        for pattern in ("**/*.py", "sql/*.sql", "migration/*/*.sql", "_ext/*.pyi", "py.typed")
        for path in (source / "river_fast").glob(pattern)
    }
    compiled = {name for name in package if name.endswith(".so")}
    assert package - compiled == wanted
    assert {Path(name).name.split(".")[0] for name in compiled} == {"fetcher", "completer"}
    beside = {name.split("/")[0] for name in names - package}
    assert "pytest_river_fast.py" in beside
    assert len(beside) == 2, "pytest's plugin and the dist-info, and nothing else"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_links_no_libpq_of_its_own(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                shared = Path(archive.extract(name, tmp_path)).read_bytes()
                assert not [found for found in re.findall(rb"lib\w+\.so[.\d]*", shared) if found.startswith(b"libpq")]


def test_metadata_names_the_extras_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    assert set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.MULTILINE)) >= {"c", "binary", "embedded"}
    assert "License-Expression: MIT" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert re.search(r"^Requires-Dist: psycopg<4,>=3\.2\.13$", metadata, re.MULTILINE), "the plain psycopg, of any kind"


def test_sdist_holds_all_sources_and_no_generated_ones(source: Path, dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for pattern in ("_ext/*.pyx", "_ext/*.h", "_ext/*.pxd", "tests/test_*.py", "river_fast/sql/*.sql"):
        assert {found.relative_to(source).as_posix() for found in source.glob(pattern)} <= names
    assert {"Makefile", "LICENSE", "README.md", "setup.py", "pyproject.toml"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    assert not [name for name in names if name.startswith(("_ext/", "river_fast/")) and name.endswith(".c")]


def test_wheel_works_without_a_compiler_and_with_the_bundled_libpq(
    wheel: Path, dsn: str, schema: str, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    no_compiler = {"PATH": str(python.parent), "CC": "false", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    install = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", f"{wheel}[binary]"]
    run(*install, cwd=tmp_path, environment=no_compiler)
    told = work_one_job(python, dsn, schema, tmp_path, no_compiler)
    assert told["psycopg"] == "binary"
    assert str(tmp_path) in told["river_fast"]


def psycopgs_here() -> dict[str, str]:
    """What this environment can load psycopg with: the name of its module, or of libpq itself, by implementation."""
    found = {"c": "psycopg_c", "binary": "psycopg_binary"}
    here = {name: module for name, module in found.items() if importlib.util.find_spec(module)}
    return here | ({"python": "libpq"} if ctypes.util.find_library("pq") else {})


@pytest.mark.parametrize("implementation", psycopgs_here())
def test_one_libpq_serves_psycopg_and_the_compiled_part(
    implementation: str, dsn: str, schema: str, tmp_path: Path
) -> None:
    environment = {"PSYCOPG_IMPL": implementation, "PYTHONPATH": str(ROOT)}
    told = work_one_job(Path(sys.executable), dsn, schema, tmp_path, environment)
    assert told["psycopg"] == implementation


def work_one_job(python: Path, dsn: str, schema: str, cwd: Path, environment: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run(python, PROGRAM, dsn, schema, cwd=cwd, environment=environment))
    assert told["states"] == ["completed", "completed"]
    assert told["outputs"] == [42, 8]
    if sys.platform == "linux":
        assert len(told["libpq"]) == 1, told["libpq"]
    return told


def test_build_switches_reach_the_compiler(source: Path) -> None:
    """Shown by what setup.py asks for: a build with each would take minutes."""
    switches = {
        "RIVER_FAST_DEBUG": ("1", "-O0"),
        "RIVER_FAST_SANITIZE": ("thread", "-fsanitize=thread"),
        "RIVER_FAST_WERROR": ("1", "-Werror"),
    }
    script = (
        "import runpy, setuptools\n"
        "setuptools.setup = lambda **given: print([made.extra_compile_args for made in given['ext_modules']])\n"
        "runpy.run_path('setup.py')"
    )
    for name, (value, flag) in switches.items():
        assert flag in run(sys.executable, "-c", script, cwd=source, environment={name: value})
        assert flag not in run(sys.executable, "-c", script, cwd=source)
