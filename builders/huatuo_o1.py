"""HuatuoGPT-o1's verifiable problems: exam questions rewritten to be open-ended, with a short answer.

The recipe marks its row as a reasoning set, but its count, 40,644, is this file's, which has no chain of thought (the
set with one, medical-o1-reasoning-SFT, is smaller). The rows carry no ids, and being rewrites they share no exact text
with the MedQA and MedMCQA questions they come from: only fuzzy text measures can tell.
"""

from builders import kit

SOURCE = kit.table_source(
    name="huatuo_o1",
    title="Medical-o1 verifiable problems (HuatuoGPT-o1): open-ended exam questions with a short answer",
    hub_id="FreedomIntelligence/medical-o1-verifiable-problem",
    hub_revision="46d5175eb74fdef3516d51d52e8c40db04bbdf35",
    revision="FreedomIntelligence/medical-o1-verifiable-problem, hub trees 46d5175 and fc2c9e8",
    layouts=(kit.Layout("question and answer, no reasoning", "rows", "FreedomIntelligence/HuatuoGPT-o1@2c8d7fc"),),
    license="Apache-2.0",
    files={"train": ("medical_o1_verifiable_problem.json",)},
    obtain="""
  hf download FreedomIntelligence/medical-o1-verifiable-problem --repo-type dataset --local-dir DIR
(medical-o1-reasoning-SFT is another set and is not read.)""",
    fields=("Open-ended Verifiable Question", "Ground-True Answer"),
    sample=kit.question_answer,
    published={"train": 40_644},
    paper=(
        'train 40,644, marked "(R)": question and short answer, no chain of thought. The publisher says that only '
        "train splits were rewritten, yet 3 of the 198 pairs of its demo_data.json are MedMCQA validation questions; "
        "rows have no ids, so only fuzzy text measures find such rows."
    ),
    paper_rows=kit.paper_row(
        "Huotuo-o1", "IT", 40_644, "the file of that count has no chain of thought, though marked (R)"
    ),
)

if __name__ == "__main__":
    kit.run(SOURCE)
