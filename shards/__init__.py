"""Shards: the sample schema, deterministic writers, readers and their verification."""
