"""Families of queries, keys and values: one file each."""
