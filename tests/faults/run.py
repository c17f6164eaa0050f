"""Plays the faults and counts; the long run is one command, from the root of a checkout in which geosr is installed:

    python -m tests.faults --long --write docs/reliability.md

Each fault prints one line of JSON: trials, failures, and what was seen. ``--write`` puts the table of figures where
the file has its marks. Without ``--long`` a few trials of each are played, as the tests do (``test_faults.py``); names
or numbers of rows choose some. Mounts, other users and ``strace`` need root on Linux; what a machine cannot play
is skipped with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from .harness import FAULTS, Bench, Fault

MODULES = ("kills", "disks", "memory", "workers", "together", "damage", "surroundings", "readers")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def all_faults() -> list[Fault]:
    """In the order of their rows."""
    for name in MODULES:
        import_module(f".{name}", __package__)
    return sorted(FAULTS, key=lambda f: (int("".join(filter(str.isdigit, f.number))), f.number))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", help="rows to play (default: all)")
    parser.add_argument("--long", action="store_true", help="many trials; takes most of an hour")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table into this file, between its marks")
    parser.add_argument("--lines", type=Path, metavar="FILE", help="also append the lines of JSON to this file")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="play nothing; write the table of these lines of JSON"
    )
    asked = parser.parse_args()
    lines = [json.loads(line) for line in asked.table.read_text().splitlines()] if asked.table else []
    for one in all_faults() if not asked.table else ():
        if asked.rows and one.number not in asked.rows and one.name not in asked.rows:
            continue
        with Bench(asked.long, asked.seed) as bench:
            found = one.run(bench)
        lines.append(found)
        print(json.dumps(found, ensure_ascii=False), flush=True)
        if asked.lines:
            with open(asked.lines, "a", encoding="utf-8") as file:
                print(json.dumps(found, ensure_ascii=False), file=file)
    if asked.write:
        write(asked.write, lines)
    sys.exit(any(line["failures"] for line in lines))


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    """Put the table into ``path``."""
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{table(lines)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def table(lines: list[dict[str, Any]]) -> str:
    """The figures, as Markdown."""
    by_row = {line["row"]: line for line in lines}
    rows = ["| row | fault | what is done | what must come of it | trials | failures | ends seen |"]
    rows.append("|---|---|---|---|---:|---:|---|")
    for one in all_faults():
        found = by_row.get(one.number)
        if found is None:
            continue
        figures = f"{found['trials']} | {found['failures']}"
        if found.get("skipped"):
            figures = f"skipped: {found['skipped']} | "
        seen = [f"{name}: {count}" for name, count in {**found.get("seen", {}), **found.get("notes", {})}.items()]
        rows.append(f"| {one.number} | {one.name} | {one.how} | {one.expected} | {figures} | {'; '.join(seen)} |")
    where = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    total = sum(line["trials"] for line in lines), sum(line["failures"] for line in lines)
    return "\n".join([*rows, "", f"{total[0]} trials, {total[1]} failures; {where}."])
