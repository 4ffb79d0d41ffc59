"""The file of the words index: what is added is found, by who opens it again too, and what is wrong with it is told."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoryd.protocol.errors import Damaged, ReadOnly, StorageFault
from memoryd.words.lexicon import Lexicon
from memoryd.words.terms import Document, spoken_by, terms_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "words.sqlite"


@pytest.fixture
def lexicon(path: Path) -> Iterator[Lexicon]:
    opened = Lexicon(path)
    yield opened
    opened.close()


def documents(*texts: str) -> list[Document]:
    return [Document(terms_of(text), len(terms_of(text)), text.endswith("?")) for text in texts]


def keys(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(1 << 63, size=count, dtype=np.uint64)


def found(lexicon: Lexicon, *terms: str, most: int = 100) -> Sequence[list[int]]:
    return [posting.documents.tolist() for posting in lexicon.postings(terms, most)]


def test_a_term_is_found_by_its_stem_in_every_document_that_holds_it(lexicon: Lexicon) -> None:
    assert lexicon.add(keys(2), documents("added a mutex", "no race any more")) == 0
    assert lexicon.add(keys(1), documents("mutexes were adding up")) == 2

    assert found(lexicon, "mutex", "adding", "race", "absent") == [[0, 2], [0, 2], [1], []]
    assert len(lexicon) == 3


def test_of_a_common_term_no_more_documents_are_read_than_tell_that_it_is_common(lexicon: Lexicon) -> None:
    lexicon.add(keys(50), documents(*["mutex"] * 50))

    assert found(lexicon, "mutex", most=7) == [list(range(8))]


def test_who_opens_it_again_finds_the_same(path: Path, lexicon: Lexicon) -> None:
    given = keys(3)
    lexicon.add(given[:2], documents("added a mutex", "is it fast?"))
    lexicon.add(given[2:], [Document(["mutex", *spoken_by("Ann Lee")], 1, is_question=False)])
    lexicon.close()

    again = Lexicon(path)

    known = again.known()
    assert known.keys.tolist() == given.tolist()
    assert known.lengths.tolist() == [2, 1, 1]
    assert known.are_questions.tolist() == [False, True, False]
    assert found(again, "mutex") == [[0, 2]]
    assert again.has_spoken("@ann")
    assert not again.has_spoken("@mutex")
    again.close()


def test_only_its_owner_may_read_it(path: Path, lexicon: Lexicon) -> None:
    lexicon.add(keys(1), documents("a secret"))

    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each


def test_it_holds_no_text(path: Path, lexicon: Lexicon) -> None:
    lexicon.add(keys(1), documents("swordfish is a secret word of ours"))
    lexicon.close()

    assert b"secret word" not in path.read_bytes()


def test_without_a_path_it_works_and_leaves_nothing(tmp_path: Path) -> None:
    lexicon = Lexicon(None)
    lexicon.add(keys(1), documents("added a mutex"))

    assert found(lexicon, "mutex") == [[0]]
    lexicon.close()
    assert not [*tmp_path.iterdir()]


@given(st.text(min_size=1, max_size=20))
def test_any_text_can_be_kept_and_asked_for(text: str) -> None:
    lexicon = Lexicon(None)
    lexicon.add(keys(1), documents(text))

    for posting in lexicon.postings(terms_of(text), 10):
        assert posting.documents.tolist() in ([0], [])
        assert posting.documents.tolist() == [0] or not posting.term.isascii()
    lexicon.close()


def test_bytes_of_something_else_are_told_as_damage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 400)

    with pytest.raises(Damaged) as refused:
        Lexicon(path)
    assert refused.value.hint == "it is made anew from the memory file"


def test_a_database_of_another_version_is_told_as_damage(path: Path, lexicon: Lexicon) -> None:
    lexicon._connection.execute("PRAGMA user_version=99")
    lexicon.close()

    with pytest.raises(Damaged):
        Lexicon(path)


def test_a_batch_that_is_gone_is_told_as_damage(path: Path, lexicon: Lexicon) -> None:
    for _ in range(3):
        lexicon.add(keys(2), documents("one", "two"))
    lexicon._connection.execute("DELETE FROM batches WHERE first = 2")
    lexicon.close()

    with pytest.raises(Damaged, match="lacks documents"):
        Lexicon(path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReadOnly):
        Lexicon(tmp_path / "absent" / "words.sqlite")


def test_what_cannot_be_added_leaves_it_as_it_was(path: Path, lexicon: Lexicon) -> None:
    lexicon.add(keys(1), documents("added a mutex"))
    lexicon._connection.execute("PRAGMA max_page_count=1")

    with pytest.raises(StorageFault) as refused:
        lexicon.add(keys(500), documents(*(f"word{n} other{n} third{n}" for n in range(500))))

    assert type(refused.value).__name__ == "DiskFull"
    assert len(lexicon) == 1
    assert found(lexicon, "word3", "mutex") == [[], [0]]


def test_after_it_was_closed_it_says_so(lexicon: Lexicon) -> None:
    lexicon.close()

    with pytest.raises(StorageFault):
        lexicon.postings(["mutex"], 1)


def test_merging_ends_and_changes_no_answer(lexicon: Lexicon) -> None:
    for n in range(60):
        lexicon.add(keys(2), documents(f"mutex word{n}", f"mutex other{n}"))
    before = found(lexicon, "mutex", "word7", most=200)

    steps = 0
    while lexicon.merge():
        steps += 1
        assert steps < 1_000

    assert steps
    assert found(lexicon, "mutex", "word7", most=200) == before == [list(range(120)), [14]]


def test_merging_leaves_a_file_that_is_smaller_than_half_of_what_short_texts_take(path: Path, lexicon: Lexicon) -> None:
    words = [
        f"{first}{last}"
        for first in ("bar", "gol", "tim", "ver", "sun", "lak")
        for last in ("den", "ing", "ora", "ist")
    ]
    chance = np.random.default_rng(3)
    texts = [" ".join(f"the {word} was" for word in chance.choice(words, 5)) for _ in range(600)]
    for at in range(0, 600, 64):
        lexicon.add(keys(64)[: len(texts[at : at + 64])], documents(*texts[at : at + 64]))
    before = found(lexicon, *words, most=600)

    while lexicon.merge():
        pass

    assert found(lexicon, *words, most=600) == before
    lexicon.close()
    assert path.stat().st_size < 0.5 * sum(map(len, texts))
