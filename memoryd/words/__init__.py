"""Recall by words: an inverted index beside each user's file, derived from it and made anew whenever it is in doubt."""
