"""All sources: training sets in the order of the recipe's table, then benchmarks."""

from __future__ import annotations

import importlib

from builders.engine.source import Source

NAMES = (
    # pretraining
    "rocov2", "quilt_1m", "pmc_oa", "biomedica",
    # mid-training
    "mimic_cxr", "medtrinity", "pubmedvision",
    # instruction tuning: image and text, then text
    "mimic_cxr_vqa", "slake", "vqa_rad", "gemex_thinkvg", "quilt_instruct", "pmc_vqa", "openmm_medical",
    "gmai_reasoning10k",
    "ii_medical_reasoning", "infinity_instruct_gen", "reasonmed", "medmcqa", "healthcaremagic", "medqa", "medexpqa",
    "pubmedqa", "alpacare_medinstruct", "medquad", "huatuo_o1", "medreason", "medical_r1_distill", "medthoughts_8k",
    "icliniq",
    # benchmarks only (the others are splits of the sets above)
    "medxpertqa", "medframeqa", "mmmu_med", "mmmu_pro_med", "mmlu_med", "medbullets", "patient_trial",
)  # fmt: skip


def load(name: str) -> Source:
    """The `SOURCE` of `builders.<name>`."""
    source: Source = importlib.import_module(f"builders.{name}").SOURCE
    return source
