"""What lies in a model's folder, and whether it is what was put there.

Two layouts: our own, with a `model.json` that names every file and its hash, and that of sentence-transformers,
with `config.json` and `1_Pooling/config.json`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

from memoryd.protocol.errors import ModelUnavailable
from memoryd.protocol.interfaces import ModelInfo

Pooling: TypeAlias = Literal["in-graph", "mean", "cls"]

SHIPPED: Final = Path(__file__).with_name("models")
MANIFEST: Final = "model.json"
_REINSTALL: Final = "reinstall memoryd, or rebuild the folder with python -m memoryd.embedding.export --out FOLDER"
_COMPLETE: Final = "download the model's folder again, with onnx/model.onnx, tokenizer.json and its config files"
_BATCH_SCALED: Final = b"DynamicQuantize"  # operator names lie in the file as plain text


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """An encoder on disk: its files are there and, if a manifest says so, undamaged."""

    name: str
    graph: Path
    tokenizer: Path
    sha256: str
    max_tokens: int
    pooling: Pooling | None
    variant: str
    dim: int
    pad_id: int = 0
    # The scale of the activations is taken over the whole call: texts must be run one at a time.
    is_batch_scaled: bool = False


def resolve_model(name_or_path: Path | str) -> Path:
    """Return the folder of a shipped model, by its name, or of any other, by its path.

    Raises ModelUnavailable if there is no such folder.
    """
    shipped = SHIPPED / name_or_path
    folder = shipped if isinstance(name_or_path, str) and shipped.is_dir() else Path(name_or_path)
    if not folder.is_dir():
        names = ", ".join(sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST}")))
        raise unavailable(folder, "no such folder", hint=f"name a folder or a shipped model ({names})")
    return folder


def stated_model(folder: Path) -> ModelInfo | None:
    """Return which model `folder` holds as its manifest states it, be the other files there or not; None without one.

    Raises ModelUnavailable if the manifest is not understood.
    """
    if not (folder / MANIFEST).exists():
        return None
    with _faults_of(folder):
        found, _ = _stated(folder)
    return ModelInfo(found.name, found.dim, found.sha256, found.max_tokens, found.variant)


def read_folder(folder: Path) -> ModelFolder:
    """Describe the model in `folder`; raises ModelUnavailable if anything is missing, damaged or not understood."""
    with _faults_of(folder):
        return _own(folder) if (folder / MANIFEST).exists() else _sentence_transformers(folder)


def unavailable(path: Path, what: str, *, hint: str) -> ModelUnavailable:
    """Say that the model cannot be loaded because of the file or folder `path`."""
    message = f"embedding model {path.name}: {what}"
    return ModelUnavailable(message, field="embedding.model", hint=hint, path=str(path), what=what)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex; 15 ms for the shipped model."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _faults_of(folder: Path) -> Iterator[None]:
    """Name the file of a model that cannot be read."""
    try:
        yield
    except OSError as error:
        path = Path(error.filename or folder)
        what = "missing" if isinstance(error, FileNotFoundError) else f"unreadable ({error.strerror})"
        raise unavailable(path, what, hint=_mend(folder)) from error


def _own(folder: Path) -> ModelFolder:
    found, files = _stated(folder)
    for name, sha256 in files.items():
        if sha256_of(folder / name) != sha256:
            raise unavailable(folder / name, "damaged: its SHA-256 is not that of model.json", hint=_mend(folder))
    return replace(found, is_batch_scaled=_is_batch_scaled(found.graph))


def _stated(folder: Path) -> tuple[ModelFolder, Mapping[str, str]]:
    """Return what the manifest says of a model, and of its files by name their SHA-256."""
    path = folder / MANIFEST
    manifest = _read_json(path, hint=_mend(folder))
    try:
        files = dict(cast("Mapping[str, str]", manifest["files"]))
        found = ModelFolder(
            name=str(manifest["name"]),
            graph=folder / "model.onnx",
            tokenizer=folder / "tokenizer.json",
            sha256=files["model.onnx"],
            max_tokens=int(cast("int", manifest["max_tokens"])),
            pooling=cast("Pooling", manifest["pooling"]),
            variant=str(manifest["variant"]),
            dim=int(cast("int", manifest["dim"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unavailable(path, f"does not describe a model ({error})", hint=_mend(folder)) from error
    return found, files


def _sentence_transformers(folder: Path) -> ModelFolder:
    candidates = (folder / "model.onnx", folder / "onnx" / "model.onnx")
    graph = next((path for path in candidates if path.exists()), None)
    if graph is None:
        raise unavailable(folder / "model.onnx", "missing, here and in onnx/", hint=_COMPLETE)
    config = _read_json(folder / "config.json", hint=_COMPLETE)
    try:
        max_tokens = int(cast("int", config["max_position_embeddings"]))
        dim = int(cast("int", config["hidden_size"]))
        pad_id = int(cast("int", config.get("pad_token_id") or 0))
    except (KeyError, TypeError, ValueError) as error:
        raise unavailable(folder / "config.json", f"does not describe an encoder ({error})", hint=_COMPLETE) from error
    if "roberta" in str(config.get("model_type", "")):
        max_tokens -= pad_id + 1  # its first positions stand for padding
    sentences = folder / "sentence_bert_config.json"
    if sentences.exists():
        said = _read_json(sentences, hint=_COMPLETE).get("max_seq_length")
        max_tokens = min(max_tokens, said) if isinstance(said, int) and said > 0 else max_tokens
    is_batch_scaled = _is_batch_scaled(graph)
    return ModelFolder(
        name=folder.resolve().name,
        graph=graph,
        tokenizer=folder / "tokenizer.json",
        sha256=sha256_of(graph),
        max_tokens=max_tokens,
        pooling=_pooling(folder / "1_Pooling" / "config.json"),
        variant="int8" if is_batch_scaled else "as-found",
        is_batch_scaled=is_batch_scaled,
        dim=dim,
        pad_id=pad_id,
    )


def _pooling(path: Path) -> Pooling | None:
    if not path.exists():
        return None
    config = _read_json(path, hint=_COMPLETE)
    modes = sorted(key.removeprefix("pooling_mode_") for key, value in config.items() if value is True)
    match modes:
        case ["mean_tokens"] | ["include_prompt", "mean_tokens"]:
            return "mean"
        case ["cls_token"] | ["cls_token", "include_prompt"]:
            return "cls"
        case _:
            hint = "use a model that pools by mean or by the first token"
            raise unavailable(path, f"unsupported pooling ({', '.join(modes) or 'none'})", hint=hint)


def _read_json(path: Path, *, hint: str) -> Mapping[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise unavailable(path, "damaged: not JSON", hint=hint) from error
    if not isinstance(content, dict):
        raise unavailable(path, "damaged: not a JSON object", hint=hint)
    return content


def _is_batch_scaled(graph: Path) -> bool:
    overlap = len(_BATCH_SCALED) - 1
    with graph.open("rb") as file:
        tail = b""
        while chunk := file.read(1 << 20):
            if _BATCH_SCALED in tail + chunk:
                return True
            tail = chunk[-overlap:]
    return False


def _mend(folder: Path) -> str:
    return _REINSTALL if (folder / MANIFEST).exists() else _COMPLETE
