"""The embedder of the daemon: an ONNX encoder run on the processor.

Serves the shipped all-MiniLM-L6-v2 and any other sentence encoder whose folder holds an ONNX file and a
`tokenizer.json`. Knows nothing of queues: who calls it, when, and from how many threads is the caller's business.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from memoryd import maxsim
from memoryd.embedding.folder import ModelFolder, Pooling, read_folder, resolve_model, unavailable
from memoryd.embedding.pieces import PieceReader
from memoryd.protocol.interfaces import Embeddings, ModelInfo
from memoryd.windows import packed

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OnnxEmbedder", "resolve_model"]

_EXACT_BATCH: Final = 32  # windows a run; past it nothing is gained
_RUN_TOKENS: Final = 512  # padded tokens a run, which stay in the cache; past them nothing is gained
_SLOWER: Final = ["SkipLayerNormFusion"]  # a sum and a norm made one operator, which takes five times as long
_KNOWN_INPUTS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_INTEGERS: Final[Mapping[str, type[np.integer]]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_OF_PIECES: Final = ("last_hidden_state", "token_embeddings")
_OUTPUTS: Final = ("embedding", "sentence_embedding", *_OF_PIECES)
_VECTORS_RANK: Final = 2
_TOKENS_RANK: Final = 3
_OTHER_MODEL: Final = "use a BERT-like sentence encoder exported to ONNX"
_LOAD_ERRORS: Final = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxEmbedder:
    """An Embedder on onnxruntime."""

    def __init__(self, folder: ModelFolder, session: ort.InferenceSession) -> None:
        """Join a described folder and a session of its graph; `open` is the way to get both."""
        self._folder = folder
        self._session = session
        self._inputs = {node.name: _INTEGERS.get(node.type) for node in session.get_inputs()}
        if unknown := sorted(name for name, kind in self._inputs.items() if name not in _KNOWN_INPUTS or not kind):
            raise unavailable(folder.graph, f"asks for unsupported inputs ({', '.join(unknown)})", hint=_OTHER_MODEL)
        self._output, self._pooling, dim = self._choose_output()
        self._outputs = list(dict.fromkeys([self._output, *self._outputs_of_pieces(dim)]))
        self.model: Final = ModelInfo(
            name=folder.name,
            dim=dim,
            sha256=folder.sha256,
            max_tokens=folder.max_tokens,
            variant=folder.variant,
        )
        self.batch_size: Final = 1 if folder.is_batch_scaled else _EXACT_BATCH
        try:
            self._pieces = PieceReader(folder.tokenizer, max_tokens=folder.max_tokens)
        except ValueError as error:
            raise unavailable(folder.tokenizer, str(error), hint=_OTHER_MODEL) from error

    @classmethod
    def open(cls, folder: Path | str, *, threads: int) -> "OnnxEmbedder":
        """Open a shipped model by name, or any folder; `threads` is how many one run may use.

        Use `threads=1` and call `embed` from as many threads as there are cores. Measured on two cores beside other
        work with the shipped model, ms per text of 12 / 53 / 256 tokens: one thread 1.3 / 3.6 / 17; two threads 1.7 /
        4.0 / 18. Two threads make a short question slower, and cost more processor time.

        Raises ModelUnavailable with `path` and `what` in its details if a file is missing, damaged or not usable.
        """
        found = read_folder(resolve_model(folder))
        if not found.tokenizer.exists():
            raise unavailable(found.tokenizer, "missing", hint=_OTHER_MODEL)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A pattern is kept per input shape, and there is a shape for every length of text: memory for nothing.
        # The arena stays on: without it freed buffers pile up in malloc and the process is 15 MB larger.
        options.enable_mem_pattern = False
        # Idle threads that spin take the processor from the event loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(
                str(found.graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER
            )
        except _LOAD_ERRORS as error:
            raise unavailable(found.graph, "not a graph that onnxruntime runs", hint=_OTHER_MODEL) from error
        return cls(found, session)

    def embed(self, texts: Sequence[str], running: Callable[[], None] | None = None) -> Embeddings:
        """Embed `texts`, in order; an empty sequence gives no rows. Calls `running` when they are read.

        A text's vector does not depend on the others: it is bit for bit the same if `batch_size` is 1, else within
        1e-5. That of a text of more than `max_tokens` pieces is the mean over its windows, see PieceReader. Any
        string is taken; lone surrogates are read as U+FFFD. Safe from several threads; the interpreter lock is
        released in runs.
        """
        pieces = [self._pieces.read(text) for text in texts]
        windows = [window for some in pieces for window in some.windows]
        vectors = np.empty((len(windows), self.model.dim), np.float32)
        if running is not None:
            running()
        of_pieces = [np.empty((0, self.model.dim), np.float32)] * len(windows)
        for rows in self._runs(np.array([len(window) for window in windows], np.int32)):
            vectors[rows], found = self._run([windows[row] for row in rows])
            for row, some in zip(rows, found, strict=False):  # none, when the graph tells nothing of them
                of_pieces[row] = some
        counts = np.array([len(some.windows) for some in pieces], np.int64)
        ends = np.cumsum(counts)
        of_each = [slice(end - count, end) for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]
        return Embeddings(
            vectors=_unit(np.add.reduceat(vectors, ends - counts)),
            tokens=np.array([some.total for some in pieces], np.int32),
            embedded_tokens=np.array([some.seen for some in pieces], np.int32),
            windows=[packed(vectors[some]) if some.stop - some.start > 1 else b"" for some in of_each],
            signs=[b"".join(map(maxsim.packed, of_pieces[some])) for some in of_each],
        )

    def _runs(self, lengths: "NDArray[np.int32]") -> Iterator[list[int]]:
        """Group rows of like length, so that little is padded."""
        run: list[int] = []
        for row in np.argsort(lengths, kind="stable").tolist():
            if run and (len(run) == self.batch_size or (len(run) + 1) * int(lengths[row]) > _RUN_TOKENS):
                yield run
                run = []
            run.append(row)
        if run:
            yield run

    def _run(self, ids: Sequence[Sequence[int]]) -> "tuple[NDArray[np.float32], list[NDArray[np.float32]]]":
        """Run the graph on some texts: float32 [n, dim], and of each its pieces, float32 [t, dim], if the graph gives them."""
        shape = (len(ids), max(map(len, ids)))
        tokens = np.full(shape, self._folder.pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        for row, some in enumerate(ids):
            tokens[row, : len(some)] = some
            mask[row, : len(some)] = 1
        known = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}
        feed = {name: known[name].astype(kind, copy=False) for name, kind in self._inputs.items()}
        found = cast("list[NDArray[np.float32]]", self._session.run(self._outputs, feed))
        of_pieces = found[-1] if found[-1].ndim == _TOKENS_RANK else ()
        each = [some[self._pieces.body(len(window))] for some, window in zip(of_pieces, ids, strict=False)]
        return _unit_rows(found[0], mask, self._pooling), each

    def _outputs_of_pieces(self, dim: int) -> list[str]:
        """Return the name of the output that has a vector of each piece, if there is one."""
        outputs = (node for node in self._session.get_outputs() if node.type == "tensor(float)")
        return [node.name for node in outputs if node.name in _OF_PIECES and node.shape[2:] == [dim]][:1]

    def _choose_output(self) -> tuple[str, Pooling, int]:
        folder = self._folder
        outputs = {node.name: node for node in self._session.get_outputs()}
        name = next((name for name in _OUTPUTS if name in outputs), next(iter(outputs)))
        shape = outputs[name].shape
        pooling = folder.pooling
        if len(shape) == _VECTORS_RANK:
            pooling = "in-graph"
        if len(shape) not in {_VECTORS_RANK, _TOKENS_RANK} or outputs[name].type != "tensor(float)":
            what = f"its output {name} is neither a vector per text nor one per token"
            raise unavailable(folder.graph, what, hint=_OTHER_MODEL)
        if pooling is None or (pooling == "in-graph" and len(shape) == _TOKENS_RANK):
            what = "gives a vector per token and nothing says how to pool them"
            raise unavailable(folder.graph, what, hint="add 1_Pooling/config.json of the published model")
        dim = shape[-1] if isinstance(shape[-1], int) else folder.dim
        if dim != folder.dim:
            what = f"has {dim} dimensions where its description says {folder.dim}"
            raise unavailable(folder.graph, what, hint=_OTHER_MODEL)
        return name, pooling, dim


def _unit_rows(found: "NDArray[np.float32]", mask: "NDArray[np.int64]", pooling: Pooling) -> "NDArray[np.float32]":
    match pooling:
        case "mean":
            vectors = np.einsum("ntd,nt->nd", found, mask.astype(np.float32))
        case "cls":
            vectors = found[:, 0]
        case "in-graph":
            vectors = found
    return _unit(vectors)


def _unit(vectors: "NDArray[np.float32]") -> "NDArray[np.float32]":
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return unit
