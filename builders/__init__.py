"""Builders: one module a source; each reads its publisher's layout and yields samples or rejects."""

import medgpt as medgpt
