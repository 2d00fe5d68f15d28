"""How a sample is made of MIMIC-CXR studies: the presets, and the figures that are published for them.

EditGRPO (its paper, appendix F and Table 3; taokz/EditGRPO@5decc57 has no builder), Libra (X-iZhang/Libra@0d6c56a
README:443-485), and ours.
"""

from collections.abc import Mapping
from typing import NamedTuple

from builders.engine.source import NotThisSource, Params

FRONTAL, LATERAL = frozenset({"PA", "AP"}), frozenset({"LATERAL", "LL"})
MAX_IMAGES = 6
"""`limit_images` of EditGRPO (taokz/EditGRPO at 5decc57)."""
IMPRESSION_IMAGES = 2
"""Pictures a study where the impression is asked for: the recipe's 3.39 +- 0.64 for two studies implies no more."""
AS_PRESET = "preset"
OVERRIDES = ("views", "prior", "pad", "view_names", "context")
CONTEXTS = {
    "history": ("indication", "history", "technique", "comparison"),
    "plain": ("indication", "technique", "comparison"),
    "none": (),
}


class Recipe(NamedTuple):
    """What a sample shows."""

    preset: str
    views: str
    """frontal: PA and AP; labelled: with LATERAL and LL, by ViewPosition alone; unlabelled: and those whose view no
    column or only the view code says; all: special views too."""
    prior: str
    """none; latest: the shown views of the most recent earlier exam; latest-frontal: its frontal pictures alone."""
    pad: int
    """Fewer pictures than that are filled up by the current study's, in their order, again and again."""
    view_names: bool
    context: tuple[str, ...]
    """Sections of the report that stand in the prompt."""


_PRESETS: dict[str, tuple[str, str, str, str, str]] = {
    "single": ("unlabelled", "none", "0", "no", "history"),
    "ours": ("unlabelled", "latest", "0", "no", "history"),
    "editgrpo": ("labelled", "latest", "4", "yes", "plain"),
    "libra": ("frontal", "latest-frontal", "2", "no", "history"),
}
PRESETS = tuple(_PRESETS)


def preset_of(params: Params) -> str:
    """The preset that the options name; `--longitudinal` and `--prior-policy libra` are older words for two of them."""
    named: str = params["preset"] or "single"
    if params["prior_policy"] == "libra":
        if named not in ("single", "libra"):
            raise NotThisSource(f"--preset {named} and --prior-policy libra name two presets; leave one out")
        return "libra"
    # A prior exam is of sets of pictures.
    sets = params["longitudinal"] or params["prior"].startswith("latest")
    return "ours" if named == "single" and sets else named


def recipe_of(params: Params) -> Recipe:
    """The preset, with what single options change of it. Raises `NotThisSource` where they contradict."""
    preset = preset_of(params)
    changed = overrides(params)
    if preset == "libra" and changed:
        raise NotThisSource(f"--preset libra is two frontal pictures, always; it goes without {', '.join(changed)}")
    values = dict(zip(OVERRIDES, _PRESETS[preset], strict=True)) | changed
    pad = int(values["pad"])
    return Recipe(
        preset, values["views"], values["prior"], pad, values["view_names"] == "yes", CONTEXTS[values["context"]]
    )


def overrides(params: Params) -> dict[str, str]:
    """The single options that were given."""
    return {name: params[name] for name in OVERRIDES if params[name] != AS_PRESET}


_EDITGRPO = {
    "train": {"kept": 146_893, "images_mean": 4.17, "images_sd": 0.63, "prior_share": 0.4259},
    "test": {"kept": 2_231, "images_mean": 4.30, "images_sd": 0.62, "prior_share": 0.6860},
}


def published_figures(params: Params) -> Mapping[str, Mapping[str, float]]:
    """What is printed of the sets: EditGRPO's Table 3, the recipe's Tables 1 and 3."""
    if params["task"] == "impression":
        one_shot = {"images_mean": 3.39, "images_sd": 0.64} if params["shots"] == "1" else {}
        return {"test": {"kept": 1_564, **one_shot}}
    preset = preset_of(params)
    return {"single": {"train": {"kept": 22_747}}, "libra": {}}.get(preset, _EDITGRPO)
