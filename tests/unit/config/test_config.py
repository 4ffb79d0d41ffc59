"""The configuration: one file that shows every default, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from memoryd.config import Config, load
from memoryd.protocol.errors import ConfigError

SHIPPED = Path(__file__).parents[3] / "config" / "memoryd.toml"


def test_the_shipped_file_states_every_default_as_it_is() -> None:
    assert load(SHIPPED) == Config()


def test_the_shipped_file_names_every_key() -> None:
    text = SHIPPED.read_text()
    for section in Config.__struct_fields__:
        assert f"[{section}]" in text
        fields = getattr(getattr(Config(), section), "__struct_fields__", ())
        assert [name for name in fields if f"\n{name} = " not in text] == []


def test_a_variable_wins_over_the_file_and_a_flag_over_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[memory]\nidle_after_s = 1.0\ncommit_records = 7\n")
    monkeypatch.setenv("MEMORYD_MEMORY_IDLE_AFTER_S", "2.5")
    monkeypatch.setenv("MEMORYD_SERVER_SOCKET", "/tmp/a")

    config = load(file, {"server.socket": "/tmp/b", "server.data_dir": None})

    assert (config.memory.idle_after_s, config.memory.commit_records) == (2.5, 7)
    assert (config.server.socket, config.server.data_dir) == ("/tmp/b", "")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[memory]\nidle_after = 1\n", "memory"),
        ("[nonsense]\na = 1\n", None),
        ("[memory]\ncommit_records = 0\n", "memory.commit_records"),
        ("[embedding]\nthreads = 'many'\n", "embedding.threads"),
        ("[server]\nevent_loop = 'trio'\n", "server.event_loop"),
        ("[recall]\ntimezone = 'Mars/Olympus'\n", "recall"),
        ("[security]\ndefault_user = '../x'\n", "security.default_user"),
        ("[[security.tokens]]\nsha256 = 'x'\nusers = ['a']\n", "security.tokens[0].sha256"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, field: str | None) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)

    with pytest.raises(ConfigError) as wrong:
        load(file)

    assert wrong.value.field == field
    assert wrong.value.hint


def test_an_unknown_variable_of_a_section_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORYD_MEMORY_IDLE_AFTER", "1")

    with pytest.raises(ConfigError, match="idle_after"):
        load()


@pytest.mark.parametrize("content", [b"[memory\n", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(content)

    with pytest.raises(ConfigError, match="not TOML"):
        load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "none.toml")
