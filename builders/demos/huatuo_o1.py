"""The demo tree of `builders.huatuo_o1`."""

from builders import kit

# Made up. Later rows are medical_r1_distill's too, as the publisher's two files overlap.
DEMO_PROBLEMS = (
    ("A 31-year-old climber returns from altitude with a dry cough that turned frothy overnight. "
     "Which complication of ascent explains her symptoms?", "High-altitude pulmonary oedema"),
    ("Which vitamin is given to a newborn on the first day to prevent bleeding from the umbilical stump?", "Vitamin K"),
    ("Name the nerve that is at risk when the lateral wall of the axilla is explored.", "Musculocutaneous nerve"),
    ("Une éruption bulleuse apparaît sous soleil chez un homme de 52 ans. What enzyme is deficient in his liver?",
     "Uroporphyrinogen decarboxylase"),
    ("A 6-year-old with ahritis of one knee had a tick bite in July. Which organism is the likely cause?",
     "Borrelia burgdorferi"),
    ("Which drug reverses the effect of dabigatran in a patient who needs urgent surgery for a ruptured spleen?",
     "Idarucizumab"),
    ("A potter develops progressive breathlessness; his film shows eggshell calcification of hilar nodes. "
     "Which dust did he inhale?", "Crystalline silica"),
    ("During a hernia repair the surgeon identifies vessels lateral to Hesselbach's triangle. Which are they?",
     "Inferior epigastric vessels"),
    ("Which electrolyte abnormality follows rapid refeeding of a malnourished adult and may stop the diaphragm?",
     "Hypophosphataemia"),
    ("A beekeeper's tryptase stays high between stings. Which clonal disorder should be looked for?",
     "Systemic mastocytosis"),
)  # fmt: skip

PLANTED = {"subset": "huatuo_o1/train/4 to 9 ask the questions of medical_r1_distill/train/0 to 5"}


def files() -> kit.Files:
    problems = (*DEMO_PROBLEMS, ("Which cranial nerve carries taste from the epiglottis?", ""))
    rows = [{"Open-ended Verifiable Question": question, "Ground-True Answer": answer} for question, answer in problems]
    return {"medical_o1_verifiable_problem.json": rows}
