"""Makes the codebook that memoryd ships for its model: from the texts of the sample and windows of them, and as many directions at random.

    python -m benchmarks.codebook

With the random ones it serves texts that are like none of the sample as well; those like them lose nothing. How well it
serves other texts is measured by `python -m benchmarks.index`.
"""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks import corpus
from memoryd.vectors.codes import Codebook, shipped_path


def main() -> None:
    """Write the codebook into the package."""
    faiss.omp_set_num_threads(1)  # sums in another order would give another codebook
    given = corpus.corpus((), corpus.RECORDS, 0)
    vectors = np.stack([np.frombuffer(record.embedding, np.float32) for record in given.records])
    directions = np.random.default_rng(0).standard_normal(vectors.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    path = shipped_path(given.model_sha256)
    Codebook.train(np.concatenate([vectors, directions.astype(np.float32)])).save(path)
    print(
        f"{path.name}: {path.stat().st_size:,} bytes from {len(vectors):,} vectors of {given.what}, and as many at random"
    )


if __name__ == "__main__":
    main()
