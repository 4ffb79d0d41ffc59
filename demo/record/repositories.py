"""Makes the little repositories and changes their files."""

from pathlib import Path
from typing import Final

from demo.record.commands import Sandbox
from demo.record.subject import Edit, Subject

# What builds and searches leave behind is not a change.
_IGNORED: Final = "*.o\n*.a\nbuild/\n__pycache__/\nfindings.txt\n"
_COMMIT: Final = "git init -q -b main --template= && git add -A && git commit -q -m 'first import'"


class EditMismatchError(ValueError):
    """An edit does not fit the file that it is for."""

    def __init__(self, edit: Edit, occurrences: int) -> None:
        super().__init__(f"the text to replace occurs {occurrences} times in {edit.path}, not once")
        self.edit, self.occurrences = edit, occurrences


def make_repository(sandbox: Sandbox, subject: Subject, folder: Path) -> Path:
    """Write the files of a filled-in subject below `folder` and commit them; return the repository."""
    files = {".gitignore": _IGNORED, "NOTES.md": "# Notes\n", **subject.files}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    made = sandbox.run(_COMMIT, folder)
    if not made.passed:
        raise RuntimeError(made.output)
    return folder


def apply_edit(repository: Path, edit: Edit) -> None:
    """Change one file as `edit` says; raises EditMismatchError and changes nothing if it does not fit."""
    path = repository / edit.path
    text = path.read_text(encoding="utf-8")
    if (occurrences := text.count(edit.old)) != 1:
        raise EditMismatchError(edit, occurrences)
    path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def append_line(repository: Path, name: str, line: str) -> None:
    """Add one line at the end of a living document."""
    with (repository / name).open("a", encoding="utf-8") as document:
        document.write(f"{line}\n")
