"""What others wrote, turned into events; for clients, and without any I/O but reading."""
