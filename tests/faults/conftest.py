"""Computes as the daemon does."""

from __future__ import annotations

import faiss
import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Threads of one small search only wait for each other."""
    faiss.omp_set_num_threads(1)
