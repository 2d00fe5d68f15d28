"""Building a JPEG source that keeps its pixels: digests, strict re-packing, pHash, thumbnail, tar, manifest.

Two sets of generated pictures of the sizes in the goal: 2-megapixel radiographs of about 290 kB, and 720-pixel colour
figures of about 58 kB. Limits: reading and hashing alone, the DCT-scaled decode alone, the full decode alone. Parts:
re-packing, which decodes pictures with published Huffman tables to scaled grey on the way, and walks the codes of all
others. Peer: img2dataset with and without re-encoding, from files on disk.
"""

from __future__ import annotations

import hashlib
import io
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image as Pillow
from PIL import ImageDraw

from builders.engine.loop import BuildOptions, make_plan, run
from builders.engine.rawfiles import read_bytes
from builders.engine.source import Image, Params, Sample, Source, Unit, assistant, user
from medgpt.containers import repack

COUNT = 240
ROUNDS = 3


def _radiograph(seed: int) -> Pillow.Image:
    """1.95 megapixels with film grain: about 290 kB at quality 90."""
    from builders.demos.phantom_pictures import render
    from builders.demos.phantoms import make

    return _grain(render(make(seed, "PA"), 700).resize((1396, 1396), Pillow.Resampling.BICUBIC), seed, 6)


def _figure(seed: int) -> Pillow.Image:
    """A 720 x 540 colour figure: tinted picture, label and arrow; about 58 kB at quality 85."""
    from builders.demos.phantom_pictures import render
    from builders.demos.phantoms import make

    grey = render(make(seed, "PA"), 540).resize((720, 540))
    tinted = Pillow.merge("RGB", [grey.point([min(255, int(v * f)) for v in range(256)]) for f in (1.0, 0.8, 0.9)])
    draw = ImageDraw.Draw(tinted)
    draw.line((60, 60, 160, 140), fill=(255, 240, 0), width=5)
    draw.text((20, 20), f"Figure {seed} (A)", fill=(255, 255, 255))
    return _grain(tinted, seed, 9)


def _grain(image: Pillow.Image, seed: int, strength: int) -> Pillow.Image:
    import numpy as np

    pixels = np.asarray(image, dtype=np.int16)
    raw = np.random.PCG64(seed).random_raw(pixels.size // 8 + 1).view(np.uint8)[: pixels.size]
    return Pillow.fromarray(np.clip(pixels + raw.reshape(pixels.shape) % strength, 0, 255).astype(np.uint8))


SETS: dict[str, tuple[Callable[[int], Pillow.Image], int]] = {
    "radiographs": (_radiograph, 90),
    "figures": (_figure, 85),
}


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    names = sorted(path.name for path in raw.glob("*.jpg"))
    yield Unit("train-00000", "train", "train", len(names), names, tuple(names))


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample]:
    for name in unit.payload:
        image = Image(f"bench/{name}", name, partial(read_bytes, raw / name, raw))
        messages = [user(0, "Describe the picture."), assistant(f"A picture numbered {name}.")]
        yield Sample(name.partition(".")[0], messages, name, "1", images=[image])


SOURCE = Source(
    name="bench_jpeg", title="Generated JPEGs", homepage="-", revision="1", license="CC0-1.0", access="open",
    stage="pretrain", task="caption", modality="image-text", splits={"train": "train"}, obtain="-", plan=_plan,
    read=_read, published=lambda params: {}, module="bench.jpeg_build",
)  # fmt: skip


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Images and megabytes a CPU-second for ours, the limits and the peer; medians of three rounds in turn."""
    figures: dict[str, Any] = {}
    for name, (make, quality) in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw"
            raw.mkdir()
            for seed in range(COUNT):
                # A quarter of the pictures are drawn, the others are copies with a comment: same work, less waiting.
                if seed < COUNT // 4:
                    make(seed).save(raw / f"{seed:05d}.jpg", quality=quality)
                else:
                    data = (raw / f"{seed % (COUNT // 4):05d}.jpg").read_bytes()
                    (raw / f"{seed:05d}.jpg").write_bytes(data[:2] + b"\xff\xfe\x00\x06%04d" % seed + data[2:])
            figures[name] = _measure_set(raw, Path(folder), peer_python)
    return figures


def _measure_set(raw: Path, folder: Path, peer_python: Path | None) -> dict[str, Any]:
    blobs = [path.read_bytes() for path in sorted(raw.glob("*.jpg"))]
    size = Pillow.open(io.BytesIO(blobs[0])).size
    works: dict[str, Callable[[int], None]] = {
        "ours": lambda n: _build(raw, folder / f"ours-{n}"),
        "limit: read + sha256": lambda n: _each(raw, lambda data: hashlib.sha256(data).digest()),
        "limit: DCT-scaled decode": lambda n: _each(raw, _draft),
        "limit: full decode": lambda n: _each(raw, _full),
        "part: re-packing with scaled grey": lambda n: _each(raw, repack),
    }
    for name in ("optimised", "progressive"):
        others = folder / name
        others.mkdir()
        for path in sorted(raw.glob("*.jpg"))[: COUNT // 4]:
            with Pillow.open(path) as image:
                image.save(others / path.name, quality="keep", optimize=True, progressive=name == "progressive")
        works[f"{name}: DCT-scaled decode"] = partial(_quarter, others, _draft)
        works[f"{name}: re-packing"] = partial(_quarter, others, repack)
    if peer_python is not None:
        (folder / "urls.txt").write_text("".join(f"file://{path}\n" for path in sorted(raw.glob("*.jpg"))))
        works["peer: img2dataset, bytes kept, pixels unseen"] = partial(_peer, peer_python, folder, "keep")
        works["peer: img2dataset, re-encoded"] = partial(_peer, peer_python, folder, "encode")
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS):
        for name, work in works.items():
            seconds[name].append(cpu_seconds(partial(work, number)))
    megabytes = sum(map(len, blobs)) / 1e6
    rows = {}
    for name, values in seconds.items():
        middle = sorted(values)[len(values) // 2]
        rows[name] = {"images_per_cpu_s": round(COUNT / middle, 1), "mb_per_cpu_s": round(megabytes / middle, 1)}
    ours = rows["ours"]["images_per_cpu_s"]
    ratios = {name: round(ours / row["images_per_cpu_s"], 2) for name, row in rows.items() if name != "ours"}
    about = {"images": COUNT, "mean_kb": round(1000 * megabytes / COUNT, 1), "pixels": f"{size[0]} x {size[1]}"}
    return about | {"rows": rows, "ours_over": ratios}


def cpu_seconds(work: Callable[[], None]) -> float:
    """User and system seconds of this process and its finished children during `work`."""

    def used() -> float:
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

    started = used()
    work()
    return used() - started


def _build(raw: Path, out: Path) -> None:
    options = BuildOptions(raw=raw, out=out, params={"no_images": False, "split": None}, progress=False)
    document = run(SOURCE, options, make_plan(SOURCE, options))
    assert document["counts"]["kept"] == COUNT


def _each(raw: Path, work: Callable[[bytes], object]) -> None:
    for path in sorted(raw.glob("*.jpg")):
        work(path.read_bytes())


def _quarter(folder: Path, work: Callable[[bytes], object], number: int) -> None:
    """Four times over the quarter of the pictures that is there."""
    for _ in range(4):
        _each(folder, work)


def _draft(data: bytes) -> None:
    image = Pillow.open(io.BytesIO(data))
    image.draft("L", (128, 128))
    image.load()


def _full(data: bytes) -> None:
    Pillow.open(io.BytesIO(data)).load()


def _peer(python: Path, folder: Path, mode: str, number: int) -> None:
    options = (
        ["--disable_all_reencoding", "True"] if mode == "keep" else ["--image_size", "1024", "--resize_mode", "no"]
    )
    subprocess.run(
        [str(python), "-m", "img2dataset.main", "--url_list", str(folder / "urls.txt"), "--input_format", "txt",
         "--output_folder", str(folder / f"peer-{mode}-{number}"), "--output_format", "webdataset",
         "--processes_count", "1", "--thread_count", "4", "--compute_hash", "sha256", *options],
        check=True, capture_output=True, env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}, timeout=600,
    )  # fmt: skip
