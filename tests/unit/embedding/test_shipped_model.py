"""The shipped int8 model: fidelity, independence, counts, and texts that are odd."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.interfaces import Embeddings

# Measured on the texts of one window: mean 0.9899, lowest 0.9509 (the text "ok"). Processors differ a little in how they
# round.
MEAN_FLOOR = 0.989
LOWEST_FLOOR = 0.945
ONE_WINDOW = 256  # tokens


def test_the_shipped_model_agrees_with_the_published_one(
    shipped: OnnxEmbedder, texts: list[str], published: Embeddings
) -> None:
    found = shipped.embed(texts)

    cosines = np.sum(found.vectors * published.vectors, axis=1)[published.tokens <= ONE_WINDOW]

    assert len(cosines) > 60
    assert cosines.mean() >= MEAN_FLOOR
    assert cosines.min() >= LOWEST_FLOOR


def test_pieces_are_counted_as_the_published_tokenizer_counts_them(
    shipped: OnnxEmbedder, texts: list[str], published: Embeddings
) -> None:
    assert shipped.embed(texts).tokens.tolist() == published.tokens.tolist()


def test_a_batch_changes_no_vector_by_more_than_a_rounding(shipped: OnnxEmbedder, texts: list[str]) -> None:
    together = shipped.embed(texts).vectors

    alone = np.concatenate([shipped.embed([text]).vectors for text in reversed(texts)])[::-1]

    assert shipped.batch_size > 1
    assert np.allclose(together, alone, rtol=0, atol=1e-5)  # measured: 3e-8


def test_two_threads_at_once_get_what_one_gets(shipped: OnnxEmbedder, texts: list[str]) -> None:
    texts = texts[:40]
    expected = shipped.embed(texts).vectors

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: shipped.embed(texts).vectors, range(4)))

    assert all(np.array_equal(vectors, expected) for vectors in found)


def test_a_text_of_a_megabyte_is_counted_to_its_end_and_embedded_by_its_first_four_windows(
    shipped: OnnxEmbedder,
) -> None:
    sentence = "the lock was held across an await. "  # 8 pieces

    found = shipped.embed([sentence * 30_000, sentence * 200, sentence * 60])

    assert found.tokens.tolist() == [8 * 30_000 + 2, 8 * 200 + 2, 8 * 60 + 2]
    assert found.embedded_tokens.tolist() == [925, 925, 8 * 60 + 2]
    assert np.allclose(found.vectors[0], found.vectors[1], atol=1e-5)


def test_a_long_text_is_found_by_what_it_says_at_its_end(shipped: OnnxEmbedder) -> None:
    about_a_lock = "The lock of the queue was held while a message waited. " * 25
    about_a_harbour = "At dawn the fishing boats leave the harbour for the open sea. " * 18

    asked, whole, beginning = shipped.embed(["boats at sea", about_a_lock + about_a_harbour, about_a_lock]).vectors

    assert asked @ whole > asked @ beginning + 0.2


def test_text_behind_a_wall_of_spaces_is_found(shipped: OnnxEmbedder) -> None:
    far, near = shipped.embed([" " * 50_000 + "the red door", "the red door"]).vectors

    assert np.array_equal(far, near)


def test_a_word_without_end_is_one_unknown_piece_per_slice(shipped: OnnxEmbedder) -> None:
    found = shipped.embed(["f" * 100_000])

    assert found.tokens.tolist() == [-(-100_000 // 8192) + 2]


@pytest.mark.parametrize("text", ["", " ", "\x00", "\x00" * 9000, "🚀", "\ud800", "a\udfffb"])
def test_odd_texts_have_unit_vectors(shipped: OnnxEmbedder, text: str) -> None:
    found = shipped.embed([text])

    assert np.linalg.norm(found.vectors[0]) == pytest.approx(1, abs=1e-5)
    assert found.tokens[0] >= 2


def test_a_surrogate_pair_is_the_character_it_stands_for(shipped: OnnxEmbedder) -> None:
    split, whole = shipped.embed(["sent \ud83d\ude80 off", "sent \N{ROCKET} off"]).vectors

    assert np.array_equal(split, whole)


def test_a_lone_surrogate_stands_for_no_text(shipped: OnnxEmbedder) -> None:
    with_it, without = shipped.embed(["sent\ud83d off", "sent off"]).vectors

    assert np.array_equal(with_it, without)
