"""Backups: folders of snapshots that share what is alike in them."""
