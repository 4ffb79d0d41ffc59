"""A daemon whose model is not to be had: words answer, what is published waits, nothing of it in silence, and it mends itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from demo.daemon import DaemonProcess
from memoryd.actors import embedder, memory
from memoryd.app import Daemon, LocalTransport
from memoryd.embedding.folder import SHIPPED
from memoryd.embedding.hashing import HashingEmbedder
from memoryd.protocol.errors import ModelMismatch, ModelUnavailable
from memoryd.protocol.messages import Forget
from memoryd.protocol.records import Draft
from tests.helpers.daemon import HeldEmbedder, config_of, event, running, texts, until

MODEL = SHIPPED / "all-MiniLM-L6-v2"
ZEPPELIN = "the zeppelin was late because of the wind"
MUTEX = "the counter needs a mutex"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The shipped model in a folder whose files can be taken away."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in MODEL.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "RETRY_MODEL_S", 0.02)


def spoil(file: Path, how: str) -> None:
    file.unlink()
    if how == "damaged":
        file.write_bytes(b"\x00 not what it was")


def mend(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to(MODEL / file.name)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
async def test_words_answer_without_a_model_and_vectors_again_once_it_is_back(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    async with running(tmp_path, model=model) as house:
        await house.memory.remember(ZEPPELIN, user="alice")
        await house.memory.remember(MUTEX, user="alice")
    spoil(model / name, how)

    async with running(tmp_path, model=model) as house:
        found = await house.memory.recall("why did we wait for the zeppelin?", user="alice")
        assert texts(found)[0] == ZEPPELIN
        assert (found.tier, found.partial) == ("lexical", ("vectors",))
        explained = await house.memory.why(found.memories[0].record.id, "zeppelin", user="alice")
        assert (explained.place, explained.tier, explained.partial) == (1, "lexical", ("vectors",))

        with monkeypatch.context() as impatient:  # what waits outlives the deadlines of its asks
            impatient.setattr(memory, "EMBED_WITHIN_S", 0.05)
            await house.memory.publish([event("e1", "an airship in a storm")], user="alice", ack="stored")
            await house.memory.publish([event("e2", "a newcomer with a balloon")], user="bob", ack="stored")
            await asyncio.sleep(0.5)
        status = await house.memory.status()
        assert f"{name}: {how}" in status.model_fault
        assert "reinstall memoryd" in status.model_fault
        assert status.lag_events == 2
        told = {actor.path: actor.last_error for actor in (await house.memory.tree()).actors}
        assert f"{name}: {how}" in told["app/embedder"]

        mend(model / name)
        await house.settled()
        found = await house.memory.recall("airship", user="alice")
        assert found.partial == ()
        assert found.tier != "lexical"
        assert set(texts(found)) == {ZEPPELIN, MUTEX, "an airship in a storm"}
        assert texts(await house.memory.recall("balloon", user="bob")) == ["a newcomer with a balloon"]
        status = await house.memory.status()
        assert (status.model_fault, status.restarts) == ("", 0)
        await house.memory.remember("and now it is remembered", user="alice")


async def test_what_must_be_embedded_for_an_answer_is_refused_with_the_file_and_the_mend(
    tmp_path: Path, model: Path
) -> None:
    (model / "model.onnx").unlink()
    drafts = [Draft(text=text) for text in (ZEPPELIN, MUTEX)]
    committed = [event("e1", ZEPPELIN)]

    async with running(tmp_path, model=model) as house:
        for refused in (
            house.memory.remember(ZEPPELIN, user="alice"),
            house.memory.remember_many(drafts, user="alice"),
            house.memory.publish(committed, user="alice", ack="committed"),
        ):
            with pytest.raises(ModelUnavailable) as error:
                await refused
            assert error.value.field == "embedding.model"
            assert "reinstall memoryd" in str(error.value.hint)
            assert error.value.details["path"] == str(model / "model.onnx")
        assert (await house.memory.status()).events_last_seq == 0

        await house.memory.publish(committed, user="alice", ack="stored")
        with pytest.raises(ModelUnavailable):  # what waits might belong to it
            await LocalTransport(house.daemon).request("alice", Forget(everything=True), 0.1)


async def test_what_waits_for_the_model_outlives_the_daemon(tmp_path: Path, model: Path) -> None:
    (model / "model.onnx").unlink()
    async with running(tmp_path, model=model) as house:
        await house.memory.publish([event("e1", ZEPPELIN)], user="alice", ack="stored")
        await until(lambda: house.user_slot("alice"))
    mend(model / "model.onnx")

    async with running(tmp_path, model=model) as house:
        await house.settled()
        assert texts(await house.memory.recall("zeppelin", user="alice")) == [ZEPPELIN]


async def test_a_memory_of_another_model_is_refused_by_name_without_a_model_too(tmp_path: Path, model: Path) -> None:
    async with running(tmp_path, embedder=HashingEmbedder()) as house:
        await house.memory.remember(ZEPPELIN, user="alice")
    (model / "model.onnx").unlink()

    async with running(tmp_path, model=model) as house:
        with pytest.raises(ModelMismatch) as refused:
            await house.memory.recall("zeppelin", user="alice")
    assert "reembed" in str(refused.value.hint)


@pytest.mark.parametrize("how", ["missing", "damaged"])
async def test_a_folder_that_does_not_say_which_model_it_holds_stops_the_start(
    tmp_path: Path, model: Path, how: str
) -> None:
    spoil(model / "model.json", how)

    with pytest.raises(ModelUnavailable) as refused:
        Daemon(config_of(tmp_path / "data", tmp_path / "d.sock", embedding={"model": str(model)}), listen=False)

    assert refused.value.hint
    assert refused.value.details["path"]


async def test_who_asks_for_words_alone_does_not_wait_for_the_encoder(tmp_path: Path) -> None:
    encoder = HeldEmbedder()
    async with running(tmp_path, embedder=encoder) as house:
        kept = await house.memory.remember(ZEPPELIN, user="alice")

        found = await house.memory.recall("a slow zeppelin", user="alice", lexical=True)
        assert texts(found) == [ZEPPELIN]
        assert (found.tier, found.partial, encoder.waiting) == ("lexical", (), 0)

        await house.memory.publish_global([kept.id], user="alice")
        found = await house.memory.recall("a slow zeppelin", user="bob", lexical=True)
        assert (texts(found), found.partial, encoder.waiting) == ([ZEPPELIN], (), 0)


def test_the_command_line_says_it_on_every_screen() -> None:
    with tempfile.TemporaryDirectory(prefix="memoryd-") as name:
        home = Path(name)
        for file in MODEL.iterdir():
            (home / "model").mkdir(exist_ok=True)
            (home / "model" / file.name).symlink_to(file)
        daemon = DaemonProcess(home)
        config = home / "empty.toml"
        config.write_text(f'[embedding]\nmodel = "{home / "model"}"\n')

        def call(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "memoryd", *arguments]
            given = {**daemon.environment, "COLUMNS": "400"}
            return subprocess.run(command, env=given, capture_output=True, encoding="utf-8", timeout=60, check=False)

        daemon.start()
        try:
            assert call("remember", ZEPPELIN).returncode == 0
            assert json.loads(call("recall", "zeppelin", "--lexical", "--json").stdout)["tier"] == "lexical"
            daemon.stop()
            (home / "model" / "model.onnx").unlink()
            daemon.start()

            assert "embedding model model.onnx: missing" in daemon.log.read_text(encoding="utf-8")
            assert "words alone answer" in daemon.log.read_text(encoding="utf-8")
            assert "embedding model model.onnx: missing" in call("status").stdout
            answer = json.loads(call("recall", "zeppelin", "--json").stdout)
            assert (answer["tier"], answer["partial"]) == ("lexical", ["vectors"])
            refused = call("remember", MUTEX)
            assert (refused.returncode, "reinstall memoryd" in refused.stderr) == (78, True)
            doctor = call("doctor", "--config", str(config))
            assert (doctor.returncode, "it has no model" in doctor.stdout) == (1, True)
            file = str(next(daemon.data_dir.glob("*/memory.rvf")))
            assert ZEPPELIN in call("recall", "zeppelin", "--lexical", "--read-only", file).stdout
        finally:
            daemon.stop()
