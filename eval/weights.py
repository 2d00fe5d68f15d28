"""Which weights the metrics of reports need, and whether a folder has them: there, as published, and loading.

Nothing is downloaded. A file of another size or digest than the published one is named: its scores are no one else's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from medgpt import errors
from medgpt.arguments import command_parser
from medgpt.errors import UserError, one_line

_EXAMPLE = """
examples:
  python -m eval.weights
  python -m eval.weights weights --radgraph-python radgraph-env/bin/python
  python -m eval.weights weights --metrics bertscore semb
"""


@dataclass(frozen=True)
class Published:
    """A file of weights as its publisher has it."""

    source: str
    megabytes: int
    """As the hub shows it, 10^6 bytes."""
    sha256: str | None = None
    """Hexadecimal; None: no public page that was seen says it."""


# From the hub's file pages (SHA-256 and size of large files).
PUBLISHED = {
    "chexbert/chexbert.pth": Published(
        "StanfordAIMI/RRG_scorers 4ccc069", 1314, "6550703c92d640e1e04d8105a7a185d76ece0f25fcbf033d292785bf22c0fde1"
    ),
    "distilroberta-base/model.safetensors": Published(
        "distilbert/distilroberta-base d5411c3", 331, "2b11ca9cf3d2cbb44cc1a93ad96aedc2894231ae6e33e2d2268c3d7b1ff97663"
    ),
    "rate/RaTE-NER-Deberta/model.safetensors": Published("Angelakeke/RaTE-NER-Deberta 66d4b81", 735),
}
SOURCES = {
    "chexbert": "StanfordAIMI/RRG_scorers (chexbert.pth), bert-base-uncased (config and tokenizer)",
    "distilroberta-base": "distilbert/distilroberta-base",
    "radgraph": "StanfordAIMI/RRG_scorers, radgraph.tar.gz (432 MB packed)",
    "radgraph-xl": "StanfordAIMI/RRG_scorers, radgraph-xl.tar.gz (416 MB packed)",
    "rate": "Angelakeke/RaTE-NER-Deberta, FremyCompany/BioLORD-2023-C",
}
"""Part of the folder -> where its files are published."""


@dataclass
class State:
    """What was found of one part."""

    part: str
    metrics: list[str]
    source: str
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Path below the folder -> bytes, sha256, published (whether it is the published file; None: not known)."""
    faults: list[str] = field(default_factory=list)
    loads: bool | None = None
    """None: not tried."""


def check(
    folder: Path, parts: Sequence[str], *, radgraph_python: Path | None = None, device: str = "cpu", load: bool = True
) -> list[State]:
    """State of each part of a folder of weights. Raises: `UserError` for a folder or list that cannot be read."""
    from eval.encoders import Weights

    weights = Weights(folder, radgraph_python)
    found = []
    for part in parts:
        state = State(part, _metrics(part), SOURCES[part])
        found.append(state)
        if missing := weights.missing(part):
            state.faults.append(missing)
            continue
        try:
            digests = weights.digests(part)
        except UserError as error:
            state.faults.append(one_line(error))
            continue
        for name, digest in digests.items():
            state.files[name] = _file(folder / name, digest, PUBLISHED.get(name), state.faults)
        if load:
            try:
                _loaders(folder, device, radgraph_python)[part]()
                state.loads = True
            except UserError as error:
                state.faults.append(one_line(error))
                state.loads = False
    return found


def _file(path: Path, digest: str, published: Published | None, faults: list[str]) -> dict[str, Any]:
    size = path.stat().st_size
    same = None
    if published:
        same = abs(size / 1e6 - published.megabytes) <= 1 and published.sha256 in (None, digest)
        if not same:
            faults.append(f"{path} is not the published file: {_said(published)}")
    # The size alone does not say that it is the file.
    known = same if published and (published.sha256 or not same) else None
    return {"bytes": size, "sha256": digest, "published": known}


def _loaders(folder: Path, device: str, radgraph_python: Path | None) -> dict[str, Callable[[], object]]:
    from eval import encoders

    def radgraph(model: str) -> object:
        return encoders.annotate(["no effusion."], folder / "radgraph", model, radgraph_python or Path())

    return {
        "chexbert": lambda: encoders.CheXbert(folder / "chexbert", device),
        "distilroberta-base": lambda: encoders.TokenEncoder(
            folder / "distilroberta-base", device, encoders.BERTSCORE_LAYER
        ),
        "radgraph": lambda: radgraph("radgraph"),
        "radgraph-xl": lambda: radgraph("radgraph-xl"),
        "rate": lambda: encoders.RateModel(folder / "rate", device),
    }


def _metrics(part: str) -> list[str]:
    from eval.encoders import NEEDS

    return [metric for metric, parts in NEEDS.items() if part in parts]


def _said(published: Published) -> str:
    digest = published.sha256 or "unknown, list yours in SHA256SUMS"
    return f"{published.megabytes:,} MB, SHA-256 {digest} ({published.source})"


@errors.run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0 all that is wanted is there and loads, 4 something is not."""
    parser = command_parser("eval.weights", "Which weights metrics of reports need, and a check of yours.", _EXAMPLE)
    parser.add_argument("folder", type=Path, nargs="?", metavar="WEIGHTS", help="as eval.score --weights takes it")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="of these metrics alone")
    parser.add_argument("--radgraph-python", type=Path, metavar="FILE", help="interpreter with radgraph 0.1.18")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="load onto it (default cpu)")
    parser.add_argument("--no-load", action="store_true", help="only look at files, sizes and digests")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    options = parser.parse_args(arguments)
    parts = _parts(options.metrics)
    if options.folder is None:
        _show_needs(parts, options.json)
        return errors.DONE
    from eval.encoders import default_radgraph_python

    python = options.radgraph_python or default_radgraph_python()
    found = check(options.folder, parts, radgraph_python=python, device=options.device, load=not options.no_load)
    if options.json:
        print(orjson.dumps([asdict(state) for state in found]).decode())
    else:
        for state in found:
            print(f"{state.part} ({', '.join(state.metrics)}): {'; '.join(state.faults) or _fine(state)}")
    return errors.NOT_COMPARED if any(state.faults for state in found) else errors.DONE


def _parts(metrics: Sequence[str] | None) -> list[str]:
    from eval.encoders import NEEDS, WEIGHT_FREE

    if odd := sorted(set(metrics or ()) - {*NEEDS, *WEIGHT_FREE}):
        raise UserError(f"--metrics {' '.join(odd)}: there are {', '.join((*WEIGHT_FREE, *NEEDS))}")
    return sorted({part for metric, parts in NEEDS.items() if metric in (metrics or NEEDS) for part in parts})


def _show_needs(parts: Sequence[str], as_json: bool) -> None:
    from eval.encoders import COMPONENTS, WEIGHT_FREE

    if as_json:
        needs = {
            part: {"metrics": _metrics(part), "files": COMPONENTS[part], "source": SOURCES[part]} for part in parts
        }
        print(orjson.dumps({"parts": needs, "published": {n: asdict(one) for n, one in PUBLISHED.items()}}).decode())
        return
    print(f"nothing: {', '.join(WEIGHT_FREE)}")
    for part in parts:
        print(f"{part} ({', '.join(_metrics(part))}): {SOURCES[part]}")
        known = {name: one for name, one in PUBLISHED.items() if name.split("/")[0] == part}
        for name in dict.fromkeys((*COMPONENTS[part], *known)):
            print(f"    {name}{f'  {_said(known[name])}' if name in known else ''}")


def _fine(state: State) -> str:
    size = sum(file["bytes"] for file in state.files.values()) / 1e6
    same = sum(file["published"] is True for file in state.files.values())
    loads = "loads" if state.loads else "not loaded"
    return f"{len(state.files)} files, {size:,.1f} MB, {same} with the published digest; {loads}"


if __name__ == "__main__":
    raise SystemExit(main())
