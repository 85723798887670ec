"""The generated pages are the code's, and the other pages name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import reference
from azflow import prepare_steps, specs

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "emulator/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
AGAIN = "run `var/env/airflow/bin/python tools/reference.py`"


def test_the_page_about_model_yml_is_the_codes() -> None:
    assert (ROOT / "docs" / "model_yml.md").read_text(encoding="utf-8") == reference.model_yml(), AGAIN


def test_the_page_about_operators_is_the_codes() -> None:
    assert (ROOT / "docs" / "operators.md").read_text(encoding="utf-8") == reference.operators(), AGAIN


def test_no_key_is_explained_that_no_spec_has() -> None:
    for explained in reference.MEANING:
        name, _, key = explained.partition(".")
        fields = next(getattr(each, name) for each in (specs, prepare_steps) if hasattr(each, name)).model_fields
        assert key in {field.alias or given for given, field in fields.items()}, explained


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file) if file else page
        assert found.exists(), f"{target} in {page.name}"
        if anchor:
            assert anchor in anchors(found), f"{target} in {page.name}"


def test_every_decision_has_its_number_and_its_place_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for number, page in enumerate(sorted(folder.glob("[0-9]*.md")), start=1):
        title = page.read_text(encoding="utf-8").splitlines()[0]
        assert page.name.startswith(f"{number:04d}-") and title.startswith(f"# {number}. "), page.name
        assert f"| {number} | [{title.partition('. ')[2]}]({page.name}) |" in index, f"{page.name} in the index"


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
