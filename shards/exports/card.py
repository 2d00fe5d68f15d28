"""What lies beside the data of an export: `README.md` as hubs read it, `croissant.json`, and the certificate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from manifests.proof.certificate import CERTIFICATE, ENVELOPE, EXCLUSIONS_FILE, read_certificate
from manifests.selections import dropped_samples
from medgpt.atomic import write_atomic
from medgpt.page import plural
from medgpt.private import CREDENTIALED
from medgpt.tables import markdown
from shards.certified import proof_folder
from shards.exports.formats import DATA, FORMATS, Built, Written

if TYPE_CHECKING:
    from shards.export import Plan

TASKS = {
    "vqa": "visual-question-answering", "mcq": "question-answering", "qa": "question-answering",
    "caption": "image-to-text", "report": "image-to-text", "instruction": "text-generation",
    "reasoning": "text-generation",
}  # fmt: skip
"""Task of a source -> the hub's name for it (its list of tasks)."""
LICENSES = {
    "apache-2.0", "mit", "gpl-3.0", "openrail", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
}  # fmt: skip
"""Licences that the hub knows, of those that sources have; all else is `other` there."""
_SIZES = (10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M"), (10**8, "100M"), (10**9, "1B")
_ENCODING = {
    ".parquet": "application/x-parquet", ".json": "application/json", ".jsonl": "application/jsonlines",
    ".tar": "application/x-tar", ".mds": "application/octet-stream",
}  # fmt: skip
_CR = (
    "citeAs column data dataType equivalentProperty examples extract field fileObject fileProperty fileSet format "
    "includes isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate "
    "separator source subField transform"
).split()
_CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo", **{name: f"cr:{name}" for name in _CR},
    "data": {"@id": "cr:data", "@type": "@json"}, "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
}  # fmt: skip
"""The context that Croissant 1.0 prescribes (docs.mlcommons.org/croissant/docs/croissant-spec.html, appendix)."""


def write_cards(
    plan: Plan, out: Path, built: Sequence[Built], licenses: Mapping[str, int], refused: Sequence[Mapping[str, str]]
) -> None:
    """Write card, Croissant and certificate; `licenses` counts samples. Raises: `UserError`, `OSError`."""
    proof = proof_folder(plan.certified.data)
    for name in (CERTIFICATE, ENVELOPE):
        if (proof / name).is_file():
            write_atomic(out / name, (proof / name).read_bytes())
    known = sorted({name.lower() if name.lower() in LICENSES else "other" for name in licenses})
    card = _header(plan, built, known) + "\n".join(_body(plan, proof, built, licenses, refused)) + "\n"
    write_atomic(out / "README.md", card.encode())
    document = _croissant(plan, built, sorted(licenses))
    write_atomic(out / "croissant.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))


def _header(plan: Plan, built: Sequence[Built], known: Sequence[str]) -> str:
    """The card's YAML (https://huggingface.co/docs/hub/datasets-cards)."""
    total = sum(build.samples for build in built)
    below = next(((at, name) for at, (most, name) in enumerate(_SIZES) if total < most), (len(_SIZES), ""))
    lowest = _SIZES[below[0] - 1][1] if below[0] else "n"
    sources = [plan.builds[build.name].record["source"] for build in built]
    head: dict[str, Any] = {
        "pretty_name": _title(plan),
        "license": known[0] if len(known) == 1 else "other",
        "task_categories": sorted({TASKS.get(source["task"], "text-generation") for source in sources}),
        "size_categories": [
            "n<1K" if not below[0] else f"{lowest}<n<{below[1]}" if below[1] else f"n>{lowest}"
        ],
        "tags": ["medical", "croissant"],
    }  # fmt: skip
    if head["license"] == "other":
        head |= {"license_name": "several", "license_link": "README.md"}
    suffix = FORMATS[plan.request["format"]].suffix
    if suffix in (".parquet", ".json", ".jsonl"):
        place = "{}/*.parquet" if suffix == ".parquet" else "{}" + suffix
        head["configs"] = [
            {"config_name": b.name, "data_files": [{"split": "train", "path": f"{DATA}/{place.format(b.name)}"}]}
            for b in built
        ]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n"


def _title(plan: Plan) -> str:
    return f"MedGPT-oss training data, {plan.request['format']}"


def _body(
    plan: Plan, proof: Path, built: Sequence[Built], licenses: Mapping[str, int], refused: Sequence[Mapping[str, str]]
) -> Iterator[str]:
    certificate = read_certificate(proof)
    yield f"# {_title(plan)}\n"
    if any(build.record["source"]["access"] == CREDENTIALED for build in plan.builds.values()):
        yield "**Holds credentialed data: for this machine alone, not to be passed on.**\n"
    yield f"{FORMATS[plan.request['format']].about}\n"
    yield "Training samples of certified builds, less what proof and filters take out. Pictures are as they are built."
    yield "Reasoning stands before a reply as `<think>`, unless the format keeps it apart.\n"
    yield "## Sources\n"
    heads = "build", "samples", "pictures", "built", "excluded by the proof", "dropped by filters", "licence", "access"
    excluded = pc.value_counts(pq.read_table(proof / EXCLUSIONS_FILE, columns=["train_build"])["train_build"])
    by_build = {one["values"]: one["counts"] for one in excluded.to_pylist()}
    rows = []
    for one in built:
        loaded = plan.builds[one.name]
        source = loaded.record["source"]
        kept = sum(unit["kept"] for unit in loaded.record["units"] if unit["role"] == "train")
        dropped = dropped_samples(plan.certified.data, loaded)
        counts = one.samples, one.pictures, kept, by_build.get(one.name, 0), len(dropped.sample_ids) if dropped else 0
        rows.append((f"[{one.name}]({source['homepage']})", *counts, source["license"], source["access"]))
    yield markdown(heads, rows)
    yield "\nA sample may be both excluded and dropped. Licences of samples: " + ", ".join(
        f"{name} {count:,}" for name, count in sorted(licenses.items())
    )
    if refused:
        yield f"\n{plural(len(refused), 'sample')} could not be written so; `not_exported.jsonl` names each."
    if plan.left_out:
        yield f"\nNot exported, credentialed: {', '.join(plan.left_out)}."
    yield "\n## Is the test set in there?\n"
    yield f"`certificate.json` is the proof, root `{certificate['root']}`, policy `{certificate['policy_sha256']}`."
    yield f"The samples that it, filters and licences leave: `{plan.certified.digest}`. Its own words:\n"
    yield from (f"{number}. {sentence}" for number, sentence in enumerate(certificate["sentences"], 1))
    yield "\nNot compared, or accepted as it is:\n"
    yield from (f"- {taken}" for taken in plan.certified.accepted or ["nothing"])


def _croissant(plan: Plan, built: Sequence[Built], licenses: Sequence[str]) -> dict[str, Any]:
    """Croissant 1.0: every file with its digest; of rows that it can read, the columns of text."""
    files = [written for build in built for written in build.files]
    return {
        "@context": _CONTEXT, "@type": "sc:Dataset", "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": _title(plan).replace(",", ""), "version": "1.0.0",
        "description": f"{FORMATS[plan.request['format']].about} Certified samples {plan.certified.digest}.",
        "license": list(licenses),
        "distribution": [_file_object(written) for written in files],
        "recordSet": [
            _record_set(build, written)
            for build in built for written in build.files if not written.file.endswith((".tar", ".mds"))
        ],
    }  # fmt: skip


def _file_object(written: Written) -> dict[str, Any]:
    encoding = _ENCODING[Path(written.file).suffix]
    return {
        "@type": "cr:FileObject", "@id": written.file, "name": written.file, "contentUrl": written.file,
        "contentSize": f"{written.size} B", "encodingFormat": encoding, "sha256": written.sha256,
    }  # fmt: skip


def _record_set(build: Built, written: Written) -> dict[str, Any]:
    name = f"{build.name}-{Path(written.file).stem}" if "/" in written.file.removeprefix(f"{DATA}/") else build.name
    fields = []
    for column in ("id", "source", "split", "task", "license"):
        extract = {"jsonPath": f"$[*].{column}"} if written.file.endswith(".json") else {"column": column}
        fields.append({
            "@type": "cr:Field", "@id": f"{name}/{column}", "name": column, "dataType": "sc:Text",
            "source": {"fileObject": {"@id": written.file}, "extract": extract},
        })  # fmt: skip
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}
