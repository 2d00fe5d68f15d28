"""The demo tree of `builders.medqa`."""

from builders import kit
from builders.medqa import LABELS, NAMES, SPLITS

# The demo's cases: presentation, diagnosis, treatment. Splits share no case but the planted one.
_CASES = (
    ("fever, a harsh holosystolic murmur and splinter haemorrhages", "Infective endocarditis", "Vancomycin"),
    ("polyuria, polydipsia and a serum glucose of 412 mg/dL", "Diabetic ketoacidosis", "Intravenous insulin"),
    ("a pulsatile headache with nausea and light sensitivity", "Migraine", "Sumatriptan"),
    ("a painless indurated genital ulcer", "Primary syphilis", "Benzathine penicillin G"),
    ("sudden pleuritic pain one week after knee replacement", "Pulmonary embolism", "Heparin"),
    ("a butterfly rash, arthralgia and proteinuria", "Systemic lupus erythematosus", "Hydroxychloroquine"),
    ("cold intolerance, weight gain and a TSH of 28 mIU/L", "Hypothyroidism", "Levothyroxine"),
    ("a salmon-coloured plaque with silvery scale on both elbows", "Psoriasis", "Topical betamethasone"),
    ("morning stiffness and swollen metacarpophalangeal joints", "Rheumatoid arthritis", "Methotrexate"),
    ("palpitations and an irregularly irregular pulse", "Atrial fibrillation", "Metoprolol"),
    ("ascending weakness two weeks after gastroenteritis", "Guillain-Barre syndrome", "Plasma exchange"),
    ("a barking cough and inspiratory stridor", "Croup", "Dexamethasone"),
    ("a painful red eye, halos around lights and a fixed pupil", "Acute angle-closure glaucoma", "Acetazolamide"),
    ("resting tremor, rigidity and a shuffling gait", "Parkinson disease", "Levodopa"),
    ("burning pain in a dermatomal band of vesicles", "Herpes zoster", "Valacyclovir"),
    ("microcytic anaemia and pica", "Iron deficiency", "Ferrous sulfate"),
    ("facial swelling minutes after a bee sting", "Anaphylaxis", "Epinephrine"),
    ("a swollen, hot first metatarsophalangeal joint", "Gout", "Indomethacin"),
    ("colicky flank pain and microscopic haematuria", "Nephrolithiasis", "Tamsulosin"),
    ("fatigable ptosis and diplopia in the evening", "Myasthenia gravis", "Pyridostigmine"),
    ("epigastric pain that wakes him and melena", "Peptic ulcer disease", "Omeprazole"),
    ("wheeze after exercise in cold air", "Asthma", "Albuterol"),
    ("target lesions on the palms after a sulfonamide", "Erythema multiforme", "Stopping the drug"),
    ("tearing chest pain and unequal arm pressures", "Aortic dissection", "Esmolol"),
    ("hyperpigmentation, salt craving and low blood pressure", "Addison disease", "Hydrocortisone"),
    ("jaundice, confusion and asterixis in known cirrhosis", "Hepatic encephalopathy", "Lactulose"),
    ("a fever of 40 C, rigors and ring forms on a blood smear", "Malaria", "Artesunate"),
    ("jaw claudication and sudden loss of vision in one eye", "Giant cell arteritis", "Prednisone"),
    ("a midline neck mass that rises with the tongue", "Thyroglossal duct cyst", "Sistrunk procedure"),
    ("watery diarrhoea after two weeks of clindamycin", "Clostridioides difficile colitis", "Oral vancomycin"),
)

_DEMO_CASES = {"train": range(18), "dev": range(18, 24), "test": range(24, 30)}

PLANTED = {"reordered": "medqa/train/36 is medqa/test/3 in capitals, with its options in another order"}


def _demo_row(stem: str, options: list[str], answer: str, phrase: str, number: int) -> kit.Values:
    labelled = dict(zip(LABELS, options, strict=False))
    return {
        "question": stem,
        "answer": answer,
        "options": labelled,
        "meta_info": "step1" if number % 2 else "step2&3",
        "answer_idx": next(label for label, text in labelled.items() if text == answer),
        "metamap_phrases": [phrase],
    }


def _demo_rows(split: str) -> kit.Rows:
    cases = [_CASES[index] for index in _DEMO_CASES[split]]
    rows = []
    for index, case in enumerate(cases):
        age = 19 + 37 * _CASES.index(case) % 60
        stem = f"A {age}-year-old {('man', 'woman')[index % 2]} has {case[0]}."
        for column, ending in ((1, "What is the most likely diagnosis?"), (2, "Which treatment is best now?")):
            options = [cases[(index + step) % len(cases)][column] for step in range(4)]
            options = options[age % 4 :] + options[: age % 4]
            rows.append(_demo_row(f"{stem} {ending}", options, case[column], case[0], index))
    return rows


def files() -> kit.Files:
    splits = {split: _demo_rows(split) for split in SPLITS}
    leaked = splits["test"][2]
    shuffled = [leaked["options"][label].upper() for label in "CADB"]
    splits["train"][35] = _demo_row(leaked["question"].upper(), shuffled, leaked["answer"].upper(), "", 35)
    tables: dict[str, kit.Rows] = {"US_qbank.jsonl": []}
    for split, rows in splits.items():
        five = [
            {k: v for k, v in row.items() if k != "metamap_phrases"}
            | {"options": row["options"] | {"E": "Watchful waiting"}}
            for row in rows
        ]
        tables |= {f"4_options/{NAMES['4'].format(split)}": rows, NAMES["5"].format(split): five}
        tables["US_qbank.jsonl"] += five
    return {f"data_clean/questions/US/{name}": rows for name, rows in tables.items()}
