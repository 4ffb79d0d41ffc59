"""The systems that `benchmarks.retrieval` asks beside memoryd, each in a process of its own."""
