"""Encoders as others publish them: config.json, 1_Pooling, onnx/model.onnx with a vector per token."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime.quantization import quantize_dynamic

from memoryd.embedding.folder import SHIPPED
from memoryd.embedding.graph import BertShape, build_bert
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.errors import ModelUnavailable

DIM, WIDE, LAYERS, VOCABULARY, POSITIONS = 768, 96, 2, 30_522, 40
TEXTS = ["a short one", "", "a red door behind the house on the hill, locked since May", "word " * 90]

MakeFolder = Callable[..., Path]
Weights = dict[str, NDArray[np.generic]]


def _random_weights() -> Weights:
    random = np.random.default_rng(5)

    def some(*shape: int) -> NDArray[np.float32]:
        return random.normal(0, 0.1, shape).astype(np.float32)

    def norm(name: str) -> Weights:
        return {f"{name}.LayerNorm.weight": 1 + some(DIM), f"{name}.LayerNorm.bias": some(DIM)}

    def dense(name: str, inputs: int, outputs: int) -> Weights:
        return {f"{name}.weight": some(outputs, inputs), f"{name}.bias": some(outputs)}

    weights: Weights = {
        "embeddings.word_embeddings.weight": np.tile(some(401, DIM), (77, 1))[:VOCABULARY],
        "embeddings.position_embeddings.weight": some(POSITIONS, DIM),
        "embeddings.token_type_embeddings.weight": some(2, DIM),
        **norm("embeddings"),
    }
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            weights |= dense(f"{name}.attention.self.{part}", DIM, DIM)
        weights |= dense(f"{name}.attention.output.dense", DIM, DIM) | norm(f"{name}.attention.output")
        weights |= dense(f"{name}.intermediate.dense", DIM, WIDE)
        weights |= dense(f"{name}.output.dense", WIDE, DIM) | norm(f"{name}.output")
    return weights


@pytest.fixture(scope="module")
def graph() -> bytes:
    shape = BertShape(layers=LAYERS, heads=12)
    model = build_bert(_random_weights(), shape, variant="fp32", output="last_hidden_state")
    return bytes(model.SerializeToString())


@pytest.fixture
def make_folder(tmp_path: Path, graph: bytes) -> MakeFolder:
    def make(*, pooling: str | None, hidden_size: int = DIM) -> Path:
        folder = tmp_path / "tiny-bert"
        (folder / "onnx").mkdir(parents=True)
        (folder / "onnx" / "model.onnx").write_bytes(graph)
        config = {"model_type": "bert", "hidden_size": hidden_size, "max_position_embeddings": POSITIONS}
        (folder / "config.json").write_text(json.dumps(config))
        shutil.copyfile(SHIPPED / "all-MiniLM-L6-v2" / "tokenizer.json", folder / "tokenizer.json")
        if pooling:
            (folder / "1_Pooling").mkdir()
            said = {"word_embedding_dimension": DIM, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}
            said[f"pooling_mode_{pooling}"] = True
            (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
        return folder

    return make


@pytest.mark.parametrize("pooling", ["cls_token", "mean_tokens"])
def test_a_768_dimensional_encoder_works_by_both_poolings(make_folder: MakeFolder, pooling: str) -> None:
    folder = make_folder(pooling=pooling)
    embedder = OnnxEmbedder.open(folder, threads=1)

    found = embedder.embed(["a red door"])

    session = ort.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.array([[101, 1037, 2417, 2341, 102]])
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    (hidden,) = session.run(None, feed)[0]
    expected = hidden[0] if pooling == "cls_token" else hidden.mean(axis=0)
    assert found.vectors.shape == (1, DIM)
    assert np.allclose(found.vectors[0], expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls_token", "mean_tokens"])
def test_a_batch_changes_no_vector_by_more_than_a_rounding(make_folder: MakeFolder, pooling: str) -> None:
    embedder = OnnxEmbedder.open(make_folder(pooling=pooling), threads=1)

    together = embedder.embed(TEXTS * 20)

    alone = np.concatenate([embedder.embed([text]).vectors for text in TEXTS] * 20)
    assert embedder.batch_size > 1
    assert np.allclose(together.vectors, alone, atol=1e-5)


def test_a_graph_that_takes_its_scales_over_the_whole_call_gets_one_text_at_a_time(make_folder: MakeFolder) -> None:
    folder = make_folder(pooling="mean_tokens")
    path = folder / "onnx" / "model.onnx"
    quantize_dynamic(path, path, extra_options={"DefaultTensorType": TensorProto.FLOAT})
    embedder = OnnxEmbedder.open(folder, threads=1)

    together = embedder.embed(TEXTS)

    assert embedder.batch_size == 1
    assert np.array_equal(together.vectors, np.concatenate([embedder.embed([text]).vectors for text in TEXTS]))


def test_windows_are_no_longer_than_the_positions_the_encoder_has(make_folder: MakeFolder) -> None:
    embedder = OnnxEmbedder.open(make_folder(pooling="cls_token"), threads=1)

    found = embedder.embed(["word " * 90])  # the graph fails on longer ones

    assert embedder.model.max_tokens == POSITIONS
    assert (found.tokens[0], found.embedded_tokens[0]) == (92, 92)


def test_a_smaller_limit_of_the_published_settings_is_kept(make_folder: MakeFolder) -> None:
    folder = make_folder(pooling="mean_tokens")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')

    found = OnnxEmbedder.open(folder, threads=1).embed(["word " * 90])

    four_windows = 4 * 14 - 3 + 2  # of 14 pieces, of which 1 is in the next too
    assert found.embedded_tokens.tolist() == [four_windows]


def test_a_vector_per_token_without_a_pooling_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(ModelUnavailable, match="how to pool"):
        OnnxEmbedder.open(make_folder(pooling=None), threads=1)


def test_an_unknown_pooling_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(ModelUnavailable, match="max_tokens"):
        OnnxEmbedder.open(make_folder(pooling="max_tokens"), threads=1)


def test_a_graph_of_another_size_than_its_settings_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(ModelUnavailable, match="768"):
        OnnxEmbedder.open(make_folder(pooling="cls_token", hidden_size=384), threads=1)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "config.json"])
def test_a_file_that_is_not_what_its_name_says_is_refused(make_folder: MakeFolder, name: str) -> None:
    folder = make_folder(pooling="cls_token")
    (folder / name).write_bytes(b"<html>not found</html>")

    with pytest.raises(ModelUnavailable) as caught:
        OnnxEmbedder.open(folder, threads=1)

    assert caught.value.details["path"] == str(folder / name)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "config.json"])
def test_a_file_that_was_not_downloaded_is_named(make_folder: MakeFolder, name: str) -> None:
    folder = make_folder(pooling="cls_token")
    (folder / name).unlink()

    with pytest.raises(ModelUnavailable, match=Path(name).name):
        OnnxEmbedder.open(folder, threads=1)
