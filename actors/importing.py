"""Checks of vectors that come from outside: they are stored as they are, so they must be right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.maxsim import MOST, width
from memoryd.protocol.errors import InvalidMessage

if TYPE_CHECKING:
    from memoryd.protocol.interfaces import ModelInfo, Vectors
    from memoryd.protocol.messages import Import

UNIT_TOLERANCE: Final = 1e-3
MAX_WINDOWS: Final = 64  # of one text


def checked_vectors(message: Import, model: ModelInfo) -> Vectors:
    """Return the vectors of an import, float32 [n, dim], rows of unit length.

    Raises InvalidMessage when another model made them, and for a wrong length, NaN, infinity, a row that is not of
    unit length, or windows or signs of a wrong length.
    """
    if message.model_sha256 != model.sha256:
        raise InvalidMessage(
            "the vectors were made by another model",
            field="model_sha256",
            hint="import the texts without vectors, or run memoryd reembed",
        )
    vectors = np.empty((len(message.records), model.dim), np.float32)
    for row, record in enumerate(message.records):
        field = f"records[{row}].embedding"
        if len(record.embedding) != 4 * model.dim:
            raise InvalidMessage(
                "wrong dimension",
                field=field,
                hint=f"this model has {model.dim} dimensions",
                got=len(record.embedding) // 4,
            )
        vectors[row] = np.frombuffer(record.embedding, "<f4")
        if len(record.windows) % model.dim or len(record.windows) > MAX_WINDOWS * model.dim:
            raise InvalidMessage(
                "not the vectors of windows",
                field=f"records[{row}].windows",
                hint=f"give {model.dim} bytes for each of at most {MAX_WINDOWS}, or none",
                got=len(record.windows),
            )
        size = width(model.dim)
        if len(record.signs) % size or len(record.signs) > MAX_WINDOWS * MOST * size:
            raise InvalidMessage(
                "not the signs of word pieces",
                field=f"records[{row}].signs",
                hint=f"give {size} bytes for each of at most {MAX_WINDOWS * MOST}, or none",
                got=len(record.signs),
            )
        if not np.isfinite(vectors[row]).all():
            raise InvalidMessage("NaN or infinity in a vector", field=field, hint="export the memory again")
        if abs(float(np.linalg.norm(vectors[row])) - 1.0) > UNIT_TOLERANCE:
            raise InvalidMessage("vector is not of unit length", field=field, hint="normalise it")
    return vectors
