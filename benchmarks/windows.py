"""How a text longer than the model reads is found: `python -m benchmarks.windows FILES`, runs of agents or LongMemEval.

Each file is a memory. A long text is asked for with one of its sentences, from before or from behind what the model reads
at once, as it stands and with four of ten words left out. What a text's vector is differs; the words index and the weights
are the product's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import faiss
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress
from tokenizers import Tokenizer

from benchmarks import conversations, corpus
from benchmarks.grids import Grid, show
from benchmarks.judging import Interval
from benchmarks.turns import remembered
from memoryd.embedding.onnx import OnnxEmbedder, resolve_model
from memoryd.files import RealFiles
from memoryd.protocol.ids import BEFORE_ALL
from memoryd.protocol.interfaces import Contents, Nearest
from memoryd.protocol.records import ANY, as_embedded
from memoryd.rvf.records import decode_record, encode_record
from memoryd.vectors.index import VectorIndex
from memoryd.words.fusion import BY_VECTORS
from memoryd.words.hybrid import WordsIndex

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import IndexView, Numbers, Vectors
    from memoryd.protocol.records import MemoryRecord

SHIPPED: Final = "found by the mean, scored by the nearest window, as shipped"
MEAN: Final = "the mean of the windows"
FIRST: Final = "the first window"
NEAREST: Final = "a vector for each window, the nearest counts"

_USUAL: Final = {"with words": SHIPPED, "vectors": MEAN}

_SEED: Final = 20260101
_LONG_TEXTS: Final = 400  # of a file, and as many others
_MOST_TOKENS: Final = 2_500
_SPECIAL: Final = 2  # tokens around a text
_SENTENCE: Final = re.compile(r"[^.!?\n]+[.!?\n]")
_WORDS: Final = range(6, 26)
_KEPT: Final = 0.6  # of the words of a thin question
_SHALLOW: Final = 10
_WIDTH: Final = 150


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the row that it was taken from, and how it was made."""

    text: str
    row: int
    how: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What one file holds: records with their windows, their vectors, and what is asked of them.

    `vectors` float32 [n, dim] are means over windows. The windows themselves, float32 [m, dim], of unit length, stand one behind
    the other, those of record i from `starts[i]` on.
    """

    records: Sequence[MemoryRecord]
    vectors: Vectors
    windows: Vectors
    starts: Numbers
    asked: Sequence[Asked]

    def of_windows(self, vector: Vectors) -> Vectors:
        """Return the cosine of the nearest window of each record, float32 [n]."""
        return np.asarray(np.maximum.reduceat(self.windows @ vector, self.starts), np.float32)


class ByWindows:
    """A view in which every row is as near as its nearest window."""

    def __init__(self, view: IndexView, memory: Memory) -> None:
        self._view = view
        self._memory = memory

    def __getattr__(self, name: str) -> object:
        return getattr(self._view, name)

    def nearest(self, vector: Vectors, mask: NDArray[np.bool_], *, k: int, is_filtered: bool) -> Nearest:
        cosines = np.where(mask, self._memory.of_windows(vector), np.float32(-2))
        rows = np.argsort(-cosines, kind="stable")[: min(k, int(np.count_nonzero(mask)))]
        return Nearest(cosines[rows], rows, "exact")

    def cosines(self, vector: Vectors, rows: Numbers) -> Vectors:
        return self._memory.of_windows(vector)[rows]


class Asker:
    """Chooses long texts and others among the memories of a file, and asks for the long ones."""

    def __init__(self, embedder: OnnxEmbedder) -> None:
        self._embedder = embedder
        self._tokenizer = Tokenizer.from_file(str(resolve_model(corpus.MODEL) / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._random = np.random.default_rng(_SEED)

    def memory(self, found: Sequence[MemoryRecord], progress: Progress, name: str) -> Memory:
        """Return some of the memories found, with their vectors and the questions about them."""
        beyond = [self._beyond(each) for each in found]
        is_long = np.array([0 < each[1] <= _MOST_TOKENS for each in beyond])
        chosen = np.sort(np.concatenate([self._some(np.flatnonzero(is_long)), self._some(np.flatnonzero(~is_long))]))
        records, vectors, windows, asked = [], [], [], list[Asked]()
        for row, place in enumerate(progress.track(chosen.tolist(), description=name)):
            record = found[place]
            embedded = self._embedder.embed([as_embedded(record.text, record.metadata)])
            of_windows = np.frombuffer(embedded.windows[0], np.int8).reshape(-1, embedded.vectors.shape[1])
            records.append(msgspec.structs.replace(record, windows=embedded.windows[0], signs=embedded.signs[0]))
            vectors.append(embedded.vectors[0])
            windows.append(of_windows.astype(np.float32) if len(of_windows) else embedded.vectors)
            if is_long[place]:
                asked += self._questions(row, record.text, beyond[place][0])
        every = np.concatenate(windows)
        starts = np.cumsum([0, *(len(each) for each in windows[:-1])])
        return Memory(records, np.stack(vectors), every / np.linalg.norm(every, axis=1, keepdims=True), starts, asked)

    def _some(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._random.permutation(places)[:_LONG_TEXTS]

    def _beyond(self, record: MemoryRecord) -> tuple[int, int]:
        """Return at which character stands what the model does not read at once, and the tokens of the text if there is such."""
        offsets = self._tokenizer.encode(record.text, add_special_tokens=False).offsets
        room = self._embedder.model.max_tokens - _SPECIAL
        return (offsets[room][0], len(offsets)) if len(offsets) > room else (0, 0)

    def _questions(self, row: int, text: str, beyond: int) -> Iterator[Asked]:
        sentences = [match for match in _SENTENCE.finditer(text) if len(match[0].split()) in _WORDS]
        for name, of in (
            ("early", [each for each in sentences if each.end() <= beyond]),
            ("late", [each for each in sentences if each.start() >= beyond]),
        ):
            if of:
                sentence = of[int(self._random.integers(len(of)))][0].strip()
                words = sentence.split()
                left = np.sort(self._random.permutation(len(words))[: max(1, round(_KEPT * len(words)))])
                yield Asked(sentence, row, name)
                yield Asked(" ".join(words[place] for place in left), row, f"{name}, thin")


def read(path: Path) -> list[MemoryRecord]:
    """Return the memories of a file, without vectors, each text once."""
    try:
        found = [record for each in conversations.load(path) for record in remembered(each)]
    except ValueError:
        found = corpus.remembered(corpus.drafts(corpus.events(path)))
    return list({record.text: record for record in found}.values())


def ranks(memory: Memory, embedder: OnnxEmbedder, progress: Progress, name: str) -> dict[tuple[str, str], list[int]]:
    """Return the rank of the right memory for each question, by what ranks it and with which vectors."""
    bare = [msgspec.structs.replace(record, windows=b"") for record in memory.records]
    views: dict[str, IndexView] = {}
    for kind, records, vectors in (
        (SHIPPED, memory.records, memory.vectors),
        (MEAN, bare, memory.vectors),
        (FIRST, bare, memory.windows[memory.starts]),
    ):
        contents = Contents((), vectors, [encode_record(each) for each in records], (), BEFORE_ALL)
        views[kind] = VectorIndex(contents).view()
    views[NEAREST] = ByWindows(views[MEAN], memory)  # type: ignore[assignment]  # the rest is delegated
    found: dict[tuple[str, str], list[int]] = {}
    for kind, view in views.items():
        words = WordsIndex(None, RealFiles(), decode_record)
        words.cover(view, view.rows)
        alive = view.passing(ANY)
        every = np.arange(view.rows)
        for one in progress.track(memory.asked, description=f"{name}: {kind}"):
            meaning = embedder.embed([words.addressed(one.text)]).meaning(0)
            cosines = view.cosines(meaning.vector, every)
            if kind != SHIPPED:  # by vectors alone the mean counts
                found.setdefault((kind, "vectors"), []).append(1 + int(np.count_nonzero(cosines > cosines[one.row])))
            nearest = view.nearest(meaning.vector, alive, k=BY_VECTORS, is_filtered=False)
            of = words.match(view, one.text, ANY, 0).candidates(meaning, nearest)
            own = of.scores[of.rows == one.row]
            rank = 1 + int(np.count_nonzero(of.scores > own[0])) if len(own) else view.rows
            found.setdefault((kind, "with words"), []).append(rank)
        words.close()
    return found


def grid(name: str, memory: Memory, found: dict[tuple[str, str], list[int]]) -> Grid:
    """Return recall@1 and recall@10 of each way, and how it differs at 1 from what is shipped, or from the mean."""
    hows = list(dict.fromkeys(each.how for each in memory.asked))
    rows = []
    for (kind, by), ranked in found.items():
        cells = []
        for how in hows:
            here = [place for place, each in enumerate(memory.asked) if each.how == how]
            first = [float(ranked[place] == 1) for place in here]
            usual = [float(found[_USUAL[by], by][place] == 1) for place in here]
            shallow = float(np.mean([ranked[place] <= _SHALLOW for place in here]))
            lead = "" if kind == _USUAL[by] else Interval.of(np.subtract(first, usual).tolist()).shown_as_difference()
            cells.append(f"{np.mean(first):.3f} / {shallow:.3f}  {lead}")
        rows.append([f"{by}: {kind}", *cells])
    counts = {how: sum(each.how == how for each in memory.asked) for how in hows}
    title = f"{name}, {len(memory.records):,} texts, recall@1 / @{_SHALLOW}, and the difference at 1"
    return Grid(title, ["", *(f"{how} ({count})" for how, count in counts.items())], sorted(rows, reverse=True))


_PATH: Final = click.Path(dir_okay=False, path_type=Path)


@click.command(help="Ask for long texts with their own sentences, by the ways in which they can have vectors.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--markdown", type=_PATH, metavar="FILE", help="Also write the tables for the documentation.")
def main(files: Sequence[Path], markdown: Path | None) -> None:
    faiss.omp_set_num_threads(1)
    console, embedder = Console(width=_WIDTH), OnnxEmbedder.open(corpus.MODEL, threads=1)
    asker, grids = Asker(embedder), []
    with Progress(console=console) as progress:
        for path in files:
            memory = asker.memory(read(path), progress, path.name)
            if not memory.asked:
                raise click.ClickException(f"no text in {path.name} is longer than what the model reads at once")
            grids.append(grid(path.name, memory, ranks(memory, embedder, progress, path.name)))
    show(grids, [], console, markdown)


if __name__ == "__main__":
    main()
