"""Ids and digests that meet, derived a second time in dictionaries (see the room's first lines)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from manifests.catalog import LoadedBuild
from manifests.verification.derived import Found, Progress, found, rows_of
from medgpt.groups import GROUP_KEYS


def id_and_exact(builds: Sequence[LoadedBuild], progress: Progress) -> Iterator[Found]:
    """Evidence of the levels id, exact_image and exact_text, in no order; a row may come more than once."""
    tests: dict[tuple[str, str, Any], dict[tuple[Any, ...], None]] = defaultdict(dict)
    for build in builds:
        for end, keys in _ends(build, "eval", progress):
            for key in keys:
                tests[key][end] = None
    for build in builds:
        for (split, _, sample, index), keys in _ends(build, "train", progress):
            for key in keys:
                if key not in tests:
                    continue
                level, kind, value = key
                for name, eval_split, eval_subset, eval_sample, eval_index in tests[key]:
                    yield found(
                        level=level, kind=kind, train_build=build.record["build"], train_split=split,
                        train_sample=sample, train_index=index, eval_build=name, eval_split=eval_split,
                        eval_subset=eval_subset, eval_sample=eval_sample, eval_index=eval_index,
                        value=value.hex() if isinstance(value, bytes) else value,
                    )  # fmt: skip


def _ends(
    build: LoadedBuild, role: str, progress: Progress
) -> Iterator[tuple[tuple[Any, ...], list[tuple[str, str, Any]]]]:
    """One end of possible pairs and all keys by which it may meet another. Test ends start with their build."""
    head = (build.record["build"],) if role == "eval" else ()
    for _, part in build.parts("samples", role):
        columns = ["split", "subset", "sample_id", "n_images", "stem_sha256", "stem_options_sha256", "caption_sha256"]
        for row in rows_of(part, [*columns, *GROUP_KEYS]):
            keys = [("id", "study_id" if key == "prior_study_id" else key, row[key]) for key in GROUP_KEYS]
            keys.append(("exact_text", "caption", row["caption_sha256"]))
            if not row["n_images"]:
                keys.append(("exact_text", "stem", row["stem_sha256"]))
                keys.append(("exact_text", "stem_options", row["stem_options_sha256"]))
            end = (*head, row["split"], row["subset"], row["sample_id"], None)
            yield end, [key for key in keys if key[2] is not None]
            progress(1)
    for _, part in build.parts("images", role):
        columns = ["split", "subset", "sample_id", "index", "relation", "image_id", "study_id", "subject_id", "sha256"]
        for row in rows_of(part, [*columns, "pixel_sha256"]):
            progress(1)
            if row["relation"] == "exemplar":
                continue
            place = (*head, row["split"], row["subset"], row["sample_id"])
            ids = [("id", name, row[name]) for name in ("image_id", "study_id", "subject_id")]
            yield (*place, None), [key for key in ids if key[2] is not None]
            digests = [("exact_image", "bytes", row["sha256"]), ("exact_image", "pixels", row["pixel_sha256"])]
            yield (*place, row["index"]), [key for key in digests if key[2] is not None]
