"""Test reports in training texts: how many planted copies are found, and what is taken out where nothing was planted.

2,000 made studies of some 700 patients in the manner of MIMIC-CXR: forty dictation styles, two of five studies normal,
stock sentences as often as in real life (few very often, most seldom), findings with side, size, place and course.
Patients are split as MIMIC's are; every test report is planted in each form, one form at a time, with the text of
another document around it where the form says so.
"""

from __future__ import annotations

import random
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

STUDIES, STYLES, NORMAL = 2_000, 40, 0.4
TEST_SHARE = 0.15
PART = 150
"""Studies in one part of the train side: 256 pictures, as builders.mimic_cxr cuts it."""
KEPT = 0.6


class Report(NamedTuple):
    """One made study."""

    patient: str
    text: str
    normal: bool


Form = Callable[[str, random.Random], str]

_HEART = (
    "The heart is normal in size.", "Heart size is normal.", "The cardiac silhouette is within normal limits.",
    "The cardiomediastinal silhouette is unremarkable.", "Cardiomediastinal and hilar contours are normal.",
    "The heart size is within normal limits and the mediastinal and hilar contours are unremarkable.",
    "The cardiac, mediastinal and hilar contours are normal.", "Normal cardiomediastinal silhouette.",
    "The heart is mildly enlarged, unchanged.", "Moderate cardiomegaly is stable.",
    "Heart size remains mildly enlarged with a left ventricular predominance.",
    "The aorta is tortuous and mildly calcified.",
)  # fmt: skip
_LUNGS = (
    "The lungs are clear.", "Lungs are clear bilaterally.", "The lungs are well expanded and clear.",
    "The lungs are clear without focal consolidation.", "No focal consolidation is seen.",
    "There is no focal consolidation.", "Lung volumes are low.", "The lungs are hyperinflated but clear.",
    "PA and lateral views of the chest were provided demonstrating no focal consolidation.",
    "Low lung volumes cause bronchovascular crowding without frank pulmonary edema.",
    "No evidence of pneumonia or pulmonary vascular congestion.", "Pulmonary vasculature is normal.",
    "There is mild pulmonary vascular congestion.", "Bibasilar atelectasis is unchanged.",
)  # fmt: skip
_PLEURA = (
    "No pleural effusion or pneumothorax.", "There is no pleural effusion or pneumothorax.",
    "No pleural effusion or pneumothorax is seen.", "There is no large effusion or pneumothorax.",
    "There are no pleural effusions or pneumothoraces.", "No effusion, edema or pneumothorax is present.",
    "There is no focal consolidation, pleural effusion or pneumothorax.",
    "Pleural surfaces are clear without effusion or pneumothorax.",
    "No pleural effusion, pneumothorax or overt pulmonary edema is identified on this examination.",
)  # fmt: skip
_BONES = (
    "The visualized osseous structures are unremarkable.", "No acute osseous abnormality.",
    "Bony structures are intact.",
    "Imaged upper abdomen is unremarkable.", "No free air below the right hemidiaphragm is seen.",
    "Degenerative changes are noted in the thoracic spine.", "There is no acute osseous abnormality detected.",
    "Old left-sided rib fractures are noted.", "",
    "Mild multilevel degenerative changes are seen along the thoracic spine.",
)  # fmt: skip
_FINDINGS = (
    "There is a {size} {side} pleural effusion with adjacent {what}{course}.",
    "A {size} {what} in the {side} {zone} measures {mm} mm{course}.",
    "{side} {zone} opacity is concerning for {cause}{course}.",
    "Patchy {what} in the {side} {zone} may reflect {cause}, and correlation with {check} is recommended.",
    "The {device} terminates {mm} mm {place}.", "{side} {device} ends {place}, unchanged in position.",
    "Interval {event} of the {device} with its tip {place}.",
    "Since the prior examination the {size} {what} at the {side} {zone} has {change}.",
    "{size} {side} apical pneumothorax measures {mm} mm in thickness{course}.",
    "There is {size} {what} throughout the {side} lung, most pronounced in the {zone}{course}.",
    "{side} hilar enlargement raises the question of {cause}; {check} is advised.",
    "Surgical clips project over the {side} {zone}, and the {device} is {change}.",
)  # fmt: skip
_WORDS = {
    "size": ("small", "moderate", "large", "tiny", "trace", "subtle", "extensive", "mild", "new", "persistent"),
    "side": ("left", "right", "bilateral", "left", "right"),
    "zone": ("upper lobe", "lower lobe", "middle lobe", "lingula", "apex", "base", "perihilar region",
             "retrocardiac region", "costophrenic angle", "mid lung", "paratracheal stripe", "suprahilar region"),
    "what": ("atelectasis", "consolidation", "nodule", "interstitial thickening", "ground glass opacity", "mass",
             "scarring", "bronchiectasis", "calcified granuloma", "reticulation", "cavity", "airspace disease"),
    "cause": ("pneumonia", "aspiration", "hemorrhage", "malignancy", "lymphadenopathy", "asymmetric edema",
             "infarction", "sarcoidosis", "septic emboli", "contusion",
              "infection in the appropriate clinical setting"),
    "check": ("CT", "lateral radiographs", "prior imaging", "bronchoscopy", "clinical symptoms",
             "apical lordotic views", "repeat radiographs after treatment"),
    "device": ("endotracheal tube", "PICC", "dual lead pacemaker", "port", "chest tube", "Swan-Ganz catheter",
               "nasogastric tube", "Impella device", "tracheostomy tube", "dialysis catheter", "pigtail catheter"),
    "place": ("above the carina", "in the mid SVC", "at the cavoatrial junction", "in the right atrium",
             "in the stomach", "below the diaphragm", "in the right ventricle", "in the brachiocephalic vein",
             "at the thoracic inlet"),
    "event": ("removal", "placement", "advancement", "repositioning", "retraction"),
    "change": ("improved", "worsened", "resolved", "increased", "decreased", "not changed", "become more conspicuous"),
    "course": ("", "", ", unchanged", ", increased from before", ", slightly improved since ___", ", new from ___"),
}  # fmt: skip


def reports(studies: int = STUDIES, seed: int = 0) -> list[Report]:
    """Made reports in the order of their patients."""
    chance = random.Random(seed)
    # A style: which of the stock sentences a radiologist says, and in what order.
    styles = [
        (chance.sample(range(4), 4), [_often(chance, stock) for stock in (_HEART, _LUNGS, _PLEURA, _BONES)])
        for _ in range(STYLES)
    ]
    made: list[Report] = []
    patient = 0
    while len(made) < studies:
        patient += 1
        visits = min(studies - len(made), 1 + int(chance.paretovariate(1.1)) if chance.random() < 0.7 else 1, 60)
        for _ in range(visits):
            order, own = styles[min(int(chance.paretovariate(0.8)) - 1, STYLES - 1)]
            stocks = (_HEART, _LUNGS, _PLEURA, _BONES)
            says = [own[n] if chance.random() < 0.7 else _often(chance, stocks[n]) for n in order]
            normal = chance.random() < NORMAL
            if not normal:
                for _ in range(chance.choices((1, 2, 3, 4, 5), (3, 4, 3, 2, 1))[0]):
                    says.insert(chance.randrange(len(says)), _finding(chance))
            made.append(Report(f"patient/{patient}", " ".join(filter(None, says)), normal))
    return made


def _often(chance: random.Random, stock: Sequence[str]) -> str:
    """One of some sentences; the first far more often than the last."""
    return stock[min(int(chance.paretovariate(0.7)) - 1, len(stock) - 1)]


def _finding(chance: random.Random) -> str:
    words = {name: chance.choice(choices) for name, choices in _WORDS.items()}
    text = chance.choice(_FINDINGS).format(mm=chance.randint(2, 60), **words)
    return text[0].upper() + text[1:]


# ---- how a copy may look


def verbatim(text: str, chance: random.Random) -> str:
    """As it is."""
    return text


def in_a_document(text: str, chance: random.Random) -> str:
    """Between other findings of a longer text."""
    before, after = (" ".join(_finding(chance) for _ in range(12)) for _ in range(2))
    return f"Case discussion. {before} {text} {after}"


def reordered(text: str, chance: random.Random) -> str:
    """Its two halves the other way round, as sections are."""
    sentences = text.split(". ")
    middle = len(sentences) // 2
    return ". ".join([*sentences[middle:], *sentences[:middle]])


def lower_cased(text: str, chance: random.Random) -> str:
    """Without capitals."""
    return text.lower()


def cut(text: str, chance: random.Random) -> str:
    """Its first 60 %."""
    words = text.split()
    return " ".join(words[: max(1, round(KEPT * len(words)))])


FORMS: tuple[Form, ...] = (verbatim, in_a_document, reordered, lower_cased, cut)


def measure(peer_python: Path | None = None) -> dict[str, Any]:
    """Figures for three made sets; there is no peer."""
    return {f"seed {seed}": figures(reports(seed=seed)) for seed in (0, 1, 2)}


def figures(made: Sequence[Report], **limits: Any) -> dict[str, Any]:
    """What is taken out where nothing was planted, and what share of planted test reports is found in each form."""
    from msgspec import structs

    from manifests.proof.near_text import NearTextIndex
    from manifests.proof.policy import load_policy
    from manifests.proof.text_pairs import EvalText

    settings = structs.replace(load_policy().text, **limits)
    chance = random.Random(1)
    patients = sorted({one.patient for one in made})
    tested = set(chance.sample(patients, round(TEST_SHARE * len(patients))))
    tests = [one for one in made if one.patient in tested]
    train = [one for one in made if one.patient not in tested]
    long = [len(one.text.split()) >= settings.passage_words for one in tests]
    index = NearTextIndex([EvalText("", "", (one.text,), "ours", one.patient) for one in tests], settings)
    parts = [train[start : start + PART] for start in range(0, len(train), PART)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    scans = [index.scan([[one.text for one in part]], [one.patient for one in part]) for part in parts]
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    wrong = sum(len({match.train for match in scan.matches}) for scan in scans)
    told = [number for number in range(len(tests)) if long[number] and number not in set(index.usual)]
    found: dict[str, str] = {}
    for form in FORMS:
        # Copies of no known patient, spread over the parts.
        ours = 0
        for number, part in enumerate(parts):
            mine = told[number :: len(parts)]
            texts = [*(one.text for one in part), *(form(tests[item].text, chance) for item in mine)]
            scan = index.scan([texts], [*(one.patient for one in part), *([None] * len(mine))])
            hits = {(match.train - len(part), match.eval) for match in scan.matches}
            ours += sum((place, item) in hits for place, item in enumerate(mine))
        found[form.__name__] = f"{ours / len(told):.4f} ({ours} of {len(told)})"
    return {
        "train reports": len(train), "test reports": len(tests), "test patients": len(tested),
        "normal test reports": sum(one.normal for one in tests),
        "short": long.count(False), "in everybody's words": sum(long[number] for number in index.usual),
        "boilerplate": len({run for scan in scans for run in scan.boilerplate}),
        "taken out though nothing was planted": f"{wrong} of {len(train)}",
        "user seconds": round(seconds, 2), **found,
    }  # fmt: skip
