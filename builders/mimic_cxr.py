"""MIMIC-CXR-JPG radiographs with MIMIC-CXR reports: single images, or multi-view sets with the prior study.

Layout, columns, section and ordering rules: reference `sources.md`, section 6. A source row is a study (with
`--prior-policy libra` an image). `--longitudinal` follows EditGRPO: all frontal and lateral images of a study, then
those of the subject's most recent earlier study, at most six. Text and images are credentialed: nothing here ever puts
report text into a message.
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
from builders.engine import mimic_pictures
from builders.engine.mimic_reports import CUSTOM_STUDIES, parse_sections

VIEW_RANK = (
    "PA", "AP", "LATERAL", "LL", "AP AXIAL", "AP LLD", "AP RLD", "PA RLD", "PA LLD", "LAO", "RAO", "LPO",
    "XTABLE LATERAL", "SWIMMERS", "",
)  # fmt: skip
"""Best view first; identical in CheXagent (e4f31e6) and RRG24 (ab5bc2f)."""
FRONTAL, LATERAL, UNKNOWN = frozenset({"PA", "AP"}), frozenset({"LATERAL", "LL"}), frozenset({""})
_VIEW_CODES = {"postero-anterior": "PA", "antero-posterior": "AP", "lateral": "LATERAL", "left lateral": "LL"}
"""What `ViewCodeSequence_CodeMeaning` says, for the about 4 % of images whose ViewPosition is empty."""
MAX_IMAGES = 6
"""`limit_images` of EditGRPO (taokz/EditGRPO at 5decc57)."""

EXEMPLAR_CANDIDATES = 16
IMAGES_PER_UNIT = 256
STUDIES_PER_METADATA_UNIT = 20_000

_ROOTS = ("", "mimic-cxr-jpg/", "mimic-cxr-jpg/2.*/", "physionet.org/files/mimic-cxr-jpg/2.*/")
_REPORT_ROOTS = ("", "mimic-cxr/", "mimic-cxr/2.*/", "physionet.org/files/mimic-cxr/2.*/", "mimic-cxr-jpg/")
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
    metadata = kit.require(raw, "MIMIC-CXR-JPG metadata", *(f"{root}mimic-cxr-2.0.0-metadata.csv*" for root in _ROOTS))
    split = kit.require(raw, "MIMIC-CXR-JPG split", *(f"{root}mimic-cxr-2.0.0-split.csv*" for root in _ROOTS))
    reports = kit.first_existing(raw, *(f"{root}mimic-cxr-reports.zip" for root in _REPORT_ROOTS))
    if reports is None:
        reports = kit.require(raw, "reports", *(f"{root}files" for root in _REPORT_ROOTS[1:]), "files")
    jpg_root = kit.relative(metadata.parent, raw)
    index, rejects = _read_index(metadata, split, raw)
    train = [study for (where, _), studies in sorted(index.items()) if where == "train" for study in studies]
    if rejects:
        files = tuple(kit.relative(path, raw) for path in (metadata, split))
        yield kit.Unit("index-00000", "unassigned", "train", len(rejects), {"rejects": rejects}, files)
    for name in _SPLITS:
        subjects = [studies for (where, _), studies in sorted(index.items()) if where == name]
        for number, chunk in enumerate(_chunks(subjects, params["no_images"])):
            payload: dict[str, Any] = {"jpg_root": jpg_root, "reports": kit.relative(reports, raw)}
            payload["subjects"] = _plain(chunk)
            shown = chunk
            if params["shots"] == "1" and _SPLITS[name] == "eval":
                exemplars = {study.study_id: _exemplars(study, train) for studies in chunk for study in studies}
                payload["exemplars"] = {study_id: _plain([studies]) for study_id, studies in exemplars.items()}
                shown = [*chunk, *exemplars.values()]
            rows = sum(len(study.images) if params["prior_policy"] == "libra" else 1 for s in chunk for study in s)
            inputs = tuple(dict.fromkeys(_inputs(shown, jpg_root, kit.relative(reports, raw), params["no_images"])))
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
        yield _report_file(reports, study).partition("!")[0]
        for image in () if metadata_only else study.images:
            yield _picture(study, image).file(jpg_root)


def _picture(study: Study, image: Radiograph) -> mimic_pictures.Radiograph:
    return mimic_pictures.Radiograph(study.subject_id, study.study_id, image.dicom_id)


def _report_file(reports: str, study: Study) -> str:
    """The report's name in messages and provenance."""
    inside = f"p{study.subject_id[:2]}/p{study.subject_id}/s{study.study_id}.txt"
    return f"{reports}!files/{inside}" if reports.endswith(".zip") else f"{reports}/{inside}"


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
        view = fields["ViewPosition"].strip() or _VIEW_CODES.get(fields.get(_VIEW_CODE, "").strip().lower(), "")
        radiograph = Radiograph(fields["dicom_id"], view)
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
    """One outcome a study; with `--prior-policy libra` one an image."""
    if "rejects" in unit.payload:
        yield from (kit.Reject(*reject) for reject in unit.payload["rejects"])
        return
    tree = _Tree(raw, unit.payload["jpg_root"], unit.payload["reports"])
    for payload in unit.payload["subjects"]:
        studies = _studies(payload)
        for number, study in enumerate(studies):
            earlier = studies[:number]
            if params["prior_policy"] == "libra":
                yield from _libra(tree, study, earlier, params["task"])
            else:
                outcome = _study_sample(tree, study, earlier, params["task"], params["longitudinal"])
                if "exemplars" in unit.payload and isinstance(outcome, kit.Sample):
                    [candidates] = unit.payload["exemplars"][study.study_id]
                    outcome = _with_exemplar(tree, outcome, _studies(candidates), params["task"])
                yield outcome


def _studies(payload: list[Any]) -> list[Study]:
    """What `_plain` made of a subject's studies."""
    from msgspec import convert

    return convert(payload, list[Study])


def _with_exemplar(tree: "_Tree", sample: kit.Sample, candidates: list[Study], task: str) -> kit.Sample | kit.Reject:
    """The sample as a second turn, after a training study with its report; its id stands in the provenance."""
    for candidate in candidates:
        shown = _study_sample(tree, candidate, [], task, longitudinal=False)
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
        return _report_file(self.reports, study)

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
    tree: _Tree, study: Study, earlier: list[Study], task: str, longitudinal: bool
) -> kit.Sample | kit.Reject:
    current = _usable(study)
    try:
        sections = _report(tree, study, task)
        kit.demand(current, "no_usable_view", tree.report_file(study))
    except kit.InputError as error:
        return kit.Reject(error.file, study.study_id, error.reason, error.detail)
    if not longitudinal:
        # The recipe's findings set has one image a study; its impression benchmark shows all radiographs of the study.
        shown_now = current[:1] if task == "findings" else current[:MAX_IMAGES]
        images = [tree.image(study, image, None) for image in shown_now]
        return _sample(tree, study, study.study_id, images, None, sections, task)
    # The most recent earlier study that has a usable image; studies without are no exam to compare with.
    prior = next((candidate for candidate in reversed(earlier) if _usable(candidate)), None)
    shown = _usable(prior)[: MAX_IMAGES - 1] if prior else []
    # Current images first; one place is kept for the prior study's best view, so that the cut never hides a prior.
    current = current[: MAX_IMAGES - 1 if prior else MAX_IMAGES]
    shown = shown[: MAX_IMAGES - len(current)]
    images = [tree.image(study, image, "current") for image in current]
    images += [tree.image(prior, image, "prior") for image in shown if prior]
    return _sample(tree, study, study.study_id, images, prior, sections, task)


def _libra(tree: _Tree, study: Study, earlier: list[Study], task: str) -> Iterator[kit.Sample | kit.Reject]:
    """Libra (X-iZhang/Libra at 0d6c56a): each frontal image with the last frontal image of the previous study date.

    Without an earlier date the current image stands in for the prior; always exactly two images.
    """
    try:
        sections = _report(tree, study, task)
    except kit.InputError as error:
        for image in study.images:
            yield kit.Reject(error.file, image.dicom_id, error.reason, error.detail)
        return
    candidates = [s for s in earlier if s.order[0] < study.order[0] and _frontal(s)]
    prior = candidates[-1] if candidates else None
    for image in study.images:
        if image.view not in FRONTAL:
            yield kit.Reject(tree.report_file(study), image.dicom_id, "not_current_image", image.view or "no view")
            continue
        current = tree.image(study, image, "current")
        if prior is None:
            images = [current, tree.image(study, image, "current")]
        else:
            images = [current, tree.image(prior, _frontal(prior)[-1], "prior")]
        yield _sample(tree, study, image.dicom_id, images, prior, sections, task)


def _usable(study: Study) -> list[Radiograph]:
    """Frontal and lateral images, best view first.

    An image of unknown view counts, last: most are frontal, and leaving them out would drop whole studies unseen.
    """
    return [image for image in study.images if image.view in FRONTAL | LATERAL | UNKNOWN]


def _frontal(study: Study) -> list[Radiograph]:
    return [image for image in study.images if image.view in FRONTAL]


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
) -> kit.Sample:
    """Images first, then what the radiologist knew before reading; never findings, impression or an earlier report."""
    current = [i for i, image in enumerate(images) if image.relation != "prior"]
    before = [i for i, image in enumerate(images) if image.relation == "prior"]
    parts: list[str | int] = [*current] if images[0].relation is None else ["Current study:", *current]
    if before:
        parts += ["Prior study:", *before]
    known = [(name, sections.get(name, "")) for name in ("indication", "history", "technique", "comparison")]
    context = "\n".join(f"{name.capitalize()}: {text}" for name, text in known if text)
    parts.append(f"{context}\n{_INSTRUCTION[task]}" if context else _INSTRUCTION[task])
    group = {"subject_id": f"mimic-cxr/{study.subject_id}", "study_id": f"mimic-cxr/{study.study_id}"}
    if prior is not None:
        group["prior_study_id"] = f"mimic-cxr/{prior.study_id}"
    messages, file = [kit.user(*parts), kit.assistant(sections[task])], tree.report_file(study)
    return kit.Sample(key, messages, file, key, answer=sections[task], images=images, group=group)


def _published(params: kit.Params) -> Mapping[str, int]:
    """Studies (images under libra) by split: the official split file of MIMIC-CXR-JPG 2.x."""
    if params["prior_policy"] == "libra":
        return {"train": 368_960, "validate": 2_991, "test": 5_159}
    return {"train": 222_758, "validate": 1_808, "test": 3_269}


def _variant(params: kit.Params) -> str:
    parts = (
        "longitudinal" if params["longitudinal"] else "",
        "libra" if params["prior_policy"] == "libra" else "",
        "" if params["task"] == "findings" else params["task"],
        "1shot" if params["shots"] == "1" else "",
    )
    return "-".join(part for part in parts if part)


_OPTIONS = (
    kit.Option("--longitudinal", "multi-view studies with the subject's prior study (default: one image)"),
    kit.Option("--prior-policy", "how the prior is chosen, see the module's text", "editgrpo", ("editgrpo", "libra")),
    kit.Option("--task", "section to be written", "findings", ("findings", "impression")),
    kit.Option("--shots", "worked examples before each evaluation study, from training studies", "0", ("0", "1")),
)

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
Nothing leaves the machine.
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
    paper="single-panel 22,747 (rule unpublished) and multi-view & longitudinal 146,893 (= EditGRPO); eval 2,231",
    paper_rows=(
        kit.PaperRow("MIMIC-CXR (single-panel)", "MT", 22_747, "rule unpublished; ours: the best view of each study"),
        kit.PaperRow("MIMIC-CXR (multi-view & longitudinal)", "MT", 146_893, "--longitudinal; the count is EditGRPO's"),
        kit.PaperRow("MIMIC-CXR findings", "EVAL", 2_231, "test split of --longitudinal; the cleaning is unpublished"),
        kit.PaperRow(
            "Impression generation (ICL)", "EVAL", 1_564, "--task impression [--shots 1]; which studies is not stated"
        ),
    ),
    options=_OPTIONS,
    variant=_variant,
)

if __name__ == "__main__":
    kit.run(SOURCE)
