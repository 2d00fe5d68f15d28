"""Clinical relevance of a text by rules: the offline fallback where no language model judges.

Cues only: asking viewers to subscribe, adverts, charts and flow diagrams named in a caption, slides of a lecture,
against clinical vocabulary. It knows English, and it sees what a text says about a picture, never the picture. The cues
and weights are argued, not fitted.
"""

import re
from typing import ClassVar

from filters.base import Filter, Record, Score

RULES = "relevance-rules-1"
"""What a verdict names when the rules alone have made it."""

_CHATTER = re.compile(
    r"\bsubscrib\w*|\b(?:click|tap)(?:ing)?\s(?:here|on|the|below|like)|\bcheck (?:out|it out)|\b(?:like|share) (?:and"
    r"|this|my|our)|\b(?:my|our|this|the) (?:channel|video|podcast|playlist|webinar|newsletter|website|web site"
    r"|livestream|lecture series)|\bthanks? (?:you )?(?:so much |very much )?for (?:watching|listening|joining"
    r"|tuning in)|\bwelcome (?:back|to)\b|\b(?:follow|dm|message|contact) (?:me|us)\b|\blink in\b|\bregister (?:now"
    r"|here|today)|\bsign up\b|\bdiscount\b|\bgiveaway\b|\bretweet\w*|\b(?:hello|hi|hey) (?:everyone|everybody|guys"
    r"|friends|all)\b|\bhappy (?:birthday|new year|holidays|diwali)|\bcongratulat\w+|\bsee you (?:next|in|at|there)\b"
    r"|\bcan you hear me\b|\bshare (?:my|the|your) screen\b|\bnext slide\b|\bcopyright\b|\ball rights reserved\b"
    r"|\badvertis\w+|\bbuy now\b",
    re.IGNORECASE,
)
_GRAPHICS = re.compile(
    r"\b(?:flow ?charts?|flow diagrams?|prisma|consort diagram|bar (?:charts?|graphs?|plots?)|pie charts?"
    r"|line (?:charts?|graphs?|plots?)|histograms?|scatter ?plots?|box ?(?:and whiskers? )?plots?|violin plots?"
    r"|forest plots?|funnel plots?|volcano plots?|heat ?maps?|kaplan[- ]?meier|survival curves?|roc curves?"
    r"|receiver operating|calibration curves?|nomograms?|regression (?:line|curve|plot)s?|schematic(?:s|ally)?"
    r"|work ?flow|study (?:design|flow)|block diagrams?|venn diagrams?|decision trees?|network architecture"
    r"|phylogenetic tree|western blots?|gel electrophoresis|chemical structures?|organi[sz]ation chart|timelines?"
    r"|word cloud|graphical abstract|questionnaires?|geographic(?:al)? (?:distribution|map)|map of|screenshots?"
    r"|illustration of|cartoon|diagram(?:s|matic)?|standard (?:error|deviations?) (?:bars?|of the mean)|error bars?)\b",
    re.IGNORECASE,
)
_CLINICAL = re.compile(
    r"\b(?:patholog|histolog|histopatholog|cytolog|radiograph|radiolog|x-?rays?\b|ct\b|mri\b|mr image|ultrasound"
    r"|sonogra|echocardiogra|pet\b|scintigra|angiogra|mammogra|tomogra|fluorosc|endoscop|colonoscop|fundus|fundoscop"
    r"|dermosc|biops|resection|stain|h&e|hematoxylin|haematoxylin|immunohistochem|tumou?r|carcinom|sarcom|lymphom"
    r"|adenom|melanom|leuk[ae]?emi|glioma|neoplas|metasta|malignan|benign|dysplas|cyst|lesion|nodule|mass\b|opacit"
    r"|consolidat|effusion|pneumo|edema|oedema|fractur|dislocat|stenosis|thromb|embol|aneurysm|infarct|ischemi"
    r"|ischaemi|h[ae]?emorrhag|hematoma|haematoma|inflamm|infect|abscess|fibrosis|necro|granulom|ulcer|polyp|hernia"
    r"|calcif|enhanc|signal intens|hyperintens|hypointens|hyperdens|hypodens|hypoecho|hyperecho|attenuat|axial"
    r"|sagittal|coronal|transverse|anterior|posterior|lateral|lung|liver|kidney|renal|heart|cardi|brain|cerebr|spine"
    r"|spinal|vertebra|bone|femur|tibia|abdom|thora|pelvi|chest|breast|prostat|thyroid|pancrea|bowel|colon|gastri"
    r"|esophag|oesophag|ovar|uter|bladder|skin|epiderm|retina|optic|tooth|teeth|dental|maxill|mandib|artery|arteri"
    r"|vein|venous|nerve|lymph|gland|epitheli|stroma|nucle|cytoplasm|mitos|mitot|cells?\b|tissue|syndrome|disease)",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[^\W\d_]+")


def irrelevance(text: str) -> float:
    """How surely a text is no clinical description, 0 to 1.

    Each chatter cue weighs 0.6 and each graphics cue 0.5 as independent chances; clinical words then lower what one
    stray cue has raised, by up to half at one in five words. A text without any clinical word starts at 0.5.
    """
    chatter, graphics, clinical = _cues(text)
    words = len(_WORDS.findall(text))
    clean: float = 0.4**chatter * 0.5**graphics * (1.0 if clinical else 0.5)
    relief = min(1.0, 5 * clinical / words) if words else 0.0
    return round((1 - clean) * (1 - 0.5 * relief), 4)


def _cues(text: str) -> tuple[int, int, int]:
    return len(_CHATTER.findall(text)), len(_GRAPHICS.findall(text)), len(_CLINICAL.findall(text))


class RelevanceRules(Filter):
    """Chatter, charts and diagrams named in the caption. Needs no picture, no model, no network."""

    name: ClassVar[str] = "relevance_rules"
    version: ClassVar[str] = RULES
    scores: ClassVar[dict[str, str]] = {
        "chatter": "cues of talk to an audience or of advertising, count",
        "graphics": "cues of charts, diagrams, blots and screenshots, count",
        "clinical": "clinical words, count",
        "irrelevant": "how surely the text is no clinical description, 0..1; no caption: none",
        "judge": "the rules that made the verdict; `empty_caption` where there is no text",
    }
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 0.1

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of a record's caption; without one all numbers are None and `judge` is `empty_caption`."""
        text = record.caption
        if not text.strip():
            return dict.fromkeys(self.scores) | {"judge": "empty_caption"}
        chatter, graphics, clinical = _cues(text)
        irrelevant = irrelevance(text)
        return {
            "chatter": chatter, "graphics": graphics, "clinical": clinical, "irrelevant": irrelevant, "judge": RULES,
        }  # fmt: skip
