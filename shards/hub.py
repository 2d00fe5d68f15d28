"""`datasets` features of our tar shards, for sets whose samples differ in their number of images.

`load_dataset("webdataset", ...)` infers columns from a shard's first five samples; where these do not stand for the
rest, pass `features=features(max_images)`. Needs the `datasets` package (extras `bench` and `dev`).
"""

from __future__ import annotations

from typing import Any

from medgpt.schema import SAMPLE


def features(max_images: int, extensions: tuple[str, ...] = ("jpg",)) -> Any:
    """`datasets.Features` with the JSON of a sample and columns `0.jpg` ... for up to `max_images` images."""
    from datasets import Features, Image, Value

    columns: dict[str, Any] = {f"{i}.{ext}": Image() for i in range(max_images) for ext in extensions}
    return Features(
        {
            "json": dict(Features.from_arrow_schema(SAMPLE)),
            **columns,
            "__key__": Value("string"),
            "__url__": Value("string"),
        }
    )
