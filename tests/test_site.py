"""The site of the documentation: it builds without a warning, and needs no network to be read."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="needs the extra docs (mkdocs-material)"
)

FETCHED = re.compile(
    r"""<(?:link|script|img|iframe|source)\b[^>]*?\b(?:href|src)=["']?((?:https?:)?//[^"'\s>]+)"""
)
"""The address of what a page loads from elsewhere."""


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        check=False,
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


def copied(root: Path) -> Path:
    """Copy the repository's pages and the sources that they link to."""
    for name in ("docs", "examples", "penstock", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for name in ("README.md", "SECURITY.md", "CHANGELOG.md", "mkdocs.yml"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    sources = {f"docs/{path.stem}.html" for path in ROOT.glob("docs/*.md")}
    assert sources | {"index.html"} <= pages.keys()
    assert {name: found for name, page in pages.items() if (found := FETCHED.findall(page))} == {}
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert styles and not any(re.search(r"url\(\s*[\"']?(?:https?:)?//", text) for text in styles)
    assert (site / "examples" / "my_scorer.py.txt").is_file()
    assert "examples/my_scorer.py.txt" in pages["docs/plugins.html"]


def test_a_broken_link_a_broken_anchor_and_a_page_without_a_place_fail(tmp_path: Path) -> None:
    root = copied(tmp_path / "root")
    page = root / "docs" / "unplaced.md"
    page.write_text("# A page\n\n[gone](gone.md) and [there](recipe.md#no-such-part)\n")
    done = build(root, tmp_path / "out")
    assert done.returncode != 0
    for word in ("gone.md", "no-such-part", "unplaced.md"):
        assert word in done.stderr + done.stdout
