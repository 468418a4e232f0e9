"""Figures of a package's structure, to compare before and after a change.

    python -m benchmarks.harness.structure [FOLDER] [--against FOLDER]

A file counts for the folder it stands in. A function counts with 15 lines or more; it has air when a blank line stands
between its steps (a docstring's do not count).
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LONG: Final = 15


@dataclass(frozen=True)
class Structure:
    """Figures of one package.

    Attributes:
        num_files: Python files.
        num_lines: Their lines, blank ones and comments included.
        largest_folder: Name of the folder with the most Python files directly in it, `__init__.py` not counted.
        files_in_largest_folder: How many these are.
        num_any: Uses of the name `Any` in code, imports not counted.
        num_long_functions: Functions of 15 lines and more.
        num_without_air: Those of them without a blank line between their steps.
        longest_function: Lines of the longest one.
    """

    num_files: int
    num_lines: int
    largest_folder: str
    files_in_largest_folder: int
    num_any: int
    num_long_functions: int
    num_without_air: int
    longest_function: int

    @property
    def any_per_1000_lines(self) -> float:
        """`Any` per 1,000 lines."""
        return 1000 * self.num_any / self.num_lines

    @property
    def share_without_air(self) -> float:
        """Share of the long functions without a blank line."""
        return self.num_without_air / self.num_long_functions if self.num_long_functions else 0.0


def structure_of(package: Path) -> Structure:
    """Reads every Python file below a folder."""
    paths = sorted(package.rglob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    folders = Counter(path.parent for path in paths if path.name != "__init__.py")
    folder, most = folders.most_common(1)[0]
    functions = [found for text in texts for found in _long_functions(text)]

    return Structure(
        num_files=len(paths),
        num_lines=sum(text.count("\n") for text in texts),
        largest_folder=str(folder.relative_to(package.parent)),
        files_in_largest_folder=most,
        num_any=sum(_uses_of_any(text) for text in texts),
        num_long_functions=len(functions),
        num_without_air=sum(not has_air for _, has_air in functions),
        longest_function=max((length for length, _ in functions), default=0),
    )


def _uses_of_any(text: str) -> int:
    imports = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)

    return sum(
        token.type == tokenize.NAME and token.string == "Any" and token.start[0] not in imports for token in tokens
    )


def _long_functions(text: str) -> list[tuple[int, bool]]:
    lines = text.split("\n")
    found = []

    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        last = node.end_lineno or node.lineno
        length = last - node.lineno + 1
        if length >= _LONG:
            found.append((length, any(not line.strip() for line in lines[_start_of_body(node) : last])))

    return found


def _start_of_body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Index of the first line behind the docstring and the blank line that may follow it."""
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    body = node.body[1:] if is_docstring and len(node.body) > 1 else node.body

    return body[0].lineno - 1


def main(argv: list[str] | None = None) -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description="Figures of a package's structure.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("llamarec"))
    parser.add_argument("--against", type=Path, help="another state of the same package, shown beside it")
    arguments = parser.parse_args(argv)
    columns = [structure_of(path) for path in (arguments.against, arguments.folder) if path is not None]

    rows = {
        "files": [f"{one.num_files}" for one in columns],
        "lines": [f"{one.num_lines:,}" for one in columns],
        "largest folder": [f"{one.files_in_largest_folder} ({one.largest_folder})" for one in columns],
        "Any per 1,000 lines": [f"{one.any_per_1000_lines:.1f}" for one in columns],
        "functions of 15 lines and more": [f"{one.num_long_functions}" for one in columns],
        "of them without a blank line": [f"{one.share_without_air:.0%}" for one in columns],
        "longest function, lines": [f"{one.longest_function}" for one in columns],
    }
    for name, values in rows.items():
        print(f"{name:<32}", *(f"{value:>32}" for value in values))


if __name__ == "__main__":
    main()
