"""PMC-OA: panels cut out of figures of PubMed Central's open-access articles, each with its part of the caption.

A panel is named `PMC<article>_<figure>_<panel>.jpg`. Its figure has two public names, and the sets made from PMC use
one or the other: the figure's id in the article's XML (`Fig3`: PMC-VQA) and the file of its picture (`url_name`,
`1471-2121-4-13-3.jpg`: BIOMEDICA). Both are kept, as study ids, a study being to its images what a figure is to its
panels: the image's `study_id` is `pmc/<PMCID>/<XML id>`, the sample's group has `pmc/<PMCID>/<file stem>`. `image_id`
is `pmc/<PMCID>/<XML id>_<panel>`, the name under which PMC-VQA's second version shows the very same panel.

Every row has `image` and `caption`; `pmcid` and `url_name` are absent from some copies of the files, and the article is
in the image's name anyway. The panels are cut by a detector, imperfectly: the single-panel filter still applies.
"""

from pathlib import PurePosixPath

from builders import kit

FOLDER = "caption_T060_filtered_top4_sep_v0_subfigures"
"""What images.zip unpacks to, by several public loaders."""


def _sample(row: kit.Row, picture: str, caption: str) -> kit.Sample:
    name = kit.figure_name(picture, row.file)
    if row.values.get("pmcid") not in (None, name.pmcid):
        raise kit.InputError("bad_field", row.file, f"pmcid is not the {name.pmcid} of the image's name")
    group = {"pmcid": f"pmc/{name.pmcid}"}
    if (whole := row.values.get("url_name")) is not None:
        group["study_id"] = f"pmc/{name.pmcid}/{PurePosixPath(kit.checked_text(whole, 'url_name', row.file)).stem}"
    image = kit.Image(name.image_id, *row.picture(picture), study_id=name.figure_id)
    return kit.caption_sample(row, caption, image, group=group)


SOURCE = kit.table_source(
    name="pmc_oa",
    title="PMC-OA: figure panels of open-access articles with their captions",
    revision="record layout as in WeixiongLin/Build-PMC-OA@eaf8115; hub commit not known",
    layouts=(kit.Layout("JSON Lines of three splits", "code", "WeixiongLin/Build-PMC-OA@eaf8115"),),
    license="openrail",
    stage="pretrain",
    task="caption",
    splits={"train": "train", "valid": "eval", "test": "eval"},
    obtain="Clone https://huggingface.co/datasets/axiong/pmc_oa (git lfs), or --download --revision SHA.",
    files={"train": "train.jsonl", "valid": "valid.jsonl", "test": "test.jsonl"},
    pictures=("images.zip", "images", FOLDER),
    fields=("image", "caption"),
    sample=_sample,
    published={},
    paper=(
        "477,078 of about 1.65 M panels (sizes of the splits are not published); the rule is unpublished, so all are "
        "built here and filters choose"
    ),
    paper_rows=kit.paper_row(
        "PMC-OA (filtered)", "PT", 477_078, "a subset of about 1.65 M by an unpublished rule; all rows are built"
    ),
    hub_id="axiong/pmc_oa",
    hub_revision="1d2296e9c022a24e82a47e524d53f0915b98c926",
    hub_files=("train.jsonl", "valid.jsonl", "test.jsonl", "images.zip"),
    filters="medgpt_oss",
)

if __name__ == "__main__":
    kit.run(SOURCE)
