"""Long tests against a real daemon process; each also has a short form for pytest."""
