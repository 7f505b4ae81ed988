"""What docs/ says of names in the code and of tests is so."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import river_fast as river

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEST = re.compile(r"`(tests/[\w/.]+?\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("value", [river.Config, river.QueueConfig])
def test_settings_page_has_every_setting_once(value: type) -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    (section,) = re.findall(rf"^## {value.__name__}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert sorted(re.findall(r"^\| `(\w+)` ", section, re.MULTILINE)) == sorted(
        field.name for field in fields(value) if not field.name.startswith("_")
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_pages_that_a_page_points_to_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    for path, name in TEST.findall(page.read_text("utf-8")):
        text = (ROOT / path).read_text("utf-8")
        assert not name or re.search(rf"^(async )?def {name}\b", text, re.MULTILINE), f"{path}::{name}"
