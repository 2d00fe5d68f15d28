"""Filters: `score(record)` functions whose scores are stored beside samples; thresholds live in policy files."""

import medgpt as medgpt
