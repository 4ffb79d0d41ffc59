"""`memoryd backup` against a real daemon, and without one."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from demo.daemon import DaemonProcess
from tests.integration.conftest import Call

TEXTS = ["the login test fails after the session change", "deploys on Friday need two approvals"]


@pytest.fixture(autouse=True, scope="module")
def _remembered(call: Call) -> None:
    for user, text in zip(("alice", "bob"), TEXTS, strict=True):
        assert call("remember", "--user", user, text).returncode == 0


@pytest.fixture
def kept(call: Call, tmp_path: Path) -> Path:
    """A backup with one snapshot."""
    result = call("backup", "create", str(tmp_path / "backup"))
    assert result.returncode == 0, result.stderr
    return tmp_path / "backup"


def damage(pack: Path) -> None:
    content = bytearray(pack.read_bytes())
    content[40] ^= 1
    pack.write_bytes(content)


def test_a_snapshot_is_made_by_the_daemon_checked_and_put_back(call: Call, kept: Path, tmp_path: Path) -> None:
    again = call("backup", "create", str(kept))
    assert "snapshot 2: 2 users, 3 files, " in again.stdout

    checked = call("backup", "verify", str(kept))
    restored = call("backup", "restore", str(kept), "--to", str(tmp_path / "data"))

    assert (checked.returncode, restored.returncode) == (0, 0)
    assert checked.stdout.endswith("the backup is sound\n")
    assert "restored snapshot 2 of " in restored.stdout
    for path in [kept, *kept.rglob("*"), tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_what_was_restored_is_served_by_a_daemon_and_sound(kept: Path, call: Call, tmp_path: Path) -> None:
    other = DaemonProcess(tmp_path)
    assert call("backup", "restore", str(kept), "--to", str(other.data_dir)).returncode == 0

    other.start()
    try:
        for user, text in zip(("alice", "bob"), TEXTS, strict=True):
            at = ("--user", user, "--socket", str(other.socket))
            assert call("verify", *at).stdout == f"the memory of {user} is sound\n"
            found = json.loads(call("recall", *at, "--json", text).stdout)
            assert [memory["text"] for memory in found["memories"]] == [text]
    finally:
        assert other.stop() == 0


def test_for_programs_everything_is_json(call: Call, kept: Path, tmp_path: Path) -> None:
    made = json.loads(call("backup", "create", "--json", str(kept)).stdout)
    found = json.loads(call("backup", "verify", "--json", str(kept)).stdout)
    restored = json.loads(
        call("backup", "restore", "--json", str(kept), "--to", str(tmp_path / "bob"), "--user", "bob").stdout
    )

    assert {"snapshot": 2, "users": 2, "files": 3, "omitted_files": 0, "omitted": []}.items() <= made.items()
    assert found["findings"] == []
    assert [each["snapshot"] for each in found["snapshots"]] == [1, 2]
    assert found["snapshots"][1]["new_bytes"] == 0
    assert (restored["snapshot"], restored["users"], restored["files"]) == (2, 1, 2)
    assert sorted(each.name for each in (tmp_path / "bob").iterdir()) == ["bob", "events.sqlite", "memoryd.lock"]


def test_damage_is_told_with_the_file_and_the_byte_and_exits_with_1(call: Call, kept: Path, tmp_path: Path) -> None:
    damage(kept / "packs" / "000001.pack")

    result = call("backup", "verify", str(kept))

    assert result.returncode == 1
    assert "packs/000001.pack" in result.stdout
    found = json.loads(call("backup", "verify", "--json", str(kept)).stdout)["findings"]
    assert all(list(each) == ["name", "snapshots", "offset", "what", "hint"] for each in found)
    restored = call("backup", "restore", str(kept), "--to", str(tmp_path / "data"))
    assert restored.returncode == 74
    assert "000001.pack" in restored.stderr
    assert not (tmp_path / "data").exists()


def test_a_folder_that_is_no_backup_or_not_empty_is_told(call: Call, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear").touch()

    assert call("backup", "verify", str(tmp_path / "letters")).returncode == 64
    assert call("backup", "create", str(tmp_path / "letters")).returncode == 64
    refused = call("backup", "restore", str(kept), "--to", str(tmp_path / "letters"))
    assert refused.returncode == 64
    assert "something is in this folder" in refused.stderr
    unknown = call("backup", "restore", str(kept), "--to", str(tmp_path / "new"), "--snapshot", "7")
    assert (unknown.returncode, "there are 1" in unknown.stderr) == (64, True)


def test_a_link_to_a_folder_is_followed_where_a_person_names_it(call: Call, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")

    assert call("backup", "create", str(tmp_path / "link" / "memoryd")).returncode == 0

    assert (tmp_path / "disk" / "memoryd" / "memoryd.backup").is_file()


def test_another_data_directory_than_the_daemon_serves_is_not_backed_up_in_its_place(
    call: Call, daemon: DaemonProcess, tmp_path: Path
) -> None:
    refused = call("backup", "create", "--data-dir", str(tmp_path / "other"), str(tmp_path / "backup"))

    assert refused.returncode == 78
    assert f"serves {daemon.data_dir}" in refused.stderr
    same = call("backup", "create", "--data-dir", str(daemon.data_dir), str(tmp_path / "backup"))
    assert same.returncode == 0


def test_without_a_daemon_it_is_made_directly_and_what_is_damaged_is_told(call: Call, tmp_path: Path) -> None:
    other = DaemonProcess(tmp_path)
    other.start()
    for user in ("alice", "bob"):
        assert call("remember", "--socket", str(other.socket), "--user", user, TEXTS[0]).returncode == 0
    at = ("--socket", str(other.socket), "--data-dir", str(other.data_dir))
    other.stop()

    assert call("backup", "create", *at, str(tmp_path / "backup")).returncode == 0
    file = other.data_dir / "bob" / "memory.rvf"
    file.write_bytes(file.read_bytes()[:50])
    partial = call("backup", "create", *at, str(tmp_path / "backup"))

    assert partial.returncode == 1
    assert "snapshot 2: 1 users, 2 files" in partial.stdout
    assert "left out: bob/memory.rvf: no valid manifest at byte 0" in partial.stderr
    checked = call("backup", "verify", str(tmp_path / "backup"))
    assert (checked.returncode, "left out, since it could not be read" in checked.stdout) == (1, True)
    restored = call("backup", "restore", str(tmp_path / "backup"), "--to", str(tmp_path / "back"))
    assert (restored.returncode, "left out: bob/memory.rvf" in restored.stderr) == (1, True)
    assert call("backup", "restore", str(tmp_path / "backup"), "--to", str(tmp_path / "whole"), "--snapshot", "1").returncode == 0  # fmt: skip
