"""Who gets the credit when a run says only how it ended: `python -m benchmarks.credit CONVERSATIONS --runs RUNS`."""
