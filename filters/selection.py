"""Applying a recipe's thresholds to scores: which samples of a build are kept, and why the others are not.

    DATA/filtered/<build>/selection.parquet    sample_id, kept, reason (the first in order), reasons, scores_sha256
    DATA/filtered/<build>/waterfall.json       read -> each step -> kept
    DATA/filtered/<build>/gallery.html         the same as a page, with thumbnails
    DATA/filtered/<build>/quarantine.parquet   boxes of burned-in text, where the recipe names `burned_in`

Nothing is decoded and no filter is asked: the predicates become SQL over the score parts. Every sample ends as kept or
dropped; a predicate that a missing score leaves open is the outcome `<filter>/not_scored`, which the recipe settles.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters import burned_in
from filters.base import CAPTION_REASONS, PICTURE_REASONS, FilterError, Score
from filters.expressions import parse, sql_name
from filters.gallery import page, some
from filters.recipe import DROP, KEEP, Recipe, Stage, picture_stage
from filters.scores import RUN_FILE, SCORES, scores_folder, write_table
from manifests.catalog import jail, load_builds, open_duckdb, sql_text
from manifests.selections import FILTERED, GALLERY_FILE, SELECTION_FILE, WATERFALL_FILE
from medgpt.atomic import write_atomic
from medgpt.digest import file_sha256
from medgpt.limited import read_file
from medgpt.private import make_folder

NOT_SCORED = "not_scored"
EXAMPLES = 6
"""Samples named where two filters disagree, on each side."""

SELECTION = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        ("reason", pa.string()),  # the first filter in order, `<filter>/not_scored`, or why there are no scores
        pa.field("reasons", pa.list_(pa.string()), nullable=False),  # of all filters that were asked
        pa.field("scores_sha256", pa.binary(32), nullable=False),  # of the score part
    ]
)


@dataclass(frozen=True)
class ScoredBuild:
    """A finished run and the recipe's stages for it, in the order of the run."""

    folder: Path
    document: Mapping[str, Any]
    stages: tuple[Stage, ...]
    unreadable: str
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Decision:
    """What was decided for one build."""

    folder: Path
    waterfall: Mapping[str, Any]
    """The content of `waterfall.json`."""
    table: pa.Table
    """One row a sample: those of `SELECTION`, and its scores."""
    scored: ScoredBuild


def find_runs(data: Path) -> list[Path]:
    """Folders of finished runs under `data`, sorted. Raises: `FilterError` if there is none."""
    found = sorted(path.parent for path in (data / SCORES).glob(f"*/{RUN_FILE}"))
    if not found:
        raise FilterError(f"{data}: no scores; run python -m filters.run {data} first")
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
    """Apply a recipe to the scores of a build; None if the recipe does not filter its source.

    Writes the files atomically, the waterfall last. Same scores and recipe: same bytes.
    Raises: `FilterError`: scores are missing or out of date; `UserError`.
    """
    [loaded] = load_builds(folder)
    document = loaded.record
    scored = open_run(scores_folder(data, document["build"], role), recipe)
    if scored is None:
        return None
    if scored.document["root"] != document["root"]:
        raise FilterError(f"{folder}: built anew since it was scored; run filters.run again")
    table = _decide(scored)
    waterfall = _waterfall(scored, table, recipe)
    read = sum(unit["kept"] for unit in document["units"] if unit["role"] == role)
    if waterfall["read"] != read or waterfall["kept"] + waterfall["dropped"] != read:
        raise FilterError(
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
        html = page(loaded, decision, role=role, show_credentialed=show_credentialed)
        write_atomic(out / GALLERY_FILE, html.encode())
    else:
        (out / GALLERY_FILE).unlink(missing_ok=True)  # it would show another recipe's outcome
    write_atomic(out / WATERFALL_FILE, orjson.dumps(waterfall, option=orjson.OPT_INDENT_2) + b"\n")
    return decision


def _write_quarantine(
    path: Path, scored: ScoredBuild, table: pa.Table, recipe: Recipe, waterfall: dict[str, Any], meta: Mapping[str, str]
) -> None:
    """Write the boxes of burned-in text, and say so in the waterfall; or take away what another recipe wrote."""
    rules = recipe.rules(scored.document["source"])
    stage = next((stage for stage in scored.stages if stage.name == burned_in.NAME), None)
    if stage is None or rules is None or burned_in.NAME not in rules.filters:
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


def open_run(folder: Path, recipe: Recipe) -> ScoredBuild | None:
    """A run's scores under a recipe; None if the recipe does not filter the source.

    Raises: `FilterError` if there is no finished run, or the recipe asks for what was not scored.
    """
    path = folder / RUN_FILE
    try:
        document = orjson.loads(read_file(path))
    except FileNotFoundError:
        raise FilterError(f"{path}: not there; run filters.run first") from None
    except orjson.JSONDecodeError as error:
        raise FilterError(f"{path}: {error}; run filters.run again") from error
    rules = recipe.rules(document["source"])
    if rules is None:
        return None
    left_out = {name: why for name, why in document["left_out"].items() if name in rules.filters}
    wanted = {name: rule for name, rule in rules.filters.items() if name not in left_out}
    scored = {entry["name"]: entry for entry in document["filters"]}
    for name, rule in wanted.items():
        if name not in scored or scored[name]["asked"] != rule.asked:
            raise FilterError(f"{folder}: {name} was not scored as this recipe asks; run filters.run with it first")
        if "gate" not in scored[name]:
            raise FilterError(
                f"{folder}: scored by an earlier version; run filters.run again (it asks no filter twice)"
            )
        gate = scored[name]["gate"]
        if gate and rule.drop is not None and (rule.drop, rule.not_scored) != (gate["drop"], gate["not_scored"]):
            raise FilterError(
                f"{folder}: whether {name} may drop by {rule.drop!r} was not checked; run filters.run with this recipe "
                "first (it asks nothing twice)"
            )
    stages: list[Stage] = []
    known: dict[str, frozenset[str]] = {}
    for name, entry in scored.items():
        known[name] = frozenset(entry["scores"])
        asked = wanted.get(name) if not _only_reports(entry) else None
        drop, not_scored = (asked.drop, asked.not_scored) if asked else (None, None)
        stages.append(
            Stage(
                name=name,
                needs_pictures=entry["needs_pictures"],
                scores=tuple(entry["scores"]),
                drop=None if drop is None else parse(drop, name, known),
                not_scored=not_scored or KEEP,
            )
        )
    return ScoredBuild(folder, document, tuple(stages), rules.unreadable or DROP, left_out)


def _only_reports(entry: Mapping[str, Any]) -> str | None:
    """Why a filter of a run has no threshold although the recipe names one."""
    why: str | None = (entry["gate"] or {}).get("only_reports")
    return why


def read_scores(scored: ScoredBuild) -> pa.Table:
    """All parts of a run, in the order of its units, with `scores_sha256`. Raises: `FilterError`."""
    tables = []
    for part in scored.document["parts"]:
        path = scored.folder / part["file"]
        try:
            digest = file_sha256(path)
        except OSError as error:
            raise FilterError(f"{path}: {error.strerror}; run filters.run again") from error
        if digest.hex() != part["sha256"]:
            raise FilterError(f"{path}: changed since it was written; delete it and run filters.run again")
        table = pq.read_table(path).replace_schema_metadata(None)
        tables.append(table.append_column("scores_sha256", pa.repeat(pa.scalar(digest, pa.binary(32)), len(table))))
    try:
        return pa.concat_tables(tables, promote_options="default").combine_chunks()
    except pa.ArrowInvalid as error:
        raise FilterError(
            f"{scored.folder}: a score is here a number and there a text; run filters.run again"
        ) from error


def _decide(scored: ScoredBuild) -> pa.Table:
    """One row a sample: what every stage says (`#<filter>`), which step decided (`at`), the outcome, the scores."""
    scores = read_scores(scored)
    kinds = {field.name: _kind(field.type) for field in scores.schema}
    stages = scored.stages
    codes = ", ".join(f"{_code(stage, kinds)} AS {sql_name('#' + stage.name)}" for stage in stages)
    captions = ", ".join(sql_text(reason) for reason in CAPTION_REASONS)
    # Which step decides, by number: 0 for captions, 1 + n for the filter n, and half a step before the pictures.
    cases = [f"WHEN reason IN ({captions}) THEN 0"]
    drops = str(scored.unreadable == DROP).lower()
    reasons = [f"CASE WHEN {drops} AND reason IN ({captions}) THEN reason END"]
    for number, stage in enumerate(stages):
        if number == picture_stage(scored.stages):
            cases.append(f"WHEN reason IS NOT NULL THEN {number + 0.5}")
            reasons.append(f"CASE WHEN {drops} AND reason NOT IN ({captions}) THEN reason END")
        code = sql_name("#" + stage.name)
        if stage.drop is not None:
            cases.append(f"WHEN {code} = 'skipped' THEN -1")
            cases.append(f"WHEN {code} IN ({_dropping(stage)}) THEN {number + 1}")
        reasons.append(
            f"CASE WHEN {code} NOT IN ({_dropping(stage)}) THEN NULL WHEN {code} = 'drop' THEN {sql_text(stage.name)} "
            f"ELSE {sql_text(f'{stage.name}/{NOT_SCORED}')} END"
        )
    listed = f"list_filter([{', '.join(reasons)}], lambda one: one IS NOT NULL)"
    kept = '"at" IS NULL' + (
        "" if scored.unreadable == DROP else f' OR "at" IN (0, {picture_stage(scored.stages) + 0.5})'
    )
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
        raise FilterError(
            f"{scored.folder}: {stale.num_rows} samples, {stale['sample_id'][0]} first, pass now and were not shown to "
            "all filters; run filters.run with this recipe (it asks only about these)"
        )
    renamed = {"reason": "unreadable", "decided": "reason"}
    return table.rename_columns([renamed.get(name, name) for name in table.column_names])


def _waterfall(scored: ScoredBuild, table: pa.Table, recipe: Recipe) -> dict[str, Any]:
    at = table["at"]
    reached = len(table)
    steps: list[dict[str, Any]] = []

    def unreadable(place: float, step: str) -> None:
        nonlocal reached
        here = table.filter(pc.equal(at, place))
        left = reached - len(here)
        steps.append(
            {"step": step, "reached": reached, "reasons": _counts(here["unreadable"]), "unreadable": len(here),
             "outcome": scored.unreadable, "left": left}
        )  # fmt: skip
        reached = left

    unreadable(0.0, "readable caption")
    for number, stage in enumerate(scored.stages):
        if number == picture_stage(scored.stages):
            unreadable(number + 0.5, "readable picture")
        if stage.drop is None:
            continue
        # Whoever left earlier was not looked at; NULL means that nothing took the sample out.
        codes = _counts(table.filter(pc.fill_null(pc.greater(at, number), True))["#" + stage.name])
        dropped, missing = codes.get("drop", 0), codes.get(NOT_SCORED, 0)
        left = reached - dropped - (missing if stage.not_scored == DROP else 0)
        steps.append(
            {"step": stage.name, "drop": stage.drop.text, "reached": reached, "dropped": dropped,
             NOT_SCORED: missing, "not_scored_outcome": stage.not_scored, "left": left}
        )  # fmt: skip
        reached = left
    gone = table.filter(pc.invert(table["kept"]))
    return {
        **{name: scored.document[name] for name in ("build", "source", "role", "root")},
        "recipe": {"name": recipe.name, "version": recipe.version, "sha256": recipe.sha256},
        "read": len(table),
        "kept": len(table) - len(gone),
        "dropped": len(gone),
        "steps": steps,
        "reasons": _counts(gone["reason"]),
        "all_reasons": _counts(pc.list_flatten(gone["reasons"])),
        "left_out": dict(scored.left_out),
        "only_report": {one["name"]: why for one in scored.document["filters"] if (why := _only_reports(one))},
        "second_opinions": _second_opinions(scored.stages, table),
        "parts": [{"file": part["file"], "sha256": part["sha256"]} for part in scored.document["parts"]],
    }


def _second_opinions(stages: Sequence[Stage], table: pa.Table) -> list[dict[str, Any]]:
    """Where a filter that says `drop` and a `reason` called as another filter agrees with that one, and where not.

    Of samples that both were asked about: one that a filter took out was shown to no later one unless all were wanted.
    Without a threshold of its own, the filter says drop from 0.5 on.
    """
    found = []
    for stage in stages:
        drop, reason = (table[name] if (name := f"{stage.name}.{score}") in table.column_names else None
                        for score in ("drop", "reason"))  # fmt: skip
        if drop is None or reason is None or not pa.types.is_floating(drop.type):
            continue
        verdict = pc.equal(table[f"#{stage.name}"], "drop") if stage.drop else pc.greater_equal(drop, 0.5)
        named = set(pc.unique(reason).to_pylist())
        for rule in (rule for rule in stages if rule.drop is not None and rule.name in named):
            code = table[f"#{rule.name}"]
            asked = pc.and_(pc.is_valid(drop), pc.is_in(code, value_set=pa.array(["drop", "pass"])))
            here = pa.table({
                "sample_id": table["sample_id"], "rule": pc.equal(code, "drop"),
                "filter": pc.and_(verdict, pc.equal(reason, rule.name)),
            }).filter(asked)  # fmt: skip
            sides = {
                (one, other): here.filter(pc.and_(pc.equal(here["filter"], one), pc.equal(here["rule"], other)))
                for one in (True, False)
                for other in (True, False)
            }
            only = {"only_filter": (True, False), "only_rule": (False, True)}
            found.append({
                "filter": stage.name, "rule": rule.name, "both": len(sides[True, True]),
                "neither": len(sides[False, False]),
                **{name: len(sides[side]) for name, side in only.items()},
                "examples": {name: some(sides[side]["sample_id"].to_pylist(), EXAMPLES) for name, side in only.items()},
            })  # fmt: skip
    return found


def _counts(values: Any) -> dict[str, int]:
    """How often each text is in a column, by text."""
    return dict(sorted((item["values"], item["counts"]) for item in values.value_counts().to_pylist()))


def decide(
    data: Path, recipe: Recipe, *, gallery: bool = True, show_credentialed: bool = False
) -> tuple[list[Decision], list[str]]:
    """Apply a recipe to every scored build under `data`; (decisions, names of builds that it does not filter).

    Raises: as `decide_build`.
    """
    builds = {build.record["build"]: build.folder for build in load_builds(data)}
    decisions, unfiltered = list[Decision](), list[str]()
    for folder in find_runs(data):
        name, _, role = folder.name.partition("@")
        if name not in builds:
            raise FilterError(f"{folder}: scores of a build that is no more; delete the folder")
        decision = decide_build(
            builds[name], data, recipe, role=role or "train", gallery=gallery, show_credentialed=show_credentialed
        )
        if decision is None:
            unfiltered.append(folder.name)
        else:
            decisions.append(decision)
    return decisions, unfiltered


def explain(data: Path, recipe: Recipe, sample_id: str) -> str:
    """Every score of a sample with its threshold, and the verdict, as text; without what the sample says.

    Reads scores in Python rather than SQL. Raises: `FilterError` if no run has the sample.
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
        raise FilterError(f"{data}: no scored sample is called {sample_id!r}")
    return "\n\n".join(pages)


def _explanation(scored: ScoredBuild, recipe: Recipe, row: Mapping[str, Any]) -> Iterator[str]:
    lines: list[str] = []
    verdict: str | None = None

    def unreadable(reasons: Sequence[str]) -> None:
        nonlocal verdict
        if row["reason"] in reasons:
            lines.append(f"  {row['reason']}: no filter can be asked; the recipe says {scored.unreadable}")
            verdict = verdict or (f"dropped: {row['reason']}" if scored.unreadable == DROP else "kept")

    unreadable(CAPTION_REASONS)
    for number, stage in enumerate(scored.stages):
        if number == picture_stage(scored.stages):
            unreadable(PICTURE_REASONS)
        rule = f"drop if {stage.drop.text}; not scored: {stage.not_scored}" if stage.drop else "no threshold"
        if stage.name in row["skipped"]:
            lines.append(f"  {stage.name}: not asked ({rule})")
            if verdict is None and stage.drop is not None:
                verdict = "open: run filters.run with this recipe"
            continue
        values: dict[str, Score] = {column: row[column] for column in row if "." in column}
        outcome = stage.drop.evaluate(values) if stage.drop else False
        named = {True: "drops", False: "passes", None: NOT_SCORED}[outcome]
        lines.append(f"  {stage.name}: {named} ({rule})")
        lines += [f"      {column} = {_shown(row[column])}" for column in stage.columns]
        if verdict is None and (outcome or (outcome is None and stage.not_scored == DROP)):
            verdict = f"dropped: {stage.name}" + (f"/{NOT_SCORED}" if outcome is None else "")
    lines += [f"  {name}: left out ({why})" for name, why in scored.left_out.items()]
    yield f"{row['sample_id']} in {scored.folder.name}, recipe {recipe.name} {recipe.version}: {verdict or 'kept'}"
    yield from lines


def _shown(value: Score) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:g}"


def _code(stage: Stage, kinds: Mapping[str, str | None]) -> str:
    """SQL of what a stage says of a sample: skipped, drop, not_scored or pass."""
    if stage.drop is None:
        return "'pass'"
    predicate = stage.drop.sql(kinds)
    return (
        f"CASE WHEN list_contains(skipped, {sql_text(stage.name)}) THEN 'skipped' WHEN {predicate} THEN 'drop' "
        f"WHEN NOT {predicate} THEN 'pass' ELSE '{NOT_SCORED}' END"
    )


def _dropping(stage: Stage) -> str:
    return f"'drop', '{NOT_SCORED}'" if stage.not_scored == DROP else "'drop'"


def _kind(kind: pa.DataType) -> str | None:
    if pa.types.is_null(kind):
        return None
    return "text" if pa.types.is_string(kind) else "number"
