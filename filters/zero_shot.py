"""A CLIP model from a local checkpoint as a filter: zero-shot questions, caption-image agreement, embeddings.

No package ships such weights, so none are assumed: `weights` is a checkpoint file together with the name of its
architecture in open_clip (`model: ViT-L-14-336`), or a folder with `open_clip_config.json`, weights and tokenizer, as
BiomedCLIP and SigLIP are published. Nothing is downloaded. torch and open_clip are imported when the model is loaded.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from filters.base import Filter, FilterError, Picture, Record, Score

PROMPTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "compound": (
        ("a figure with several panels", "a collage of medical images labelled A, B, C", "a grid of images"),
        ("a single medical image", "one photograph", "one microscopy image"),
    ),
    "narrator": (
        ("a video frame with a lecturer's face in the corner", "a person talking to a camera", "a webcam picture"),
        ("a microscopy image of tissue", "a radiograph", "a medical image without people"),
    ),
    "screen": (
        ("a screenshot of a computer desktop", "a screenshot of slide viewer software", "a window with menus"),
        ("a microscopy image of tissue", "a radiograph", "a clinical photograph"),
    ),
    "text": (
        ("an image with text written over it", "a title slide", "an image with a watermark"),
        ("an image without any text", "a clean medical image"),
    ),
    "irrelevant": (
        ("a chart", "a flow diagram", "a table of numbers", "a logo"),
        ("a radiograph", "a microscopy image of tissue", "a clinical photograph", "an endoscopic image"),
    ),
}
"""Score -> (prompts for it, prompts against it). Changing one changes the version."""

_IMAGES_AT_ONCE = 32
LOGIT_SCALE = 100.0
"""Inverse temperature of the softmax: that of CLIP's paper, so that scores of different checkpoints compare."""


class ZeroShot(Filter):
    """What a CLIP model says of pictures. Thresholds of one checkpoint do not transfer to another: measure first."""

    name: ClassVar[str] = "zero_shot"
    version: ClassVar[str] = (
        f"1/{LOGIT_SCALE:g}/{hashlib.sha256(repr(sorted(PROMPTS.items())).encode()).hexdigest()[:12]}"
    )
    scores: ClassVar[dict[str, str]] = {
        **{score: f"probability 0..1 of the prompts for {score!r} against the others" for score in PROMPTS},
        "agreement": "cosine of picture and caption, -1..1; none without a caption",
    }
    cost: ClassVar[float] = 200.0
    in_main_process: ClassVar[bool] = True
    file_options: ClassVar[tuple[str, ...]] = ("weights",)
    runtime_options: ClassVar[tuple[str, ...]] = ("device",)

    def __init__(self, weights: str | None = None, model: str | None = None, device: str = "cpu") -> None:
        """Load the checkpoint. weights: a file, with `model` the architecture's name; or a folder that says it all.

        Raises: `FilterError` without weights, without open_clip, or where the two do not fit.
        """
        if weights is None:
            raise FilterError("zero_shot needs weights: a file (with model: ViT-L-14-336, say) or a folder of them")
        self._network, self._prepare, self._tokenize = _load(Path(weights), model, device)
        self._device = device
        self._questions = {
            score: tuple(self.class_vector(prompts) for prompts in sides) for score, sides in PROMPTS.items()
        }

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        """Scores of each record; of several pictures the highest. Without a picture all are None."""
        pictures = [picture for record in records for picture in record.pictures]
        vectors = self.embed_pictures(pictures)
        captions = [record.caption for record in records if record.pictures and record.caption.strip()]
        texts = iter(self.embed_texts(captions))
        results: list[dict[str, Score]] = []
        first = 0
        for record in records:
            mine = vectors[first : first + len(record.pictures)]
            first += len(record.pictures)
            if not len(mine):
                results.append(dict.fromkeys(self.scores))
                continue
            found: dict[str, Score] = {}
            for score, (positive, negative) in self._questions.items():
                margin = LOGIT_SCALE * (mine @ positive - mine @ negative)
                found[score] = round(float((1 / (1 + np.exp(-margin))).max()), 4)
            found["agreement"] = round(float((mine @ next(texts)).max()), 4) if record.caption.strip() else None
            results.append(found)
        return results

    def embed_pictures(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """(n, d) embeddings of length 1, for `filters.semantic_duplicates`."""
        return self.embed_images([Image.fromarray(picture.rgb(1024)) for picture in pictures])

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(n, d) embeddings of length 1."""
        import torch

        def prepared(few: Sequence[Image.Image]) -> Any:
            return torch.stack([self._prepare(image) for image in few])

        return self._embedded(images, prepared, self._network.encode_image)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, d) embeddings of length 1; what exceeds the model's context is cut off."""
        return self._embedded(texts, lambda few: self._tokenize(list(few)), self._network.encode_text)

    def _embedded(self, items: Sequence[Any], prepared: Any, encode: Any) -> NDArray[np.float32]:
        import torch

        batches = (items[start : start + _IMAGES_AT_ONCE] for start in range(0, len(items), _IMAGES_AT_ONCE))
        with torch.no_grad():
            vectors = [_unit(encode(prepared(few).to(self._device))) for few in batches]
        return np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32)

    def class_vector(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(d,) of length 1: the middle of what the prompts of a class say."""
        mean = self.embed_texts(prompts).mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)


def _unit(vectors: Any) -> NDArray[np.float32]:
    found = vectors.float().cpu().numpy()
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def _load(weights: Path, model: str | None, device: str) -> tuple[Any, Any, Any]:
    """(network, preparation of a PIL picture, tokenizer)."""
    if not weights.exists():
        raise FilterError(f"zero_shot: {weights} is not there")
    try:
        import open_clip
    except ImportError as error:
        raise FilterError(f"zero_shot needs {error.name}: pip install 'medgpt-oss[neural]'") from None
    pretrained = None
    if weights.is_dir():
        if not (weights / "open_clip_config.json").is_file():
            raise FilterError(f"zero_shot: {weights} has no open_clip_config.json; give a weights' file and its model")
        model = f"local-dir:{weights}"
    elif model is None or ":" in model or model not in open_clip.list_models():
        raise FilterError(f"zero_shot: model {model!r} is no architecture of open_clip; a weights' file needs one")
    elif (open_clip.get_model_config(model) or {}).get("text_cfg", {}).get("hf_tokenizer_name"):
        raise FilterError(
            f"zero_shot: {model} has a tokenizer of its own; give a folder with open_clip_config.json, weights and it"
        )
    else:
        pretrained = str(weights)
    try:
        network, _, prepare = open_clip.create_model_and_transforms(model, pretrained=pretrained, device=device)
        tokenize = open_clip.get_tokenizer(model)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        logging.getLogger(__name__).debug("loading %s", weights, exc_info=True)
        raise FilterError(f"zero_shot: {weights} cannot be loaded as {model} ({type(error).__name__})") from error
    network.eval()
    return network, prepare, tokenize
