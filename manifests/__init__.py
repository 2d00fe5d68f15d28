"""Manifests: fingerprints of every sample and image, and the SQL that audits them."""

import medgpt as medgpt
