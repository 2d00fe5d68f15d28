"""A proof in five sentences that a reviewer can quote: they follow from the certificate and from nothing else."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from manifests.proof.certificate import incomplete
from medgpt.page import plural

NAMES_SHOWN = 14
"""As many as the recipe has evaluation rows; more are counted."""


def sentences(document: Mapping[str, Any]) -> list[str]:
    """What was compared, what of it was read, what was found, how well it finds, and how anybody can check it."""
    return [_scope(document), _read(document), _found(document), _measured(document), _check(document)]


def _scope(document: Mapping[str, Any]) -> str:
    train = sum(row["train_samples"] for row in document["train_totals"])
    builds = len({row["train_build"] for row in document["train_totals"]})
    tests: Counter[str] = Counter()
    for row in document["eval_totals"]:
        tests[row["eval_build"]] += row["eval_samples"]
    said = (
        f"{plural(train, 'training sample')} of {plural(builds, 'build')} were held against "
        f"{plural(tests.total(), 'test item')} of {_names(sorted(tests))}"
    )
    if left_out := document["left_out_of_near_text"]:
        items = sum(row["eval_samples"] for row in left_out)
        what = _names(sorted({row["task"] for row in left_out}))
        said += f", {plural(items, 'of them', 'of them')} ({what}) not by their words, as the policy says"
    return f"{said}."


def _read(document: Mapping[str, Any]) -> str:
    states: Counter[str] = Counter()
    for entry in document["accounting"]:
        states[entry["state"]] += entry["count"]
    said = f"Of their files, fields, rows, pictures and texts {states['compared']:,} were compared"
    if states["declared"]:
        said += f" and {states['declared']:,} are declared not to matter, with reasons"
    open_ones = incomplete(document)
    return f"{said}; nothing else is there." if not open_ones else f"{said}; incomplete: {'; '.join(open_ones)}."


def _found(document: Mapping[str, Any]) -> str:
    total = sum(row["train_samples"] for row in document["train_totals"])
    out = sum(row["train_samples"] for row in document["exclusions"])
    said = (
        f"{plural(out, 'training sample')} ({out / max(total, 1):.2%}) share an id, a picture, a question or a passage "
        "with a test item and are taken out"
    )
    verdicts = document["verdicts"]
    if verdicts and verdicts["wrong"]:
        wrong, read = plural(verdicts["wrong"], "pair was", "pairs were"), verdicts["wrong"] + verdicts["right"]
        kept = plural(verdicts["back"], "training sample")
        said += f"; {wrong} judged wrong by a reviewer (of {read:,} read), which leaves {kept} in"
    if document["clean"]:
        return f"{said}; after that no such pair is left."
    left = ", ".join(f"{row['pairs']:,} {row['level']}/{row['kind']}" for row in document["after"])
    return f"{said}; NOT proved, for there is left: {left}."


def _measured(document: Mapping[str, Any]) -> str:
    exact = "Equal ids, bytes, pixels and words are found without exception"
    measured = document["coverage"]
    if measured is None:
        unmeasured = (
            f"{exact}; how many changed pictures are found was not measured with this version{_local(document)}."
        )
        return f"{unmeasured} {_rewrites(document['rewrites'])}"
    changes = [*measured["transformations"], *measured["between"], *measured.get("overlays", ())]
    worst = min(changes, key=lambda change: float(change["recall"]))
    several = [f"{row['recall']:.1%} after {row['name']} at once" for row in measured.get("composed", ())]
    real = measured["pictures"]["radiographs"] + measured["pictures"]["others"]
    wrong = plural(measured["precision"]["different_people"], "pair")
    found = ", ".join([f"{worst['recall']:.1%} are found in the worst ({worst['name']})", *several])
    return (
        f"{exact}; of {real} real pictures, each changed in {len(changes)} ways, {found}, and {wrong} of different "
        f"people; other changes are not covered{_local(document)}. {_rewrites(document['rewrites'])}"
    )


def _rewrites(said: Mapping[str, Any]) -> str:
    if not said["ran"]:
        return f"Items in other words were not looked for ({said['why']})."
    names, measured = " and ".join(one["model"] for one in said["models"]), said["coverage"]
    if measured is None:
        return f"Items in other words were looked for ({names}); how many are found was not measured with this version."
    return (
        f"Of {measured['rewrites']} real items that a language model reworded {measured['found']:.1%} are found "
        f"({names}), and {measured['wrong']:.2%} of {measured['other_questions']:,} other questions wrongly."
    )


def _local(document: Mapping[str, Any]) -> str:
    rows = [row for row in document["local_pictures"]["pictures"] if row["role"] == "train"]
    total = sum(row["compared"] + row["not_stored"] + row["left_out"] for row in rows)
    if not total:
        return ""
    looked = f"{sum(row['compared'] for row in rows):,} of {total:,} training pictures"
    return f"; inside other pictures (montages, screenshots, slides) they were looked for in {looked}"


def _check(document: Mapping[str, Any]) -> str:
    return (
        f"Anybody can check it: builds {document['builds_root'][:16]}, policy {document['policy_sha256'][:16]}; "
        "`python -m manifests.verify DATA` derives all of it anew from the stored bytes, by another road."
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
