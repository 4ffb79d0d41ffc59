"""What can go wrong in a little repository, as data: one TOML file a subject, below `subjects/`.

A subject is written with `@names@` in it; each of its variants fills them in and so becomes another repository.
The data does not say which mend is right: only the check finds that out.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

FOLDER: Final = Path(__file__).parent / "subjects"
_NAME: Final = re.compile(r"@([A-Za-z_]+)@")

Family = Literal["tests", "builds", "searches", "documents"]


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Replace `old`, which occurs once in `path`, by `new`."""

    path: str
    old: str
    new: str


class Mend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change that a worker may try; it may be wrong or incomplete."""

    label: str
    edits: tuple[Edit, ...]


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search that a worker may try; its output becomes `findings.txt`."""

    label: str
    command: str


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of trouble, the words in which it is reported, and the ways out that come to mind."""

    key: str
    family: Family
    asks: tuple[str, ...]
    variants: tuple[dict[str, str], ...]
    files: dict[str, str]
    check: str
    looks: tuple[str, ...] = ()
    suite: str = ""
    mends: tuple[Mend, ...] = ()
    queries: tuple[Query, ...] = ()

    @property
    def candidates(self) -> tuple[Mend, ...] | tuple[Query, ...]:
        """What a worker may try, in no order."""
        return self.queries if self.family == "searches" else self.mends

    def variant(self, number: int) -> "Subject":
        """Return this subject with the names of one variant filled in; raises KeyError for an unknown name."""
        names = self.variants[number]
        return msgspec.convert(_filled(msgspec.to_builtins(self), names), Subject)

    def repository(self, number: int) -> str:
        """Return the name of the repository that a variant makes."""
        return self.variants[number]["repo"]


def load_subjects(folder: Path = FOLDER) -> tuple[Subject, ...]:
    """Read all subjects, ordered by key."""
    files = sorted(folder.glob("*/*.toml"), key=lambda path: path.stem)
    return tuple(msgspec.toml.decode(path.read_bytes(), type=Subject) for path in files)


def _filled(value: object, names: Mapping[str, str]) -> object:
    match value:
        case str():
            return _NAME.sub(lambda found: names[found[1]], value)
        case dict():
            return {_filled(key, names): _filled(each, names) for key, each in value.items()}
        case list() | tuple():
            return [_filled(each, names) for each in value]
        case _:
            return value
