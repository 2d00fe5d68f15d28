"""Prove that no test item is trained on: evidence, policy, exclusions, certificate, report.

    python -m manifests.prove data

compares every train sample of the builds under DATA with every test sample at every level and writes `DATA/proof/`:

    evidence.parquet     every pair that overlaps, with its measure          (columns: manifests/proof/evidence.py)
    exclusions.parquet   the train samples that the policy takes out; shards never change
    common.parquet       n-grams that so many test items have that they make no pair
    train_duplicates.parquet   different train pictures that look alike: reported, never excluded
    certificate.json     digests of builds, rules, policy and files, and the counts; `manifests.verify` derives it again
    report.html          all of it to look at: matrix, then each pair side by side
    excluded_rows.csv    of a corpus made elsewhere: what is taken out, by its own ids, files and rows
    verdicts.jsonl       where `--verdicts` names it: what reviewers said of pairs (manifests/proof/verdicts.py)

Exit code: 0 if after the exclusions nothing is left at the levels that the policy excludes or forbids, 1 if something
is, 2 if there is no proof, 4 if something was not compared and neither a mapping nor the policy says that it does not
matter (files, fields, rows, pictures and texts are all accounted for: `manifests/proof/accounting.py`), if a benchmark
that the policy asks for is missing or short (`--benchmarks present` asks for none), or if a reviewer's verdict is not
used. With --train and --eval, corpora made elsewhere, it first runs `builders.corpus` for each; what --eval names is
the benchmark then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.catalog import connect, jail, load_builds, manifest_files, select, sql_text
from manifests.proof import accounting, certificate, exports
from manifests.proof.sentences import sentences
from medgpt.arguments import Tree, command_parser
from medgpt.atomic import AtomicFile, held, write_atomic
from medgpt.digest import build_root, file_sha256, merkle_root
from medgpt.engines import add_engine, choose_engine, engine_arguments
from medgpt.errors import DAMAGED, DONE, NOT_COMPARED, NOT_FINISHED, USAGE, UserError, os_error_line, run, worst
from medgpt.messages import brief
from medgpt.page import plural
from medgpt.private import make_folder
from medgpt.stores import publish
from medgpt.tables import table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from manifests.catalog import LoadedBuild
    from manifests.proof.policy import Policy
    from manifests.proof.report import Pair
    from manifests.proof.verdicts import Verdict

PROOF = "proof"
CORPUS = "corpus"
_WORK = ".work"
_LOCK = "lock"
PAIRS_PER_CELL = 50
_SHOWN, _ROWS_SHOWN = 20, 40
_TAKEN = ("train_build", "train_samples", "eval_samples")
_WORDS_ALONE = ("text", "qa", "instruction")
"""Tasks of test items that may have nothing but their words."""
_BUILT = (DONE, DAMAGED, NOT_COMPARED)
"""Exit codes of `builders.corpus` with which there is a build."""


def prove(
    data: Path,
    out: Path,
    policy: Policy,
    *,
    workers: int = 1,
    show_credentialed: bool = False,
    pairs_per_cell: int = PAIRS_PER_CELL,
    only_present: bool = False,
    no_rewrites: bool = False,
    conda: Path | None = None,
    verdicts: Path | None = None,
    encoder: Path | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Write a proof over the builds under `data` to the folder `out`; returns the certificate.

    `only_present`: the policy's benchmarks that are not there are named, not asked for. `no_rewrites`: that level
    does not run, which the certificate says. `conda`: a file for rows of the CONDA contamination database. `verdicts`:
    a file of `manifests.proof.verdicts`. `encoder`: the copy descriptor, where the policy has one. Raises: `UserError`.
    """
    from tqdm import tqdm

    from manifests.proof.descriptors import load_encoder
    from manifests.proof.overlaps import Overlaps, near_level, rewrites_state, sql_levels
    from manifests.proof.rewrites import coverage as rewrites_coverage
    from manifests.proof.verdicts import read_verdicts

    judged = None if verdicts is None else read_verdicts(verdicts)
    builds = load_builds(data)
    _check(builds, policy, quiet)
    rewrites = rewrites_state(policy, left_out=no_rewrites)
    network = load_encoder(policy, encoder)
    work = out / _WORK
    for folder in out, work:
        make_folder(folder)
    refusal = UserError(f"{out}: another process is proving there; wait for it")
    with held(work / _LOCK, refusal), connect(data) as connection:
        _check_rows(connection)
        overlaps = Overlaps(files=sql_levels(connection, work))
        levels = [("near_image", "images", "near pictures"), ("local_pictures", "images", "local pictures")]
        levels += [("near_text", "kept", "near texts"), *([("rewrite", "kept", "rewrites")] if rewrites["ran"] else [])]
        for level, kind, name in levels:
            depends_on = rewrites if level == "rewrite" else None
            named = [build for build in builds if level != "local_pictures" or policy.compares_local(build.record)]
            total = sum(unit[kind] for build in named for unit in build.record["units"] if unit["role"] == "train")
            with tqdm(total=total, desc=name, unit=kind, unit_scale=True, disable=quiet or None) as bar:
                near_level(level, builds, policy, work, workers, bar.update, overlaps, depends_on, network)
        # What follows has texts of the policy in its SQL.
        jail(connection, [*manifest_files(builds), *overlaps.files])
        document = _conclude(connection, builds, policy, overlaps, out, judged)
        document["rewrites"] = rewrites | {"coverage": rewrites_coverage()}
        document["benchmarks"] = _benchmarks(builds, policy, only_present)
        document["accounting"] = _accounting(connection, builds, policy, document)
        exports.write_excluded_rows(connection, builds, out)
        if conda:
            exports.write_conda(exports.conda_rows(connection, builds, document["eval_totals"]), conda)
        document |= _train_duplicates(connection, policy, out, document["files"], quiet)
        document["report"] = {"pairs_per_cell": pairs_per_cell, "show_credentialed": show_credentialed}
        document["sentences"] = sentences(document)
        certificate.write_certificate(out, document)
        # As it was written, not as it is in memory: whoever renders it again has only the file.
        document = certificate.read_certificate(out)
        render_report(connection, builds, out, document)
    used = (
        {_LOCK} | {path.name for path in overlaps.files} | {path.with_suffix(".json").name for path in overlaps.files}
    )
    for path in work.iterdir():
        if path.name not in used and path.is_file():  # vectors of texts are of use to a later proof, whatever it holds
            path.unlink()
    return document


def _check(builds: Sequence[LoadedBuild], policy: Policy, quiet: bool) -> None:
    """Refuse what a proof cannot rest on: no test side, missing shards, altered parts, hashes of differing recipes."""
    from tqdm import tqdm

    from manifests.proof.policy import check_names

    for role, name in ("eval", "test"), ("train", "train"):
        if not any(unit["role"] == role and unit["kept"] for build in builds for unit in build.record["units"]):
            raise UserError(f"no {name} samples below this folder; without a {name} side nothing can be proved")
    check_names(policy, {build.record["source"]["name"] for build in builds}, {b.record["build"] for b in builds})
    recipes = {build.record["fingerprint_recipe"]: build.record["build"] for build in builds}
    if len(recipes) > 1:
        names = " and ".join(f"{build} ({recipe})" for recipe, build in sorted(recipes.items()))
        raise UserError(f"hashes of different recipes cannot be compared: {names}; build them again")
    total = sum(part["bytes"] for b in builds for unit in b.record["units"] for part in unit["parts"])
    with tqdm(total=total, desc="manifests", unit="B", unit_scale=True, disable=quiet or None) as bar:
        for build in builds:
            if build_root(build.record) != build.record["root"]:
                raise UserError(f"{build.folder}/build.json: does not match its root digest; build it again")
            for unit in build.record["units"]:
                for shard in unit["shards"]:
                    path = build.folder / shard["file"]
                    size = path.stat().st_size if path.is_file() else -1
                    if size != shard["bytes"]:
                        what = "missing" if size < 0 else f"{size} bytes where {shard['bytes']} were written"
                        raise UserError(f"{path}: {what}; build it again")
                for part in unit["parts"]:
                    path = build.folder / part["file"]
                    if not path.is_file():  # thumbnails; of others `load_builds` has seen to it
                        raise UserError(f"{path}: not there; copy the build with its thumbnails, or build it again")
                    if file_sha256(path).hex() != part["sha256"]:
                        raise UserError(f"{path}: altered; python -m shards.verify says more")
                    bar.update(part["bytes"])


def _check_rows(connection: duckdb.DuckDBPyConnection) -> None:
    row = connection.execute(
        "SELECT build, sample_id FROM samples GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 1"
    ).fetchone()
    if row:
        raise UserError(
            f"{row[0]}: the sample id {row[1]!r} occurs twice, so exclusions would be ambiguous; mend the builder"
        )


def _conclude(
    connection: duckdb.DuckDBPyConnection,
    builds: Sequence[LoadedBuild],
    policy: Policy,
    overlaps: Any,
    out: Path,
    judged: tuple[list[Verdict], bytes] | None,
) -> dict[str, Any]:
    """Apply policy and verdicts: write evidence, exclusions and common n-grams; the certificate but its root."""
    import pyarrow as pa

    from manifests.proof.evidence import COMMON, EVIDENCE, EXCLUSION_SUMS, EXCLUSIONS, LEVELS, ORDER
    from manifests.proof.near_images import coverage
    from manifests.proof.overlaps import VERSIONS, local_coverage
    from manifests.proof.verdicts import judge

    files = ", ".join(sql_text(str(path)) for path in overlaps.files)
    order = "FROM evidence ORDER BY " + ", ".join(f"{name} NULLS FIRST" for name in ORDER)
    columns = ", ".join(name for name in EVIDENCE.names if name != "action")
    connection.execute(
        f"""CREATE TEMP TABLE evidence AS
        SELECT {columns.replace("kind,", f"kind, {policy.action_sql()} AS action,", 1)}
        FROM (SELECT DISTINCT * FROM read_parquet([{files}]))
        JOIN (SELECT build AS train_build, source AS train_source FROM builds) USING (train_build)
        JOIN (SELECT build AS eval_build, source AS eval_source FROM builds) USING (eval_build)"""  # noqa: S608
    )
    said = None
    if judged is not None:
        given, data = judged
        write_atomic(out / certificate.VERDICTS_FILE, data)
        said = {"sha256": hashlib.sha256(data).hexdigest(), "lines": len(given), **judge(connection, policy, given)}
    else:
        (out / certificate.VERDICTS_FILE).unlink(missing_ok=True)
    connection.execute(
        f"""CREATE TEMP TABLE exclusions AS
        SELECT train_build, train_sample, any_value(unit) AS unit, {EXCLUSION_SUMS}
        FROM evidence
        JOIN (SELECT build AS train_build, sample_id AS train_sample, unit FROM samples WHERE role = 'train')
            USING (train_build, train_sample)
        WHERE action = 'exclude'
        GROUP BY train_build, train_sample"""  # noqa: S608
    )
    exclusions = "SELECT * FROM exclusions ORDER BY train_build, train_sample"
    common = [{"ngram": gram, "eval_df": n, "train_samples": hits} for gram, (n, hits) in overlaps.common.items()]
    common.sort(key=itemgetter("ngram"))
    digests = {
        "evidence": _write(_tables(connection, order, EVIDENCE), EVIDENCE, out / certificate.EVIDENCE_FILE),
        "exclusions": _write(
            _tables(connection, exclusions, EXCLUSIONS), EXCLUSIONS, out / certificate.EXCLUSIONS_FILE
        ),
        "common": _write([pa.Table.from_pylist(common, COMMON)], COMMON, out / certificate.COMMON_FILE),
    }
    train_totals = select(
        connection,
        "SELECT build AS train_build, count(*) AS train_samples FROM samples WHERE role = 'train' "
        "GROUP BY ALL ORDER BY ALL",
    )
    eval_totals = select(
        connection,
        "SELECT build AS eval_build, split AS eval_split, count(*) AS eval_samples FROM samples "
        "WHERE role = 'eval' GROUP BY ALL ORDER BY ALL",
    )
    matrix = select(
        connection,
        """SELECT train_build, eval_build, eval_split, level, kind, action, count(*) AS pairs,
                  count(DISTINCT train_sample) AS train_samples, count(DISTINCT eval_sample) AS eval_samples
           FROM evidence GROUP BY ALL ORDER BY ALL""",
    )
    # Benchmarks are often a subset of a split (closed questions); its share is what people quote.
    subsets = select(
        connection,
        """SELECT train_build, eval_build, eval_split, eval_subset, level, kind, eval_samples, total AS of_eval_samples
           FROM (SELECT train_build, eval_build, eval_split, eval_subset, level, kind,
                        count(DISTINCT eval_sample) AS eval_samples
                 FROM evidence GROUP BY ALL)
           JOIN (SELECT build AS eval_build, split AS eval_split, subset AS eval_subset, count(*) AS total
                 FROM samples WHERE role = 'eval' AND subset IS NOT NULL GROUP BY ALL)
               USING (eval_build, eval_split, eval_subset)
           ORDER BY ALL""",
    )
    after = select(
        connection,
        """SELECT level, kind, action, count(*) AS pairs
           FROM evidence ANTI JOIN exclusions USING (train_build, train_sample)
           WHERE action IN ('exclude', 'forbid') GROUP BY ALL ORDER BY ALL""",
    )
    excluded = select(
        connection, "SELECT train_build, count(*) AS train_samples FROM exclusions GROUP BY ALL ORDER BY ALL"
    )
    by_benchmark = select(
        connection,
        """SELECT train_build, eval_build, eval_split, count(DISTINCT train_sample) AS train_samples,
                  count(DISTINCT eval_sample) AS eval_samples
           FROM evidence WHERE action = 'exclude' GROUP BY ALL ORDER BY ALL""",
    )
    left_out = [
        {"build": build, "task": task, "reason": reason, "eval_samples": count}
        for (build, task, reason), count in sorted(overlaps.left_out.items())
    ]
    return {
        "format": certificate.CERTIFICATE_FORMAT,
        "builds": [_described(build) for build in builds],
        "builds_root": merkle_root(bytes.fromhex(build.record["root"]) for build in builds).hex(),
        "policy": dict(policy.content),
        "policy_sha256": policy.sha256,
        "rules": VERSIONS,
        "software": certificate.software(),
        "local_pictures": local_coverage(connection, builds, policy),
        "levels": {level: list(kinds) for level, kinds in LEVELS.items()},
        "coverage": coverage(),
        "files": digests,
        "train_totals": train_totals,
        "eval_totals": eval_totals,
        "matrix": matrix,
        "subsets": subsets,
        "counts": {level: dict(sorted(counts.items())) for level, counts in sorted(overlaps.counts.items())},
        "common_ngrams": len(common),
        # What the proof says nothing about.
        "left_out_of_near_text": left_out,
        "without_pixels": select(
            connection,
            "SELECT build, role, count(*) AS images FROM images WHERE pixel_sha256 IS NULL GROUP BY ALL ORDER BY ALL",
        ),
        "exclusions": excluded,
        "exclusions_by_benchmark": by_benchmark,
        "verdicts": said,
        "after": after,
        "clean": not after,
    }


def _accounting(
    connection: duckdb.DuckDBPyConnection, builds: Sequence[LoadedBuild], policy: Policy, document: Mapping[str, Any]
) -> list[dict[str, Any]]:
    rejects = select(connection, "SELECT build, role, reason, damaged, count(*) AS count FROM rejects GROUP BY ALL")
    left_out = document["left_out_of_near_text"]
    records = (build.record for build in builds)
    local = document["local_pictures"]["pictures"]
    return accounting.accounts(records, policy.leave_out, rejects, document["without_pixels"], left_out, local)


def _train_duplicates(
    connection: duckdb.DuckDBPyConnection, policy: Policy, out: Path, files: dict[str, str], quiet: bool
) -> dict[str, Any]:
    """List near-duplicate train pictures where the policy asks for it; adds to `files`."""
    from tqdm import tqdm

    from manifests.proof.train_duplicates import count_by_builds, train_duplicates

    if policy.train_duplicates is None:
        (out / certificate.TRAIN_DUPLICATES_FILE).unlink(missing_ok=True)
        return {"train_duplicates": None}
    with tqdm(desc="train duplicates", unit=" pairs", unit_scale=True, disable=quiet or None) as bar:
        table = train_duplicates(
            connection, policy.train_duplicates.radius, policy.train_duplicates.threshold, bar.update
        )
    files["train_duplicates"] = _write([table], table.schema, out / certificate.TRAIN_DUPLICATES_FILE)
    return {"train_duplicates": count_by_builds(table)}


def _benchmarks(builds: Sequence[LoadedBuild], policy: Policy, only_present: bool) -> dict[str, Any]:
    from manifests.proof.policy import held_benchmarks

    read: Counter[tuple[str, str, str]] = Counter()
    for build in builds:
        for unit in build.record["units"]:
            if unit["role"] == "eval" and unit["kept"]:
                read[build.record["source"]["name"], build.record["build"], unit["split"]] += unit["read"]
    return held_benchmarks(policy, read, only_present=only_present)


def _described(build: LoadedBuild) -> dict[str, Any]:
    record, source = build.record, build.record["source"]
    samples = {"train": 0, "eval": 0}
    for unit in record["units"]:
        samples[unit["role"]] += unit["kept"]
    return {
        **{name: record[name] for name in ("build", "metadata_only", "fingerprint_recipe", "root")},
        **{name: source[name] for name in ("revision", "license", "access")},
        "source": source["name"],
        "samples": samples,
        "inputs": record.get("inputs", {}).get("sha256"),
    }


def _tables(connection: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """A query's rows in batches of fixed size, so that the bytes of the file do not vary."""
    import pyarrow as pa

    for batch in connection.sql(query).to_arrow_reader(65_536):
        yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)


def _write(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> str:
    """Write tables as Parquet; the file's digest, hexadecimal."""
    import pyarrow.parquet as pq

    with AtomicFile(path) as file, pq.ParquetWriter(file, schema, compression="zstd", store_schema=False) as writer:
        for table in tables:
            writer.write_table(table)
    return file.sha256.hex()


def render_report(
    connection: duckdb.DuckDBPyConnection, builds: Sequence[LoadedBuild], out: Path, document: Mapping[str, Any]
) -> None:
    """Write `report.html` from the proof's own files and the builds: what it shows follows from them alone."""
    import pyarrow.parquet as pq

    from manifests.proof.report import Report, choose_pairs, count_cells, passages, write_report

    chosen = choose_pairs(out / certificate.EVIDENCE_FILE, document["report"]["pairs_per_cell"])
    show = document["report"]["show_credentialed"]
    report = Report(
        certificate=document,
        cells=count_cells(out / certificate.EVIDENCE_FILE),
        pairs=_pairs(connection, builds, chosen, show),
        common=pq.read_table(out / certificate.COMMON_FILE).to_pylist(),
        passages=passages(out / certificate.EVIDENCE_FILE),
        show_credentialed=show,
    )
    write_report(out / certificate.REPORT_FILE, report)


def _pairs(
    connection: duckdb.DuckDBPyConnection,
    builds: Sequence[LoadedBuild],
    chosen: Sequence[Mapping[str, Any]],
    show: bool,
) -> list[Pair]:
    """Fetch both sides of the pairs shown: texts from the shards, thumbnails from their parts."""
    from manifests.proof.report import Pair, Side
    from manifests.proof.stored_text import read_sample_texts
    from manifests.proof.verdicts import SIDES, seen

    wanted = sorted({(row[f"{side}_build"], row[f"{side}_sample"]) for row in chosen for side in SIDES})
    seen(connection, wanted)
    places = select(
        connection,
        'SELECT build, sample_id, split, subset, task, n_images, samples.access, shard, "offset", length, seen.sha256 '
        'FROM samples JOIN seen USING (build, sample_id) ORDER BY build, shard, "offset"',
    )
    pictures = {
        (row["build"], row["sample_id"], row["index"]): row
        for row in select(
            connection,
            'SELECT build, sample_id, "index", thumbnail, width, height '
            "FROM (FROM images SEMI JOIN seen USING (build, sample_id)) "
            'LEFT JOIN thumbnails USING (build, sample_id, "index")',
        )
    }
    access = {(row["build"], row["sample_id"]): row["access"] for row in places}
    if unknown := [place for place in wanted if place not in access]:
        raise UserError(
            f"evidence names the sample {unknown[0][1]} of {unknown[0][0]}, which is not there; prove again"
        )
    digests = {(row["build"], row["sample_id"]): row["sha256"] for row in places}
    texts = {}
    for build in builds:
        name = build.record["build"]
        mine = [row for row in places if row["build"] == name and (show or row["access"] != "credentialed")]
        for text in read_sample_texts(build.folder, mine):
            texts[name, text.sample_id] = text.dialogue

    def side(row: Mapping[str, Any], of: str) -> Side:
        build, sample, index = row[f"{of}_build"], row[f"{of}_sample"], row[f"{of}_index"]
        shown = show or access[build, sample] != "credentialed"
        picture = pictures.get((build, sample, 0 if index is None else index), {})
        return Side(
            build=build,
            split=row[f"{of}_split"],
            sample_id=sample,
            sha256=digests[build, sample],
            index=index,
            access=access[build, sample],
            text=texts.get((build, sample)),
            thumbnail=picture.get("thumbnail") if shown else None,
            width=picture.get("width"),
            height=picture.get("height"),
        )

    return [Pair(evidence=row, train=side(row, "train"), eval=side(row, "eval")) for row in chosen]


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 if clean after exclusions, 1 if not, 2 if there is no proof, 4 if not all was compared."""
    parser = _parser()
    options = parser.parse_args(arguments)
    choose_engine(options)
    foreign = options.train is not None or options.eval is not None
    if foreign == (options.data is not None):
        parser.error("give either DATA or both --train and --eval")
    if foreign and (options.train is None or options.eval is None or options.out is None):
        parser.error("a corpus made elsewhere needs --train, --eval and --out")
    if options.mapping and not foreign:
        parser.error("--mapping goes with --train and --eval")
    if options.filtered_copy and not foreign:
        parser.error("--filtered-copy goes with --train and --eval")
    # One thread a process for the linear algebra: the processes share the cores already.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from manifests.proof.policy import load_policy

    try:
        policy = load_policy(options.policy)
        data, out, code = options.data, options.out, DONE
        if foreign:
            data, out = options.out / CORPUS, options.out / PROOF
            code = _build_corpora(options, data)
            if code not in _BUILT:
                return USAGE  # it has said why; 1 would say that there is a proof
        elif out is None:
            out = data / PROOF
        # A corpus that --eval names is the benchmark, unless a policy of one's own says more.
        only_present = (options.benchmarks or ("present" if foreign and not options.policy else "policy")) == "present"
        if options.dry_run:
            _print_plan(load_builds(data), policy, options.verdicts, options.json)
            return code
        document = prove(
            data, out, policy, workers=options.workers, show_credentialed=options.show_credentialed,
            pairs_per_cell=options.pairs_per_cell, only_present=only_present, no_rewrites=options.no_rewrites,
            conda=options.conda, verdicts=options.verdicts, encoder=options.encoder,
            quiet=options.quiet or options.json,
        )  # fmt: skip
        if options.sign:
            certificate.sign(out, options.sign)
        if options.url and options.out is None:
            publish((path for path in out.iterdir() if path.is_file()), options.url, PROOF, certificate.CERTIFICATE)
    except OSError as error:
        raise UserError(os_error_line(error)) from error  # code 1 would say that there is a proof
    if options.json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        _print_result(document, out)
    if options.filtered_copy:
        listed = ["--copy-without", out / exports.EXCLUDED_ROWS_FILE]
        if (failed := _corpus(options, "train", options.filtered_copy, listed)) != DONE:
            return failed
    short = document["benchmarks"]["asked"] == "policy" and document["benchmarks"]["missing"]
    unused = document["verdicts"] and document["verdicts"]["not_used"]
    incomplete = NOT_COMPARED if short or unused or accounting.not_compared(document["accounting"]) else DONE
    # What of a corpus was not compared is told by `accounting`, under the policy.
    code = DONE if code == NOT_COMPARED else code
    return worst([code, incomplete, DONE if document["clean"] else NOT_FINISHED])


def _build_corpora(options: argparse.Namespace, data: Path) -> int:
    """Run `builders.corpus` for both sides, as it would be typed; the exit code of the two, or of the first to fail."""
    codes = []
    for role in ("train", "eval"):
        codes.append(_corpus(options, role, data, ["--workers", str(options.workers), *engine_arguments()]))
        if codes[-1] not in _BUILT:
            return codes[-1]
    return worst(codes)


def _corpus(options: argparse.Namespace, role: str, out: Path, more: Sequence[str | Path]) -> int:
    # By the front door, whose net is up before anything is imported: Ctrl-C is a line there, too.
    command = [sys.executable, "-m", "medgpt", "build", "corpus", "--role", role, "--raw", getattr(options, role)]
    command += ["--out", out, *more]
    command += ["--mapping", options.mapping] if options.mapping else []
    command += ["--quiet"] if options.quiet else []
    # With --json the screen is for the certificate alone.
    screen = subprocess.DEVNULL if options.json else None
    return subprocess.run(command, check=False, stdout=screen).returncode  # noqa: S603 (ours)


def _print_plan(builds: Sequence[LoadedBuild], policy: Policy, verdicts: Path | None, as_json: bool) -> None:
    from manifests.proof.verdicts import read_verdicts

    judged = None if verdicts is None else len(read_verdicts(verdicts)[0])
    rows = []
    for build in builds:
        described = _described(build)
        images = sum(unit["images"] for unit in build.record["units"])
        rows.append([described["build"], described["samples"]["train"], described["samples"]["eval"], images])
    columns = ["build", "train samples", "test samples", "pictures"]
    pairs = sum(row[1] for row in rows) * sum(row[2] for row in rows)
    if as_json:
        plan = [dict(zip(columns, row, strict=True)) for row in rows]
        print(
            json.dumps(
                {"builds": plan, "pairs": pairs, "policy": policy.sha256, "verdicts": judged}, ensure_ascii=False
            )
        )
        return
    print(table(columns, rows))
    if judged is not None:
        print(f"{plural(judged, 'verdict')} would be used where the pairs are there as they were judged")
    print(f"{pairs:,} pairs of samples would be compared under policy {policy.sha256[:16]}; nothing was written")


def _print_result(document: Mapping[str, Any], out: Path) -> None:
    columns = "train_build eval_build eval_split level kind action pairs train_samples eval_samples".split()
    if document["matrix"]:
        _print_rows("matrix", columns, [[row[name] for name in columns] for row in document["matrix"]])
    excluded = {row["train_build"]: row["train_samples"] for row in document["exclusions"]}
    totals = {row["train_build"]: row["train_samples"] for row in document["train_totals"]}
    if excluded:
        print("\nTrain samples taken out:")
        rows = [[build, count, totals[build], f"{count / totals[build]:.1%}"] for build, count in excluded.items()]
        print(table(["train_build", "excluded", "of", "share"], rows))
        print("\nBy benchmark (a sample that meets two stands twice):")
        found = document["exclusions_by_benchmark"]
        rows = [[f"{row['eval_build']}/{row['eval_split']}", *(row[name] for name in _TAKEN)] for row in found]
        rows.sort(key=lambda row: (row[0], -row[2], row[1]))
        _print_rows("exclusions_by_benchmark", ["benchmark", "train_build", "excluded", "test items met"], rows)
    if said := document["verdicts"]:
        wrong, kept = plural(said["wrong"], "pair"), plural(said["back"], "training sample")
        print(f"\nVerdicts: {wrong} judged wrong, {said['right']:,} right; that leaves {kept} in")
        for one in said["not_used"][:_SHOWN]:
            print(f"Note: the verdict in line {one['line']} is not used: {one['reason']}")
        if len(said["not_used"]) > _SHOWN:
            print(f"Note: and {len(said['not_used']) - _SHOWN} more, in certificate.json under `verdicts`")
    print("\nWhat was compared:")
    print(table(["side", "", *accounting.STATES, "in all"], accounting.totals(document["accounting"])))
    for row in document["left_out_of_near_text"]:
        items = f"{row['eval_samples']} {row['task']} items of {row['build']}"
        print(f"Note: {items} are left out of near text, as the policy says ({row['reason']})")
    if not document["rewrites"]["ran"]:
        print(f"Note: rewrites were not looked for ({document['rewrites']['why']})")
    for line in certificate.left_out_of_local(document):
        print(f"Note: {line}")
    for line in certificate.incomplete(document):
        print(f"Note: {brief(line)}")
    print(f"\n{out}/report.html shows every kind of pair; certificate {document['root']}")
    lines = accounting.not_compared(document["accounting"])
    if lines:
        print("What does not matter can be declared, with a reason, under `leave_out` of the mapping or the policy.")
    if document["clean"]:
        # Of the others the picture is compared, or there is none to a text too short.
        words = sum(
            row["eval_samples"]
            for row in document["left_out_of_near_text"]
            if row["reason"] == "task" or row["task"] in _WORDS_ALONE
        )
        but = f"But for {plural(words, 'test item')} that near text leaves out: " if words else ""
        what = f"{but}After {sum(excluded.values())} exclusions nothing is left at the policy's levels"
        print(f"{what}, but NOT proved: not all was compared." if lines else f"{what}: proved.")
    else:
        left = ", ".join(f"{row['level']}/{row['kind']} {row['pairs']}" for row in document["after"])
        print(f"NOT proved: after {sum(excluded.values())} exclusions there is left: {left}")
    print("\nTo quote:")
    for number, sentence in enumerate(document["sentences"], 1):
        print(f"{number}. {sentence}")


def _print_rows(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table of the certificate, as far as it fits on a screen."""
    print(table(columns, rows[:_ROWS_SHOWN]))
    if len(rows) > _ROWS_SHOWN:
        print(f"and {len(rows) - _ROWS_SHOWN} more rows, in certificate.json under `{name}`")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "manifests.prove",
        (__doc__ or "").partition("\n")[0] + " Exit code: 0 proved, 1 something is left, 2 no proof, 4 "
        "proved, but something was not compared, a benchmark of the policy is missing or a verdict was not used.",
        "examples:\n"
        "  python -m manifests.prove data --benchmarks present\n"
        "  python -m manifests.prove data --policy ours.yaml --workers 16 --sign key.pem\n"
        "  python -m manifests.prove --train corpus/train --eval corpus/test --mapping map.yaml --out proofs/ours",
        tree=Tree(shards=True, sends=True),
    )
    add = parser.add_argument
    add("data", nargs="?", type=Path, metavar="DATA", help="folder of builds")
    add("--policy", type=Path, metavar="FILE", help="YAML (default: the documented one in policies/)")
    asked = "benchmarks that must be there: the policy's (default), or none but the present (default with --eval)"
    add("--benchmarks", choices=("policy", "present"), help=asked)
    add("--no-rewrites", action="store_true", help="do not look for items in other words, which takes most of the time")
    add("--out", type=Path, metavar="DIR", help="where the proof goes (default DATA/proof)")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: cores)")
    add("--encoder", type=Path, metavar="PATH", help="the copy descriptor that the policy names")
    add_engine(parser)
    add("--dry-run", action="store_true", help="say what would be compared, write nothing")
    add("--sign", type=Path, metavar="KEY", help="sign the certificate with an Ed25519 key (PEM)")
    add("--show-credentialed", action="store_true", help="put credentialed texts and pictures into the report, too")
    shown = f"pairs the report shows of each train build, test and kind (default {PAIRS_PER_CELL})"
    add("--pairs-per-cell", type=int, default=PAIRS_PER_CELL, metavar="N", help=shown)
    add("--json", action="store_true", help="print the certificate as JSON, no progress bars")
    add("--quiet", action="store_true", help="no progress bars")
    add("--verdicts", type=Path, metavar="FILE", help="what reviewers said of pairs, as the report saves it")
    add("--conda", type=Path, metavar="CSV", help="write rows for the CONDA contamination database")
    add = parser.add_argument_group("a corpus made elsewhere (a folder; see python -m builders.corpus)").add_argument
    add("--train", type=Path, metavar="DIR")
    add("--eval", type=Path, metavar="DIR")
    copied = "copy the train folder without what is taken out, in its own forms"
    add("--filtered-copy", type=Path, metavar="DIR", help=copied)
    add("--mapping", type=Path, metavar="FILE", help="YAML: which field is what (see docs/howto/hospital.md)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
