"""Evaluation: benchmarks built as shards with role `eval`, strict offline scoring, evidence beside every number."""

import medgpt as medgpt
