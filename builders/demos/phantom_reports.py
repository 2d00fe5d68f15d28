"""What a phantom's report says: text that states exactly what `phantom_pictures` drew."""

from builders.demos.phantoms import Device, Finding, Phantom, choose

_VIEWS = {"PA": "PA", "AP": "portable AP", "LATERAL": "lateral"}
NAMES = {
    "effusion": "pleural effusion", "pneumothorax": "pneumothorax", "consolidation": "consolidation",
    "nodule": "pulmonary nodule", "cardiomegaly": "cardiomegaly", "edema": "pulmonary edema",
}  # fmt: skip


def describe(phantom: Phantom, prior: Phantom | None = None, views: tuple[str, ...] = ()) -> dict[str, str]:
    """Sections of a report by their MIMIC headers; with `prior`, each finding's course since then.

    `views` are those of the study; by default the phantom's own.
    """
    taken = " AND ".join(_VIEWS[view].upper() for view in views or (phantom.view,))
    person = phantom.anatomy
    reason = choose(phantom.seed, "reason", ("cough", "fever", "shortness of breath", "chest pain", "line placement"))
    return {
        "EXAMINATION": f"CHEST ({taken})",
        "INDICATION": f"___ year old {'woman' if person.sex == 'F' else 'man'} with {reason}",
        "TECHNIQUE": f"Chest, {taken.lower().replace('pa', 'PA').replace('ap', 'AP')}",
        "COMPARISON": "Chest radiograph from ___" if prior else "None.",
        "FINDINGS": " ".join(_sentences(phantom, prior)),
        "IMPRESSION": _impression(phantom, prior),
    }


def course(finding: Finding, prior: Phantom) -> str:
    """`new`, `increased`, `decreased` or `unchanged` since the prior study."""
    for before in prior.findings:
        if (before.kind, before.zone) == (finding.kind, finding.zone) and before.side == finding.side:
            now, then = (f.mm or f.grade for f in (finding, before))
            return "unchanged" if now == then else "increased" if now > then else "decreased"
    return "new"


def resolved(phantom: Phantom, prior: Phantom) -> list[Finding]:
    """Findings of the prior study that are gone."""
    places = {(finding.kind, finding.side, finding.zone) for finding in phantom.findings}
    return [finding for finding in prior.findings if (finding.kind, finding.side, finding.zone) not in places]


def _phrase(finding: Finding) -> str:
    where = f"{finding.side} " if finding.side else ""
    zone = f" in the {finding.zone} zone" if finding.zone else ""
    plural = "s" if finding.side == "bilateral" else ""
    return f"{finding.size} {where}{NAMES[finding.kind]}{plural}{zone}"


def _sentences(phantom: Phantom, prior: Phantom | None) -> list[str]:
    sentences = []
    for finding in phantom.findings:
        verb = "are" if finding.side == "bilateral" else "is"
        article = "" if finding.side == "bilateral" or finding.kind in ("cardiomegaly", "edema") else "a "
        text = f"There {verb} {article}{_phrase(finding)}"
        if prior is not None:
            change = course(finding, prior)
            text += ", new since the prior study" if change == "new" else f", {change} compared with the prior study"
        sentences.append(text + ".")
    if prior is not None:
        sentences += [f"The previously seen {_phrase(finding)} has resolved." for finding in resolved(phantom, prior)]
    seen = {finding.kind for finding in phantom.findings}
    if "cardiomegaly" not in seen:
        sentences.append("The heart size is normal.")
    absent = [NAMES[kind] for kind in ("effusion", "pneumothorax", "consolidation") if kind not in seen]
    if absent:
        sentences.append(f"No {' or '.join([', '.join(absent[:-1]), absent[-1]] if absent[1:] else absent)}.")
    return sentences + [_device(device) for device in phantom.devices]


def _device(device: Device) -> str:
    if device.kind == "endotracheal tube":
        return f"The endotracheal tube ends {device.tip_mm} mm above the carina."
    if device.kind == "pacemaker":
        return f"A {device.side} chest wall pacemaker has leads in the right atrium and right ventricle."
    if device.kind == "central line":
        return f"A {device.side} central venous line ends in the superior vena cava."
    return "Sternotomy wires are intact."


def _impression(phantom: Phantom, prior: Phantom | None) -> str:
    if not phantom.findings:
        return "No acute cardiopulmonary process."
    parts = []
    for number, finding in enumerate(phantom.findings, 1):
        change = f"{course(finding, prior)} " if prior is not None else ""
        parts.append(f"{number}. {(change + _phrase(finding)).capitalize()}.")
    return " ".join(parts)
