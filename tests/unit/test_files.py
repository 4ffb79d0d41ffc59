from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memoryd import files as files_module
from memoryd.files import Missing, NameTaken, RealFiles, is_running, process_id, replace_file, storage_fault
from memoryd.protocol.errors import DiskFull, ReadOnly, StorageFault

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = RealFiles()


def test_a_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    FILES.make_folder(tmp_path / "a" / "b")

    file = FILES.create(tmp_path / "a" / "b" / "c")
    file.close()

    assert stat.S_IMODE((tmp_path / "a" / "b" / "c").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_what_is_written_can_be_read_cut_and_written_over(tmp_path: Path) -> None:
    file = FILES.create(tmp_path / "a")

    file.append(b"one")
    file.append(b"two")
    file.rewrite(1, b"NE")
    file.truncate(5)
    file.append(b"!")
    file.sync()

    assert file.size() == 6
    assert file.read(0, 100) == b"oNEtw!"
    assert file.read(3, 2) == b"tw"
    assert file.read(6, 2) == b""
    file.close()
    file.close()


def test_a_file_that_is_made_longer_ends_in_zeros_that_take_no_room(tmp_path: Path) -> None:
    file = FILES.create(tmp_path / "a")
    file.append(b"one")

    file.truncate(1 << 30)
    file.append(b"two")

    assert file.size() == (1 << 30) + 3
    assert file.read(2, 3) == b"e\0\0"
    assert file.read(1 << 30, 9) == b"two"
    file.close()
    assert (tmp_path / "a").stat().st_blocks * 512 < 1 << 20


def test_a_folder_is_one_and_a_link_to_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("folder")

    found = {name: FILES.is_folder(tmp_path / name) for name in ("folder", "file", "link", "nothing")}

    assert found == {"folder": True, "file": False, "link": False, "nothing": False}


def test_a_write_that_the_kernel_takes_in_parts_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write, real_read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_write(fd, data[:3], at))
    monkeypatch.setattr(os, "pread", lambda fd, length, at: real_read(fd, min(length, 4), at))
    file = FILES.create(tmp_path / "a")

    file.append(b"0123456789")

    assert file.read(0, 10) == b"0123456789"
    assert file.read(2, 100) == b"23456789"
    file.close()


def test_a_name_that_is_missing_or_taken_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "there").touch()

    with pytest.raises(Missing, match=f"cannot open {tmp_path.name}/away: no such file"):
        FILES.open(tmp_path / "away", writable=False)
    with pytest.raises(NameTaken, match="cannot create"):
        FILES.create(tmp_path / "there")
    with pytest.raises(Missing, match="cannot rename"):
        FILES.rename(tmp_path / "away", tmp_path / "there")
    FILES.unlink(tmp_path / "away")


def test_a_symbolic_link_is_followed_neither_as_file_nor_as_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "secret").touch()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "alias").symlink_to(tmp_path / "folder" / "secret")

    for path in (tmp_path / "link" / "secret", tmp_path / "folder" / "alias"):
        with pytest.raises(StorageFault, match="cannot open") as refused:
            FILES.open(path, writable=True)
        assert "symbolic link" in str(refused.value.hint)


def test_a_folder_is_listed_in_order_and_one_that_is_not_there_is_empty(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).touch()

    assert FILES.list(tmp_path) == ["a", "b"]
    assert FILES.list(tmp_path / "away") == []


def test_a_tree_is_removed_with_everything_in_it_and_a_link_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")

    FILES.remove_tree(tmp_path / "tree")
    FILES.remove_tree(tmp_path / "link")

    assert FILES.list(tmp_path) == ["kept"]
    assert FILES.list(tmp_path / "kept") == ["file"]


def test_only_a_folder_that_holds_nothing_is_removed_and_never_what_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()

    for name in ("link", "full", "full/file", "away"):
        with pytest.raises(StorageFault, match="cannot remove folder"):
            FILES.remove_folder(tmp_path / name)
    FILES.remove_folder(tmp_path / "empty")

    assert FILES.list(tmp_path) == ["full", "link"]
    assert FILES.list(tmp_path / "full") == ["file"]


def test_a_lock_is_had_by_one_and_given_back_by_close(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    one, two = FILES.create(path), FILES.open(path, writable=True)

    assert one.try_lock()
    assert not two.try_lock()
    one.close()
    assert two.try_lock()
    two.close()


def test_an_open_file_knows_whether_it_still_has_its_name(tmp_path: Path) -> None:
    file = FILES.create(tmp_path / "a")
    assert file.is_at(tmp_path / "a")

    FILES.rename(tmp_path / "a", tmp_path / "b")

    assert not file.is_at(tmp_path / "a")
    assert file.is_at(tmp_path / "b")
    file.close()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path, temporary = tmp_path / "a", tmp_path / "a.tmp"
    path.write_bytes(b"old")

    def parts() -> Iterator[bytes]:
        yield b"ne"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        replace_file(FILES, path, temporary, parts())
    assert path.read_bytes() == b"old"
    FILES.unlink(temporary)

    replace_file(FILES, path, temporary, iter([b"ne", b"w"])).close()

    assert path.read_bytes() == b"new"
    assert FILES.list(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EROFS, ReadOnly),
        (errno.EACCES, ReadOnly),
        (errno.EPERM, ReadOnly),
        (errno.EIO, StorageFault),
    ],
)
def test_an_error_of_the_system_says_what_it_means_and_how_to_mend_it(
    tmp_path: Path, number: int, kind: type[StorageFault]
) -> None:
    fault = storage_fault(OSError(number, "x"), "write", tmp_path / "alice" / "memory.rvf")

    assert type(fault) is kind
    assert fault.message.startswith("cannot write alice/memory.rvf: ")
    assert fault.hint
    assert fault.details == {"operation": "write", "path": "alice/memory.rvf", "errno": number}
    assert str(tmp_path) not in str(fault)


def test_a_process_is_running_or_not() -> None:
    assert is_running(process_id())
    assert is_running(1)
    assert not is_running(0)
    assert not is_running(1 << 31)


def test_places_of_a_mapped_file_are_copied_and_outlive_its_name(tmp_path: Path) -> None:
    file = FILES.create(tmp_path / "a")
    content = os.urandom(100_000)
    file.append(content)
    mapping = file.map()
    file.close()
    FILES.unlink(tmp_path / "a")

    mapping.will_need([(place, 50) for place in range(0, 99_000, 1_000)])
    mapping.let_go(0, 100_000)

    assert bytes(mapping.data) == content
    assert mapping.copy([(0, 3), (70_001, 20_000), (99_999, 1)]) == [content[:3], content[70_001:90_001], content[-1:]]


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_mapping_gives_back_its_descriptors(tmp_path: Path) -> None:
    file = FILES.create(tmp_path / "a")
    file.append(b"content")
    before = open_descriptors()

    mapping = file.map()
    assert open_descriptors() > before
    del mapping
    gc.collect()

    assert open_descriptors() == before
    file.close()


def test_places_that_are_not_in_memory_are_asked_for_and_the_others_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FILES.create(tmp_path / "a")
    file.append(bytes(1 << 20))
    mapping = file.map()
    known: list[int] = []

    def told(_address: int, length: int, pages: ctypes.Array[ctypes.c_char]) -> int:
        pages[:] = bytes([*known, 0, 0])[:1] * (-(-length // mmap.PAGESIZE))
        return 0

    asked: list[tuple[int, int]] = []

    class Pages:
        @staticmethod
        def madvise(advice: int, start: int, length: int) -> None:
            assert advice == mmap.MADV_WILLNEED
            asked.append((start, length))

    monkeypatch.setattr(files_module, "_mincore", told)
    monkeypatch.setattr(mapping, "_pages", Pages)
    places = [(place, 50) for place in range(0, 1 << 20, 1 << 16)]

    mapping.will_need(places)
    assert asked == places
    known.append(1)
    mapping.will_need(places)
    assert asked == places
    mapping.will_need([(5_000, 4_000)])
    assert asked == places
    known.clear()
    mapping.will_need([(5_000, 4_000)])
    assert asked[len(places) :] == [(4_096, 4_904)]
    monkeypatch.setattr(files_module, "_mincore", None)
    mapping.will_need([(0, 1)])
    assert asked[-1] == (0, 1)
    file.close()
