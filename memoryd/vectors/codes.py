"""4-bit product codes over sealed rows: a scan reads 24 times fewer bytes than the rows themselves. Never changed.

Jégou et al., "Product Quantization for Nearest Neighbor Search" (2011); the scan inside the registers is that of
André et al., "Quicker ADC" (2018), as in faiss. Codes alone rank badly: what they find must be scored again.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import faiss
import numpy as np

from memoryd.protocol.errors import ModelUnavailable
from memoryd.vectors.exact import best_of
from memoryd.vectors.sealed import Sealed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import SealedRows, Vectors
    from memoryd.vectors.blocks import Blocks
    from memoryd.vectors.exact import Mask, Rows, Scores

_faiss: Final[Any] = faiss  # the types that it publishes are wrong about some of what is used here

_BITS: Final = 4
_CENTROIDS: Final = 1 << _BITS
_SUBVECTOR: Final = 3  # dimensions that share one code
_PADDING: Final = 32  # faiss scans so many rows at a time
_FROM_MEMORY: Final = (
    11  # which of faiss's scans: that from memory takes half the time of the usual one, that from the cache more
)
_COPIED_AT_ONCE: Final = 16_000  # rows, a multiple of 32: few searches, and a copy that stays in the processor's cache
_SHIPPED: Final = Path(__file__).with_name("codebooks")


class Codebook:
    """What the codes of one embedding model stand for: float32 [dim / 3, 16, 3] centroids.

    It depends on the model, not on the user: no user waits for a training.
    """

    def __init__(self, centroids: Vectors) -> None:
        """Take the centroids. Raises ValueError when they are not of that shape or not finite."""
        subvectors, *rest = centroids.shape
        if rest != [_CENTROIDS, _SUBVECTOR] or not np.isfinite(centroids).all():
            raise ValueError(f"not a codebook: {centroids.shape}")
        self.centroids: Final = np.require(centroids, np.float32, "C")
        self.dim: Final[int] = subvectors * _SUBVECTOR
        self.sha256: Final = hashlib.sha256(self.centroids.tobytes()).hexdigest()
        self._spare: Final[list[Codes]] = []

    @classmethod
    def train(cls, vectors: Vectors) -> Codebook:
        """Find the centroids of `vectors`, float32 [n, dim], by k-means; the same for the same vectors and threads.

        Raises ValueError when the dimension is not a multiple of 3.
        """
        dim = vectors.shape[1]
        if dim % _SUBVECTOR:
            raise ValueError(f"{dim} dimensions cannot be cut into threes")
        quantizer = faiss.ProductQuantizer(dim, dim // _SUBVECTOR, _BITS)
        quantizer.train(np.ascontiguousarray(vectors, np.float32))
        centroids = faiss.vector_to_array(quantizer.centroids)
        return cls(centroids.reshape(dim // _SUBVECTOR, _CENTROIDS, _SUBVECTOR))

    @classmethod
    def shipped(cls, model_sha256: str) -> Codebook | None:
        """Return the codebook that comes with a model, None when there is none. Raises ModelUnavailable."""
        path = shipped_path(model_sha256)
        if not path.exists():
            return None
        try:
            return cls(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise ModelUnavailable(
                f"codebook {path.name}: damaged", hint="reinstall memoryd", path=str(path), what="damaged"
            ) from error

    def save(self, path: Path) -> None:
        """Write a file of numpy's format (NEP 1)."""
        np.save(path, self.centroids)

    def encode(self, vectors: Vectors) -> bytes:
        """Return the codes of float32 [n, dim] as they are searched, n a multiple of 32: dim / 6 bytes a row."""
        index = self.empty()
        index.add(np.ascontiguousarray(vectors, np.float32))
        return _codes_of(index).tobytes()

    def empty(self) -> faiss.IndexIVFPQFastScan:
        """Return an index of these codes without rows.

        All of them will stand in one list: faiss keeps rows that do not pass out of what it finds only where there are lists.
        """
        one_list = faiss.IndexFlatIP(self.dim)
        one_list.add(np.zeros((1, self.dim), np.float32))
        return _index_of(one_list, self.centroids)

    @contextmanager
    def lent(self) -> Iterator[Codes]:
        """Lend codes to be filled and searched; to make them costs more than to search them."""
        try:
            codes = self._spare.pop()
        except IndexError:
            codes = Codes(self.empty())
        try:
            yield codes
        finally:
            self._spare.append(codes)


def _index_of(one_list: faiss.Index, centroids: Vectors) -> faiss.IndexIVFPQFastScan:
    dim = one_list.d
    index = faiss.IndexIVFPQFastScan(one_list, dim, 1, dim // _SUBVECTOR, _BITS, faiss.METRIC_INNER_PRODUCT)
    index.by_residual = False
    faiss.copy_array_to_vector(centroids.ravel(), index.pq.centroids)
    index.is_trained = True
    return index


def _codes_of(index: faiss.Index) -> NDArray[np.uint8]:
    """Return the codes in an index whose rows are a multiple of 32, where they stand."""
    codes: NDArray[np.uint8] = faiss.rev_swig_ptr(_list_of(index).get_codes(0), index.ntotal * index.d // 6)
    return codes


def _list_of(index: Any) -> Any:
    return _faiss.downcast_InvertedLists(index.invlists)


def shipped_path(model_sha256: str) -> Path:
    """Return where the codebook of a model is, if memoryd ships one."""
    return _SHIPPED / f"{model_sha256}.npy"


class Scanned(Protocol):
    """Codes that can be searched; their scores are those of the codes. Every call may raise Damaged."""

    @property
    def rows(self) -> int: ...

    def nearest_of(self, query: Vectors, passes: Mask, n: int) -> tuple[Scores, Rows]:
        """Return about the `n` best of the rows that `passes`, bool [rows], marks, best first."""
        ...

    def above(self, query: Vectors, passes: Mask, least: float) -> tuple[Scores, Rows]:
        """Return those of the rows that `passes` marks whose score is more than `least`, in any order."""
        ...


class Codes(Sealed):
    """The codes of the first `rows` rows of a table."""

    def __init__(self, index: faiss.IndexIVFPQFastScan) -> None:
        """Take over an index that is not changed any more."""
        super().__init__(index)
        index.implem = _FROM_MEMORY
        # Ranges know only the other ways to scan, so there are two indexes over the same codes.
        self._ranges = _index_of(index.quantizer, faiss.vector_to_array(index.pq.centroids))
        self._ranges.replace_invlists(_list_of(index), own=False)
        self._ranges.ntotal = index.ntotal

    @classmethod
    def over(cls, codebook: Codebook, vectors: Blocks, rows: int) -> Codes:
        """Encode the first `rows` rows: 9 us a row."""
        return cls.filled(codebook.empty(), vectors, rows)

    @classmethod
    def loaded(cls, codebook: Codebook, sealed: Sequence[SealedRows]) -> Codes:
        """Take the codes of sealed rows, one after the other: a copy. Raises Damaged."""
        codes = cls(codebook.empty())
        codes.fill([part.codes for part in sealed])
        return codes

    def fill(self, codes: Sequence[NDArray[np.uint8]]) -> None:
        """Put the rows that were encoded so, one after the other, in the place of those that are there."""
        index = self._index
        index.ntotal = self._ranges.ntotal = sum(map(len, codes)) * 6 // index.d
        one_list = _list_of(index)
        one_list.resize(0, index.ntotal)
        np.concatenate(codes, out=_codes_of(index))
        faiss.rev_swig_ptr(one_list.get_ids(0), index.ntotal)[:] = np.arange(index.ntotal)

    def nearest_of(self, query: Vectors, passes: Mask, n: int) -> tuple[Scores, Rows]:
        hidden = self.rows - int(np.count_nonzero(passes))
        if hidden > n:
            return self._search(query, n, _only(passes))
        scores, rows = self.nearest(query, n + hidden)  # a little quicker
        keep = passes[rows]
        return scores[keep][:n], rows[keep][:n]

    def above(self, query: Vectors, passes: Mask, least: float) -> tuple[Scores, Rows]:
        _, scores, rows = self._ranges.range_search(query[None], least, params=None if passes.all() else _only(passes))
        return scores, rows

    @property
    def bytes_to_read(self) -> int:
        padded = -(-self.rows // _PADDING) * _PADDING
        return padded * (self._index.d // _SUBVECTOR) * _BITS // 8

    @property
    def resident_bytes(self) -> int:
        return self.bytes_to_read + 8 * self.rows  # faiss also keeps the number of each row


class MappedCodes:
    """The codes of sealed rows where they stand in the file: they are copied piece by piece for each search, and none stays."""

    def __init__(self, codebook: Codebook, sealed: Sequence[SealedRows]) -> None:
        self._codebook = codebook
        self._sealed = sealed
        self.rows: Final = sum(part.slots for part in sealed)
        self.resident_bytes: Final = 0
        self.bytes_to_read: Final = self.rows * codebook.dim // 6

    def nearest_of(self, query: Vectors, passes: Mask, n: int) -> tuple[Scores, Rows]:
        """Return what `Codes.nearest_of` would. Raises Damaged."""
        found = []
        for first, codes in self._pieces():
            scores, rows = codes.nearest_of(query, passes[first : first + codes.rows], n)
            found.append((scores, first + rows))
        return best_of(found, n)

    def above(self, query: Vectors, passes: Mask, least: float) -> tuple[Scores, Rows]:
        """Return what `Codes.above` would. Raises Damaged."""
        found = []
        for first, codes in self._pieces():
            scores, rows = codes.above(query, passes[first : first + codes.rows], least)
            found.append((scores, first + rows))
        scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, rows

    def _pieces(self) -> Iterator[tuple[int, Codes]]:
        """Yield the codes piece by piece, each with its first row; it is gone when the next one comes."""
        size, first = _COPIED_AT_ONCE * self._codebook.dim // 6, 0
        with self._codebook.lent() as piece:
            for part in self._sealed:
                codes = part.codes
                for at in range(0, len(codes), size):
                    piece.fill([codes[at : at + size]])
                    yield first, piece
                    first += piece.rows


def _only(passes: Mask) -> faiss.SearchParameters:
    """Return how to search none but the marked rows."""
    selector = _faiss.IDSelectorBitmap(np.packbits(passes, bitorder="little"))
    how: faiss.SearchParameters = _faiss.SearchParametersIVF(sel=selector)
    return how
