"""A file is asked without a daemon, while one writes to it."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import pytest

from memoryd import reading
from memoryd.actors import writer
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.errors import ModelMismatch
from memoryd.protocol.records import ANY, MemoryFilter, MemoryKind
from tests.helpers.daemon import HashingEmbedder, events, running

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_file_gives_the_answers_of_its_daemon_while_that_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SMALLEST_WASTE", 1_000)  # the file is compacted again and again
    async with running(tmp_path, memory={"commit_records": 3}) as house:
        for first in range(0, 120, 6):
            await house.memory.publish(events(120)[first : first + 6], user="alice", ack="committed")
            embedder = HashingEmbedder()

            read = reading.recall(house.file("alice"), "e message 3", embedder, top_k=5, where=ANY)

            asked = await house.memory.recall("e message 3", user="alice", top_k=5)
            assert read.memories == asked.memories

        only = MemoryFilter(kinds=frozenset({MemoryKind.STRATEGY}))
        assert reading.recall(house.file("alice"), "e message 3", embedder, top_k=5, where=only).memories == ()


async def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        await house.memory.remember("something", user="alice")

        with pytest.raises(ModelMismatch):
            reading.recall(
                house.file("alice"), "x", OnnxEmbedder.open("all-MiniLM-L6-v2", threads=1), top_k=5, where=ANY
            )


async def test_the_command_reads_a_file_of_the_shipped_model(tmp_path: Path) -> None:
    async with running(tmp_path, embedder=OnnxEmbedder.open("all-MiniLM-L6-v2", threads=1)) as house:
        await house.memory.remember("the login test fails after the session change", user="alice")
        await house.memory.remember("an invoice is off by a cent", user="alice")
        command = [sys.executable, "-m", "memoryd", "recall", "--json", "-k", "1", "--read-only"]

        process = await asyncio.create_subprocess_exec(
            *command, str(house.file("alice")), "tests of the login", stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()

        assert process.returncode == 0
        answer = json.loads(said)
        assert answer["user"] == "alice"
        assert [each["text"] for each in answer["memories"]] == ["the login test fails after the session change"]
