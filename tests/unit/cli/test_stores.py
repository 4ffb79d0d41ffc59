"""What is taken for an `.rvf` store, and what is not."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from memoryd.cli.importing import Lines, is_store
from memoryd.protocol.errors import InvalidMessage
from tests.helpers.foreign import store_bytes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "content", "is_one"),
    [
        ("memory.rvf", store_bytes(held=0), True),
        ("backup", store_bytes(held=0), True),
        ("export.jsonl", store_bytes(held=0), True),
        ("damaged.rvf", b"\0" * 100, True),
        ("empty.rvf", b"", True),
        ("export.jsonl", b'{"text": "SFVR"}\n', False),
        ("empty", b"", False),
    ],
)
def test_a_store_is_known_by_its_first_bytes_or_by_its_name(
    tmp_path: Path, name: str, content: bytes, *, is_one: bool
) -> None:
    (tmp_path / name).write_bytes(content)

    assert is_store(str(tmp_path / name)) is is_one


def test_what_is_no_file_is_no_store(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.rvf")  # looking into it would wait for ever
    (tmp_path / "folder.rvf").mkdir()

    for name in ("pipe.rvf", "folder.rvf", "gone.rvf"):
        assert not is_store(str(tmp_path / name))
    assert not is_store("-")


def test_a_store_that_comes_through_a_pipe_is_refused_with_the_way_round() -> None:
    status = SimpleNamespace(dim=8, model_sha256="")

    with pytest.raises(InvalidMessage, match="cannot be read from a pipe") as refused:
        list(Lines("-", without_vectors=False).items(io.BytesIO(store_bytes(held=0)), status))

    assert refused.value.hint == "give its path"
