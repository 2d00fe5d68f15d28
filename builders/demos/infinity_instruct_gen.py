"""The demo tree of `builders.infinity_instruct_gen`."""

from builders import kit

# (source, language, turns: human and gpt by turns)
_TALKS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Subjective", "en", ("Write a haiku about rain.", "Rain on the tin roof / ...")),
    ("flan", "en", ("Translate 'good evening' into French.", "Bonsoir.")),
    ("Subjective", "en", ("Name a prime above 90.", "97.", "And the next one?", "101.", "Is 103 prime?", "Yes.")),
    ("BELLE", "zh-cn", ("用一句话解释光合作用。", "植物利用光能把二氧化碳和水变成糖和氧气。")),
    ("OpenHermes-2.5", "en", ("How does aspirin thin the blood?", "It blocks cyclooxygenase in platelets.")),
    ("ultrachat", "es", ("¿Qué es la anemia?", "Una falta de glóbulos rojos o de hemoglobina.")),
    ("Subjective", "en", ("Sort 3, 1, 2.", "1, 2, 3.")),
    ("flan", "en", ("Continue the story of the fox.", "")),
    ("Subjective", "en", ("Thank you!", "You are welcome.", "One more thing:")),
    ("", "en", ("What is a stent?", "A tube that keeps a vessel open.")),
)


def demo_rows() -> kit.Rows:
    """The demo's rows: several turns, languages, a system turn, an empty and a missing reply, a gpt that opens."""
    rows: kit.Rows = []
    for number, (source, language, turns) in enumerate(_TALKS):
        told = [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(turns)]
        rows.append(
            {
                "id": f"{0xA3F52E9EF0E6C24C + number:032x}",
                "conversations": told,
                "label": {
                    "ability_en": ["command understanding"],
                    "ability_zh": ["指令理解"],
                    "cate_ability_en": ["natural language processing and understanding"],
                    "cate_ability_zh": ["自然语言处理与理解"],
                },
                "langdetect": language,
                "source": source,
                "reward": number / 8,  # the hub shows a numeric column; unknown columns are not read
            }
        )
    rows[6]["conversations"] = [{"from": "system", "value": "You are brief."}, *rows[6]["conversations"]]
    rows.append(rows[1] | {"conversations": rows[1]["conversations"][1:]})
    return rows


def files() -> kit.Files:
    rows = demo_rows()
    tables = {"Gen/train-00000-of-00002.parquet": rows[:7], "Gen/train-00001-of-00002.parquet": rows[7:]}
    return tables | {"0625/train-00000-of-00006.parquet": rows[:2]}  # another subset, never read
