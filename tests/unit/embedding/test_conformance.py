"""What every Embedder does."""

from collections.abc import Callable

import numpy as np
import pytest

from memoryd.embedding.hashing import HashingEmbedder
from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.maxsim import MOST, nearness, width
from memoryd.protocol.interfaces import Embedder
from memoryd.windows import nearest_cosine

TEXTS = ["added a mutex", "removed the mutex", "", "a\x00b", "\ud800", "🚀", "word " * 400, "added a mutex"]


@pytest.fixture(params=["hashing", "shipped"])
def embedder(request: pytest.FixtureRequest, shipped: OnnxEmbedder) -> Embedder:
    make: dict[str, Callable[[], Embedder]] = {"hashing": HashingEmbedder, "shipped": lambda: shipped}
    return make[request.param]()


def test_rows_have_unit_length_and_the_promised_shape_and_type(embedder: Embedder) -> None:
    found = embedder.embed(TEXTS)

    assert found.vectors.shape == (len(TEXTS), embedder.model.dim)
    assert found.vectors.dtype == np.float32
    assert found.tokens.dtype == found.embedded_tokens.dtype == np.int32
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)


def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    found = embedder.embed([])

    assert found.vectors.shape == (0, embedder.model.dim)
    assert found.tokens.shape == found.embedded_tokens.shape == (0,)


def test_equal_texts_have_equal_vectors_whatever_stands_beside_them(embedder: Embedder) -> None:
    found = embedder.embed(TEXTS).vectors

    assert np.array_equal(found[0], found[-1])
    assert np.allclose(found[0], embedder.embed(["added a mutex"]).vectors[0], atol=1e-5)


def test_a_long_text_is_counted_whole_and_embedded_in_part(embedder: Embedder) -> None:
    found = embedder.embed(["word " * 4_000])

    assert found.tokens[0] >= 4_000
    assert embedder.model.max_tokens <= found.embedded_tokens[0] < 4_000


def test_a_long_text_has_a_vector_for_each_of_its_windows(embedder: Embedder) -> None:
    long = "a mutex for the queue. " * 25 + "lunch in Lisbon at noon. " * 25

    asked, whole = embedder.embed(["lunch in Lisbon", long]).vectors
    short, windows = embedder.embed(["lunch in Lisbon", long]).windows

    assert short == b""
    assert len(windows) == 2 * embedder.model.dim
    assert nearest_cosine(windows, asked) > float(asked @ whole) + 0.05


def test_alike_texts_are_nearer_than_others(embedder: Embedder) -> None:
    asked, alike, other = embedder.embed(["the mutex of the queue", "a mutex for the queue", "lunch in Lisbon"]).vectors

    assert asked @ alike > asked @ other


def test_the_model_has_a_hash_and_a_positive_batch_size(embedder: Embedder) -> None:
    assert len(bytes.fromhex(embedder.model.sha256)) == 32
    assert embedder.batch_size >= 1


def test_hashing_without_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="dim"):
        HashingEmbedder(0)


def test_hashed_vectors_of_different_sizes_are_different_models() -> None:
    assert HashingEmbedder(64).model.sha256 != HashingEmbedder(384).model.sha256


def test_a_text_has_the_signs_of_its_pieces_however_it_is_embedded(embedder: Embedder) -> None:
    together = embedder.embed(["the lock of the queue", "", "word " * 100, "word " * 400]).signs
    (alone,) = embedder.embed(["the lock of the queue"]).signs
    size = width(embedder.model.dim)

    assert together[0] == alone
    assert [len(each) // size for each in together] == [5, 0, MOST, 2 * MOST]
    assert nearness(alone, [alone], embedder.model.dim)[0] == 1
