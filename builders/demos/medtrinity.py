"""The demo tree of `builders.medtrinity`."""

from builders import kit
from builders.demos.drawings import demo_picture

PLANTED = {
    "video": "medtrinity has a frame of youtube/demoVideo03, a video of the demo trees of medframeqa and quilt_1m",
    "article": "a picture of medtrinity is named after PMC9000001, an article of the pmc_oa demo tree",
}

_FRAME = "demoVideo03_image_0b0f4c1e-5d1c-4f7e-9a57-000000000000.jpg"

# (tar, member, captions under its base name: (text, source))
_DEMO: tuple[tuple[int, str, tuple[tuple[str | None, str], ...]], ...] = (
    (1, "data2/quilt/" + _FRAME, (("The image is a stained section. Region of interest: nests.", "quilt_1m"),)),
    (1, "data2/brats/BraTS-GoAT-00001 0000_y.slice-119.jpg", (("The image is an axial MRI slice.", "brats_24"),)),
    (1, "data5/pmc/PMC9000001_Fig3_1.jpg", (("The image is a light micrograph.", "pmc_oa"),)),
    (1, "data5/pmc/figure.jpg", (("The image is a chart.", "pmc_vqa"), ("The image is a CT scan.", "pmc_oa"))),
    (1, "metadata.json", ()),
    (10, "a/deeplesion/figure.jpg", ()),
    (10, "a/deeplesion/000001_01_01_100.png", (("The image is a CT scan of the abdomen. Région hépatique.",
                                                "deeplesion"),)),
    (10, "a/deeplesion/000001_01_01_101.png", (("The image is a CT scan.", "deeplesion"),
                                               ("The image is a CT scan.", "deeplesion"))),
    (10, "b/not_in_the_tables.png", ()),
    (10, "b/null_caption.png", ((None, "sammed"),)),
    (10, "b/000001_01_01_101.png", ()),
)  # fmt: skip


def files() -> kit.Files:
    tars: dict[int, dict[str, bytes]] = {}
    rows: kit.Rows = []
    for number, member, captions in _DEMO:
        last = member.rpartition("/")[2]
        picture = demo_picture(member, "PNG" if member.endswith("png") else "JPEG")
        tars.setdefault(number, {})[member] = picture if captions or "." in last[-4:] else b"{}"
        rows += [{"file_name": last, "caption": caption, "source": source} for caption, source in captions]
    # An inaccessible source of the full tables, of which no tar has a picture, stops nothing.
    rows.append({"file_name": "s50000000.jpg", "caption": "The image is a radiograph.", "source": "mimic_cxr_jpg"})
    rows.reverse()
    tables = {f"25M_full/train-{part:05d}-of-00002.parquet": rows[part::2] for part in (0, 1)}
    return tables | {f"25M_accessible/dataset_shard_{number}.tar.zst": members for number, members in tars.items()}
