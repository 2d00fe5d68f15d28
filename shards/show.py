"""`python -m shards.show DATA ID`: one sample as it is stored: messages, pictures, provenance, digests, counts.

The sample is read from its shard and its digest compared with the manifest's, so what is shown is what is trained on.
Nothing leaves the machine. Credentialed samples are shown with a warning; no picture is shown but in a page that was
asked for with `--html`.
"""

from __future__ import annotations

import hashlib
import json
import os
import textwrap
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.catalog import connect, load_builds, query_rows
from medgpt.arguments import command_parser
from medgpt.errors import UserError, run
from medgpt.messages import complain
from medgpt.tables import printable

if TYPE_CHECKING:
    import duckdb

    from manifests.catalog import LoadedBuild

_WIDTH = 100
_MANY = 10

CREDENTIALED = "credentialed: the data use agreement forbids passing on text or pictures of this sample"


@dataclass(frozen=True)
class ShownSample:
    """A sample and all that the manifests say of it."""

    record: dict[str, Any]
    row: dict[str, Any]
    """Its row of the view `samples`, digests as hexadecimal text."""
    images: list[dict[str, Any]]
    """Its rows of the view `images`, without thumbnails."""
    pictures: list[bytes]
    """As stored; none in a metadata-only build."""
    altered: list[int]
    """Pictures that do not have the digest that the manifest records."""
    excluded: list[str] | None
    """Why the proof takes it out; empty if it does not, None if no proof speaks of its build as it is."""

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints: all but the pictures."""
        return {name: value for name, value in vars(self).items() if name != "pictures"}


def load_sample(data: Path, sample_id: str | None, *, build: str | None = None, seed: int = 0) -> ShownSample:
    """Read a sample by id, or (`None`) one chosen by the seed from all of `data` or of one build.

    Raises: `UserError`, also if no or more than one build has the id, or the shard does not hold the
    sample as it was built. (Altered pictures are not raised.)
    """
    with connect(data) as connection:
        row = _choose(connection, build, seed) if sample_id is None else _find(connection, sample_id, build)
        images = query_rows(
            connection,
            'FROM images WHERE build = ? AND sample_id = ? ORDER BY "index"',
            [row["build"], row["sample_id"]],
        )
        holds = next(found for found in load_builds(data) if found.record["build"] == row["build"])
        excluded = _exclusion(connection, data, holds, row)
    return read_sample(holds.folder, row, images, excluded)


def read_sample(
    folder: Path, row: dict[str, Any], images: list[dict[str, Any]], excluded: list[str] | None
) -> ShownSample:
    """Read a sample of the build in `folder`, and compare it with its rows of the manifest. Raises: `UserError`."""
    shards = folder / "shards"
    json_bytes = read_record(shards, row)
    pictures = [_read(shards / image["shard"], image["offset"], image["length"]) for image in images if image["shard"]]
    if hashlib.sha256(json_bytes).hexdigest() != row["sha256"]:
        raise UserError(f"{shards / row['shard']}: {row['sample_id']} was altered; python -m shards.verify says more")
    altered = [
        number
        for number, (picture, image) in enumerate(zip(pictures, images, strict=False))
        if hashlib.sha256(picture).hexdigest() != image["stored_sha256"]
    ]
    record = json.loads(json_bytes)
    return ShownSample(record, row, images, pictures, altered, excluded)


def _find(connection: duckdb.DuckDBPyConnection, sample_id: str, build: str | None) -> dict[str, Any]:
    rows = query_rows(connection, "FROM samples WHERE sample_id = ? ORDER BY build", [sample_id])
    rows = [row for row in rows if build in (None, row["build"])]
    if len(rows) == 1:
        return rows[0]
    if rows:
        names = ", ".join(row["build"] for row in rows)
        raise UserError(f"{sample_id}: in several builds ({names}); choose one with --build")
    like = query_rows(
        connection, "SELECT sample_id FROM samples WHERE contains(sample_id, ?) GROUP BY ALL ORDER BY ALL LIMIT ?",
        [sample_id, _MANY],
    )  # fmt: skip
    hint = (
        f"; ids like it: {', '.join(row['sample_id'] for row in like)}"
        if like
        else "; --random shows what ids are like"
    )
    raise UserError(f"no sample {sample_id!r}{f' in build {build}' if build else ''}{hint}")


def _choose(connection: duckdb.DuckDBPyConnection, build: str | None, seed: int) -> dict[str, Any]:
    """One of all samples, each as likely; the same for the same builds and seed."""
    query = "SELECT build, unit, count(*) AS n FROM samples WHERE ? IS NULL OR build = ? GROUP BY ALL ORDER BY ALL"
    counts = [tuple(unit.values()) for unit in query_rows(connection, query, [build, build])]
    total = sum(count for _, _, count in counts)
    if not total:
        raise UserError("there is no sample" + (f" in build {build!r}" if build else ""))
    number = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=16).digest()) % total
    ends = list(accumulate(count for _, _, count in counts))
    place = bisect_right(ends, number)
    name, unit, count = counts[place]
    [row] = query_rows(
        connection,
        'FROM samples WHERE build = ? AND unit = ? ORDER BY shard, "offset" LIMIT 1 OFFSET ?',
        [name, unit, number - (ends[place] - count)],
    )
    return row


def _exclusion(
    connection: duckdb.DuckDBPyConnection, data: Path, build: LoadedBuild, row: dict[str, Any]
) -> list[str] | None:
    from manifests.proof.certificate import CERTIFICATE, EXCLUSIONS_FILE, covers, read_certificate
    from manifests.proof.trust import check_files
    from shards.certified import proof_folder

    proof = proof_folder(data)
    if not (proof / CERTIFICATE).is_file():
        return None
    try:
        certificate = read_certificate(proof)
        check_files(proof, certificate)
    except UserError as error:
        complain(error)
        return None
    if not covers(certificate, build.record):
        return None
    file = proof / EXCLUSIONS_FILE
    query = "SELECT reasons FROM read_parquet(?) WHERE train_build = ? AND train_sample = ?"
    found = query_rows(connection, query, [str(file), row["build"], row["sample_id"]])
    return [reason for one in found for reason in one["reasons"]]


def _read(path: Path, offset: int, length: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run the builder again") from error


def read_record(shards: Path, row: Mapping[str, Any]) -> bytes:
    """The canonical JSON of a sample as it is stored, by its row of the manifest. Raises: `UserError`."""
    path = shards / row["shard"]
    if path.suffix != ".arrow":
        return _read(path, row["offset"], row["length"])
    import pyarrow as pa

    from medgpt.schema import canonical_json
    from shards.reader import checked_row

    try:
        return canonical_json(checked_row(pa.ipc.open_file(pa.memory_map(str(path))), row["offset"]))
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read; run the builder again") from error


def facts(sample: ShownSample) -> list[tuple[str, str]]:
    """What is known of the sample besides its text, as (name, value) in the order shown."""
    from shards.packing import sample_length

    record, row = sample.record, sample.row
    messages = record["messages"] or []
    replies = [message for message in messages if message["role"] == "assistant"]
    length = sample_length(
        row["text_tokens"], row["tiles"] or 0, images=row["n_images"], messages=len(messages) - len(replies),
        replies=len(replies), reasoned=sum(bool(message["reasoning"]) for message in replies),
    )  # fmt: skip
    provenance = record["provenance"] or {}
    found = [
        ("id", record["id"]),
        ("build", f"{row['build']}, shard {row['shard']}, {_place(row)}"),
        ("role", f"{record['role']}, split {record['split']}" + (f", {record['subset']}" if record["subset"] else "")),
        ("kind", f"{record['task']} of stage {record['stage']}"),
        ("licence", f"{record['license']} ({record['access']})"),
        ("from", f"{provenance.get('file')}, row {provenance.get('row')}"),
        *[(key, value) for key, value in (record["group"] or {}).items() if value],
        ("tokens", f"{length} in all: {row['text_tokens']} of text, {row['tiles'] or 0} tiles, the rest template"),
        ("sha256", row["sha256"]),
    ]
    if row["stem_sha256"]:
        found += [("question", row["stem_sha256"]), ("with options", row["stem_options_sha256"])]
    for number, image in enumerate(sample.images):
        found.append((f"picture {number}", _picture_fact(image)))
    if record["role"] == "train":
        why = "none of this build" if sample.excluded is None else ", ".join(sample.excluded)
        found.append(("proof", f"taken out: {why}" if sample.excluded else why or "kept"))
    altered = ", ".join(f"picture {number}" for number in sample.altered)
    found.append(("integrity", f"ALTERED: {altered}" if altered else "as built"))
    return [(name, printable(str(value).replace("\n", " "))) for name, value in found]


def _place(row: dict[str, Any]) -> str:
    return f"row {row['offset']}" if row["shard"].endswith(".arrow") else f"byte {row['offset']}"


def _picture_fact(image: dict[str, Any]) -> str:
    if not image["shard"]:
        return f"{image['image_id']}, not stored (a metadata-only build)"
    of = "".join(f", {image[name]}" for name in ("view", "relation") if image[name])
    return (
        f"{image['image_id']}{of}, {image['width']} x {image['height']} {image['format']}, {image['tiles']} tiles, "
        f"sha256 {image['stored_sha256']}"
    )


def paragraphs(sample: ShownSample) -> Iterator[tuple[str, str, int | None]]:
    """(heading, text, picture) of every piece of every message; a piece is text or the number of a picture."""
    for message in sample.record["messages"] or []:
        if message["reasoning"]:
            yield f"{message['role']}, reasoning", message["reasoning"], None
        for part in message["content"]:
            if part["type"] == "image":
                yield message["role"], "", part["index"]
            else:
                yield message["role"], part["text"], None


def as_text(sample: ShownSample) -> str:
    """The sample for a terminal; pictures are named, not shown."""
    lines = []
    if sample.record["access"] == "credentialed":
        lines += [CREDENTIALED, ""]
    shown = facts(sample)
    width = max(len(name) for name, _ in shown)
    lines += [f"{name:<{width}}  {value}" for name, value in shown]
    before = None
    for heading, text, picture in paragraphs(sample):
        if heading != before:
            lines += ["", f"── {heading} "]
            before = heading
        lines += [f"    [picture {picture}]"] if picture is not None else _wrapped(printable(text))
    options = sample.record["options"]
    if options:
        lines += ["", "── options "]
        for option in options:
            mark = "*" if option["label"] == sample.record["answer"] else " "
            lines += _wrapped(printable(f"{mark} {option['label']}. {option['text']}"))
    if sample.record["answer"] is not None:
        lines += ["", f"answer  {printable(sample.record['answer'])}"]
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    lines = []
    for line in text.split("\n"):
        wrapped = textwrap.wrap(line, _WIDTH - 4, break_long_words=False, break_on_hyphens=False)
        lines += [f"    {piece}" for piece in wrapped] or [""]
    return lines


def as_html(sample: ShownSample) -> str:
    """The sample as one page with its pictures in it."""
    from medgpt.page import render

    return render(
        Path(__file__).parent, "show.html", title=str(sample.record["id"]), record=sample.record,
        credentialed=CREDENTIALED if sample.record["access"] == "credentialed" else "",
        paragraphs=list(paragraphs(sample)), pictures=sample.pictures, facts=facts(sample),
    )  # fmt: skip


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, 1 if a picture is not as it was built, 2 if it cannot be shown."""
    said = "Show one sample: messages, options, provenance, digests, counts.\n"
    said += "Exit code: 0; 1 if a picture was altered; 2 if it cannot be shown."
    parser = command_parser(
        "shards.show", said, "example: python -m shards.show data --random --seed 7 --html sample.html"
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of builds, or one build")
    parser.add_argument("id", nargs="?", metavar="ID", help="id of the sample, like slake/train/1234")
    parser.add_argument("--random", action="store_true", help="any sample instead, chosen by the seed")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which one --random chooses (default 0)")
    parser.add_argument("--build", metavar="NAME", help="only of this build")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--html", type=Path, metavar="FILE", help="write a page with the pictures instead")
    form.add_argument("--json", action="store_true", help="print JSON: the record and what the manifests say of it")
    options = parser.parse_args(arguments)
    if (options.id is None) == (not options.random):
        parser.error("give one of: an ID, --random")
    sample = load_sample(options.data, options.id, build=options.build, seed=options.seed)
    if options.html:
        from medgpt.atomic import write_atomic

        write_atomic(options.html, as_html(sample).encode())
        print(f"{options.html} shows {printable(sample.record['id'])}")
        if sample.record["access"] == "credentialed":
            print(CREDENTIALED)
    elif options.json:
        if sample.record["access"] == "credentialed":
            complain(CREDENTIALED)
        print(json.dumps(sample.as_json(), indent=2))
    else:
        print(as_text(sample))
    return 1 if sample.altered else 0


if __name__ == "__main__":
    raise SystemExit(main())
