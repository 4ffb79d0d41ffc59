"""The little language in which the mapping's rules say what a memory's text is made of.

A rule's text is a sequence of lines:

    "{data.objective|objective}"      the first of the two paths at which the payload has something to say
    "exit code {exit_code}"           words around it; a line lacking one of its placeholders is left out
    "[{capability}: ]{data.summary}"  a part in brackets is left out alone
    "{output:tail}"                   only the end of a long value, where commands and tools report their outcome
    "{ops.*.text}"                    `*` goes over a list; what is found is put on lines of its own

What is found may be a text, a number or a truth; everything else counts as absent, so a payload that is not what
it should be makes a shorter memory and never an error. There are no escapes: braces and brackets cannot be literal.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# About 30 lines: a failed test's summary or a traceback with its error.
TAIL_CHARACTERS: Final = 2_000
# How many items of a list are looked at.
MAX_ITEMS: Final = 64
# Beyond 64 bits a number is no measure of anything, and rendering it may fail.
_MAX_BITS: Final = 64

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z0-9_.*|-]+)(:tail)?\}")
_OPTIONAL: Final = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a line: its pattern, and whether the line can do without it."""

    pattern: str
    is_optional: bool


@dataclass(frozen=True, slots=True)
class Template:
    """A sequence of lines, checked and taken apart."""

    lines: tuple[tuple[_Part, ...], ...]

    @classmethod
    def parse(cls, lines: Sequence[str]) -> Template:
        """Take `lines` apart. Raises ValueError when braces or brackets do not fit together."""
        return cls(tuple(tuple(_parts(line)) for line in lines))

    def render(self, payload: Mapping[str, object]) -> str:
        """Return the lines that can be filled from `payload`."""
        rendered = (_line(parts, payload) for parts in self.lines)
        return "\n".join(line for line in rendered if line.strip()).strip()


def find(payload: Mapping[str, object], paths: str) -> object:
    """Return the first value at one of `paths` (`a.b|c`) that is a text with content, a number or a truth."""
    for name, rest in _taken_apart(paths):
        there = payload.get(name)  # most payloads have few of the names that are looked for
        if there is not None and (value := _at(there, rest)) is not None:
            return value
    return None


def find_text(payload: Mapping[str, object], paths: str) -> str:
    """Return what `find` finds as a text, empty when it finds nothing."""
    return _text(find(payload, paths))


def items(payload: Mapping[str, object], path: str) -> Sequence[Mapping[str, object]]:
    """Return the list at `path`; an item that is not an object is an empty one, so that the others keep their place."""
    value: object = payload
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    found = value if isinstance(value, list | tuple) else ()
    return [item if isinstance(item, dict) else {} for item in found[:MAX_ITEMS]]


def clean(text: str) -> str:
    """Return `text` with lone surrogates replaced, so that it can be encoded."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _parts(line: str) -> Iterator[_Part]:
    position = 0
    for optional in _OPTIONAL.finditer(line):
        yield from _checked(line[position : optional.start()], is_optional=False)
        yield from _checked(optional[1], is_optional=True)
        position = optional.end()
    yield from _checked(line[position:], is_optional=False)


def _checked(pattern: str, *, is_optional: bool) -> Iterator[_Part]:
    if re.search(r"[{}\[\]]", _PLACEHOLDER.sub("", pattern)):
        raise ValueError(f"braces or brackets do not fit together in {pattern!r}")
    if pattern:
        yield _Part(pattern, is_optional)


def _line(parts: Sequence[_Part], payload: Mapping[str, object]) -> str:
    filled: list[str] = []
    has_content = False
    for part in parts:
        values = {match[0]: _filled(match, payload) for match in _PLACEHOLDER.finditer(part.pattern)}
        if all(values.values()):
            has_content = has_content or bool(values)
            filled.append(_PLACEHOLDER.sub(lambda match, values=values: values[match[0]], part.pattern))  # type: ignore[misc]
        elif not part.is_optional:
            return ""
    return "".join(filled) if has_content else ""


def _filled(match: re.Match[str], payload: Mapping[str, object]) -> str:
    text = find_text(payload, match[1])
    return _tail(text) if match[2] else text


def _tail(text: str) -> str:
    if len(text) <= TAIL_CHARACTERS:
        return text
    tail = text[-TAIL_CHARACTERS:]
    # Begin with a whole line, unless the line is longer than what is kept.
    _, newline, rest = tail.partition("\n")
    return f"...\n{rest}" if newline and rest.strip() else f"...{tail}"


@lru_cache(maxsize=1024)
def _taken_apart(paths: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the first name of each path, and the names behind it."""
    taken = (path.split(".") for path in paths.split("|"))
    return tuple((first, tuple(rest)) for first, *rest in taken)


def _at(value: object, path: tuple[str, ...]) -> object:
    for position, name in enumerate(path):
        if name == "*":
            rest = path[position + 1 :]
            found = value[:MAX_ITEMS] if isinstance(value, list | tuple) else ()
            texts = [_text(_at(item, rest)) for item in found]
            return "\n".join(text for text in texts if text) or None
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return _usable(value)


def _usable(value: object) -> object:
    match value:
        case str():
            return value if value.strip() else None
        case bool():
            return value
        case int():
            return value if value.bit_length() <= _MAX_BITS else None
        case float():
            return value if math.isfinite(value) else None
        case _:
            return None


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return value.strip("\r\n").rstrip()
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)
