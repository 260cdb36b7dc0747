"""Hooks of mkdocs: pages from the files at the repository's root, and links between both."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "SECURITY.md": "SECURITY.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files at the root as pages; the README is the site's first page."""
    for source, page in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at pages of the site, and show links to other files of the repository as text.

    Raises:
        FileNotFoundError: a link names no file.
    """
    del config
    source = page.file.src_uri
    folder = ROOT if source in ROOT_PAGES.values() else ROOT / "docs"

    def rewritten(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups(default="")
        if not target or "://" in target or target.startswith("mailto:"):
            return match.group()
        path = (folder / target).resolve()
        if not path.exists():
            raise FileNotFoundError(f"{source} links to {target}, which does not exist")
        inside = str(path.relative_to(ROOT))
        uri = ROOT_PAGES.get(inside, inside.removeprefix("docs/"))
        is_page = inside in ROOT_PAGES or inside.startswith("docs/")
        if is_page and files.get_file_from_path(uri) is not None:
            return f"{mark}[{text}]({uri}{anchor})"
        return text

    return _LINK.sub(rewritten, markdown)
