"""Applying a recipe's thresholds to scores: which samples of a build are kept, and why the others are not.

    DATA/filtered/<build>/selection.parquet    sample_id, kept, reason (the first in order), reasons, scores_sha256
    DATA/filtered/<build>/waterfall.json       read -> each step -> kept
    DATA/filtered/<build>/gallery.html         the same as a page, with thumbnails
    DATA/filtered/<build>/quarantine.parquet   boxes of burned-in text, where the recipe names `burned_in`

Nothing is decoded and no filter is asked: the predicates become SQL over the score parts. Every sample ends as kept or
dropped; a predicate that a missing score leaves open is the outcome `<filter>/not_scored`, which the recipe settles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters import burned_in
from filters.expressions import ExpressionError, Predicate, Value, parse
from filters.recipe import DROP, FilterRule, Recipe
from filters.records import CAPTION_REASONS, PICTURE_REASONS
from filters.scores import RUN_FILE, SCORES, scores_folder, write_table
from manifests.atomic import write_atomic
from manifests.catalog import jail, load_builds, open_duckdb
from manifests.digest import file_sha256
from manifests.private import make_folder
from manifests.selections import FILTERED, GALLERY_FILE, SELECTION_FILE, WATERFALL_FILE

NOT_SCORED = "not_scored"

SELECTION = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        ("reason", pa.string()),  # the first filter in order, `<filter>/not_scored`, or why there are no scores
        pa.field("reasons", pa.list_(pa.string()), nullable=False),  # of all filters that were asked
        pa.field("scores_sha256", pa.binary(32), nullable=False),  # of the score part
    ]
)


class SelectionError(Exception):
    """One line: why thresholds cannot be applied, and what to do."""


@dataclass(frozen=True)
class Stage:
    """A filter of a run under a recipe's threshold."""

    name: str
    needs_pictures: bool
    columns: tuple[str, ...]
    drop: Predicate | None
    not_scored: str


@dataclass(frozen=True)
class Scored:
    """A finished run and the recipe's stages for it, in the order of the run."""

    folder: Path
    document: Mapping[str, Any]
    stages: tuple[Stage, ...]
    unreadable: str
    left_out: Mapping[str, str]

    @property
    def picture_stage(self) -> int:
        """Number of the first stage that needs pictures: unreadable ones leave before it."""
        return next((number for number, stage in enumerate(self.stages) if stage.needs_pictures), len(self.stages))


@dataclass(frozen=True)
class Decision:
    """What was decided for one build."""

    folder: Path
    waterfall: Mapping[str, Any]
    """The content of `waterfall.json`."""
    table: pa.Table
    """One row a sample: those of `SELECTION`, and its scores."""
    scored: Scored


def find_runs(data: Path) -> list[Path]:
    """Folders of finished runs under `data`, sorted. Raises: `SelectionError` if there is none."""
    found = sorted(path.parent for path in (data / SCORES).glob(f"*/{RUN_FILE}"))
    if not found:
        raise SelectionError(f"{data}: no scores; run python -m filters.run {data} first")
    return found


def decide_build(
    folder: Path,
    data: Path,
    recipe: Recipe,
    *,
    role: str = "train",
    gallery: bool = True,
    show_credentialed: bool = False,
) -> Decision | None:
    """Apply a recipe to the scores of a build; None if the recipe leaves its source alone.

    Writes the files atomically, the waterfall last. Same scores and recipe: same bytes.
    Raises: `SelectionError`, `CatalogError`.
    """
    [loaded] = load_builds(folder)
    document = loaded.record
    scored = open_run(scores_folder(data, document["build"], role), recipe)
    if scored is None:
        return None
    if scored.document["root"] != document["root"]:
        raise SelectionError(f"{folder}: built anew since it was scored; run filters.run again")
    table = _decide(scored)
    waterfall = _waterfall(scored, table, recipe)
    read = sum(unit["kept"] for unit in document["units"] if unit["role"] == role)
    if waterfall["read"] != read or waterfall["kept"] + waterfall["dropped"] != read:
        raise SelectionError(
            f"{folder}: {waterfall['kept']} kept + {waterfall['dropped']} dropped are not the {read} samples of the "
            "build; run filters.run again"
        )
    out = data / FILTERED / scored.folder.name
    make_folder(out)
    meta = {"recipe": f"{recipe.name} {recipe.version}", "recipe_sha256": recipe.sha256, "root": document["root"]}
    write_table(out / SELECTION_FILE, table.select(SELECTION.names).cast(SELECTION), meta)
    waterfall["selection_sha256"] = file_sha256(out / SELECTION_FILE).hex()
    _write_quarantine(out / burned_in.QUARANTINE_FILE, scored, table, recipe, waterfall, meta)
    decision = Decision(out, waterfall, table, scored)
    if gallery:
        from filters.gallery import page

        html = page(loaded, decision, role=role, show_credentialed=show_credentialed)
        write_atomic(out / GALLERY_FILE, html.encode())
    else:
        (out / GALLERY_FILE).unlink(missing_ok=True)  # it would show another recipe's outcome
    write_atomic(out / WATERFALL_FILE, orjson.dumps(waterfall, option=orjson.OPT_INDENT_2) + b"\n")
    return decision


def _write_quarantine(
    path: Path, scored: Scored, table: pa.Table, recipe: Recipe, waterfall: dict[str, Any], meta: Mapping[str, str]
) -> None:
    """Write the boxes of burned-in text, and say so in the waterfall; or take away what another recipe wrote."""
    _, rules = recipe.rules(scored.document["source"]) or ("", ())
    stage = next((stage for stage in scored.stages if stage.name == burned_in.NAME), None)
    if stage is None or burned_in.NAME not in {rule.name for rule in rules}:
        path.unlink(missing_ok=True)
        return
    found = burned_in.quarantine(table, stage.drop is not None)
    write_table(path, found, meta)
    waterfall["quarantine"] = {
        "file": path.name,
        "sha256": file_sha256(path).hex(),
        "samples": pc.count_distinct(found["sample_id"]).as_py(),
        "pictures": len(found),
        "boxes": pc.sum(pc.list_value_length(found["boxes"])).as_py() or 0,
    }


def open_run(folder: Path, recipe: Recipe) -> Scored | None:
    """A run's scores under a recipe; None if the recipe leaves the source alone.

    Raises: `SelectionError` if there is no finished run, or the recipe asks for what was not scored.
    """
    path = folder / RUN_FILE
    try:
        document = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise SelectionError(f"{path}: not there; run filters.run first") from None
    except orjson.JSONDecodeError as error:
        raise SelectionError(f"{path}: {error}; run filters.run again") from error
    found = recipe.rules(document["source"])
    if found is None:
        return None
    unreadable, rules = found
    wanted = {rule.name: rule for rule in rules if rule.name not in document["left_out"]}
    scored = {entry["name"]: entry for entry in document["filters"]}
    for name, rule in wanted.items():
        if name not in scored or scored[name]["asked"] != rule.asked:
            raise SelectionError(f"{folder}: {name} was not scored as this recipe asks; run filters.run with it first")
    stages: list[Stage] = []
    known: dict[str, frozenset[str]] = {}
    for name, entry in scored.items():
        known[name] = frozenset(entry["scores"])
        stages.append(_stage(entry, wanted.get(name), known))
    left_out = {rule.name: document["left_out"][rule.name] for rule in rules if rule.name in document["left_out"]}
    return Scored(folder, document, tuple(stages), unreadable, left_out)


def _stage(entry: Mapping[str, Any], rule: FilterRule | None, known: Mapping[str, frozenset[str]]) -> Stage:
    name = entry["name"]
    drop = None
    if rule is not None and rule.drop is not None:
        try:
            drop = parse(rule.drop, name, known)
        except ExpressionError as error:
            raise SelectionError(str(error)) from error
    columns = tuple(f"{name}.{score}" for score in entry["scores"])
    return Stage(name, entry["needs_pictures"], columns, drop, (rule.not_scored if rule else None) or "keep")


def read_scores(scored: Scored) -> pa.Table:
    """All parts of a run, in the order of its units, with `scores_sha256`. Raises: `SelectionError`."""
    tables = []
    for part in scored.document["parts"]:
        path = scored.folder / part["file"]
        try:
            digest = file_sha256(path)
        except OSError as error:
            raise SelectionError(f"{path}: {error.strerror}; run filters.run again") from error
        if digest.hex() != part["sha256"]:
            raise SelectionError(f"{path}: changed since it was written; delete it and run filters.run again")
        table = pq.read_table(path).replace_schema_metadata(None)
        tables.append(table.append_column("scores_sha256", pa.repeat(pa.scalar(digest, pa.binary(32)), len(table))))
    try:
        return pa.concat_tables(tables, promote_options="default").combine_chunks()
    except pa.ArrowInvalid as error:
        raise SelectionError(
            f"{scored.folder}: a score is here a number and there a text; run filters.run again"
        ) from error


def _decide(scored: Scored) -> pa.Table:
    """One row a sample: what every stage says (`#<filter>`), which step decided (`at`), the outcome, the scores."""
    scores = read_scores(scored)
    kinds = {field.name: _kind(field.type) for field in scores.schema}
    stages = scored.stages
    try:
        codes = ", ".join(f"{_code(stage, kinds)} AS {_name('#' + stage.name)}" for stage in stages)
    except ExpressionError as error:
        raise SelectionError(f"{scored.folder}: {error}") from error
    captions = ", ".join(_text(reason) for reason in CAPTION_REASONS)
    # Which step decides, by number: 0 for captions, 1 + n for the filter n, and half a step before the pictures.
    cases = [f"WHEN reason IN ({captions}) THEN 0"]
    drops = str(scored.unreadable == DROP).lower()
    reasons = [f"CASE WHEN {drops} AND reason IN ({captions}) THEN reason END"]
    for number, stage in enumerate(stages):
        if number == scored.picture_stage:
            cases.append(f"WHEN reason IS NOT NULL THEN {number + 0.5}")
            reasons.append(f"CASE WHEN {drops} AND reason NOT IN ({captions}) THEN reason END")
        code = _name("#" + stage.name)
        if stage.drop is not None:
            cases.append(f"WHEN {code} = 'skipped' THEN -1")
            cases.append(f"WHEN {code} IN ({_dropping(stage)}) THEN {number + 1}")
        reasons.append(
            f"CASE WHEN {code} NOT IN ({_dropping(stage)}) THEN NULL WHEN {code} = 'drop' THEN {_text(stage.name)} "
            f"ELSE {_text(f'{stage.name}/{NOT_SCORED}')} END"
        )
    listed = f"list_filter([{', '.join(reasons)}], lambda one: one IS NOT NULL)"
    kept = '"at" IS NULL' + ("" if scored.unreadable == DROP else f' OR "at" IN (0, {scored.picture_stage + 0.5})')
    query = f"""
        WITH coded AS (SELECT *, {codes} FROM scores),
        placed AS (SELECT *, CAST(CASE {" ".join(cases)} END AS DOUBLE) AS "at", {listed} AS found FROM coded),
        settled AS (SELECT *, {kept} AS kept FROM placed)
        SELECT * EXCLUDE (found, "row"), CASE WHEN NOT kept THEN found[1] END AS decided,
               CASE WHEN kept THEN [] ELSE found END AS reasons
        FROM settled ORDER BY "row"
    """  # noqa: S608 - names and texts are quoted above
    with open_duckdb() as connection:
        jail(connection)
        connection.register("scores", scores.append_column("row", pa.array(range(len(scores)), pa.int64())))
        table = connection.sql(query).to_arrow_table()
    if (stale := table.filter(pc.equal(table["at"], -1.0))).num_rows:
        raise SelectionError(
            f"{scored.folder}: {stale.num_rows} samples, {stale['sample_id'][0]} first, pass now and were not shown to "
            "all filters; run filters.run with this recipe (it asks only about these)"
        )
    renamed = {"reason": "unreadable", "decided": "reason"}
    return table.rename_columns([renamed.get(name, name) for name in table.column_names])


def _waterfall(scored: Scored, table: pa.Table, recipe: Recipe) -> dict[str, Any]:
    at, kept = table["at"], table["kept"]
    reached = len(table)
    steps: list[dict[str, Any]] = []

    def unreadable(place: float, names: Sequence[str]) -> None:
        nonlocal reached
        here = table.filter(pc.equal(at, place))
        counts = {name: pc.sum(pc.equal(here["unreadable"], name)).as_py() or 0 for name in names}
        counts = {name: count for name, count in counts.items() if count}
        steps.append(
            {"step": "readable caption" if place == 0 else "readable picture", "reached": reached, "reasons": counts,
             "unreadable": len(here), "outcome": scored.unreadable, "left": reached - len(here)}
        )  # fmt: skip
        reached -= len(here)

    unreadable(0.0, CAPTION_REASONS)
    for number, stage in enumerate(scored.stages):
        if number == scored.picture_stage:
            unreadable(number + 0.5, PICTURE_REASONS)
        if stage.drop is None:
            continue
        # Whoever left earlier was not looked at; NULL means that nothing took the sample out.
        here = table.filter(pc.fill_null(pc.greater(at, number), True))
        code = here["#" + stage.name]
        dropped = pc.sum(pc.equal(code, "drop")).as_py() or 0
        missing = pc.sum(pc.equal(code, NOT_SCORED)).as_py() or 0
        leaving = dropped + (missing if stage.not_scored == DROP else 0)
        steps.append(
            {"step": stage.name, "drop": stage.drop.text, "reached": reached, "dropped": dropped,
             NOT_SCORED: missing, "not_scored_outcome": stage.not_scored, "left": reached - leaving}
        )  # fmt: skip
        reached -= leaving
    dropped_table = table.filter(pc.invert(kept))
    first = dropped_table["reason"].value_counts().to_pylist()
    every = pc.list_flatten(dropped_table["reasons"]).value_counts().to_pylist()
    return {
        "build": scored.document["build"],
        "source": scored.document["source"],
        "role": scored.document["role"],
        "root": scored.document["root"],
        "recipe": {"name": recipe.name, "version": recipe.version, "sha256": recipe.sha256},
        "read": len(table),
        "kept": pc.sum(kept).as_py() or 0,
        "dropped": len(dropped_table),
        "steps": steps,
        "reasons": {item["values"]: item["counts"] for item in sorted(first, key=lambda item: item["values"])},
        "all_reasons": {item["values"]: item["counts"] for item in sorted(every, key=lambda item: item["values"])},
        "left_out": dict(scored.left_out),
        "parts": [{"file": part["file"], "sha256": part["sha256"]} for part in scored.document["parts"]],
    }


def decide(
    data: Path, recipe: Recipe, *, gallery: bool = True, show_credentialed: bool = False
) -> tuple[list[Decision], list[str]]:
    """Apply a recipe to every scored build under `data`; (decisions, names of builds that it leaves alone).

    Raises: as `decide_build`.
    """
    builds = {build.record["build"]: build.folder for build in load_builds(data)}
    decisions, alone = list[Decision](), list[str]()
    for folder in find_runs(data):
        name, _, role = folder.name.partition("@")
        if name not in builds:
            raise SelectionError(f"{folder}: scores of a build that is no more; delete the folder")
        decision = decide_build(
            builds[name], data, recipe, role=role or "train", gallery=gallery, show_credentialed=show_credentialed
        )
        if decision is None:
            alone.append(folder.name)
        else:
            decisions.append(decision)
    return decisions, alone


def explain(data: Path, recipe: Recipe, sample_id: str) -> str:
    """Every score of a sample with its threshold, and the verdict, as text; without what the sample says.

    Reads scores in Python rather than SQL. Raises: `SelectionError` if no run has the sample.
    """
    pages = []
    for folder in find_runs(data):
        scored = open_run(folder, recipe)
        if scored is None:
            continue
        for part in scored.document["parts"]:
            table = pq.read_table(folder / part["file"], filters=[("sample_id", "=", sample_id)])
            pages += ["\n".join(_explanation(scored, recipe, row)) for row in table.to_pylist()]
    if not pages:
        raise SelectionError(f"{data}: no scored sample is called {sample_id!r}")
    return "\n\n".join(pages)


def _explanation(scored: Scored, recipe: Recipe, row: Mapping[str, Any]) -> Iterator[str]:
    lines: list[str] = []
    verdict: str | None = None

    def unreadable(reasons: Sequence[str]) -> None:
        nonlocal verdict
        if row["reason"] in reasons:
            lines.append(f"  {row['reason']}: no filter can be asked; the recipe says {scored.unreadable}")
            verdict = verdict or (f"dropped: {row['reason']}" if scored.unreadable == DROP else "kept")

    unreadable(CAPTION_REASONS)
    for number, stage in enumerate(scored.stages):
        if number == scored.picture_stage:
            unreadable(PICTURE_REASONS)
        rule = f"drop if {stage.drop.text}; not scored: {stage.not_scored}" if stage.drop else "no threshold"
        if stage.name in row["skipped"]:
            lines.append(f"  {stage.name}: not asked ({rule})")
            if verdict is None and stage.drop is not None:
                verdict = "open: run filters.run with this recipe"
            continue
        values: dict[str, Value] = {column: row[column] for column in row if "." in column}
        outcome = stage.drop.evaluate(values) if stage.drop else False
        named = {True: "drops", False: "passes", None: NOT_SCORED}[outcome]
        lines.append(f"  {stage.name}: {named} ({rule})")
        lines += [f"      {column} = {_shown(row[column])}" for column in stage.columns]
        if verdict is None and (outcome or (outcome is None and stage.not_scored == DROP)):
            verdict = f"dropped: {stage.name}" + (f"/{NOT_SCORED}" if outcome is None else "")
    lines += [f"  {name}: takes no part ({why})" for name, why in scored.left_out.items()]
    yield f"{row['sample_id']} in {scored.folder.name}, recipe {recipe.name} {recipe.version}: {verdict or 'kept'}"
    yield from lines


def _shown(value: Value) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:g}"


def _code(stage: Stage, kinds: Mapping[str, str | None]) -> str:
    """SQL of what a stage says of a sample: skipped, drop, not_scored or pass."""
    if stage.drop is None:
        return "'pass'"
    predicate = stage.drop.sql(kinds)
    return (
        f"CASE WHEN list_contains(skipped, {_text(stage.name)}) THEN 'skipped' WHEN {predicate} THEN 'drop' "
        f"WHEN NOT {predicate} THEN 'pass' ELSE '{NOT_SCORED}' END"
    )


def _dropping(stage: Stage) -> str:
    return f"'drop', '{NOT_SCORED}'" if stage.not_scored == DROP else "'drop'"


def _kind(kind: pa.DataType) -> str | None:
    if pa.types.is_null(kind):
        return None
    return "text" if pa.types.is_string(kind) else "number"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
