"""Metrics of reports that need models, from local files alone: `--weights DIR`.

    DIR/radgraph/radgraph-xl/   config.json, weights.th, vocabulary/    radgraph_simple, _partial, _complete
    DIR/radgraph/radgraph/      the same of the original model          radcliq_v1
    DIR/distilroberta-base/     config, weights, tokenizer              bertscore, radcliq_v1
    DIR/chexbert/               chexbert.pth, bert-base-uncased/        semb, chexbert_14, chexbert_5, radcliq_v1
    DIR/rate/RaTE-NER-Deberta/, DIR/rate/BioLORD-2023-C/                ratescore, ratescore_short
    DIR/SHA256SUMS              optional, as sha256sum writes it: then every file used must have its digest

Nothing is downloaded and no hub name occurs here. RadGraph's code does not run on transformers 5, so its graphs are
made by another interpreter (`--radgraph-python`) with radgraph 0.1.18, through `eval/_radgraph_annotate.py`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from eval import report_metrics
from medgpt.digest import file_sha256
from medgpt.errors import UserError, one_line
from medgpt.private import is_private

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_T = TypeVar("_T")

BATCH = 32


@dataclass
class Measured:
    """Values of reports by metric, and why some metrics are not there."""

    values: list[dict[str, float]]
    """One mapping a report, in order."""
    corpus: dict[str, float] = field(default_factory=dict)
    """Scores of all reports together that are no mean of single ones."""
    gaps: dict[str, str] = field(default_factory=dict)
    """Metric -> why it could not be measured."""
    settings: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    """Path below the folder of weights -> SHA-256, hexadecimal, of every file used."""


COMPONENTS: dict[str, tuple[str, ...]] = {
    "radgraph-xl": ("radgraph/radgraph-xl/config.json", "radgraph/radgraph-xl/weights.th"),
    "radgraph": ("radgraph/radgraph/config.json", "radgraph/radgraph/weights.th"),
    "distilroberta-base": ("distilroberta-base/config.json",),
    "chexbert": ("chexbert/chexbert.pth", "chexbert/bert-base-uncased/config.json"),
    "rate": ("rate/RaTE-NER-Deberta/config.json", "rate/BioLORD-2023-C/config.json"),
}
"""Parts of the folder of weights, each with files that must be there."""

NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("radgraph_simple", "radgraph_partial", "radgraph_complete"), ("radgraph-xl",)),
    **dict.fromkeys(("ratescore", "ratescore_short"), ("rate",)),
    "bertscore": ("distilroberta-base",),
    **dict.fromkeys(("semb", "chexbert_14", "chexbert_5"), ("chexbert",)),
    "radcliq_v1": ("radgraph", "distilroberta-base", "chexbert"),
}
"""Metric -> parts of the folder of weights."""

WEIGHT_FREE = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_1", "rouge_2", "rouge_l")


class Weights:
    """A folder of weights: what is in it, checked against SHA256SUMS where that is given."""

    def __init__(self, folder: Path | None, radgraph_python: Path | None = None) -> None:
        """Look, without reading any model. Raises: `UserError` for a folder or list that cannot be read."""
        self.folder = folder
        self.radgraph_python = radgraph_python
        if folder is not None and not folder.is_dir():
            raise UserError(f"--weights {folder}: no such folder")
        self._sums = _read_sums(folder / "SHA256SUMS") if folder else {}
        self._digests: dict[str, dict[str, str]] = {}

    def missing(self, component: str) -> str | None:
        """Why a part cannot be used, None where it can."""
        if self.folder is None:
            return "no --weights given"
        absent = [name for name in COMPONENTS[component] if not (self.folder / name).is_file()]
        if absent:
            return f"{', '.join(absent)} not in {self.folder.name}/"
        if component.startswith("radgraph") and self.radgraph_python is None:
            return "no --radgraph-python given (an interpreter with radgraph 0.1.18 and transformers 4)"
        return None

    def gaps(self) -> dict[str, str]:
        """Metrics that cannot be measured, each with the reason; known before anything is computed."""
        found = {}
        for metric, parts in NEEDS.items():
            if reasons := [f"{part}: {reason}" for part in parts if (reason := self.missing(part))]:
                found[metric] = "; ".join(reasons)
        return found

    def digests(self, component: str) -> dict[str, str]:
        """SHA-256 of every file of a part. Raises: `UserError` where SHA256SUMS says otherwise."""
        if self.folder is None:
            return {}
        if component in self._digests:
            return self._digests[component]
        found = {}
        for top in sorted({name.rsplit("/", 1)[0] for name in COMPONENTS[component]}):
            for path in sorted((self.folder / top).rglob("*")):
                if path.is_file():
                    name = path.relative_to(self.folder).as_posix()
                    found[name] = file_sha256(path).hex()
                    if self._sums and self._sums.get(name) != found[name]:
                        listed = self._sums.get(name)
                        raise UserError(
                            f"{path}: SHA-256 {found[name][:12]}..., SHA256SUMS says "
                            f"{f'{listed[:12]}...' if listed else 'nothing of it'}; nothing was scored"
                        )
        self._digests[component] = found
        return found


def _read_sums(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); write it again with sha256sum") from error
    sums = {}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match:
            raise UserError(f"{path}: line {number} is not `DIGEST  NAME` as sha256sum writes it")
        sums[match[2].removeprefix("./")] = match[1]
    if not sums:
        raise UserError(f"{path}: holds no digest; delete it, or list the files")
    return sums


def measure(
    hypotheses: Sequence[str],
    references: Sequence[str],
    weights: Weights,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> Measured:
    """All metrics of pairs of reports that the weights allow.

    Empty hypotheses are scored like any other, at their own place: no metric shifts or drops a pair.
    Raises: `UserError` for weights that are altered or do not load.
    """
    ours, theirs = [[" ".join(text.split()) for text in side] for side in (hypotheses, references)]
    if len(ours) != len(theirs):
        raise ValueError("every report needs its reference")
    result = Measured([{} for _ in ours], gaps=weights.gaps())
    _overlap(result, [text.lower() for text in ours], [text.lower() for text in theirs])
    folder = weights.folder
    usable = {part for part in COMPONENTS if weights.missing(part) is None}
    for part in sorted(usable):
        result.weights |= weights.digests(part)
    if folder is None or not usable:
        return result
    # Each text is encoded once, on whichever side and however often it occurs.
    texts = list(dict.fromkeys((*ours, *theirs)))
    place = {text: number for number, text in enumerate(texts)}
    pairs = [(place[a], place[b]) for a, b in zip(ours, theirs, strict=True)]
    os.environ["HF_HUB_OFFLINE"] = "1"
    combined: list[float] | None = None
    for model in ("radgraph-xl", "radgraph"):
        if model in usable and weights.radgraph_python is not None:
            # Lower case: radgraph 0.1.18 compares tokens as they are written.
            lower = [text.lower() for text in texts]
            graphs = annotate(lower, folder / "radgraph", model, weights.radgraph_python)
            if model == "radgraph-xl":
                for row, (a, b) in zip(result.values, pairs, strict=True):
                    row |= report_metrics.radgraph_f1(graphs[a], graphs[b])
            else:
                combined = [report_metrics.radgraph_combined(graphs[a], graphs[b]) for a, b in pairs]
    if "distilroberta-base" in usable:
        vectors = TokenEncoder(folder / "distilroberta-base", device, BERTSCORE_LAYER).encode(texts, progress)
        for row, (a, b) in zip(result.values, pairs, strict=True):
            row["bertscore"] = bertscore(vectors[a], vectors[b])
    if "chexbert" in usable:
        _chexbert(result, texts, pairs, CheXbert(folder / "chexbert", device), progress)
    if "rate" in usable:
        _rate(result, texts, pairs, RateModel(folder / "rate", device), progress)
    if combined is not None and "radcliq_v1" not in result.gaps:
        for row, radgraph in zip(result.values, combined, strict=True):
            row["radcliq_v1"] = report_metrics.radcliq_v1(radgraph, row["bertscore"], row["semb"], row["bleu2"])
        mean = sum(row["radcliq_v1"] for row in result.values) / len(result.values)
        # Paper compatible, ill-posed: negative for perfect reports, infinite at 0.
        result.corpus["radcliq_v1_reciprocal"] = 1 / mean if mean else float("inf")
    return result


def _overlap(result: Measured, ours: Sequence[str], theirs: Sequence[str]) -> None:
    total: report_metrics.BleuCounts | None = None
    for row, given, wanted in zip(result.values, ours, theirs, strict=True):
        counts = report_metrics.bleu_counts(given, wanted)
        total = counts if total is None else total + counts
        row |= {f"bleu{order}": value for order, value in enumerate(counts.scores(), 1)}
        row |= report_metrics.rouge(given, wanted)
    if total is not None:
        result.corpus |= {f"bleu{order}": value for order, value in enumerate(total.scores(), 1)}
    result.settings["bleu"] = r"tokens \w+|[^\w\s] of the lower-case text, COCO captions' smoothing"
    result.settings["rouge"] = "tokens [a-z0-9]+ of the lower-case text, no stemmer, as rouge-score's default tokenizer"


def _read_all(
    texts: Sequence[str],
    what: str,
    progress: bool,
    tokenizer: Any,
    device: str,
    most: int,
    read: Callable[[Any], list[_T]],
) -> list[_T]:
    """What `read` makes of every text, in their order: it is given the tokens (at most `most` a text) of a batch.

    Batches are of similar length, so that little is padded.
    """
    import torch
    from tqdm import tqdm

    order = sorted(range(len(texts)), key=lambda number: (len(texts[number]), number))
    found: dict[int, _T] = {}
    with tqdm(total=len(texts), desc=what, unit=" texts", disable=not progress or None, dynamic_ncols=True) as bar:
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            chosen = [texts[number] for number in batch]
            inputs = tokenizer(chosen, padding=True, truncation=True, max_length=most, return_tensors="pt").to(device)
            with torch.inference_mode():
                found |= dict(zip(batch, read(inputs), strict=True))
            bar.update(len(batch))
    return [found[number] for number in range(len(texts))]


# ---------------------------------------------------------------- RadGraph


def annotate(texts: Sequence[str], folder: Path, model: str, python: Path) -> list[dict[str, Any]]:
    """Graphs of texts, in order, by radgraph 0.1.18 in another interpreter. An empty text has an empty graph.

    Raises: `UserError` with the last line of what the interpreter said; texts are never repeated in it.
    """
    import subprocess

    wanted = [number for number, text in enumerate(texts) if text.strip()]
    done = subprocess.run(  # noqa: S603 (the interpreter is the user's own choice)
        [str(python), str(Path(__file__).with_name("_radgraph_annotate.py")), str(folder), model],
        input=orjson.dumps([texts[number] for number in wanted]),
        capture_output=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        # The words of an error may repeat a text; its name does not.
        last = said[-1].partition(":")[0] if is_private() else said[-1]
        raise UserError(f"{python}: {model} did not run ({last})")
    try:
        graphs = orjson.loads(done.stdout.splitlines()[-1])
    except (orjson.JSONDecodeError, IndexError):
        raise UserError(f"{python}: {model} gave no graphs; is radgraph 0.1.18 installed there?") from None
    if not isinstance(graphs, list) or len(graphs) != len(wanted):
        raise UserError(f"{python}: {model} gave {len(graphs)} graphs for {len(wanted)} texts")
    found: list[dict[str, Any]] = [{} for _ in texts]
    for number, graph in zip(wanted, graphs, strict=True):
        found[number] = graph
    return found


# ---------------------------------------------------------------- BERTScore

BERTSCORE_LAYER = 5
BERTSCORE_BASELINE = 0.8473319
"""F1 of unrelated English sentences at that layer (bert-score 0.3.13, en/distilroberta-base.tsv)."""


class TokenEncoder:
    """Hidden states of one layer, token by token."""

    def __init__(self, folder: Path, device: str, layer: int) -> None:
        """Load a model. Raises: `UserError`."""
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = _load(AutoTokenizer, folder, add_prefix_space=True)
        self._model = _load_model(AutoModel, folder, device)
        self._device, self._layer = device, layer

    def encode(self, texts: Sequence[str], progress: bool) -> list[NDArray[np.float32]]:
        """Unit vectors of every text's tokens, in order, with the two special ones."""
        import torch

        def read(inputs: Any) -> list[NDArray[np.float32]]:
            states = self._model(**inputs, output_hidden_states=True).hidden_states[self._layer]
            vectors = torch.nn.functional.normalize(states.float(), dim=-1).cpu().numpy()
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            return [one[:length].copy() for one, length in zip(vectors, lengths, strict=True)]

        most = self._model.config.max_position_embeddings - 2  # RoBERTa counts positions from 2
        return _read_all(texts, "bertscore", progress, self._tokenizer, self._device, most, read)


def bertscore(hypothesis: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """BERTScore F1 without idf, rescaled by the baseline: 1 for equal texts, about 0 for unrelated ones.

    The two special tokens are matched, but have no weight of their own. The raw value of an empty side is 0, as in
    bert-score 0.3.13.
    """
    raw = 0.0
    if len(hypothesis) > 2 and len(reference) > 2:
        cosines = hypothesis @ reference.T
        precision = float(cosines.max(axis=1)[1:-1].mean())
        recall = float(cosines.max(axis=0)[1:-1].mean())
        raw = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return (raw - BERTSCORE_BASELINE) / (1 - BERTSCORE_BASELINE)


# ---------------------------------------------------------------- CheXbert


class CheXbert:
    """CheXbert: fourteen labels of a report, and its [CLS] state."""

    def __init__(self, folder: Path, device: str) -> None:
        """Load backbone, tokenizer and heads; no pickled code is run. Raises: `UserError`."""
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        self._tokenizer = _load(AutoTokenizer, folder / "bert-base-uncased")
        self._device = device
        config = _load(AutoConfig, folder / "bert-base-uncased")
        build: Any = AutoModel.from_config  # without annotations in transformers
        self._bert = build(config)
        path = folder / "chexbert.pth"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
        except Exception as error:
            raise UserError(f"{path}: cannot be loaded ({one_line(error)[:200]})") from error
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        bert = {name.removeprefix("bert."): value for name, value in state.items() if name.startswith("bert.")}
        # Position numbers were saved by old transformers and are computed since.
        bert.pop("embeddings.position_ids", None)
        try:
            self._bert.load_state_dict(bert)
            self._heads = [
                (state[f"linear_heads.{head}.weight"].to(device), state[f"linear_heads.{head}.bias"].to(device))
                for head in range(len(report_metrics.CHEXBERT_LABELS))
            ]
        except (RuntimeError, KeyError) as error:
            raise UserError(f"{path}: not the weights of CheXbert ({one_line(error)[:200]})") from error
        self._bert.to(device).eval()

    def read(self, texts: Sequence[str], progress: bool) -> tuple[NDArray[np.float64], list[tuple[bool, ...]]]:
        """([CLS] states, a row a text; labels, `report_metrics.CHEXBERT_LABELS` a text: positive or uncertain)."""
        import numpy as np
        import torch

        def read(inputs: Any) -> list[tuple[NDArray[np.float64], tuple[bool, ...]]]:
            hidden = self._bert(**inputs).last_hidden_state[:, 0].float()
            # Classes of a head: blank, positive, negative, uncertain; the last head has blank and positive.
            classes = torch.stack([(hidden @ weight.T + bias).argmax(dim=1) for weight, bias in self._heads], dim=1)
            labels = [tuple(value in (1, 3) for value in row) for row in classes.tolist()]
            return list(zip(hidden.cpu().double().numpy(), labels, strict=True))

        found = _read_all(texts, "chexbert", progress, self._tokenizer, self._device, 512, read)
        return np.stack([states for states, _ in found]), [labels for _, labels in found]


def _chexbert(
    result: Measured, texts: Sequence[str], pairs: Sequence[tuple[int, int]], model: CheXbert, progress: bool
) -> None:
    import numpy as np

    states, labels = model.read(texts, progress)
    five = [report_metrics.CHEXBERT_LABELS.index(name) for name in report_metrics.CHEXBERT_5]
    sets = {"chexbert_14": labels, "chexbert_5": [tuple(row[place] for place in five) for row in labels]}
    for row, (a, b) in zip(result.values, pairs, strict=True):
        norms = float(np.linalg.norm(states[a]) * np.linalg.norm(states[b]))
        row["semb"] = float(states[a] @ states[b]) / norms if norms else 0.0
        row |= {name: report_metrics.label_f1(rows[a], rows[b]) for name, rows in sets.items()}
    for name, rows in sets.items():
        given, wanted = [rows[a] for a, _ in pairs], [rows[b] for _, b in pairs]
        result.corpus[f"{name}_micro"] = report_metrics.micro_f1(given, wanted)
    result.settings["chexbert"] = "uncertain counts as positive"


# ---------------------------------------------------------------- RaTEScore

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[a-z)][.!?])(?=[0-9A-Za-z])|\n+")
_SHORTEST_SENTENCE = 3  # characters, as in RaTEScore 0.6.0


def sentences(text: str) -> list[str]:
    """Sentences of a report: split after a stop, also where no space follows it ("process.Enlarged")."""
    return [part for sentence in _SENTENCE.split(text) if len(part := sentence.strip()) >= _SHORTEST_SENTENCE]


class RateModel:
    """RaTEScore's two models: entities with types, and their embeddings."""

    def __init__(self, folder: Path, device: str) -> None:
        """Load both. Raises: `UserError`."""
        from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer

        self._device = device
        self._tokenizer = _load(AutoTokenizer, folder / "RaTE-NER-Deberta")
        self._tagger = _load_model(AutoModelForTokenClassification, folder / "RaTE-NER-Deberta", device)
        self._names_tokenizer = _load(AutoTokenizer, folder / "BioLORD-2023-C")
        self._names = _load_model(AutoModel, folder / "BioLORD-2023-C", device)
        tags = {name for name in self._tagger.config.id2label.values() if name != "O"}
        if {tag[2:] for tag in tags} != set(report_metrics.RATE_TYPES):
            raise UserError(f"{folder}: tags {', '.join(sorted(tags))} are not RaTEScore's")

    def entities(self, texts: Sequence[str], progress: bool) -> list[report_metrics.RateEntities]:
        """Entities of every text, in order; texts without any keep their place."""
        import numpy as np

        parts = [(number, sentence) for number, text in enumerate(texts) for sentence in sentences(text)]
        named: list[list[tuple[str, str]]] = [[] for _ in texts]
        for (number, _), found in zip(parts, self._tag([sentence for _, sentence in parts], progress), strict=True):
            named[number] += found
        names = list(dict.fromkeys(name for found in named for name, _ in found))
        vectors = dict(zip(names, self._embed(names, progress), strict=True))
        return [
            report_metrics.RateEntities(
                [kind for _, kind in found],
                np.stack([vectors[name] for name, _ in found]) if found else np.zeros((0, 1)),
            )
            for found in named
        ]

    def _tag(self, parts: Sequence[str], progress: bool) -> list[list[tuple[str, str]]]:
        labels = self._tagger.config.id2label

        def read(inputs: Any) -> list[list[tuple[str, str]]]:
            tags = self._tagger(**inputs).logits.argmax(dim=2).tolist()
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            return [
                [
                    (self._tokenizer.decode(ids[1 + start : 1 + end]).strip(), kind)
                    for start, end, kind in entity_spans([labels[tag] for tag in row[1 : length - 1]])
                ]
                for ids, row, length in zip(inputs["input_ids"].tolist(), tags, lengths, strict=True)
            ]

        return _read_all(parts, "ratescore: entities", progress, self._tokenizer, self._device, 512, read)

    def _embed(self, names: Sequence[str], progress: bool) -> list[NDArray[np.float64]]:
        def read(inputs: Any) -> list[NDArray[np.float64]]:
            return list(self._names(**inputs).last_hidden_state[:, 0].double().cpu().numpy())

        return _read_all(names, "ratescore: embeddings", progress, self._names_tokenizer, self._device, 30, read)


def entity_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, type) of `B-`/`I-` tags; an `I-` without a beginning is none, as in RaTEScore."""
    spans: list[tuple[int, int, str]] = []
    start: int | None = None
    kind = ""
    for place, tag in enumerate((*tags, "O")):
        if start is not None and not tag.startswith("I-"):
            spans.append((start, place, kind))
            start = None
        if tag.startswith("B-"):
            start, kind = place, tag[2:]
    return spans


def _rate(
    result: Measured, texts: Sequence[str], pairs: Sequence[tuple[int, int]], model: RateModel, progress: bool
) -> None:
    entities = model.entities(texts, progress)
    floors = 0
    for row, (a, b) in zip(result.values, pairs, strict=True):
        floors += not entities[a].types or not entities[b].types
        row["ratescore"] = report_metrics.ratescore(entities[a], entities[b], "long")
        row["ratescore_short"] = report_metrics.ratescore(entities[a], entities[b], "short")
    result.corpus["ratescore_floor_share"] = floors / len(pairs) if pairs else 0.0
    result.settings["ratescore"] = (
        "RaTEScore 0.6.0; own sentence splitter; 0.5 where a side has no entity (share: ratescore_floor_share)"
    )


# ---------------------------------------------------------------- loading


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    """A model, tokenizer or config from a local folder. Raises: `UserError`."""
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:  # whatever a reader of one of its files raises
        raise UserError(f"{folder}: cannot be loaded ({one_line(error)[:200]})") from error


def _load_model(kind: Any, folder: Path, device: str) -> Any:
    """A model with all its weights but a pooler's, which no metric asks. Raises: `UserError`."""
    model, info = _load(kind, folder, output_loading_info=True)
    if missing := sorted(name for name in info["missing_keys"] if "pooler." not in name):
        # transformers only warns, and the scores would be of random numbers.
        raise UserError(
            f"{folder}: cannot be loaded ({len(missing)} weights of {type(model).__name__} are not in its files, "
            f"{missing[0]} the first)"
        )
    return model.to(device).eval()


def default_radgraph_python() -> Path | None:
    """The running interpreter, if radgraph is installed in it."""
    return Path(sys.executable) if find_spec("radgraph") else None
