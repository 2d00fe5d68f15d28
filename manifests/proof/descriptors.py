"""Copy descriptors by local path: an encoder of pictures proposes pairs for `local_pictures`; pixels decide over them.

An encoder is one of
    FILE.pt      TorchScript, as SSCD is published (sscd_disc_mixup.torchscript.pt: 512 numbers, ResNet-50;
                 sscd_disc_large.torchscript.pt: 1024, ResNeXt-101; facebookresearch/sscd-copy-detection, CC BY-NC 4.0)
    FILE.onnx    its first input (n, 3, side, side), its first output (n, d)
    FOLDER       with open_clip_config.json and weights, as open_clip's models are published
Nothing is downloaded. The policy names it by its SHA-256 (`sha256_of`), so a proof says which it was. The first two get
pictures squeezed to `pixels` x `pixels` and normalised as ImageNet's are, which is what SSCD's authors recommend.

The winners of the Image Similarity Challenge (Papakipos et al. 2022) embed pictures and crops of them, look each up
among whole pictures and crops (global-local, local-global), and check candidates by local features. Here features find
the parts by themselves, the descriptor adds pairs of whole pictures, and both end at the same verdict.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifests.proof.local_features import reduced
from manifests.proof.policy import EncoderSettings, Policy
from medgpt.digest import file_sha256
from medgpt.errors import UserError, one_line

Vectors = NDArray[np.float32]

BATCH = 64
PIXELS = 1024
"""Longest side of what an encoder's own preparation is given."""
MARGIN = 0.01
"""Cosines of two devices differ by less: `verify` asks of pairs so near the limit only that pixels agree."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels, as torchvision and SSCD's authors give them."""


def sha256_of(path: Path) -> str:
    """SHA-256 of an encoder, hexadecimal: of the file, or of the names and digests of a folder's files."""
    if path.is_file():
        return file_sha256(path).hex()
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; --encoder names the encoder that the policy asks for")
    names = sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
    lines = "".join(f"{file_sha256(path / name).hex()}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


class Encoder:
    """Turns pictures into vectors of length 1, in batches, on a GPU if there is one."""

    def __init__(self, path: Path, settings: EncoderSettings) -> None:
        """Load it. Raises: `UserError` if it is not the policy's, cannot be loaded, or a package is missing."""
        found = sha256_of(path)
        if found != settings.sha256:
            raise UserError(f"{path}: SHA-256 {found}, the policy's encoder has {settings.sha256}")
        self.pixels = settings.pixels
        load = _load_onnx if path.suffix == ".onnx" else _load_clip if path.is_dir() else _load_script
        try:
            self._encode = load(path, self._squared)
        except ModuleNotFoundError as error:
            raise UserError(f"{path}: the encoder needs {error.name}, which is not installed") from error
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be loaded as an encoder ({one_line(error)})") from error

    def vectors(self, pictures: Iterable[bytes | None]) -> Vectors:
        """(n, d) vectors of n stored pictures; zeros where there is none. Raises: `UserError`."""
        parts: list[Vectors] = []
        rest = iter(pictures)
        while batch := list(islice(rest, BATCH)):
            opened = [reduced(data, PIXELS, "RGB")[0] for data in batch if data is not None]
            vectors = self._encode(opened) if opened else np.zeros((0, 0), np.float32)
            if vectors.ndim != 2 or len(vectors) != len(opened):
                raise UserError(f"the encoder gives {vectors.shape} for {len(opened)} pictures, not (n, d)")
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            part = np.zeros((len(batch), vectors.shape[1]), np.float32)
            part[[data is not None for data in batch]] = vectors / np.maximum(lengths, 1e-12)
            parts.append(part)
        wide = max((part.shape[1] for part in parts), default=0)
        return np.concatenate([part if part.shape[1] else np.zeros((len(part), wide), np.float32) for part in parts]
                              or [np.zeros((0, 0), np.float32)])  # fmt: skip

    def _squared(self, pictures: Sequence[Image.Image]) -> Vectors:
        """(n, 3, pixels, pixels), normalised."""
        side = (self.pixels, self.pixels)
        values = np.stack([np.asarray(one.resize(side, Image.Resampling.BILINEAR), np.float32) for one in pictures])
        normal = (values / 255 - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
        return np.ascontiguousarray(normal.transpose(0, 3, 1, 2), np.float32)


def load_encoder(policy: Policy, path: Path | None) -> Encoder | None:
    """The policy's encoder, where its level is on. Raises: `UserError` if there is one without the other."""
    settings = policy.local_pictures.encoder if policy.local_pictures.train else None
    if (settings is None) != (path is None):
        raise UserError(
            "the policy's local_pictures name an encoder: --encoder PATH says where it lies"
            if path is None
            else f"{path}: the policy's local_pictures ask for no encoder (its SHA-256 is {sha256_of(path)})"
        )
    return None if settings is None or path is None else Encoder(path, settings)


Encode = Callable[[Sequence[Image.Image]], Vectors]


def proposed(train: Vectors, test: Vectors, cosine: float) -> list[tuple[int, int, float]]:
    """(row of `train`, row of `test`, cosine) of all pairs at least so near; every pair is compared."""
    if not train.size or not test.size:
        return []
    near = train @ test.T
    rows, tests = np.nonzero(near >= cosine)
    return list(zip(rows.tolist(), tests.tolist(), near[rows, tests].tolist(), strict=True))


def _load_script(path: Path, prepare: Callable[[Sequence[Image.Image]], Vectors]) -> Encode:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, and what SSCD is published as
        network = torch.jit.load(str(path), map_location=device).eval()

    def encode(pictures: Sequence[Image.Image]) -> Vectors:
        with torch.no_grad():
            return _array(network(torch.from_numpy(prepare(pictures)).to(device)))

    return encode


def _load_onnx(path: Path, prepare: Callable[[Sequence[Image.Image]], Vectors]) -> Encode:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    except Exception as error:  # its exceptions have no base of their own
        raise ValueError(str(error)) from error
    name = session.get_inputs()[0].name
    return lambda pictures: np.asarray(session.run(None, {name: prepare(pictures)})[0], np.float32)


def _load_clip(path: Path, prepare: Callable[[Sequence[Image.Image]], Vectors]) -> Encode:
    import open_clip
    import torch

    if not (path / "open_clip_config.json").is_file():
        raise UserError(
            f"{path}: has no open_clip_config.json; name a TorchScript or ONNX file, or a folder of open_clip"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, _, own = open_clip.create_model_and_transforms(f"local-dir:{path}", device=device)
    network.eval()

    def encode(pictures: Sequence[Image.Image]) -> Vectors:
        with torch.no_grad():
            return _array(network.encode_image(torch.stack([own(one) for one in pictures]).to(device)))

    return encode


def _array(tensor: Any) -> Vectors:
    return np.asarray(tensor.float().cpu().numpy(), np.float32)
