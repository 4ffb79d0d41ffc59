"""Embedders and expectations that the tests of this folder share."""

import json
from pathlib import Path

import numpy as np
import pytest

from memoryd.embedding.onnx import OnnxEmbedder
from memoryd.protocol.interfaces import Embeddings

_DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return list(json.loads((_DATA / "minilm_reference.json").read_text()))


@pytest.fixture(scope="session")
def published() -> Embeddings:
    """Load what the published model says about `texts`."""
    with np.load(_DATA / "minilm_reference.npz") as arrays:
        tokens = arrays["tokens"]
        return Embeddings(
            vectors=arrays["vectors"],
            tokens=tokens,
            embedded_tokens=np.minimum(tokens, np.int32(256)),
            windows=[b""] * len(tokens),
            signs=[b""] * len(tokens),
        )


@pytest.fixture(scope="session")
def shipped() -> OnnxEmbedder:
    return OnnxEmbedder.open("all-MiniLM-L6-v2", threads=1)
