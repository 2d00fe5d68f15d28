"""Fits `filters/picture_kinds.npz` on the half of `real_figures.csv` that may be tuned on, and cross-validates it.

    python -m bench.picture_kinds FOLDER

FOLDER holds the pictures under any names. Ten folds by repository: no repository is on both sides. A lecture's frame is
of no kind; a picture whose label of a screen is doubtful, and that is nothing else for sure, is left out.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.real_figures import INK, files, rows
from filters.base import Picture, UnreadablePicture
from filters.picture_kinds import FILE, KINDS, REST, answer, channels, components, near

COMPONENTS = 160
"""Principal components kept, 90 % of the variance. With 48 the precision of screens falls by .09, with all by none."""
RIDGE = 0.02
FOLDS = 10
STRAY = 3
"""Films and slides of tissue, of some 430, that may be called ink in cross-validation."""
LEVEL = 0.25
"""Bar of the kinds by which nothing is taken out."""


def kind(row: dict[str, str]) -> int | None:
    """Number in `KINDS` of a row of the table; None for a frame or a doubtful screen."""
    if row["kind"] == "other":
        return None if row["screen"] == "" else KINDS.index("photograph")
    known = "ink" if row["kind"] in INK else row["kind"]
    return KINDS.index(known) if known in KINDS else None


def folds(repositories: list[str]) -> NDArray[np.int64]:
    """Fold of each picture: the repositories, largest first, each to the fold that has fewest pictures."""
    load, fold = [0] * FOLDS, {}
    for name, count in sorted(Counter(repositories).items(), key=lambda pair: (-pair[1], pair[0])):
        fold[name] = load.index(min(load))
        load[fold[name]] += count
    return np.array([fold[name] for name in repositories])


def ridge(kernel: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and rest of a kernel ridge regression; a truth of 0 is unknown and counts nowhere."""
    weights, rest = np.zeros_like(truth), np.zeros(truth.shape[1])
    for column in range(truth.shape[1]):
        known = np.flatnonzero(truth[:, column])
        rest[column] = truth[known, column].mean()
        square = kernel[np.ix_(known, known)] + RIDGE * np.eye(len(known))
        weights[known, column] = np.linalg.solve(square, truth[known, column] - rest[column])
    return weights, rest


def level(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The bar at which precision is nearest to recall."""
    order = np.argsort(-scores, kind="stable")
    return float(scores[order[int(truth.sum()) - 1]])


def shares(scores: NDArray[np.float64], truth: NDArray[np.bool_], bar: float) -> str:
    """Precision and recall at a bar."""
    said = scores >= bar
    hits = int((said & truth).sum())
    return f"precision {hits}/{int(said.sum())}, recall {hits}/{int(truth.sum())}"


def fit(folder: Path) -> dict[str, Any]:
    """Write the file; what cross-validation says."""
    here, found, known = files(folder), [], []
    for row in rows("fit"):
        if row["sha256"] in here and (kind(row) is not None or row["mark"]):
            try:
                found.append(channels(Picture(here[row["sha256"]].read_bytes())))
            except UnreadablePicture:
                continue
            known.append(row)
    x = np.array(found, np.float32)
    rooted = np.sign(x) * np.sqrt(np.abs(x.astype(np.float64)))
    mean, spread = rooted.mean(0), rooted.std(0) + 1e-3 * rooted.std()
    head: dict[str, Any] = {"mean": mean.astype(np.float32), "spread": spread.astype(np.float32)}
    plain = np.clip((rooted - head["mean"]) / head["spread"], -4, 4)
    head["centre"] = plain.mean(0).astype(np.float32)
    axes = np.linalg.svd(plain - head["centre"], full_matrices=False)[2][:COMPONENTS]
    most = np.abs(axes).max(axis=1, keepdims=True)
    head["axes"] = np.round(axes / most * 127).astype(np.int8)
    head["scale"] = (most[:, 0] / 127 / np.sqrt(x.shape[1])).astype(np.float32)
    places = components(head, x)
    head["step"] = np.float32(np.abs(places).max() / 127)
    head["rows"] = np.round(places / head["step"]).astype(np.int8)
    truth = np.zeros((len(known), len(KINDS) + 1))
    for number, row in enumerate(known):
        if (here_kind := kind(row)) is not None:
            truth[number, :-1] = -1
            truth[number, here_kind] = 1
        if row["mark"]:
            truth[number, -1] = 1 if row["mark"] == "1" else -1
    kernel = near(places, head["rows"].astype(np.float64) * head["step"])
    fold = folds([row["repository"] for row in known])
    values = np.zeros_like(truth)
    for number in range(FOLDS):
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        weights, rest = ridge(kernel[np.ix_(inside, inside)], truth[inside])
        values[outside] = kernel[np.ix_(outside, inside)] @ weights + rest
    own = values[:, :-1]
    others = np.stack([np.delete(own, number, axis=1).max(axis=1) for number in range(len(KINDS))], axis=1)
    margins = np.append(own - REST * others, values[:, -1:], axis=1)
    is_ = {name: truth[:, number] == 1 for number, name in enumerate((*KINDS, "marks"))}
    screens = np.array([row["screen"] != "" for row in known]) & (truth[:, 0] != 0)
    marks = truth[:, -1] != 0
    screen, ink = KINDS.index("screen"), KINDS.index("ink")
    bars = np.full(len(KINDS) + 1, LEVEL)
    bars[screen] = level(margins[screens, screen], is_["screen"][screens])
    bars[ink] = np.sort(margins[is_["film"] | is_["tissue"], ink])[-1 - STRAY] + 1e-6
    bars[-1] = level(margins[marks, -1], is_["marks"][marks])
    weights, rest = ridge(kernel, truth)
    head |= {"weights": weights.astype(np.float32), "rest": rest.astype(np.float32), "bars": bars.astype(np.float32)}
    np.savez_compressed(FILE, **head)
    plots = np.array([row["kind"] in ("plot", "table") for row in known]) & screens
    return {
        "pictures": len(known),
        "kinds": {name: int(chosen.sum()) for name, chosen in is_.items()},
        "screen": shares(margins[screens, screen], is_["screen"][screens], bars[screen]),
        "plots and tables called screens": f"{int((margins[plots, screen] >= bars[screen]).sum())}/{int(plots.sum())}",
        "ink": shares(margins[truth[:, 0] != 0, ink], is_["ink"][truth[:, 0] != 0], bars[ink]),
        "marks": shares(margins[marks, -1], is_["marks"][marks], bars[-1]),
        "largest change by rounding": float(np.abs(answer(head, places) - (kernel @ weights + rest)).max()),
        "bars": [round(float(bar), 3) for bar in bars],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.picture_kinds", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    print(json.dumps(fit(parser.parse_args().folder), indent=1))
