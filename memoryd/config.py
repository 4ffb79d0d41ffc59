"""The configuration: defaults here, a TOML file over them, MEMORYD_* variables over that, flags over all.

An unknown key is an error. `config/memoryd.toml` shows every default with its explanation.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from memoryd.protocol.errors import ConfigError, InvalidMessage
from memoryd.protocol.records import checked_zone

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1)]
UserName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]

_PREFIX: Final = "MEMORYD_"


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Server(_Section, frozen=True, kw_only=True):
    """Where it keeps its data and listens; empty means the default place of this user and machine."""

    data_dir: str = ""
    socket: str = ""
    group_access: bool = False
    request_within_s: Positive = 30.0
    event_loop: Literal["uvloop", "asyncio"] = "uvloop"


class Embedding(_Section, frozen=True, kw_only=True):
    """Which encoder, and on how many threads (0: one for each processor)."""

    model: str = "all-MiniLM-L6-v2"
    threads: Annotated[int, Meta(ge=0, le=64)] = 0


class MemorySettings(_Section, frozen=True, kw_only=True):
    """When commits happen, how long users stay in memory, and how long what was forgotten can be looked back at."""

    commit_after_s: Positive = 1.0
    commit_records: Count = 256
    idle_after_s: Positive = 120.0
    resident_bytes: Bytes = 2 << 30
    resident_users: Count = 1_000
    hnsw_above_rows: Count = 200_000
    history_s: Annotated[float, Meta(ge=0)] = 7 * 86_400.0


class RecallSettings(_Section, frozen=True, kw_only=True):
    """How questions are meant: in which time zone, where they do not say."""

    timezone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            checked_zone(self.timezone, "timezone")
        except InvalidMessage as error:
            raise ValueError(str(error)) from error  # which becomes an error that names the key


class LearningSettings(_Section, frozen=True, kw_only=True):
    """Whether recall learns from the outcomes of runs, and how much a learner holds and does."""

    enabled: bool = True
    profile: Literal["realtime", "batch", "research", "edge", "balanced"] = "balanced"


class EventSettings(_Section, frozen=True, kw_only=True):
    """How long the log keeps the text of events that every memory has committed."""

    retain_s: Annotated[float, Meta(ge=0)] = 7 * 86_400.0


class TokenGrant(_Section, frozen=True, kw_only=True):
    """A token, by its SHA-256 in hex, and the users it grants (`*`: all)."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    users: Annotated[tuple[str, ...], Meta(min_length=1)]


class UidGrant(_Section, frozen=True, kw_only=True):
    """A system user and the users it is granted."""

    uid: Annotated[int, Meta(ge=0)]
    users: Annotated[tuple[str, ...], Meta(min_length=1)]


class Security(_Section, frozen=True, kw_only=True):
    """Who may speak for whom."""

    default_user: UserName = "default"
    tokens: tuple[TokenGrant, ...] = ()
    uids: tuple[UidGrant, ...] = ()


class Observability(_Section, frozen=True, kw_only=True):
    """How it talks about itself."""

    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_port: Annotated[int, Meta(ge=0, le=65_535)] = 0


class Config(_Section, frozen=True, kw_only=True):
    """Everything that can be set."""

    server: Server = Server()
    embedding: Embedding = Embedding()
    memory: MemorySettings = MemorySettings()
    recall: RecallSettings = RecallSettings()
    learning: LearningSettings = LearningSettings()
    events: EventSettings = EventSettings()
    security: Security = Security()
    observability: Observability = Observability()
    mapping: dict[str, dict[str, object]] = {}


def load(path: Path | None = None, overrides: Mapping[str, object] | None = None) -> Config:
    """Return the configuration of a file (optional), the environment and `overrides` such as `{"server.socket": S}`.

    Raises ConfigError, which names the key.
    """
    tree: dict[str, Any] = _read(path) if path is not None else {}
    layers: list[Mapping[str, object]] = [_from_environment(), overrides or {}]
    for key, value in (item for layer in layers for item in layer.items()):
        if value is not None:
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
    try:
        return msgspec.convert(tree, Config, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise ConfigError(
            what[:1].lower() + what[1:], field=where.rstrip("`") or None, hint="see config/memoryd.toml"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="see config/memoryd.toml") from error


def _from_environment() -> dict[str, object]:
    """Return `section.key` of every variable such as MEMORYD_MEMORY_IDLE_AFTER_S. Raises ConfigError for unknown keys."""
    found: dict[str, object] = {}
    for section in msgspec.structs.fields(Config):
        prefix = f"{_PREFIX}{section.name.upper()}_"
        for name, value in os.environ.items():
            if name.startswith(prefix):
                found[f"{section.name}.{name.removeprefix(prefix).lower()}"] = value
    return found
