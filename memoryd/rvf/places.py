"""Where a user's files stand: `memory.rvf` is the main line, `branches/NAME.rvf` a branch, `HEAD` names the one in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memoryd.protocol.ids import MAIN, is_branch_name

if TYPE_CHECKING:
    from pathlib import Path

    from memoryd.files import FileSystem

FILE_NAME: Final = "memory.rvf"
HEAD_NAME: Final = "HEAD"
FOLDER_NAME: Final = "branches"
LOCK_SUFFIX: Final = ".lock"
_SUFFIX: Final = ".rvf"


def branch_path(folder: Path, branch: str) -> Path:
    """Return the file of a branch of the user whose folder this is."""
    return folder / FILE_NAME if branch == MAIN else folder / FOLDER_NAME / f"{branch}{_SUFFIX}"


def branch_of(path: Path) -> tuple[Path, str]:
    """Return the user's folder and the branch whose file this is."""
    if path.parent.name == FOLDER_NAME and path.name.endswith(_SUFFIX):
        return path.parent.parent, path.name.removesuffix(_SUFFIX)
    return path.parent, MAIN


def lock_path(path: Path) -> Path:
    """Return the lock file of a memory file."""
    return path.with_name(path.name + LOCK_SUFFIX)


def branch_names(files: FileSystem, folder: Path) -> list[str]:
    """Return the branches of a user, the main line first."""
    main = [MAIN] if files.exists(folder / FILE_NAME) else []
    named = [name.removesuffix(_SUFFIX) for name in files.list(folder / FOLDER_NAME) if name.endswith(_SUFFIX)]
    return main + [name for name in named if is_branch_name(name)]  # others may put copies beside them
