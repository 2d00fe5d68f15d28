"""Graphs of reports by radgraph 0.1.18, run by an interpreter that has it (it needs transformers 4).

    PYTHON eval/_radgraph_annotate.py FOLDER MODEL < texts.json > graphs.json

FOLDER holds one folder a model (`radgraph`, `radgraph-xl`). Standard library and radgraph only: nothing else of this
project needs to be installed there. Example: eval.encoders.annotate runs it.
"""

import contextlib
import importlib
import json
import sys
from pathlib import Path


def main() -> int:
    """Read a JSON list of texts, write a JSON list of graphs, one each, in order."""
    folder, model = Path(sys.argv[1]), sys.argv[2]
    # An empty or missing folder would make radgraph go to the network.
    if not (folder / model / "weights.th").is_file():
        print(f"{folder / model / 'weights.th'} is not there", file=sys.stderr)
        return 1
    texts = json.load(sys.stdin)
    # radgraph prints while it loads.
    with contextlib.redirect_stdout(sys.stderr):
        radgraph = importlib.import_module("radgraph")
        # `model_type`: its README says `model`, which is swallowed and gives radgraph-xl.
        annotations = radgraph.RadGraph(model_type=model, model_cache_dir=str(folder))(texts) if texts else {}
    json.dump([annotations[str(number)]["entities"] for number in range(len(texts))], sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
