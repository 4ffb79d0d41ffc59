"""Opening a model: what is missing, damaged or foreign is named, with its mend."""

import json
import shutil
from pathlib import Path

import pytest

from memoryd.embedding.folder import SHIPPED, read_folder, resolve_model
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.errors import ModelUnavailable

NAME = "all-MiniLM-L6-v2"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(SHIPPED / NAME, tmp_path / "model")


def test_a_shipped_model_is_found_by_its_name_and_any_other_by_its_path(copy: Path) -> None:
    assert resolve_model(NAME) == SHIPPED / NAME
    assert resolve_model(str(copy)) == copy
    assert resolve_model(copy) == copy


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ModelUnavailable) as caught:
        resolve_model("no-such-model")

    assert NAME in str(caught.value.hint)


def test_the_identity_of_the_shipped_model_is_that_of_its_manifest() -> None:
    manifest = json.loads((SHIPPED / NAME / "model.json").read_text())

    model = OnnxEmbedder.open(NAME, threads=1).model

    assert (model.name, model.dim, model.max_tokens, model.variant) == (NAME, 384, 256, "int8")
    assert model.sha256 == manifest["files"]["model.onnx"]


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_one_flipped_bit_is_found(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)

    with pytest.raises(ModelUnavailable) as caught:
        OnnxEmbedder.open(copy, threads=1)

    assert caught.value.details["path"] == str(copy / name)
    assert "damaged" in str(caught.value.details["what"])
    assert "reinstall" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()

    with pytest.raises(ModelUnavailable) as caught:
        OnnxEmbedder.open(copy, threads=1)

    assert caught.value.details == {"path": str(copy / name), "what": "missing"}
    assert caught.value.hint


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {}}', '{"files": {"model.onnx": 1}}'])
def test_a_manifest_that_describes_nothing_is_refused(copy: Path, content: str) -> None:
    (copy / "model.json").write_text(content)

    with pytest.raises(ModelUnavailable):
        OnnxEmbedder.open(copy, threads=1)


def test_a_folder_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="missing"):
        read_folder(tmp_path)
