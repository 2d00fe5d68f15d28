"""The demo tree of `builders.ii_medical_reasoning`."""

from builders import kit

# (question, its options, reasoning, answer); the first is an item of the demo of medqa, test split.
_CASES: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    (
        "A 72-year-old woman has watery diarrhoea after two weeks of clindamycin. What is the most likely diagnosis?",
        ("Clostridioides difficile colitis", "Addison disease", "Hepatic encephalopathy", "Malaria"),
        "Antibiotics came first, so the colon's flora is disturbed.",
        "The answer is \\boxed{A}.",
    ),
    (
        "Which vitamin does warfarin act against?",
        ("Vitamin A", "Vitamin C", "Vitamin K", "Vitamin E"),
        "Warfarin blocks the recycling of vitamin K.",
        "\\boxed{C}",
    ),
    ("Why does a chest tube bubble?", (), "Air leaves the pleural space.", "Because air still leaks from the lung."),
    ("急性阑尾炎的典型体征是什么？", (), "首先考虑麦氏点。", "麦氏点压痛和反跳痛。"),
    ("How is lactate cleared?", (), "", "Mostly by the liver."),
)

_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."

PLANTED = {
    "exact_text": "both rows of the first file ask medqa/test/11 of its demo tree, options and all",
    "resampled": "so do rows 0 and 1 of the second file ask one question: two replies to one prompt",
}


def _demo_row(model: str, question: str, problem: str, *turns: str) -> kit.Values:
    messages = [{"content": text, "role": ("user", "assistant")[index % 2]} for index, text in enumerate(turns)]
    return {"model": model, "question": question, "problem": problem, "messages": messages}


def demo_rows() -> kit.Rows:
    """The demo's rows: every shape of reasoning, several turns, Chinese, options in the prompt or in the question."""
    rows = []
    for question, options, reasoning, answer in _CASES:
        listed = "".join(f"\n{label}. {text}" for label, text in zip("ABCD", options, strict=False))
        problem = f"{question}\n{listed}\n\n{_BOXED}" if listed else question
        reply = f"<think>\n{reasoning}\n</think>\n\n{answer}"
        rows.append(_demo_row("deepseek-ai/DeepSeek-R1", question, problem, problem, reply))
        if listed:  # the second reply to the same prompt; its question has the options inline, its tag is in the prompt
            again = f"{reasoning} The rest do not fit.\n</think>\n{answer}"
            rows.append(_demo_row("Qwen/QwQ-32B", f"{question}{listed}", problem, problem, again))
    first, second = "What is an aneurysm?", "And when is it repaired?"
    replies = "<think>A wall that bulges.</think>A bulge of a vessel.", "<think>Size matters.</think>Above 5.5 cm."
    rows.append(_demo_row("deepseek-ai/DeepSeek-R1", second, second, first, replies[0], second, replies[1]))
    rows.append(_demo_row("Qwen/QwQ-32B", "", "Define anuria.", "Define anuria.", "<think>Urine.</think>No urine."))
    rows.append(_demo_row("", "What is a bruit?", "What is a bruit?", "What is a bruit?", "A sound over a vessel."))
    rows.append(_demo_row("Qwen/QwQ-32B", "Define shock.", "Define shock.", "Define shock.", "<think>Low flow, so"))
    rows.append(_demo_row("Qwen/QwQ-32B", "Define sepsis.", "Define sepsis.", "Define sepsis.", "<think>Hm</think>\n"))
    return rows


def files() -> kit.Files:
    rows = demo_rows()
    return {f"data/train-0000{part}-of-00002.parquet": few for part, few in enumerate((rows[:2], rows[2:]))}
