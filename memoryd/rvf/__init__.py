"""Memory files: one `.rvf` file per user, readable by other programs that know the format."""
