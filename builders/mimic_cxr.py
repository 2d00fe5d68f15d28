"""MIMIC-CXR-JPG radiographs with MIMIC-CXR reports: single images, or multi-view sets with the prior study.

Layout, columns, section and ordering rules: reference `sources.md`, section 6. A source row is a study (with
`--preset libra` an image). What a sample shows is a preset of `engine.mimic_sets`, which single options change.
Text and images are credentialed: nothing here ever puts report text into a message.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from builders import kit
from builders.engine import mimic_pairs, mimic_pictures, mimic_sets
from builders.engine.mimic_reports import CUSTOM_STUDIES, find_reports, parse_sections, report_file
from builders.engine.mimic_sets import FRONTAL, IMPRESSION_IMAGES, LATERAL, MAX_IMAGES, Recipe

VIEW_RANK = (
    "PA", "AP", "LATERAL", "LL", "AP AXIAL", "AP LLD", "AP RLD", "PA RLD", "PA LLD", "LAO", "RAO", "LPO",
    "XTABLE LATERAL", "SWIMMERS", "",
)  # fmt: skip
"""Best view first; identical in CheXagent (e4f31e6) and RRG24 (ab5bc2f)."""
_VIEWS = {"frontal": FRONTAL, "labelled": FRONTAL | LATERAL, "unlabelled": FRONTAL | LATERAL | {""}}
_VIEW_CODES = {"postero-anterior": "PA", "antero-posterior": "AP", "lateral": "LATERAL", "left lateral": "LL"}
"""What `ViewCodeSequence_CodeMeaning` says, for the about 4 % of images whose ViewPosition is empty."""
EXEMPLAR_CANDIDATES = 16
IMAGES_PER_UNIT = 256
STUDIES_PER_METADATA_UNIT = 20_000

_METADATA_COLUMNS = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")
_VIEW_CODE = "ViewCodeSequence_CodeMeaning"
_SPLIT_COLUMNS = ("dicom_id", "study_id", "subject_id", "split")
_SPLITS: dict[str, kit.Role] = {"train": "train", "validate": "eval", "test": "eval"}
_IDS = {
    "dicom_id": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}"),
    "subject_id": re.compile(r"1\d{7}"),
    "study_id": re.compile(r"5\d{7}"),
}

_INSTRUCTION = {
    "findings": "Write the findings section of the radiology report for the current study.",
    "impression": "Write the impression section of the radiology report for the current study.",
}


class Radiograph(NamedTuple):
    """One image of a study, as the metadata file lists it."""

    dicom_id: str
    view: str
    time: str
    """StudyTime with its leading zeros; empty where there is none."""
    labelled: bool
    """Whether ViewPosition says the view; else the view code does, or nothing."""


class Study(NamedTuple):
    """One study: `order` sorts the studies of a subject by time (dates are shifted per subject)."""

    subject_id: str
    study_id: str
    order: tuple[str, str, str]
    images: list[Radiograph]


_Rejects = list[tuple[str, str, str, str]]
"""Rows that could not be used: file, row, reason, detail."""


def plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    """Subject ranges within each split, about 256 images each; unusable CSV rows are a unit of their own."""
    recipe, roots = mimic_sets.recipe_of(params), mimic_pictures.JPG_ROOTS
    metadata = kit.require(raw, "MIMIC-CXR-JPG metadata", *(f"{root}mimic-cxr-2.0.0-metadata.csv*" for root in roots))
    split = kit.require(raw, "MIMIC-CXR-JPG split", *(f"{root}mimic-cxr-2.0.0-split.csv*" for root in roots))
    jpg_root = kit.relative(metadata.parent, raw)
    index, rejects = _read_index(metadata, split, raw)
    listed = [(study.subject_id, study.study_id) for _, studies in sorted(index.items()) for study in studies]
    reports = find_reports(raw, listed) if listed else ""
    train = [study for (where, _), studies in sorted(index.items()) if where == "train" for study in studies]
    if rejects:
        files = tuple(kit.relative(path, raw) for path in (metadata, split))
        yield kit.Unit("index-00000", "unassigned", "train", len(rejects), {"rejects": rejects}, files)
    for name in _SPLITS:
        subjects = [studies for (where, _), studies in sorted(index.items()) if where == name]
        for number, chunk in enumerate(_chunks(subjects, params["no_images"])):
            payload: dict[str, Any] = {"jpg_root": jpg_root, "reports": reports}
            payload["subjects"] = _plain(chunk)
            shown = chunk
            if params["shots"] == "1" and _SPLITS[name] == "eval":
                exemplars = {study.study_id: _exemplars(study, train) for studies in chunk for study in studies}
                payload["exemplars"] = {study_id: _plain([studies]) for study_id, studies in exemplars.items()}
                shown = [*chunk, *exemplars.values()]
            rows = sum(len(study.images) if recipe.preset == "libra" else 1 for s in chunk for study in s)
            inputs = tuple(dict.fromkeys(_inputs(shown, jpg_root, reports, params["no_images"])))
            yield kit.Unit(f"{name}-{number:05d}", name, _SPLITS[name], rows, payload, inputs)


def _chunks(subjects: list[list[Study]], metadata_only: bool) -> Iterator[list[list[Study]]]:
    """Whole subjects, so that every prior study and every picture shown twice is in the same unit."""
    size = STUDIES_PER_METADATA_UNIT if metadata_only else IMAGES_PER_UNIT
    chunk: list[list[Study]] = []
    weight = 0
    for studies in subjects:
        own = sum(1 if metadata_only else len(study.images) for study in studies)
        if chunk and weight + own > size:
            yield chunk
            chunk, weight = [], 0
        chunk.append(studies)
        weight += own
    if chunk:
        yield chunk


def _exemplars(study: Study, train: list[Study]) -> list[Study]:
    """Candidates for the one worked example before an evaluation study: training studies of other subjects.

    A stretch of the training studies that starts where the study's own id points by digest; `read` takes the first
    whose report has the section. The same for every site, worker and subset of the evaluation studies.
    """
    if not train:
        return []
    start = int.from_bytes(blake2b(f"exemplar/{study.study_id}".encode(), digest_size=8).digest(), "big") % len(train)
    ring = (train[(start + step) % len(train)] for step in range(min(len(train), EXEMPLAR_CANDIDATES)))
    return [candidate for candidate in ring if candidate.subject_id != study.subject_id]


def _plain(chunk: list[list[Study]]) -> list[Any]:
    """The chunk as JSON values; `read` makes studies of it again."""
    from msgspec import to_builtins

    plain: list[Any] = to_builtins(chunk)
    return plain


def _inputs(chunk: list[list[Study]], jpg_root: str, reports: str, metadata_only: bool) -> Iterator[str]:
    for study in (study for studies in chunk for study in studies):
        yield report_file(reports, study.subject_id, study.study_id).partition("!")[0]
        for image in () if metadata_only else study.images:
            yield _picture(study, image).file(jpg_root)


def _picture(study: Study, image: Radiograph) -> mimic_pictures.Radiograph:
    return mimic_pictures.Radiograph(study.subject_id, study.study_id, image.dicom_id)


def _read_index(metadata: Path, split: Path, raw: Path) -> tuple[dict[tuple[str, str], list[Study]], _Rejects]:
    """The two CSV files joined: studies by (split, subject), and the rows that could not be used."""
    rejects: _Rejects = []
    splits: dict[str, tuple[str, str, str, str]] = {}
    for row, fields in _rows(split, raw, _SPLIT_COLUMNS, rejects):
        if fields["split"] not in _SPLITS:
            rejects.append((kit.relative(split, raw), row, "bad_field", "split is not train, validate or test"))
        elif fields["dicom_id"] in splits:
            rejects.append((kit.relative(split, raw), row, "duplicate_id", fields["dicom_id"]))
        else:
            splits[fields["dicom_id"]] = (fields["subject_id"], fields["study_id"], fields["split"], row)

    # (subject, study, split) of each study's images; a study that is listed two ways is unusable as a whole.
    owners: dict[str, set[tuple[str, str]]] = defaultdict(set)
    found: list[tuple[str, dict[str, str], str]] = []
    seen: set[str] = set()
    for row, fields in _rows(metadata, raw, _METADATA_COLUMNS, rejects):
        dicom_id, file = fields["dicom_id"], kit.relative(metadata, raw)
        if dicom_id in seen or dicom_id not in splits:
            rejects.append((file, row, "duplicate_id" if dicom_id in seen else "not_in_split", dicom_id))
        else:
            subject_id, study_id, name, _ = splits[dicom_id]
            owners[fields["study_id"]] |= {(fields["subject_id"], name), (subject_id, name)}
            if study_id == fields["study_id"]:
                found.append((row, fields, name))
            else:
                rejects.append((file, row, "split_conflict", f"{dicom_id}: study {study_id} in the split file"))
        seen.add(dicom_id)
    for dicom_id, (_, _, _, row) in splits.items():
        if dicom_id not in seen:
            rejects.append((kit.relative(split, raw), row, "not_in_metadata", dicom_id))

    grouped: dict[tuple[str, str, str], list[tuple[str, Radiograph]]] = defaultdict(list)
    for row, fields, name in found:
        if len(owners[fields["study_id"]]) > 1:
            rejects.append((kit.relative(metadata, raw), row, "split_conflict", f"study {fields['study_id']}"))
            continue
        # A time has lost its leading zeros in the CSV; a missing one sorts before all others of its day.
        clock = f"{float(fields['StudyTime']):010.3f}" if fields["StudyTime"] else ""
        moment = f"{fields['StudyDate']} {clock}"
        position = fields["ViewPosition"].strip()
        view = position or _VIEW_CODES.get(fields.get(_VIEW_CODE, "").strip().lower(), "")
        radiograph = Radiograph(fields["dicom_id"], view, clock, bool(position))
        grouped[name, fields["subject_id"], fields["study_id"]].append((moment, radiograph))
    studies: dict[tuple[str, str], list[Study]] = defaultdict(list)
    for (name, subject_id, study_id), images in grouped.items():
        date, _, clock = min(moment for moment, _ in images).partition(" ")
        ranked = sorted((image for _, image in images), key=lambda image: (_rank(image.view), image.dicom_id))
        studies[name, subject_id].append(Study(subject_id, study_id, (date, clock, study_id), ranked))
    for of_subject in studies.values():
        of_subject.sort(key=lambda study: study.order)
    return studies, rejects


def _rows(path: Path, raw: Path, columns: tuple[str, ...], rejects: _Rejects) -> Iterator[tuple[str, dict[str, str]]]:
    """(line number, fields) of the usable rows; columns are found by name, further ones are ignored."""
    for unit in kit.table_units(raw, [path], "index", "train", columns=columns, rows_per_unit=sys.maxsize):
        for row in kit.table_rows(raw, unit):
            if isinstance(row, kit.Reject):
                rejects.append((row.file, row.row, row.reason, row.detail))
                continue
            fields = row.values
            wrong = [name for name, pattern in _IDS.items() if not pattern.fullmatch(fields[name])]
            if wrong:
                rejects.append((row.file, row.number, "bad_id", ", ".join(wrong)))
            elif "StudyDate" in columns and not re.fullmatch(r"\d{8}", fields["StudyDate"]):
                rejects.append((row.file, row.number, "bad_field", "StudyDate is not yyyymmdd"))
            elif "StudyTime" in columns and not re.fullmatch(r"(\d{1,6}(\.\d*)?)?", fields["StudyTime"]):
                rejects.append((row.file, row.number, "bad_field", "StudyTime is not HHMMSS.fff"))
            else:
                yield row.number, fields


def _rank(view: str) -> int:
    return VIEW_RANK.index(view) if view in VIEW_RANK else len(VIEW_RANK)


def read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    """One outcome a study; with `--preset libra` one an image."""
    if "rejects" in unit.payload:
        yield from (kit.Reject(*reject) for reject in unit.payload["rejects"])
        return
    tree, recipe, task = (
        _Tree(raw, unit.payload["jpg_root"], unit.payload["reports"]),
        mimic_sets.recipe_of(params),
        params["task"],
    )
    for payload in unit.payload["subjects"]:
        studies = _studies(payload)
        for number, study in enumerate(studies):
            earlier = studies[:number]
            if recipe.preset == "libra":
                yield from _libra(tree, study, earlier, task, recipe)
            else:
                outcome = _study_sample(tree, study, earlier, task, recipe)
                if "exemplars" in unit.payload and isinstance(outcome, kit.Sample):
                    [candidates] = unit.payload["exemplars"][study.study_id]
                    outcome = _with_exemplar(tree, outcome, _studies(candidates), task, recipe)
                yield outcome


def _studies(payload: list[Any]) -> list[Study]:
    """What `_plain` made of a subject's studies."""
    from msgspec import convert

    return convert(payload, list[Study])


def _with_exemplar(
    tree: "_Tree", sample: kit.Sample, candidates: list[Study], task: str, recipe: Recipe
) -> kit.Sample | kit.Reject:
    """The sample as a second turn, after a training study with its report; its id stands in the provenance."""
    for candidate in candidates:
        shown = _study_sample(tree, candidate, [], task, recipe._replace(preset="single", prior="none", pad=0))
        if isinstance(shown, kit.Sample):
            first = [replace(image, relation="exemplar") for image in shown.images]
            for message in sample.messages:
                for part in message["content"]:
                    if part["type"] == "image":
                        part["index"] += len(first)
            return replace(
                sample,
                messages=[*shown.messages, *sample.messages],
                images=[*first, *(replace(image, relation=image.relation or "current") for image in sample.images)],
                row=f"{sample.row} exemplar {candidate.study_id}",
            )
    return kit.Reject(sample.file, sample.row, "no_exemplar", f"{len(candidates)} training studies tried")


@dataclass(frozen=True)
class _Tree:
    """Where images and reports are."""

    raw: Path
    jpg_root: str
    reports: str

    def report_file(self, study: Study) -> str:
        """The report's name in messages and provenance."""
        return report_file(self.reports, study.subject_id, study.study_id)

    def sections(self, study: Study) -> dict[str, str]:
        """Sections of the study's report."""
        kit.demand(study.study_id not in CUSTOM_STUDIES, "custom_section", self.report_file(study))
        archive, _, member = self.report_file(study).partition("!")
        if member:
            data = kit.read_zip_member(self.raw / archive, member, self.raw, "missing_report")
        else:
            data = kit.read_bytes(self.raw / archive, self.raw, "missing_report")
        return parse_sections(kit.decode_utf8(data, self.report_file(study)))

    def image(self, study: Study, radiograph: Radiograph, relation: str | None) -> kit.Image:
        """An image of a sample."""
        image = _picture(study, radiograph).image(self.raw, self.jpg_root)
        return replace(image, view=radiograph.view or None, relation=relation)


def _study_sample(
    tree: _Tree, study: Study, earlier: list[Study], task: str, recipe: Recipe
) -> kit.Sample | kit.Reject:
    current = _shown(study, recipe.views)
    try:
        sections = _report(tree, study, task)
        kit.demand(current, "no_usable_view", tree.report_file(study))
    except kit.InputError as error:
        return kit.Reject(error.file, study.study_id, error.reason, error.detail)
    most = IMPRESSION_IMAGES if task == "impression" else 1 if recipe.preset == "single" else MAX_IMAGES
    # Studies without a picture to show are no exam to compare with.
    views = "frontal" if recipe.prior == "latest-frontal" else recipe.views
    candidates = [] if recipe.prior == "none" else reversed(earlier)
    prior = next((candidate for candidate in candidates if _shown(candidate, views)), None)
    before = _shown(prior, views)[:most] if prior else []
    # Current images first; one place is kept for the prior study's best view, so that the cut never hides a prior.
    current = current[: min(most, MAX_IMAGES - bool(prior))]
    before = before[: MAX_IMAGES - len(current)]
    repeats = [current[place % len(current)] for place in range(recipe.pad - len(current) - len(before))]
    relation = None if recipe.preset == "single" else "current"
    images = [tree.image(study, image, relation) for image in (*current, *repeats)]
    images += [tree.image(prior, image, "prior") for image in before if prior]
    return _sample(tree, study, study.study_id, images, prior, sections, task, recipe, len(repeats))


def _libra(
    tree: _Tree, study: Study, earlier: list[Study], task: str, recipe: Recipe
) -> Iterator[kit.Sample | kit.Reject]:
    """Libra (X-iZhang/Libra at 0d6c56a): each frontal image with the last frontal image of the previous study date.

    The last by StudyTime, of all studies of that date. Without an earlier date the current image stands in for the
    prior; always exactly two images.
    """
    try:
        sections = _report(tree, study, task)
    except kit.InputError as error:
        for image in study.images:
            yield kit.Reject(error.file, image.dicom_id, error.reason, error.detail)
        return
    before = [s for s in earlier if s.order[0] < study.order[0] and _shown(s, recipe.views)]
    pictures = [
        (image.time, place, image.dicom_id, image, other)
        for place, other in enumerate(before)
        if other.order[0] == before[-1].order[0]
        for image in _shown(other, recipe.views)
    ]
    *_, last, prior = max(pictures, default=(None, None))
    for image in study.images:
        if image.view not in FRONTAL:
            yield kit.Reject(tree.report_file(study), image.dicom_id, "not_current_image", image.view or "no view")
            continue
        current = tree.image(study, image, "current")
        then = tree.image(prior, last, "prior") if prior and last else tree.image(study, image, "current")
        yield _sample(tree, study, image.dicom_id, [current, then], prior, sections, task, recipe, int(prior is None))


def _shown(study: Study, views: str) -> list[Radiograph]:
    """The study's images that a sample may show, best view first.

    Where the views need no label, an image of unknown view counts, last: most are frontal, and leaving them out would
    drop whole studies unseen.
    """
    return [
        image
        for image in study.images
        if views == "all" or (image.view in _VIEWS[views] and (views != "labelled" or image.labelled))
    ]


def _report(tree: _Tree, study: Study, task: str) -> dict[str, str]:
    sections = tree.sections(study)
    kit.demand(sections.get(task), f"no_{task}", tree.report_file(study))
    return sections


def _sample(
    tree: _Tree,
    study: Study,
    key: str,
    images: list[kit.Image],
    prior: Study | None,
    sections: Mapping[str, str],
    task: str,
    recipe: Recipe,
    repeated: int,
) -> kit.Sample:
    """Images first, then what the radiologist knew before reading; never findings, impression or an earlier report.

    The last `repeated` of the current images stand there again.
    """
    current = [i for i, image in enumerate(images) if image.relation != "prior"]
    before = [i for i, image in enumerate(images) if image.relation == "prior"]

    def listed(places: list[int], own: int) -> Iterator[str | int]:
        for number, place in enumerate(places):
            if recipe.view_names:
                yield f"{images[place].view or 'view not stated'}{', again' if number >= own else ''}:"
            yield place

    parts: list[str | int] = [] if images[0].relation is None else ["Current study:"]
    parts += listed(current, len(current) - repeated)
    if before:
        parts += ["Prior study:", *listed(before, len(before))]
    known = [(name, sections.get(name, "")) for name in recipe.context]
    context = "\n".join(f"{name.capitalize()}: {text}" for name, text in known if text)
    parts.append(f"{context}\n{_INSTRUCTION[task]}" if context else _INSTRUCTION[task])
    group = {"subject_id": f"mimic-cxr/{study.subject_id}", "study_id": f"mimic-cxr/{study.study_id}"}
    if prior is not None:
        group["prior_study_id"] = f"mimic-cxr/{prior.study_id}"
    messages, file = [kit.user(*parts), kit.assistant(sections[task])], tree.report_file(study)
    return kit.Sample(key, messages, file, key, answer=sections[task], images=images, group=group)


def _published(params: kit.Params) -> Mapping[str, int]:
    """Studies (images under libra) by split: the official split file of MIMIC-CXR-JPG 2.x."""
    if mimic_sets.preset_of(params) == "libra":
        return {"train": 368_960, "validate": 2_991, "test": 5_159}
    return {"train": 222_758, "validate": 1_808, "test": 3_269}


def _variant(params: kit.Params) -> str:
    preset = mimic_sets.preset_of(params)
    parts = (
        "longitudinal" if preset == "ours" or (preset == "libra" and params["longitudinal"]) else "",
        preset if preset in ("editgrpo", "libra") else "",
        *(f"{name.replace('_', '')}-{value}" for name, value in mimic_sets.overrides(params).items()),
        "" if params["task"] == "findings" else params["task"],
        "1shot" if params["shots"] == "1" else "",
    )
    return "-".join(part for part in parts if part)


_AS = mimic_sets.AS_PRESET
_OPTIONS = (
    kit.Option("--preset", "what a sample shows, see above", "single", mimic_sets.PRESETS),
    kit.Option("--longitudinal", "the same as --preset ours"),
    kit.Option("--prior-policy", "libra: the same as --preset libra", "editgrpo", ("editgrpo", "libra")),
    kit.Option(
        "--views", "frontal; labelled: and lateral; unlabelled: and of unknown view; all: and special views", _AS,
        (_AS, "frontal", "labelled", "unlabelled", "all"),
    ),
    kit.Option(
        "--prior", "the most recent earlier exam, with all shown views or its frontal ones", _AS,
        (_AS, "none", "latest", "latest-frontal"),
    ),
    kit.Option(
        "--pad", "repeat the current study's pictures until there are so many", _AS,
        (_AS, *map(str, range(MAX_IMAGES + 1))),
    ),
    kit.Option("--view-names", "name the view before each picture", _AS, (_AS, "yes", "no")),
    kit.Option(
        "--context", "plain: indication, technique, comparison; history: and history", _AS, (_AS, *mimic_sets.CONTEXTS)
    ),
    kit.Option("--task", "section to be written", "findings", ("findings", "impression")),
    kit.Option("--shots", "worked examples before each evaluation study, from training studies", "0", ("0", "1")),
    kit.Option(
        "--compare-pairs", "count agreement with a published table of current and prior pictures, such as Libra's or "
        "MLRG's (JSON, JSON Lines, CSV, Parquet)", None, prepare=mimic_pairs.comparison,
    ),
)  # fmt: skip

SOURCE = kit.Source(
    name="mimic_cxr",
    title="MIMIC-CXR (radiographs and reports)",
    homepage="https://physionet.org/content/mimic-cxr-jpg/2.1.0/",
    revision="mimic-cxr-jpg 2.1.0, mimic-cxr 2.1.0",
    layouts=(
        kit.Layout(
            "MIMIC-CXR-JPG and its reports",
            "code",
            "MIT-LCP/mimic-cxr@3190146, X-iZhang/Libra@0d6c56a, mk-runner/MLRG@03f63d1",
        ),
    ),
    license="PhysioNet-Credentialed-Health-Data-1.5.0",
    access="credentialed",
    stage="midtrain",
    task="report",
    modality="image-text",
    splits=_SPLITS,
    obtain="""
1. Get a PhysioNet account, do the CITI training, sign the data use agreements of mimic-cxr-jpg and mimic-cxr.
2. wget -r -N -c -np --user NAME --ask-password https://physionet.org/files/mimic-cxr-jpg/2.1.0/
3. wget --user NAME --ask-password https://physionet.org/files/mimic-cxr/2.1.0/mimic-cxr-reports.zip
Layout under --raw: mimic-cxr-jpg/{mimic-cxr-2.0.0-metadata.csv.gz, mimic-cxr-2.0.0-split.csv.gz, files/p10/...} and
mimic-cxr/{mimic-cxr-reports.zip | files/p10/...}; the folders that wget makes are found too.
Reports beside the pictures are found, too. Nothing leaves the machine.

Presets (--preset; single options below change one)
single    one picture a study, the best view; no prior
ours      all frontal and lateral pictures, also without a view label, at most six; those of the most recent earlier
          exam behind them
editgrpo  as its paper says: only pictures whose ViewPosition is frontal or lateral, the most recent earlier exam, views
          named, no history; filled up to four pictures, as the published mean of 4.17 and 4.30 implies
libra     each frontal picture with the last of the previous date by StudyTime, or with itself
Impressions show at most two pictures a study. Counts, pictures a sample and the share with a prior stand beside
EditGRPO's in the summary and in build.json; its cleaning is unpublished, so they differ.
""",
    reasons={
        "custom_section": "the report has no standard sections (one of the 54 listed by MIT-LCP); nothing to do",
        "no_exemplar": "the cohort has no exemplar of another patient and trial; fetch more trial texts",
        "no_findings": "the report has no FINDINGS section; nothing to do",
        "no_impression": "the report has no IMPRESSION section; nothing to do",
        "no_usable_view": "the study has special views only; nothing to do",
        "not_current_image": "only frontal images are current images under this prior policy; nothing to do",
    },
    plan=plan,
    read=read,
    published=_published,
    figures=mimic_sets.published_figures,
    version=2,
    paper="single-panel 22,747 (rule unpublished) and multi-view & longitudinal 146,893 (= EditGRPO); eval 2,231",
    paper_rows=(
        kit.PaperRow("MIMIC-CXR (single-panel)", "MT", 22_747, "rule unpublished; ours: the best view of each study"),
        kit.PaperRow(
            "MIMIC-CXR (multi-view & longitudinal)", "MT", 146_893, "--preset editgrpo or ours; the count is EditGRPO's"
        ),
        kit.PaperRow("MIMIC-CXR findings", "EVAL", 2_231, "their test split; the cleaning is unpublished"),
        kit.PaperRow(
            "Impression generation (ICL)",
            "EVAL",
            1_564,
            "--task impression [--shots 1], split test; which studies is not stated",
        ),
    ),
    options=_OPTIONS,
    variant=_variant,
)

if __name__ == "__main__":
    kit.run(SOURCE)
