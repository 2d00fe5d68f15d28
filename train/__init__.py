"""Training: consumes certified shards only; imports `shards` and `manifests`, never `builders` or `filters`."""

import medgpt as medgpt
