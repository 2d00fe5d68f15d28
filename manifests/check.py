"""Is this item in the training data? One text or one picture against everything under DATA, with evidence.

    python -m manifests.check data --text "A 58-year-old man presents with ..." [--option "Aspirin" --option "Heparin"]
    python -m manifests.check data --image scan.png

Texts: equal questions and captions by digest, then shared runs of words and 5-word shingles in every training text.
Pictures: equal bytes and pixels, then perceptual hashes of all variants of the picture, pixels having the last word.
Digests and hashes are looked up in the manifests: a second for millions of samples. Reading every text, and the region
hashes that see past burnt-in labels, takes as long as the data is large: where there is more than `--limit` allows it
is left out, and said so, unless `--thorough` is given.

Exit code: 0 not found, 1 found, 2 no answer.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.catalog import connect, load_builds, select
from medgpt.arguments import command_parser
from medgpt.errors import UserError, os_error_line, run
from medgpt.tables import table

if TYPE_CHECKING:
    import duckdb

    from manifests.catalog import LoadedBuild
    from manifests.proof.policy import Policy

_SHOWN = 20
LIMIT = 20_000
"""Train samples (pictures) up to which texts (thumbnails) are all read: about a second."""

_EQUAL_TEXT = """
    SELECT level_kind AS kind, build, split, sample_id, NULL::INTEGER AS "index"
    FROM (SELECT *, unnest([
              CASE WHEN stem_options_sha256 = $with_options THEN 'stem_options' END,
              CASE WHEN stem_sha256 = $alone THEN 'stem' END,
              CASE WHEN caption_sha256 = $alone THEN 'caption' END]) AS level_kind
          FROM samples
          WHERE stem_options_sha256 = $with_options OR stem_sha256 = $alone OR caption_sha256 = $alone)
    WHERE level_kind IS NOT NULL AND list_contains($roles, role)
    ORDER BY ALL
"""
_EQUAL_IMAGE = """
    SELECT kind, build, split, sample_id, "index"
    FROM (SELECT *, unnest([CASE WHEN sha256 = $bytes OR stored_sha256 = $bytes THEN 'bytes' END,
                            CASE WHEN pixel_sha256 = $pixels THEN 'pixels' END]) AS kind
          FROM images WHERE sha256 = $bytes OR stored_sha256 = $bytes OR pixel_sha256 = $pixels)
    WHERE kind IS NOT NULL AND list_contains($roles, role)
    ORDER BY ALL
"""
_WITHIN_RADIUS = """
    WITH near AS MATERIALIZED (
        SELECT build, unit, split, sample_id, "index", shard, "offset", length, width, height, pixel_sha256, phash
        FROM images
        WHERE list_contains($roles, role) AND phash IS NOT NULL
          AND ($all OR {near}))
    SELECT near.*, thumbnail
    FROM near LEFT JOIN thumbnails USING (build, unit, sample_id, "index")
    ORDER BY build, sample_id, "index"
"""


def check_text(
    connection: "duckdb.DuckDBPyConnection",
    builds: "Sequence[LoadedBuild]",
    policy: "Policy",
    text: str,
    options: Sequence[str] = (),
    roles: Sequence[str] = ("train",),
    limit: int | None = LIMIT,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Evidence for a text, best first, and what was left out, one line each.

    Raises: `UserError`, for a text without a letter or digit too.
    """
    from msgspec import structs

    from manifests.proof.near_text import NearTextIndex
    from manifests.proof.text_pairs import EvalText
    from medgpt.text import question_sha256

    alone, with_options = question_sha256(text, options)
    if alone is None:
        raise UserError("the text has no letter or digit, so it equals nothing")
    values = {"alone": alone, "with_options": with_options, "roles": list(roles)}
    found = [{"level": "exact_text", **row} for row in select(connection, _EQUAL_TEXT, values)]
    total = sum(unit["kept"] for build in builds for unit in build.record["units"] if unit["role"] in roles)
    if limit is not None and total > limit:
        return found, [f"shared runs: the texts of {total:,} samples were not read; --thorough reads them"]
    # Here a person asks where a text occurs: every shared run counts, whether it says much or not.
    settings = structs.replace(policy.text, passage_words=policy.text.run_words, passage_bits=1, run_bits=1)
    index = NearTextIndex([EvalText(text, "", (text,))], settings)
    near = []
    for build, texts in _texts(builds, roles):
        for match in index.scan([[sample.whole for sample in texts]]).matches:
            sample = texts[match.train]
            private = build.record["source"]["access"] == "credentialed"
            place = {"build": build.record["build"], "split": sample.split, "sample_id": sample.sample_id}
            measures = {"score": match.score, "words": match.words, "span": None if private else match.span}
            near.append({"level": "near_text", "kind": match.kind, **place, **measures})
    near.sort(key=lambda row: (-row["score"], row["kind"], row["build"], row["sample_id"]))
    return found + near, []


def _texts(builds: "Sequence[LoadedBuild]", roles: Sequence[str]) -> "Iterator[tuple[LoadedBuild, list[Any]]]":
    from manifests.proof.overlaps import text_batches
    from manifests.proof.stored_text import read_texts

    for build in builds:
        for role in roles:
            for _, part in build.parts("samples", role):
                for batch in text_batches(read_texts(build.folder, part)):
                    yield build, batch


def check_image(
    connection: "duckdb.DuckDBPyConnection",
    builds: "Sequence[LoadedBuild]",
    policy: "Policy",
    data: bytes,
    roles: Sequence[str] = ("train",),
    limit: int | None = LIMIT,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Evidence for a picture, given as a file's bytes, best first, and what was left out, one line each.

    Raises: `UserError` for a picture that cannot be read.
    """
    import hashlib

    import pyarrow as pa

    from manifests.fingerprints import fingerprint
    from manifests.proof.near_images import NearImageIndex
    from manifests.proof.overlaps import PICTURE, image_place, read_image
    from manifests.proof.policy import ImageSettings
    from manifests.proof.variants import decode, plain_hashes
    from medgpt.containers import DamagedImage
    from medgpt.pictures import to_store

    try:
        prints = fingerprint(to_store(data, "first").data)
    except DamagedImage as error:
        raise UserError(f"the picture cannot be read ({error.reason}: {error.detail})") from error
    values = {"bytes": hashlib.sha256(data).digest(), "pixels": prints.pixel_sha256, "roles": list(roles)}
    found = [{"level": "exact_image", **row} for row in select(connection, _EQUAL_IMAGE, values)]

    # Which settings fit an unknown picture is unknown: the widest radius, the strictest threshold.
    settings = ImageSettings(
        radius=max(s.radius for s in policy.images.values()),
        region_radius=max(s.region_radius for s in policy.images.values()),
        threshold=max(s.threshold for s in policy.images.values()),
        borderline=max(s.borderline for s in policy.images.values()),
    )
    thumbnail = decode(prints.thumbnail)
    hashes = sorted(plain_hashes(thumbnail, prints.width, prints.height))
    total = sum(unit["images"] for build in builds for unit in build.record["units"] if unit["role"] in roles)
    every = limit is None or total <= limit
    # Written out for each hash: a third of the time of a lambda over a list.
    near = " OR ".join(f"bit_count(xor(phash, {value}::UBIGINT)) <= {settings.radius}" for value in hashes) or "false"
    looked_up = {"roles": list(roles), "all": every}
    candidates = connection.sql(_WITHIN_RADIUS.format(near=near), params=looked_up).to_arrow_table()
    if candidates["thumbnail"].null_count:
        raise UserError("a build has no thumbnails/, and pictures cannot be compared without; copy it with them")
    folders = {build.record["build"]: build.folder for build in builds}
    picture = {name: getattr(prints, name) for name in PICTURE.names if name != "modality"}
    item = pa.Table.from_pylist([{**picture, "modality": "default"}], PICTURE)

    def read_train(number: int) -> bytes | None:
        row = candidates.slice(number, 1).to_pylist()[0]
        return read_image(image_place(folders[row["build"]], row))

    rows = []
    for match in NearImageIndex(item, {"default": settings}).scan(candidates, read_train, lambda _: data).pairs:
        row = candidates.slice(match.train, 1).select(["build", "split", "sample_id", "index"]).to_pylist()[0]
        measures = {"score": match.score, "distance": match.distance, "variant": match.variant}
        rows.append({"level": "near_image", "kind": match.kind, **row, **measures})
    rows.sort(key=lambda row: (-row["score"], row["build"], row["sample_id"], row["index"]))
    if every:
        return found + rows, []
    unread = f"the thumbnails of {total:,} pictures were not read; --thorough reads them"
    return found + rows, [f"region hashes and turns of changed pictures: {unread}"]


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0 if nothing was found, 1 if something was, 2 if there is no answer."""
    parser = command_parser(
        "manifests.check",
        "Is this item in the training data? Exit code: 0 not found, 1 found, 2 no answer.",
        'examples:\n  python -m manifests.check data --text "A 58-year-old man presents with chest pain ..."\n'
        "  python -m manifests.check data --image scan.png --json",
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of builds")
    item = parser.add_mutually_exclusive_group(required=True)
    item.add_argument(
        "--text", metavar="TEXT", help="a question, caption or passage ('-' reads it from standard input)"
    )
    item.add_argument("--image", type=Path, metavar="FILE", help="a picture file")
    add("--option", action="append", default=[], metavar="TEXT", help="an answer option of the question")
    add("--role", choices=("train", "eval", "any"), default="train", help="where to look (default train)")
    add("--policy", type=Path, metavar="FILE", help="radii and thresholds (default: as prove)")
    add("--thorough", action="store_true", help="read every text or thumbnail, however many there are")
    add("--limit", type=int, default=LIMIT, metavar="N", help=f"read up to so many (default {LIMIT})")
    add("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.option and options.text is None:
        parser.error("--option goes with --text")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from manifests.proof.policy import load_policy

    roles = ("train", "eval") if options.role == "any" else (options.role,)
    limit = None if options.thorough else options.limit
    try:
        builds, policy = load_builds(options.data), load_policy(options.policy)
        with connect(options.data) as connection:
            if options.image is not None:
                data = options.image.read_bytes()
                found, left_out = check_image(connection, builds, policy, data, roles, limit)
            else:
                text = sys.stdin.read() if options.text == "-" else options.text
                found, left_out = check_text(connection, builds, policy, text, options.option, roles, limit)
    except OSError as error:
        raise UserError(os_error_line(error)) from error  # code 1 would say that it was found
    if options.json:
        print(json.dumps({"found": found, "left_out": left_out}, indent=2))
    else:
        _print(found, left_out)
    return 1 if found else 0


def _print(found: Sequence[Mapping[str, Any]], left_out: Sequence[str]) -> None:
    if found:
        names = "level kind build split sample_id index score distance variant words span".split()
        names = [name for name in names if any(row.get(name) is not None for row in found)]
        print(table(names, [[row.get(name) for name in names] for row in found[:_SHOWN]], longest=72))
        if len(found) > _SHOWN:
            print(f"and {len(found) - _SHOWN} more; --json prints all")
    for line in left_out:
        print(f"Not looked at: {line}")
    samples = len({(row["build"], row["sample_id"]) for row in found})
    print(f"Found: {samples} sample{'s' * (samples != 1)} with it" if found else "Not found")


if __name__ == "__main__":
    sys.exit(main())
