"""Hook of mkdocs: the pictures of benchmarks/results/, which pages of docs/ show, are files of the site too."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted((ROOT / RESULTS).rglob("*.svg")):
        inside = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, inside, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """In the repository the pictures lie beside docs/, on the site below it."""
    return markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")
