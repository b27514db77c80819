"""Choose the files of the site: README.md, docs/, examples/README.md, and the files they link to.

MkDocs wants all pages in one directory below its configuration. Penstock's pages are read in the
repository, too, where they link to README.md and to sources. So the site has the repository's own
tree, of which only linked files are taken, and each link is the same in both. When it is read,
the site fetches nothing: the theme's one script from elsewhere is replaced by ``assets/worker.js``.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

__all__ = ["on_files", "on_post_page", "on_post_template"]

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
WORKER = "docs/assets/worker.js"
SHIM = "https://unpkg.com/iframe-worker/shim"
PAGES = ("README.md", "SECURITY.md", "CHANGELOG.md", "examples/README.md")


def _linked(page: str) -> set[str]:
    """Return the files of the repository that a page links to, as paths below its root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = {
        posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        for target in LINK.findall(text)
        if ":" not in target
    }
    return {path for path in paths if not path.startswith("..") and (ROOT / path).is_file()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the theme, all pages, and the sources that they link to as plain text."""
    chosen = Files([file for file in files if file.src_dir != config.docs_dir])
    paths = {*PAGES, WORKER, *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))}
    for page in sorted(paths - {WORKER}):
        paths |= _linked(page)
    for path in sorted(paths):
        file = File(path, str(ROOT), config.site_dir, config.use_directory_urls)
        if not file.is_documentation_page() and path != WORKER:
            file.dest_uri = f"{path}.txt"  # a browser shows it, whatever the language
        chosen.append(file)
    return chosen


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Return the page with the script of this repository in place of the one from the network."""
    return output.replace(SHIM, get_relative_url(WORKER, page.url))


def on_post_template(output: str, *, template_name: str, config: MkDocsConfig) -> str:
    """Return the page of missing pages likewise; a server gives it at any depth."""
    return output.replace(SHIM, f"/{WORKER}")
