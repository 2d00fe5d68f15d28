"""`manifests.verify` at scale: time and peak memory over corpora that grow, with evidence that grows with them.

    python -m bench.verify_scale FOLDER --rows 20000 200000 [2000000]

makes, for each size, a train side of so many rows beside a test side of 1,000 items: generated sentences, every tenth a
test item under other options, every twentieth a patient of the test side, every fortieth with a picture, half of these
copies of test pictures. It is read in, proved and verified, its raw files read again; what was made may be deleted.
Peak memory is of the largest process of each command. Prints JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SWITCHES = ("--workers", "1", "--quiet", "--no-rewrites")
"""Of `prove`: sentence models read some hundred texts a second; two million rows would take hours before `verify`."""
TESTS, TEST_PICTURES, WORDS, PER_FILE = 1_000, 100, 20, 50_000
_ONCE = "import resource, subprocess, sys, time; begun = time.monotonic(); code = subprocess.call(sys.argv[1:]); \
use = resource.getrusage(resource.RUSAGE_CHILDREN); print(); print(code, time.monotonic() - begun, use.ru_utime + \
use.ru_stime, use.ru_maxrss)"


def make(folder: Path, rows: int) -> None:
    """Write both sides as Parquet, in files of `PER_FILE` rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from builders.demos.phantom_pictures import jpeg
    from builders.demos.phantoms import make as phantom

    draw = random.Random(1)
    words = ["".join(draw.choice("bcdfghklmnprstvw") + draw.choice("aeiou") for _ in range(3)) for _ in range(30_000)]
    pictures = [jpeg(phantom(number), 112) for number in range(TEST_PICTURES)]

    def sentence() -> str:
        return " ".join(draw.choices(words, k=WORDS))

    def item(question: str, patient: int, picture: bytes | None) -> dict[str, Any]:
        options = [" ".join(draw.choices(words, k=2)) for _ in range(4)]
        row = {"question": question, "options": options, "answer": options[0], "patient": str(patient)}
        return {**row, "image": None if picture is None else {"bytes": picture, "path": None}}

    tests = [item(sentence(), n, pictures[n] if n < TEST_PICTURES else None) for n in range(TESTS)]
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names = ("question", "answer", "patient")
    schema = pa.schema(
        [*((name, pa.string()) for name in names), ("options", pa.list_(pa.string())), ("image", picture)]
    )
    for side in ("test", "train"):
        (folder / side).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(tests, schema), folder / "test" / "items.parquet")
    for start in range(0, rows, PER_FILE):
        chunk = []
        for number in range(start, min(start + PER_FILE, rows)):
            question = tests[number // 10 % TESTS]["question"] if number % 10 == 0 else sentence()
            patient = number % TESTS if number % 20 == 1 else TESTS + number
            drawn = pictures[number // 40 % TEST_PICTURES] if number % 80 == 2 else None
            if number % 80 == 42:  # a picture of its own: the noise of a few pixels in a shape that others have
                drawn = _marked(pictures[number // 40 % TEST_PICTURES], number)
            chunk.append(item(question, patient, drawn))
        pq.write_table(pa.Table.from_pylist(chunk, schema), folder / "train" / f"rows-{start // PER_FILE:04d}.parquet")


def _marked(data: bytes, number: int) -> bytes:
    from PIL import Image

    picture, buffer = Image.open(io.BytesIO(data)).convert("L"), io.BytesIO()
    for bit in range(24):
        picture.putpixel((2 * bit, 2), 255 * (number >> bit & 1))
    picture.transpose(Image.Transpose.TRANSVERSE).save(buffer, "PNG")
    return buffer.getvalue()


def measured(*command: str) -> dict[str, Any]:
    """Exit code, seconds, CPU-seconds and MiB of the largest process of `python -m ...`."""
    done = subprocess.run(
        [sys.executable, "-c", _ONCE, sys.executable, "-m", *command],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    *_, line = done.stdout.splitlines()
    code, seconds, used, peak = line.split()
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    found = {"code": int(code), "seconds": round(float(seconds)), "cpu_s": round(float(used)), "mib": int(peak) // unit}
    return found if not int(code) else found | {"said": (done.stdout + done.stderr)[-2_000:]}


def measure(folder: Path, sizes: list[int], sample: int) -> dict[str, Any]:
    """By number of rows: evidence, and what prove, verify and an audit took."""
    import pyarrow.parquet as pq

    results: dict[str, Any] = {}
    for rows in sizes:
        place = folder / str(rows)
        make(place, rows)
        mapping = place / "map.yaml"
        mapping.write_text("access: open\ngroups: {subject_id: {field: patient, prefix: scale}}\n")
        sides = ("--train", str(place / "train"), "--eval", str(place / "test"), "--mapping", str(mapping))
        proved = measured("manifests.prove", *sides, "--out", str(place / "out"), *SWITCHES)
        proof = ("manifests.verify", str(place / "out/corpus"), "--proof", str(place / "out/proof"), "--quiet")
        evidence = pq.read_metadata(place / "out/proof/evidence.parquet").num_rows
        results[f"{rows:,} rows"] = {"evidence": evidence, "prove": proved, "verify": measured(*proof)}
        if sample:
            audit = measured(*proof, "--sample", str(sample))
            results[f"{rows:,} rows"][f"verify --sample {sample}"] = audit
        print(json.dumps({rows: results[f"{rows:,} rows"]}), file=sys.stderr, flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.verify_scale")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000], metavar="N")
    parser.add_argument("--sample", type=int, default=500, metavar="N", help="of the audit; 0 leaves it out")
    options = parser.parse_args()
    print(json.dumps(measure(options.folder, options.rows, options.sample), indent=2))
