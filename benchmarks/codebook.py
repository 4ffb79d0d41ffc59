"""Makes the codebook that memoryd ships for its model, from the texts of the sample and windows of them.

    python -m benchmarks.codebook

How well it serves other texts is measured by `python -m benchmarks.index`.
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
    path = shipped_path(given.model_sha256)
    Codebook.train(vectors).save(path)
    print(f"{path.name}: {path.stat().st_size:,} bytes from {len(vectors):,} vectors of {given.what}")


if __name__ == "__main__":
    main()
