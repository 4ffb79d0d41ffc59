"""Measurements, each one command; what they print is what the documents quote."""
