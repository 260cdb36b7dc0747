"""The documents' links lead somewhere, and their figures show what is committed."""

import re
from pathlib import Path

import pytest

from tests.support.draw_overlap import FIGURE, drawing

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def linked_paths(document: Path) -> set[str]:
    """Return the files that a document links to, without anchors."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets: list[str] = re.findall(r"\]\(([^)\s#]+)", text)
    return {target for target in targets if "://" not in target}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_links_to_files_that_exist(document: Path) -> None:
    missing = {path for path in linked_paths(document) if not (document.parent / path).exists()}
    assert not missing


def test_every_document_is_linked_from_the_readme() -> None:
    linked = linked_paths(ROOT / "README.md")
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= linked


def test_the_readme_has_at_most_two_hundred_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_figure_of_the_overlap_shows_the_recorded_timelines() -> None:
    assert FIGURE.read_text(encoding="utf-8") == drawing(), (
        "docs/overlap.svg is not current: run python -m tests.support.draw_overlap"
    )
