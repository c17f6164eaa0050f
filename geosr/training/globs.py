"""The files of a set, as a recipe names them."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

# So many files are named one by one; of more, all those of a folder that have one suffix go by a glob.
_NAMED = 50


def globs_for(files: Sequence[Path], folder: Path) -> str | tuple[str, ...]:
    """Globs, one or several, that find exactly ``files`` below ``folder``."""
    wanted = set(files)
    globs: list[str] = []
    together: set[tuple[Path, str]] = set()
    for file in dict.fromkeys(files):
        kind = file.parent, file.suffix
        if kind in together:
            continue
        pattern = _below(file.parent, folder) / f"*{glob.escape(file.suffix)}"
        if len(wanted) > _NAMED and wanted.issuperset(p for p in folder.glob(pattern.as_posix()) if p.is_file()):
            together.add(kind)
            globs.append(pattern.as_posix())
        else:
            globs.append((_below(file.parent, folder) / glob.escape(file.name)).as_posix())
    return globs[0] if len(globs) == 1 else tuple(globs)


def _below(parent: Path, folder: Path) -> Path:
    return Path(glob.escape(parent.relative_to(folder).as_posix()))
