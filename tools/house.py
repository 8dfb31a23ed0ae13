"""Measure the shape of the package: rooms, modules, lines, long functions, and the imports that break its rules.

    python tools/house.py            the table
    python tools/house.py --against REV   beside that of an earlier commit

An import counts wherever it stands: in a function and under TYPE_CHECKING as well.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("files", "inputs", "codecs"),
    ("bench", "lossless"),
    ("gate", "reference"),
    ("run",),
    ("report",),
    ("plugin", "cli"),
)
"""The rooms from the bottom up. A module imports from its own room and from floors below, and nothing else of ours."""

BESIDE = {("inputs", "files")}
"""Rooms of one floor of which the first may import the second."""

LONG = 60
"""Lines from which on a function counts as long."""


class House:
    """The modules of a package and who imports whom."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.trees = {self._name(path): ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("*.py")}
        self.lines = {self._name(path): len(path.read_text("utf-8").splitlines()) for path in package.rglob("*.py")}
        self.imports = {name: set(self._imports(name)) for name in self.trees}

    def _name(self, path: Path) -> str:
        """``gate.rule`` of ``pytest_h2o/gate/rule.py``; a package is ``gate``, the top one is empty."""
        parts = path.relative_to(self.package).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports(self, name: str) -> Iterator[str]:
        for node in ast.walk(self.trees[name]):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for dotted in found:
                top, _, rest = dotted.partition(".")
                if top != "pytest_h2o":
                    continue
                while rest not in self.trees:
                    rest = rest.rpartition(".")[0]
                if rest != name:
                    yield rest

    def rooms(self) -> list[str]:
        """What stands at the top: packages and modules, without the package's own two files."""
        return sorted({name.split(".")[0] for name in self.trees} - {"", "__main__"})

    def wrong_ways(self) -> list[str]:
        """Imports that go up, or to another room of the same floor."""
        level = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
        wrong = []
        for name, targets in self.imports.items():
            room = name.split(".")[0]
            if room in ("", "__main__"):
                continue
            for target in targets - {""}:
                other = target.split(".")[0]
                if other == room or (room, other) in BESIDE:
                    continue
                if level.get(other, 99) >= level.get(room, -1):
                    wrong.append(f"{name} -> {target}")
        return sorted(wrong)

    def cycles(self) -> list[list[str]]:
        """Groups of modules that import each other, directly or in a circle (Tarjan 1972)."""
        index: dict[str, int] = {}
        low: dict[str, int] = {}
        stack: list[str] = []
        groups: list[list[str]] = []

        def visit(name: str) -> None:
            index[name] = low[name] = len(index)
            stack.append(name)
            for target in sorted(self.imports[name] - {""}):
                if target not in index:
                    visit(target)
                    low[name] = min(low[name], low[target])
                elif target in stack:
                    low[name] = min(low[name], index[target])
            if low[name] == index[name]:
                group = [stack.pop()]
                while group[-1] != name:
                    group.append(stack.pop())
                groups.append(sorted(group))

        for name in sorted(set(self.trees) - {""}):
            if name not in index:
                visit(name)
        return sorted(group for group in groups if len(group) > 1)

    def long_functions(self) -> dict[str, int]:
        """Functions of more than `LONG` lines, with their length."""
        return {
            f"{name}.{node.name}": length
            for name, tree in self.trees.items()
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONG
        }

    def figures(self) -> dict[str, int]:
        """One number a rule, for the table."""
        nodes = [node for tree in self.trees.values() for node in ast.walk(tree)]
        nested = sum(
            isinstance(inner, (ast.Import, ast.ImportFrom))
            for node in nodes
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for inner in ast.walk(node)
        )
        return {
            "entries at the top": len(self.rooms()),
            "modules": sum(1 for lines in self.lines.values() if lines > 1),
            "lines": sum(self.lines.values()),
            "imports against the floors": len(self.wrong_ways()),
            "import cycles": len(self.cycles()),
            "imports inside functions": nested,
            "TYPE_CHECKING blocks": sum(isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test) for n in nodes),
            f"functions over {LONG} lines": len(self.long_functions()),
        }

    def room_table(self) -> list[tuple[str, int, int]]:
        """Modules and lines of each room."""
        modules, lines = Counter[str](), Counter[str]()
        for name, count in self.lines.items():
            room = name.split(".")[0] or "__init__"
            modules[room] += 1
            lines[room] += count
        return [(room, modules[room], lines[room]) for room in sorted(lines, key=lambda room: -lines[room])]


def at_revision(revision: str, folder: Path) -> Path:
    """The package as it was in a commit, unpacked into a folder."""
    packed = subprocess.run(
        ["git", "archive", revision, "pytest_h2o"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "pytest_h2o"


def main() -> None:
    parser = argparse.ArgumentParser(description="the shape of the package")
    parser.add_argument("--against", metavar="REV", help="a commit to stand beside")
    parser.add_argument("--check", action="store_true", help="say only what breaks a rule; exit 1 if anything does")
    args = parser.parse_args()
    now = House(ROOT / "pytest_h2o")
    broken = [f"against the floors: {line}" for line in now.wrong_ways()]
    broken += [f"cycle: {' '.join(group)}" for group in now.cycles()]
    broken += [f"{name} has {length} lines, more than {LONG}" for name, length in now.long_functions().items()]
    if args.check:
        print("\n".join(broken) or f"every import goes down, without a cycle; no function has more than {LONG} lines")
        raise SystemExit(1 if broken else 0)
    columns = [("now", now.figures())]
    if args.against:
        with tempfile.TemporaryDirectory() as folder:
            columns.insert(0, (args.against, House(at_revision(args.against, Path(folder))).figures()))
    names = list(dict.fromkeys(name for _, figures in columns for name in figures))
    print("| | " + " | ".join(title for title, _ in columns) + " |\n| --- |" + " --: |" * len(columns))
    for name in names:
        print(f"| {name} | " + " | ".join(f"{figures.get(name, 0):,}" for _, figures in columns) + " |")
    print("\n| room | modules | lines |\n| --- | --: | --: |")
    for room, modules, lines in now.room_table():
        print(f"| {room} | {modules} | {lines:,} |")
    print("\n".join(["", *broken]))


if __name__ == "__main__":
    main()
