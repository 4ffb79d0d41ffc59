"""What a rule of the mapping is, and how the configuration writes one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from memoryd.protocol import ids
from memoryd.protocol.errors import ConfigError, InvalidMessage
from memoryd.protocol.records import MemoryKind, MemorySource
from memoryd.relay.templates import Template

if TYPE_CHECKING:
    from collections.abc import Mapping

Phase = Literal["begin", "step", "end"]
Signal = Literal["positive", "negative"]

_AT_FIELD = re.compile(r"at `\$\.([a-z_]+)")
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")


class Each(Struct, frozen=True, forbid_unknown_fields=True):
    """One more memory for every object in the list at `path`; `text` is filled from that object."""

    path: str
    text: tuple[str, ...]

    def __post_init__(self) -> None:
        Template.parse(self.text)


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one type of event becomes.

    `trajectory` says what it means for the run it belongs to and `quality` how well an ended run went by default;
    `succeeded` is whether the step went well when the payload does not say. `feedback` marks an event that judges
    what was recalled and leaves no memory. With `every_s` at most one memory per run and that many seconds is kept.
    `run` are the payload's paths to the run's id.
    """

    source: MemorySource | None = None
    kind: MemoryKind | None = None
    text: tuple[str, ...] = ()
    each: tuple[Each, ...] = ()
    trajectory: Phase | None = None
    quality: float | None = None
    succeeded: bool | None = None
    feedback: Signal | None = None
    every_s: int = 0
    run: str = "run_id|task_id|data.run_id|report.task_id"

    def __post_init__(self) -> None:
        Template.parse(self.text)
        if self.feedback is None and (self.source is None or self.kind is None):
            raise ValueError("source and kind are required")
        if self.quality is not None and not 0.0 <= self.quality <= 1.0:
            raise ValueError("quality must be between 0.0 and 1.0")
        if self.every_s < 0:
            raise ValueError("every_s must not be negative")


def overlaid(rules: Mapping[str, Rule], table: Mapping[str, object]) -> dict[str, Rule]:
    """Return `rules` with what the configuration's `table` adds, changes or removes. Raises ConfigError."""
    result = dict(rules)
    for name, entry in table.items():
        key = f"mapping.{name}"
        try:
            ids.event_type(name)
        except InvalidMessage as error:
            raise ConfigError("not an event type", field=key, hint=error.hint) from None
        if not isinstance(entry, dict):
            raise ConfigError("a rule must be a table", field=key, hint='such as {like = "chat.user_msg"}')
        if entry.get("ignore") is True and len(entry) == 1:
            result.pop(name, None)
        else:
            result[name] = _rule(entry, result, key)
    return result


def _rule(entry: Mapping[str, object], rules: Mapping[str, Rule], key: str) -> Rule:
    settings = dict(entry)
    if "like" in settings:
        pattern = rules.get(str(settings.pop("like")))
        if pattern is None:
            raise ConfigError("no rule of this name", field=f"{key}.like", hint="name a type that is mapped already")
        settings = {**msgspec.structs.asdict(pattern), **settings}
    try:
        return msgspec.convert(settings, Rule)
    except msgspec.ValidationError as error:
        place = _AT_FIELD.search(str(error)) or _UNKNOWN_FIELD.search(str(error))
        raise ConfigError(
            "the rule cannot be used", field=f"{key}.{place[1]}" if place else key, hint=str(error)
        ) from None
