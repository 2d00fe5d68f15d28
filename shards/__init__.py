"""Shards: the sample schema, deterministic writers, readers and their verification."""

import medgpt as medgpt
