"""What runs teach recall: `python -m benchmarks.learning FILES`, beside no learning and beside the published engine."""
