"""The command line without a daemon: what it says, and what it exits with."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import stat
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from memoryd.cli import group
from memoryd.cli.options import config_file

COMMANDS = list(group.list_commands(None))  # the names depend on no context


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that says nothing of a daemon, a token or a configuration."""
    for name in list(os.environ):
        if name.startswith(("MEMORYD_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(group, list(arguments), prog_name="memoryd", catch_exceptions=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_a_purpose_a_use_and_an_example(name: str) -> None:
    said = call(name, "--help").output

    assert "Example" in said
    assert "Use it" in said or name == "parked"
    # An example stands on a line of its own, not in the flow of a paragraph.
    assert re.search(rf"^ {{4}}.*memoryd {name}\b", said, re.MULTILINE)
    assert "\\b" not in said


def test_the_help_of_all_names_every_command() -> None:
    said = call("--help").output

    assert all(f"\n  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["tree"],
        ["metrics"],
        ["verify"],
        ["trajectories"],
        ["sona", "stats"],
        ["sona", "find", "x"],
        ["recall", "x"],
        ["remember", "x"],
        ["forget", "01JZ8Q4T6V0000000000000000"],
        ["export"],
        ["import", "-"],
        ["publish", "-"],
        ["parked", "list"],
    ],
)
def test_without_a_daemon_a_command_says_how_to_start_one(nowhere: Path, arguments: list[str]) -> None:
    result = call(*arguments, "--socket", str(nowhere / "no.sock"))

    assert result.exit_code == 69
    assert f"memoryd: no daemon listens at {nowhere / 'no.sock'}" in result.stderr
    assert "hint:  start one with: memoryd serve" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recall"], "Missing argument"),
        (["recall", "x", "--kind", "idea"], "'idea' is not one of"),
        (["recall", "x", "--since", "someday"], "is not a moment"),
        (["recall", "x", "--time", "sometimes"], "'sometimes' is not one of"),
        (["recall", "x", "-k", "0"], "not in the range"),
        (["forget"], "name what to forget"),
        (["forget", "--everything", "--session", "s"], "name what to forget"),
        (["ingest"], "name one store"),
        (["ingest", "--choiros", "a", "--wintermute", "b"], "name one store"),
        (["parked", "drop"], "name the numbers"),
        (["backup", "create"], "Missing argument"),
        (["backup", "restore", "folder"], "Missing option '--to'"),
        (["backup", "verify", "folder", "--snapshot", "0"], "not in the range"),
        (["remember", "x", "--set", "colour"], "not NAME=VALUE"),
        (["sing"], "No such command"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_64(nowhere: Path, arguments: list[str], said: str) -> None:
    result = call(*arguments)

    assert result.exit_code == 64
    assert said in result.stderr


def test_a_token_file_that_is_not_there_is_told(nowhere: Path) -> None:
    result = call("status", "--token-file", "no.token")

    assert result.exit_code == 78
    assert "cannot read the token file" in result.stderr


def test_a_token_is_shown_once_and_its_hash_is_what_the_configuration_gets(nowhere: Path) -> None:
    said = call("token", "--user", "alice", "--user", "bob").stdout

    secret = said.splitlines()[2].strip()
    entry = tomllib.loads(said[said.index("[[security") :])["security"]["tokens"][0]
    assert entry == {"sha256": hashlib.sha256(secret.encode()).hexdigest(), "users": ["alice", "bob"]}


def test_a_token_written_to_a_file_is_for_its_owner_only_and_not_shown(nowhere: Path) -> None:
    said = call("token", "--user", "alice", "--out", "agent.token").stdout

    secret = Path("agent.token").read_text(encoding="utf-8").strip()
    assert stat.S_IMODE(Path("agent.token").stat().st_mode) == 0o600
    assert secret not in said
    assert hashlib.sha256(secret.encode()).hexdigest() in said


def test_a_token_never_overwrites_a_file(nowhere: Path) -> None:
    Path("agent.token").write_text("old", encoding="utf-8")

    assert call("token", "--user", "alice", "--out", "agent.token").exit_code == 74
    assert Path("agent.token").read_text(encoding="utf-8") == "old"


def test_a_token_for_what_is_no_user_is_refused(nowhere: Path) -> None:
    assert call("token", "--user", "../etc").exit_code == 64


def test_the_configuration_is_printed_as_toml_with_where_its_values_come_from(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("m.toml").write_text("[memory]\nidle_after_s = 5.0\n", encoding="utf-8")
    monkeypatch.setenv("MEMORYD_EMBEDDING_THREADS", "2")

    said = call("config", "--config", "m.toml").stdout

    printed = tomllib.loads(said)
    assert printed["memory"]["idle_after_s"] == 5.0
    assert printed["embedding"]["threads"] == 2
    assert "idle_after_s = 5.0  # file\n" in said
    assert "threads = 2  # MEMORYD_EMBEDDING_THREADS\n" in said
    assert "commit_records = 256  # default\n" in said


def test_an_unknown_key_of_the_configuration_exits_with_78_and_its_name(nowhere: Path) -> None:
    Path("m.toml").write_text("[memory]\ncolour = 1\n", encoding="utf-8")

    result = call("config", "--config", "m.toml")

    assert result.exit_code == 78
    assert "colour" in result.stderr


def test_the_users_own_configuration_comes_before_the_machines(nowhere: Path) -> None:
    own = nowhere / ".config" / "memoryd" / "config.toml"
    own.parent.mkdir(parents=True)
    own.touch()

    assert config_file(None) == own
    assert config_file(Path("given.toml")) == Path("given.toml")


def test_the_doctor_is_content_with_a_machine_where_nothing_runs_yet(nowhere: Path) -> None:
    result = call("doctor", "--data-dir", str(nowhere / "data"))

    assert result.exit_code == 0, result.output
    assert "no daemon listens" in result.stdout


def test_the_doctor_finds_files_that_others_may_read(nowhere: Path) -> None:
    kept = nowhere / "data" / "events.sqlite"
    kept.parent.mkdir()
    kept.touch()
    kept.chmod(0o644)

    result = call("doctor", "--data-dir", str(kept.parent))

    assert result.exit_code == 1
    assert "others may reach" in result.stdout


def test_the_doctor_finds_an_sqlite_that_cannot_search_for_words(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poor(sqlite3.Connection):
        def execute(self, *given: object) -> sqlite3.Cursor:
            raise sqlite3.OperationalError("no such module: fts5")

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path: connect(path, factory=Poor))

    result = call("doctor", "--data-dir", str(nowhere / "data"))

    assert result.exit_code == 1
    assert "no such module: fts5" in result.stdout
    assert "use a Python whose SQLite is built with FTS5" in " ".join(result.stdout.split())


def test_the_doctor_finds_a_model_that_is_not_there(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORYD_EMBEDDING_MODEL", str(nowhere / "no-model"))

    result = call("doctor", "--data-dir", str(nowhere / "data"))

    assert result.exit_code == 1
    assert "no such folder" in result.stdout
