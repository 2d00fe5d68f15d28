"""Ids and digests that meet, derived a second time in dictionaries (see the room's first lines)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from manifests.catalog import LoadedBuild
from manifests.verification.derived import Found, Progress, found, rows_of
from manifests.verification.spread import Part, Pool, parts_of
from medgpt.groups import GROUP_KEYS

_Key = tuple[str, str, Any]
"""Level, kind, and the value that two ends share."""
_Tests = dict[_Key, dict[tuple[Any, ...], None]]


def id_and_exact(builds: Sequence[LoadedBuild], progress: Progress, pool: Pool) -> Iterator[Found]:
    """Evidence of the levels id, exact_image and exact_text, in no order; a row may come more than once."""
    tests: _Tests = defaultdict(dict)
    kinds: tuple[Literal["samples", "images"], ...] = ("samples", "images")
    for part in (part for kind in kinds for part in parts_of(builds, kind, "eval")):
        for end, keys in _ends(part, progress):
            for key in keys:
                tests[key][part.build.record["build"], *end] = None
    for rows in pool.spread(_met, tests, [part for kind in kinds for part in parts_of(builds, kind)], progress):
        yield from rows


def _met(tests: _Tests, part: Part, progress: Progress) -> list[Found]:
    return [
        found(
            level=level, kind=kind, train_build=part.build.record["build"], train_split=split,
            train_sample=sample, train_index=index, eval_build=name, eval_split=eval_split,
            eval_subset=eval_subset, eval_sample=eval_sample, eval_index=eval_index,
            value=value.hex() if isinstance(value, bytes) else value,
        )
        for (split, _, sample, index), keys in _ends(part, progress)
        for level, kind, value in keys
        for name, eval_split, eval_subset, eval_sample, eval_index in tests.get((level, kind, value), ())
    ]  # fmt: skip


def _ends(part: Part, progress: Progress) -> Iterator[tuple[tuple[Any, ...], list[_Key]]]:
    """One end of possible pairs and all keys by which it may meet another."""
    if part.unit["kind"] == "samples":
        columns = ["split", "subset", "sample_id", "n_images", "stem_sha256", "stem_options_sha256", "caption_sha256"]
        for row in rows_of(part.path, [*columns, *GROUP_KEYS]):
            keys = [("id", "study_id" if key == "prior_study_id" else key, row[key]) for key in GROUP_KEYS]
            keys.append(("exact_text", "caption", row["caption_sha256"]))
            if not row["n_images"]:
                keys.append(("exact_text", "stem", row["stem_sha256"]))
                keys.append(("exact_text", "stem_options", row["stem_options_sha256"]))
            yield (row["split"], row["subset"], row["sample_id"], None), [key for key in keys if key[2] is not None]
            progress(1)
        return
    columns = ["split", "subset", "sample_id", "index", "relation", "image_id", "study_id", "subject_id", "sha256"]
    for row in rows_of(part.path, [*columns, "pixel_sha256"]):
        progress(1)
        if row["relation"] == "exemplar":
            continue
        place = (row["split"], row["subset"], row["sample_id"])
        ids = [("id", name, row[name]) for name in ("image_id", "study_id", "subject_id")]
        yield (*place, None), [key for key in ids if key[2] is not None]
        digests = [("exact_image", "bytes", row["sha256"]), ("exact_image", "pixels", row["pixel_sha256"])]
        yield (*place, row["index"]), [key for key in digests if key[2] is not None]
