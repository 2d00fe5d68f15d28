"""Medical-R1-Distill-Data: DeepSeek-R1's reasoning and response to HuatuoGPT-o1's verifiable problems.

Two columns are literally named `reasoning (reasoning_content)` and `response (content)`. The questions are a subset of
the `huatuo_o1` source's, which the exact text audit sees; the file has no ids and no gold answers.
"""

from builders import kit


def _sample(row: kit.Row, question: str, reasoning: str, response: str) -> kit.Sample:
    kit.check_filled(row.file, question=question, reasoning=reasoning)
    return kit.question_answer(row, question, response, reasoning=reasoning)


SOURCE = kit.table_source(
    name="medical_r1_distill",
    title="Medical-R1-Distill-Data: DeepSeek-R1's answers to medical-o1 verifiable problems",
    hub_id="FreedomIntelligence/Medical-R1-Distill-Data",
    hub_revision="3491deecebe1973a2d7370b824f4b41be29dcf1a",
    revision="FreedomIntelligence/Medical-R1-Distill-Data (hub cards 928de1b to 17b09da)",
    layouts=(
        kit.Layout(
            "the English JSON", "code", "FreedomIntelligence/Medical-R1-Distill-Data@3491dee, by a reader of it"
        ),
    ),
    license="Apache-2.0",
    files={"train": ("medical_r1_distill_sft.json",)},
    obtain="""
  hf download FreedomIntelligence/Medical-R1-Distill-Data --repo-type dataset --local-dir DIR
(An early revision also had a Chinese file; it is not read.)""",
    fields=("question", "reasoning (reasoning_content)", "response (content)"),
    sample=_sample,
    published={"train": 22_000},
    paper="train 22,000: the publisher's file. Its questions repeat huatuo_o1's, with other answers.",
    paper_rows=kit.paper_row("Medical-R1-Distill-Data", "IT", 22_000),
)

if __name__ == "__main__":
    kit.run(SOURCE)
