"""Clinical relevance of a text by rules: the offline fallback where no language model judges.

Cues only: asking viewers to subscribe, adverts, charts and flow diagrams named in a caption, slides of a lecture, against
clinical vocabulary. It knows English, and it sees what a text says about a picture, never the picture. The cues and
weights are argued, not fitted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from filters.base import Filter, Record, Score

RULES = "relevance-rules-1"
"""What a verdict names when the rules alone have made it."""

_CHATTER = re.compile(
    r"\bsubscrib\w*|\b(?:click|tap)(?:ing)?\s(?:here|on|the|below|like)|\bcheck (?:out|it out)|\b(?:like|share) (?:and|this|my|our)"
    r"|\b(?:my|our|this|the) (?:channel|video|podcast|playlist|webinar|newsletter|website|web site|livestream|lecture series)"
    r"|\bthanks? (?:you )?(?:so much |very much )?for (?:watching|listening|joining|tuning in)|\bwelcome (?:back|to)\b"
    r"|\b(?:follow|dm|message|contact) (?:me|us)\b|\blink in\b|\bregister (?:now|here|today)|\bsign up\b|\bdiscount\b|\bgiveaway\b"
    r"|\bretweet\w*|\b(?:hello|hi|hey) (?:everyone|everybody|guys|friends|all)\b|\bhappy (?:birthday|new year|holidays|diwali)"
    r"|\bcongratulat\w+|\bsee you (?:next|in|at|there)\b|\bcan you hear me\b|\bshare (?:my|the|your) screen\b|\bnext slide\b"
    r"|\bcopyright\b|\ball rights reserved\b|\badvertis\w+|\bbuy now\b",
    re.IGNORECASE,
)
_GRAPHICS = re.compile(
    r"\b(?:flow ?charts?|flow diagrams?|prisma|consort diagram|bar (?:charts?|graphs?|plots?)|pie charts?|line (?:charts?|graphs?|plots?)"
    r"|histograms?|scatter ?plots?|box ?(?:and whiskers? )?plots?|violin plots?|forest plots?|funnel plots?|volcano plots?|heat ?maps?"
    r"|kaplan[- ]?meier|survival curves?|roc curves?|receiver operating|calibration curves?|nomograms?|regression (?:line|curve|plot)s?"
    r"|schematic(?:s|ally)?|work ?flow|study (?:design|flow)|block diagrams?|venn diagrams?|decision trees?|network architecture"
    r"|phylogenetic tree|western blots?|gel electrophoresis|chemical structures?|organi[sz]ation chart|timelines?|word cloud"
    r"|graphical abstract|questionnaires?|geographic(?:al)? (?:distribution|map)|map of|screenshots?|illustration of|cartoon"
    r"|diagram(?:s|matic)?|standard (?:error|deviations?) (?:bars?|of the mean)|error bars?)\b",
    re.IGNORECASE,
)
_CLINICAL = re.compile(
    r"\b(?:patholog|histolog|histopatholog|cytolog|radiograph|radiolog|x-?rays?\b|ct\b|mri\b|mr image|ultrasound|sonogra|echocardiogra|pet\b|scintigra"
    r"|angiogra|mammogra|tomogra|fluorosc|endoscop|colonoscop|fundus|fundoscop|dermosc|biops|resection|stain|h&e|hematoxylin|haematoxylin"
    r"|immunohistochem|tumou?r|carcinom|sarcom|lymphom|adenom|melanom|leuk[ae]?emi|glioma|neoplas|metasta|malignan|benign|dysplas|cyst|lesion"
    r"|nodule|mass\b|opacit|consolidat|effusion|pneumo|edema|oedema|fractur|dislocat|stenosis|thromb|embol|aneurysm|infarct|ischemi|ischaemi"
    r"|h[ae]?emorrhag|hematoma|haematoma|inflamm|infect|abscess|fibrosis|necro|granulom|ulcer|polyp|hernia|calcif|enhanc|signal intens"
    r"|hyperintens|hypointens|hyperdens|hypodens|hypoecho|hyperecho|attenuat|axial|sagittal|coronal|transverse|anterior|posterior|lateral"
    r"|lung|liver|kidney|renal|heart|cardi|brain|cerebr|spine|spinal|vertebra|bone|femur|tibia|abdom|thora|pelvi|chest|breast|prostat|thyroid"
    r"|pancrea|bowel|colon|gastri|esophag|oesophag|ovar|uter|bladder|skin|epiderm|retina|optic|tooth|teeth|dental|maxill|mandib|artery|arteri"
    r"|vein|venous|nerve|lymph|gland|epitheli|stroma|nucle|cytoplasm|mitos|mitot|cells?\b|tissue|syndrome|disease|diagnos|patient)",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[^\W\d_]+")


def relevance_scores(text: str) -> dict[str, Score]:
    """Cues in a text, and `irrelevant` from 0 to 1.

    Each chatter cue weighs 0.6 and each graphics cue 0.5 as independent chances; clinical words then lower what one
    stray cue has raised, by up to half at one in five words. A text without any clinical word starts at 0.5.
    """
    words = len(_WORDS.findall(text))
    chatter, graphics, clinical = (len(rule.findall(text)) for rule in (_CHATTER, _GRAPHICS, _CLINICAL))
    clean = 0.4**chatter * 0.5**graphics * (1.0 if clinical else 0.5)
    relief = min(1.0, 5 * clinical / words) if words else 0.0
    return {
        "chatter": chatter,
        "graphics": graphics,
        "clinical": clinical,
        "irrelevant": round((1 - clean) * (1 - 0.5 * relief), 4),
        "judge": RULES,
    }


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

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        """Scores of each record's caption; without one all numbers are None and `judge` is `empty_caption`."""
        empty = dict.fromkeys(self.scores, None) | {"judge": "empty_caption"}
        texts = [record.caption for record in records]
        return [relevance_scores(text) if text.strip() else dict(empty) for text in texts]
