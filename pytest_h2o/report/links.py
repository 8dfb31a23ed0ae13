"""Links from a page to the files of its run folder, relative and safe."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pytest_h2o.bench.command import RunFiles
from pytest_h2o.report.document import Link


@dataclass(frozen=True)
class Links:
    """Where the files of a run folder are, seen from a page.

    Attributes
    ----------
    exists : callable
        Whether a file of the run folder, named relative to it with ``/``, is there: no link leads nowhere.
    prefix : str
        The run folder, relative to the folder of the page; empty if the page lies in it.
    """

    exists: Callable[[str], bool]
    prefix: str = ""

    def to(self, text: str, name: str, *, is_there: bool = False) -> tuple[Link, ...]:
        """A link to one file of the run folder, or none if it is not there; `is_there`: it will be."""
        if not (is_there or self.exists(name)):
            return ()
        return (Link(text, quote_path(f"{self.prefix}/{name}" if self.prefix else name)),)

    def to_run(self, folder: str, run_id: str) -> tuple[Link, ...]:
        """Links to the files of one run of the bench, in the folder of its sweep."""
        files = RunFiles(Path(folder), run_id)
        named = (("config", files.config), ("log", files.log), ("output", files.stdout), ("JSON", files.json))
        return tuple(link for text, path in named for link in self.to(text, path.as_posix()))


def quote_path(path: str) -> str:
    """A relative path as the text of a link; nothing in it can be taken for a scheme, a query or markup."""
    return quote(os.fsencode(path.replace(os.sep, "/")), safe="/.-_~")


def links_of(run_dir: Path, page: Path | None = None) -> Links:
    """Links to a run folder from a page at `page`, or from one that lies in it."""
    folder = run_dir if page is None else page.parent
    prefix = os.path.relpath(run_dir.absolute(), folder.absolute())

    def exists(name: str) -> bool:
        try:
            return (run_dir / name).is_file()
        except (OSError, ValueError):  # a name too long or with a zero byte is that of no file
            return False

    return Links(exists, "" if prefix == "." else prefix)
