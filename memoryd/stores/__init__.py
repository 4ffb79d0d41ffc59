"""What is kept outside the memory files."""
