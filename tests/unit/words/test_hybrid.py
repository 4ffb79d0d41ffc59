"""Recall by words and vectors together, over an index of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memoryd import maxsim
from memoryd.files import RealFiles
from memoryd.protocol.ids import BEFORE_ALL, RecordId, new_ulid
from memoryd.protocol.interfaces import Contents, Meaning
from memoryd.protocol.records import ANY, MemoryFilter, MemoryKind, MemoryRecord, MemorySource
from memoryd.rvf.records import decode_record, encode_record
from memoryd.vectors.index import VectorIndex
from memoryd.windows import packed
from memoryd.words import matching
from memoryd.words.fusion import WEIGHTS, WEIGHTS_OF_PIECES
from memoryd.words.hybrid import LEXICAL, WordsIndex
from tests.helpers.memories import units

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from memoryd.protocol.events import JsonObject
    from memoryd.protocol.interfaces import Hit, Vectors

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIM = 8
ALL = 1_000


@dataclass
class Memory:
    """Rows and their words; `said` appends."""

    words: WordsIndex
    index: VectorIndex = field(
        default_factory=lambda: VectorIndex(Contents((), np.empty((0, DIM), np.float32), (), (), BEFORE_ALL))
    )
    records: list[MemoryRecord] = field(default_factory=list)

    def said(
        self,
        *texts: str,
        session: str = "s",
        speaker: str = "",
        vectors: Vectors | None = None,
        windows: bytes = b"",
        signs: bytes = b"",
        metadata: JsonObject | None = None,
    ) -> None:
        made = [
            MemoryRecord(
                id=RecordId(new_ulid(NOON)),
                text=text,
                kind=MemoryKind.EPISODE,
                source=MemorySource.USER_INPUT,
                timestamp=NOON + timedelta(minutes=len(self.records) + place),
                session_id=session,
                metadata=metadata or ({"speaker": speaker} if speaker else {}),
                windows=windows,
                signs=signs,
            )
            for place, text in enumerate(texts)
        ]
        self.records += made
        given = units(len(texts), DIM, seed=len(self.records)) if vectors is None else vectors
        self.index.add([encode_record(record) for record in made], given)

    def forget(self, text: str) -> None:
        self.index.discard([record.id for record in self.records if record.text == text])

    def moved(self) -> None:
        """Let the rows stand elsewhere, without the hidden ones, as after a compaction."""
        alive = np.flatnonzero(self.index.view().passing(ANY))
        table = self.index._table
        self.index.rebased(Contents((), table.vectors.take(alive), table.records(alive), (), BEFORE_ALL))()

    def hits(
        self,
        query: str,
        vector: Vectors | None = None,
        k: int = 10,
        where: MemoryFilter = ANY,
        preferred: MemoryFilter | None = None,
        signs: bytes = b"",
    ) -> Sequence[Hit]:
        view = self.index.view()
        meaning = None if vector is None else Meaning(vector, signs)
        return self.words.match(view, query, where, ALL, preferred).rank(meaning, k=k, explain=True).hits

    def event(self, query: str, name: str) -> str | None:
        """Return what tells of the event `name`, of which `query` speaks."""
        view = self.index.view()
        found = self.words.event(view, query, name, ALL)
        told = {record.id: record for record in self.records}
        assert found is None or found[1] == told[found[0]].timestamp
        return found and told[found[0]].text

    def texts(self, query: str, vector: Vectors | None = None, k: int = 10, where: MemoryFilter = ANY) -> list[str]:
        return [decode_record(hit.record).text for hit in self.hits(query, vector, k, where)]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    words = WordsIndex(tmp_path / "words.sqlite", RealFiles(), decode_record)
    yield Memory(words)
    words.close()


def parts(hit: Hit) -> dict[str, float]:
    assert hit.explanation is not None
    return hit.explanation.parts


def test_a_rare_word_finds_what_no_vector_is_near_to(memory: Memory) -> None:
    memory.said(*(f"nothing of interest {n}" for n in range(200)))
    memory.said("the zeppelin was late")
    memory.said(*(f"nothing of interest {n}" for n in range(200, 400)))

    far = -memory.index.view()._table.vectors.take(np.array([200]))[0]
    assert memory.texts("When was the zeppelin there?", far)[0] == "the zeppelin was late"


def test_the_nearest_vector_is_found_without_a_common_word(memory: Memory) -> None:
    memory.said(*(f"nothing of interest {n}" for n in range(100)), session="")
    near = memory.index.view()._table.vectors.take(np.array([40]))[0]

    assert memory.texts("entirely different", near)[0] == "nothing of interest 40"


def test_the_summands_of_a_score_add_up_to_it(memory: Memory) -> None:
    memory.said("is the mutex fair?", "yes, since last week", "good to know", "the mutex is slow", speaker="Ann")
    hits = memory.hits("What did Ann say of the mutex?", units(1, DIM)[0])

    for hit in hits:
        assert sum(parts(hit).values()) == pytest.approx(hit.score, abs=1e-4)
        assert parts(hit).keys() <= WEIGHTS.keys()
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(parts(hit)["speaker"] > 0 for hit in hits)


def test_what_says_the_same_in_one_session_is_folded_into_the_best_of_them(memory: Memory) -> None:
    memory.said("The mutex  is slow", "nothing", "the mutex is slow", "the mutex is slow 2", "the mutex is slow")
    memory.said("the mutex is slow", session="other")
    memory.said(*(f"nothing of interest {n}" for n in range(30)))

    hits = memory.hits("slow mutex", k=3)

    found = [decode_record(hit.record) for hit in hits]
    same = [record for record in memory.records if record.text.casefold().split() == ["the", "mutex", "is", "slow"]]
    (own,) = (place for place, record in enumerate(found) if record.session_id == "s" and record.text[-1] != "2")
    assert {found[own].id, *hits[own].folded} == {record.id for record in same if record.session_id == "s"}
    assert len(hits[own].folded) == 2
    assert {(record.session_id, record.text[-1]) for record in found} == {("s", "w"), ("s", "2"), ("other", "w")}
    assert all(not hit.folded for place, hit in enumerate(hits) if place != own)


def test_what_was_hidden_since_it_was_found_leaves_its_place_to_the_next(memory: Memory) -> None:
    memory.said(*(f"the mutex {n}" for n in range(30)))
    view = memory.index.view()
    (first, *_) = memory.texts("mutex", k=1)

    class Hiding:
        """A view whose best answer is hidden between ranking and reading."""

        def __getattr__(self, name: str) -> object:
            return getattr(view, name)

        def records(self, rows: object) -> list[bytes]:
            found = view.records(rows)
            return [b"" if decode_record(each).text == first else each for each in found]

    hits = memory.words.match(Hiding(), "mutex", ANY, ALL).rank(None, k=5).hits
    assert len(hits) == 5
    assert first not in {decode_record(hit.record).text for hit in hits}


def test_relevance_tells_a_query_that_is_covered_from_one_that_is_not(memory: Memory) -> None:
    memory.said(*(f"nothing of interest {n}" for n in range(300)))
    memory.said("the red zeppelin was late because of the storm over the harbour")
    near = memory.index.view()._table.vectors.take(np.array([300]))[0]

    covered = [hit.relevance for hit in memory.hits("why was the red zeppelin late in the storm?", near)]
    lexical = [hit.relevance for hit in memory.hits("why was the red zeppelin late in the storm?")]
    other = [hit.relevance for hit in memory.hits("does anybody like interest rates on savings accounts?", -near)]

    assert min(covered[0], lexical[0]) > 0.3
    assert max(covered[1:]) < 0.1
    assert max(other) < min(covered[0], lexical[0]) / 2
    assert all(0 <= each <= 1 for each in (*covered, *lexical, *other))


def test_an_answer_is_found_beside_the_words_of_its_question(memory: Memory) -> None:
    memory.said("nothing", "what is your favourite zeppelin?", "the red one, I think, since it flies", "nothing at all")
    memory.said("another day", "the red one, I think, since it flies", session="other")

    first, second = memory.hits("favourite zeppelin")[:2]
    assert decode_record(first.record).session_id == decode_record(second.record).session_id == "s"
    assert {decode_record(each.record).text for each in (first, second)} == {
        "what is your favourite zeppelin?",
        "the red one, I think, since it flies",
    }


def long_text(topic: str) -> str:
    return " ".join(f"{topic}{place}" for place in range(40))


def test_of_the_best_those_are_better_whose_pieces_are_near_to_those_of_the_query(memory: Memory) -> None:
    asked, other = maxsim.packed(units(4, DIM, seed=11)), maxsim.packed(units(4, DIM, seed=12))
    memory.said("the mutex was late", vectors=units(1, DIM, seed=1), signs=other)
    memory.said("the mutex was slow", vectors=units(1, DIM, seed=1), signs=asked)
    vector = units(1, DIM, seed=1)[0]

    without, found = memory.hits("mutex", vector), memory.hits("mutex", vector, signs=asked)

    assert [decode_record(hit.record).text for hit in without] == ["the mutex was late", "the mutex was slow"]
    assert [decode_record(hit.record).text for hit in found] == ["the mutex was slow", "the mutex was late"]
    assert parts(found[0])["maxsim"] == WEIGHTS_OF_PIECES["maxsim"]
    assert not any("maxsim" in parts(hit) for hit in (*without, found[1]))
    assert [hit.score for hit in found] == pytest.approx([sum(parts(hit).values()) for hit in found], abs=1e-4)


def test_a_memory_whose_pieces_are_not_known_is_neither_near_nor_far(memory: Memory) -> None:
    asked, vector = maxsim.packed(units(4, DIM, seed=11)), units(1, DIM, seed=1)[0]
    memory.said("the mutex was late", signs=b"")
    memory.said("the mutex was slow", signs=b"")
    assert [parts(hit).get("maxsim") for hit in memory.hits("mutex", vector, signs=asked)] == [None] * 2

    memory.said("the mutex was fair", signs=asked)
    memory.said("the mutex was free", signs=maxsim.packed(-units(4, DIM, seed=11)))

    found = memory.hits("mutex", vector, signs=asked)
    near = {decode_record(hit.record).text: parts(hit).get("maxsim", 0.0) for hit in found}
    whole = WEIGHTS_OF_PIECES["maxsim"]
    assert near["the mutex was fair"] == whole > near["the mutex was late"] == near["the mutex was slow"] > 0
    assert near["the mutex was slow"] == pytest.approx(whole / 2, abs=1e-4)
    assert near["the mutex was free"] == 0


def test_of_a_long_text_the_nearest_window_counts(memory: Memory) -> None:
    first, second, third, other = np.eye(DIM, dtype=np.float32)[:4]
    mean = ((first + second + third) / np.sqrt(3)).astype(np.float32)
    near = (0.8 * second + 0.6 * other).astype(np.float32)
    memory.said(long_text("lock"), session="a", vectors=mean[None], windows=packed(np.stack([first, second, third])))
    memory.said(long_text("boat"), session="b", vectors=near[None])
    memory.said(*(f"filler {place}" for place in range(40)), session="c")

    hits = {decode_record(hit.record).text: hit for hit in memory.hits("anything else", second)}
    lock, boat = hits[long_text("lock")], hits[long_text("boat")]

    assert lock.cosine == pytest.approx(1.0, abs=1e-3)
    assert boat.cosine == pytest.approx(0.8, abs=1e-3)
    assert boat.score < lock.score <= 1
    assert parts(lock)["vector"] == pytest.approx(WEIGHTS["vector"], abs=1e-3)


def test_neighbours_are_those_of_the_session_even_when_others_speak_between(memory: Memory) -> None:
    memory.said("what is your favourite zeppelin?")
    memory.said("noise one", "noise two", session="other")
    memory.said("the red one", session="s")

    assert "answers" in next(
        parts(hit) for hit in memory.hits("zeppelin") if decode_record(hit.record).text == "the red one"
    )


def test_when_a_neighbour_is_forgotten_the_next_one_takes_its_place(memory: Memory) -> None:
    memory.said("what is your favourite zeppelin?", "well", "the red one", "so it is", "nothing at all")
    assert memory.texts("zeppelin") == ["what is your favourite zeppelin?", "well", "the red one"]

    memory.forget("well")

    assert memory.texts("zeppelin")[:2] == ["what is your favourite zeppelin?", "the red one"]
    assert "answers" in parts(memory.hits("zeppelin")[1])
    assert "words_two_before" in parts(memory.hits("zeppelin")[2])


def test_memories_without_a_session_have_no_neighbours(memory: Memory) -> None:
    memory.said("what is your favourite zeppelin?", "the red one", session="")

    assert memory.texts("zeppelin") == ["what is your favourite zeppelin?"]


def test_a_neighbour_that_does_not_pass_the_filter_is_no_answer(memory: Memory) -> None:
    memory.said("the zeppelin is red", session="a")
    memory.said("the zeppelin is blue", "so it is", session="b")

    assert memory.texts("zeppelin", where=MemoryFilter(session_id="a")) == ["the zeppelin is red"]
    assert memory.texts("zeppelin", units(1, DIM)[0], where=MemoryFilter(session_id="a")) == ["the zeppelin is red"]


def test_without_a_vector_words_alone_answer_and_say_so(memory: Memory) -> None:
    memory.said("added a mutex", "no race any more", session="")
    view = memory.index.view()

    found = memory.words.match(view, "mutex", ANY, ALL).rank(None, k=5)

    assert found.path == LEXICAL
    assert [decode_record(hit.record).text for hit in found.hits] == ["added a mutex"]


@pytest.mark.parametrize("query", ["", "the of", "🎉", '"', "NEAR(a b)", "a*", "text: x", "x" * 100_000, "\x00"])
def test_any_query_is_answered(memory: Memory, query: str) -> None:
    memory.said("added a mutex", "no race any more")

    assert len(memory.texts(query, units(1, DIM)[0])) == 2


def test_an_empty_memory_opens_no_file(memory: Memory, tmp_path: Path) -> None:
    assert memory.texts("anything", units(1, DIM)[0]) == []
    assert memory.words.others([memory.index.view()]).tolist() == []
    assert not [*tmp_path.iterdir()]


def test_what_is_forgotten_is_found_by_none_of_its_words(memory: Memory) -> None:
    memory.said("added a mutex", "the zeppelin was late")
    assert memory.texts("zeppelin")[0] == "the zeppelin was late"

    memory.forget("the zeppelin was late")

    assert "the zeppelin was late" not in memory.texts("zeppelin", units(1, DIM)[0])


def test_after_a_compaction_the_answers_are_the_same(memory: Memory) -> None:
    memory.said(*(f"word{n % 7} other{n % 5} third{n % 3}" for n in range(300)))
    for n in range(0, 100, 7):
        memory.forget(f"word{n % 7} other{n % 5} third{n % 3}")
    vector = units(1, DIM, seed=9)[0]
    before = [(decode_record(hit.record).id, hit.score) for hit in memory.hits("word3 other2 third1", vector)]

    memory.moved()

    assert [(decode_record(h.record).id, h.score) for h in memory.hits("word3 other2 third1", vector)] == before
    memory.words.discard()
    assert [(decode_record(h.record).id, h.score) for h in memory.hits("word3 other2 third1", vector)] == before


def test_who_opens_it_again_answers_the_same_and_takes_in_what_is_new(memory: Memory, tmp_path: Path) -> None:
    memory.said("added a mutex", "no race any more")
    before = memory.texts("mutex race")
    memory.words.close()
    memory.said("another mutex", session="late")

    again = Memory(
        WordsIndex(tmp_path / "words.sqlite", RealFiles(), decode_record), index=memory.index, records=memory.records
    )

    assert len(again.words._opened()) == 2
    assert "another mutex" in again.texts("mutex race")
    assert len(again.words._opened()) == 3
    assert sorted(before) == ["added a mutex", "no race any more"]
    again.words.close()


def test_what_it_holds_and_no_memory_does_any_more_is_named(memory: Memory) -> None:
    memory.said("added a mutex", "the zeppelin was late")
    memory.texts("mutex")
    memory.forget("the zeppelin was late")
    assert memory.words.others([memory.index.view()]).tolist() == []  # hidden, and still there for looking back

    memory.moved()

    assert len(memory.words.others([memory.index.view()])) == 1
    memory.words.discard()
    assert memory.texts("mutex") == ["added a mutex"]
    assert memory.words.others([memory.index.view()]).tolist() == []


def test_a_record_that_takes_the_place_of_another_is_found_by_its_own_words_only(memory: Memory) -> None:
    memory.said("added a mutex", session="")
    memory.texts("mutex")
    changed = encode_record(
        MemoryRecord(
            id=memory.records[0].id,
            text="removed a zeppelin",
            kind=MemoryKind.EPISODE,
            source=MemorySource.USER_INPUT,
            timestamp=NOON,
        )
    )
    memory.index.add([changed], units(1, DIM))

    assert memory.texts("zeppelin") == ["removed a zeppelin"]
    assert memory.texts("mutex") == []
    memory.moved()
    assert memory.texts("zeppelin") == ["removed a zeppelin"]
    assert memory.texts("mutex") == []


def test_rows_are_taken_in_piece_by_piece(memory: Memory) -> None:
    memory.said(*(f"word{n}" for n in range(100)), session="")
    view = memory.index.view()

    assert memory.words.cover(view, 30) == 70
    found = memory.words.match(view, "word5 word50", ANY, 0)
    assert found.lacking == 70
    assert np.flatnonzero(found.match.scores).tolist() == [5]
    assert memory.words.cover(view, 100) == 0
    assert np.flatnonzero(memory.words.match(view, "word5 word50", ANY, 0).match.scores).tolist() == [5, 50]


def test_in_a_large_memory_common_words_are_left_out_but_not_the_rarest(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_LARGE", 50)
    memory.said(*(f"common usual frequent word{n}" for n in range(100)), session="")
    view = memory.index.view()
    memory.words.cover(view, ALL)

    rare = memory.words.match(view, "common usual word7 word8", ANY, 0)
    assert {one.term for one in rare.matched} == {"word7", "word8"}
    assert set(rare.pruned) == {"common", "usual"}
    all_common = memory.words.match(view, "common usual frequent", ANY, 0)
    assert len(all_common.matched) == 2
    assert [len(one.rows) for one in all_common.matched] == [100, 100]
    assert len(all_common.pruned) == 1


def test_a_question_about_a_speaker_is_put_to_the_speaker_once_the_index_is_open(memory: Memory) -> None:
    memory.said("a red zeppelin", speaker="Ann")

    assert not memory.words.is_open
    assert memory.words.addressed("What did Ann say?") == "What did Ann say?"
    memory.texts("zeppelin")
    assert memory.words.is_open
    assert memory.words.addressed("What did Ann say?") == "What did you say?"


def test_a_session_counts_by_how_much_its_best_memories_have_of_the_query(memory: Memory) -> None:
    memory.said("a red zeppelin", "a blue zeppelin", "a zeppelin", session="all about it")
    memory.said("a grey zeppelin", "noise", "more of it", session="hardly")

    found = {decode_record(hit.record).text: parts(hit).get("session", 0) for hit in memory.hits("zeppelin")}

    assert found["a zeppelin"] == found["a red zeppelin"] > 2 * found["a grey zeppelin"]


def test_several_speakers_in_a_question_tell_nothing(memory: Memory) -> None:
    memory.said("a red zeppelin", speaker="Ann")
    memory.said("a blue zeppelin", speaker="Bob")
    view = memory.index.view()

    assert memory.words.match(view, "What did Ann say?", ANY, ALL).match.spoken.tolist() == [True, False]
    assert memory.words.match(view, "What did Ann say to Bob?", ANY, ALL).match.spoken.tolist() == [False, False]


def test_what_is_of_the_preferred_time_comes_sooner_and_says_so(memory: Memory) -> None:
    memory.said(*(f"the build failed {n}" for n in range(6)), session="")
    then = MemoryFilter(since=NOON + timedelta(minutes=3), until=NOON + timedelta(minutes=5))

    hits = memory.hits("what failed then", preferred=then)

    assert {decode_record(hit.record).timestamp.minute for hit in hits[:2]} == {3, 4}
    assert [parts(hit).get("time", 0) for hit in hits] == [WEIGHTS["time"]] * 2 + [0] * 4
    assert len(hits) == 6  # nothing is left out
    for hit in hits:
        assert sum(parts(hit).values()) == pytest.approx(hit.score, abs=1e-4)


def test_what_is_of_the_preferred_time_is_found_behind_hundreds_that_fit_better(memory: Memory) -> None:
    memory.said("the build failed and nobody knew why", session="")
    memory.said(*(f"the build failed {n}" for n in range(300)), session="")
    first = MemoryFilter(until=NOON + timedelta(minutes=1))

    found = memory.hits("the build failed", k=ALL, preferred=first)

    assert not decode_record(memory.hits("the build failed", k=100)[-1].record).text.endswith("why")
    assert [parts(hit)["time"] for hit in found if decode_record(hit.record).text.endswith("why")] == [WEIGHTS["time"]]


def test_what_is_of_the_preferred_time_must_pass_the_filter_all_the_same(memory: Memory) -> None:
    memory.said("the build failed", session="one")
    memory.said("the build failed again", session="two")

    found = memory.hits(
        "failed", units(1, DIM)[0], where=MemoryFilter(session_id="one"), preferred=MemoryFilter(since=NOON)
    )

    assert [decode_record(hit.record).text for hit in found] == ["the build failed"]


def test_the_memory_of_an_event_holds_all_words_of_it_and_most_of_the_question(memory: Memory) -> None:
    memory.said("what about the release of the parser?", "a release", "the parser was released", "release of the lexer")
    memory.said("the release of the parser with its new grammar")

    assert memory.event("before the release of the parser", "the release of the parser") == "the parser was released"
    asked = "which grammar did we have before the release of the parser"
    assert memory.event(asked, "the release of the parser") == "the release of the parser with its new grammar"
    assert memory.event("before the party", "the party") is None
    assert memory.event("before the end of it all", "it") is None
    memory.forget("release of the lexer")
    assert memory.event("after the release of the lexer", "the release of the lexer") is None
