"""Searchable memories: exact over the rows themselves, by a graph where that is faster."""
