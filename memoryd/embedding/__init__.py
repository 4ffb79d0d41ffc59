"""Text to vectors, on this machine, without a call to anywhere."""
