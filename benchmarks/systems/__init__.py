"""The systems that `benchmarks.peers` measures side by side: ours and others, each in processes of its own."""
