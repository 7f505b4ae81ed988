"""`river-fast completion`: the scripts complete, in the shells that are here."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from river_fast.cli import main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_names_the_commands_and_the_shell_takes_it(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script, err = capfd.readouterr()
    assert err == ""
    for word in ("migrate-up", "queue", "--database-url" if shell != "fish" else "database-url"):
        assert word in script
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_bash_completes_commands_options_and_states(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    assert main(["completion", "bash"]) == 0
    script = capfd.readouterr().out

    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in ("river-fast", *words))
        asked = (
            f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)};"
            ' "$(complete -p river-fast | sed "s/.*-F \\([^ ]*\\).*/\\1/")" river-fast;'
            ' printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run([bash, "--norc", "-c", asked], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert {"job", "queue", "work"} <= set(completed(""))
    assert completed("jo") == ["job"]
    assert completed("job", "can") == ["cancel"]
    assert "--order-by" in completed("job", "list", "--ord")
    assert "running" in completed("job", "list", "--state", "ru")


def test_without_shtab_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "river-fast[completion]" in capfd.readouterr().err


def test_an_unknown_shell_is_wrong_use() -> None:
    assert main(["completion", "csh"]) == 2
