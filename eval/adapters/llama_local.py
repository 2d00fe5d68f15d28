"""A model in llama.cpp in this process (`python -m train.export --for llama.cpp`), on a machine without a GPU, too.

Prompts are `hf_local`'s: its token ids, with control tokens in a text as text, and its tiles, which the pictures of a
question share. llama.cpp's own server does neither: it cuts pictures into other grids and reads control tokens in a
text as such (ggml-org/llama.cpp, issue 26273). Here it gets one tile at a time, and what it makes of it stands where
the prompt has that tile's tokens. Questions are answered one after another.
"""

from __future__ import annotations

import atexit
import ctypes
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from eval.adapters.base import REFUSED, AdapterError, Answer, Keep, Request
from eval.adapters.hf_local import LocalModel, Pieces, Prompts, check_length, conversation, libraries, stop_ids
from eval.cards import GREEDY_BELOW, Card
from medgpt.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MODEL, MMPROJ = "model.gguf", "mmproj.gguf"
"""Names that `train.export` gives."""
CONTEXT = 16_384
"""Tokens of prompt and answer, if the settings do not say `n_ctx`."""


class LlamaLocal(LocalModel):
    """A model that llama.cpp loads when the first question comes."""

    def __init__(self, checkpoint: Path, card: Card, **options: Any) -> None:
        """`settings`: of llama-cpp-python's `Llama` (`n_ctx`, `n_gpu_layers`, `n_threads`). Raises: `UserError`."""
        super().__init__(checkpoint, card, **options)
        if not (checkpoint / MODEL).is_file():
            raise UserError(f"{checkpoint}: no {MODEL}; make it with python -m train.export --for llama.cpp")
        if card.served_only or card.pixels or set(card.request) - {"skip_special_tokens"}:
            raise UserError(f"card {card.name}: asks for what llama.cpp is not told here; give --endpoint")
        self._settings.setdefault("n_ctx", CONTEXT)

    def identity(self) -> dict[str, Any]:
        """Digest of the files, the card, llama-cpp-python's version and its settings. Raises: `UserError`."""
        version = _llama_cpp().__version__
        return {"adapter": "llama_local", **self._weights, "llama_cpp_python": version, "settings": self._settings}

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """Answer one after another. Raises: `UserError` if the model cannot be loaded."""
        for request in requests:
            for askable in self._askable([request], keep):
                self.load()
                try:
                    answer = self.stream(askable, self._card.drawn(askable.draw), self._settings["n_ctx"], _silent)
                except AdapterError:
                    raise
                except UserError:  # too long, or no conversation that the template takes
                    answer = Answer(REFUSED, None)
                keep(askable, answer)

    @cached_property
    def _loaded(self) -> _Loaded:
        return _Loaded(self._checkpoint, self._card, self._settings, self._trust)

    def stream(self, request: Request, card: Card, longest: int, say: Callable[[str], None]) -> Answer:
        """One answer; see `LocalModel`."""
        if card.decoding.repetition_penalty not in (None, 1.0):
            raise UserError("repetition_penalty: not taken with llama.cpp, which would count it otherwise")
        started = time.monotonic()
        answer = self._loaded.answer(request, card, min(longest, self._settings["n_ctx"]), say)
        self._counts["prompt tokens"] += answer.prompt_tokens or 0
        self._counts["new tokens"] += answer.completion_tokens or 0
        return replace(answer, seconds=round(time.monotonic() - started, 4))


def _silent(_: str) -> None:
    """Nobody follows."""


def _llama_cpp() -> Any:
    try:
        import llama_cpp
    except ModuleNotFoundError as error:
        raise UserError("--engine llama.cpp needs llama-cpp-python: pip install 'medgpt-oss[llama]'") from error
    return llama_cpp


@cache
def _no_log() -> Any:
    """A log that writes nothing; kept, because llama.cpp calls it as long as it runs."""
    return _llama_cpp().llama_log_callback(lambda *_: None)


class _Loaded(Prompts):
    """Both files in llama.cpp, and the processor."""

    def __init__(self, checkpoint: Path, card: Card, settings: Mapping[str, Any], trust: bool) -> None:
        import torch
        from transformers import GenerationConfig

        libraries()
        super().__init__(checkpoint, card, trust, torch.float32)
        self.stops = stop_ids(GenerationConfig.from_pretrained(checkpoint, local_files_only=True), self.tokenizer)
        self._api = _llama_cpp()
        from llama_cpp import mtmd_cpp

        self._mtmd = mtmd_cpp
        mtmd_cpp.mtmd_log_set(_no_log(), None)  # it would write some lines a tile
        try:
            self._llama = self._api.Llama(str(checkpoint / MODEL), verbose=False, **settings)
        except (ValueError, TypeError) as error:
            raise UserError(f"{checkpoint / MODEL}: llama.cpp cannot load it ({type(error).__name__})") from error
        atexit.register(self._llama.close)  # later, Python has taken apart what it needs
        self._context = self._llama.ctx
        options = mtmd_cpp.mtmd_context_params_default()
        options.print_timings, options.warmup = False, False
        options.n_threads = self._llama.n_threads_batch
        options.use_gpu = bool(settings.get("n_gpu_layers"))
        path = str(checkpoint / MMPROJ).encode()
        self._vision = mtmd_cpp.mtmd_init_from_file(path, self._llama.model, options)
        if not self._vision:
            raise UserError(f"{checkpoint / MMPROJ}: llama.cpp cannot load it")

    def answer(self, request: Request, card: Card, longest: int, say: Callable[[str], None]) -> Answer:
        """One answer. Raises: `UserError` if the request is too long or no conversation of this model."""
        import torch

        with conversation():
            prompt = self.inputs([(request.question.messages, request.question.images)])
        tokens = prompt["input_ids"][0][prompt["attention_mask"][0].bool()].tolist()
        check_length(len(tokens), request, longest)
        self._read_prompt(tokens, prompt.get("pixel_values"))
        pieces = Pieces(self, card.stop, say)
        pieces.put(torch.tensor(tokens))
        sampler = self._sampler(card)
        new: list[int] = []
        try:
            while len(new) < request.max_new_tokens:
                token = self._api.llama_sampler_sample(sampler, self._context, -1)
                new.append(token)
                pieces.put(torch.tensor([token]))
                if pieces.ended or len(new) == request.max_new_tokens:
                    break
                self._decode([token], len(tokens) + len(new) - 1)
        finally:
            self._api.llama_sampler_free(sampler)
        answer = self.read(new, len(tokens), card.stop)
        say((answer.text or "")[pieces.sent :])
        return answer

    def _sampler(self, card: Card) -> Any:
        api, decoding = self._api, card.decoding
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        links = [api.llama_sampler_init_greedy()]
        if decoding.temperature is not None and decoding.temperature > GREEDY_BELOW:
            links = [
                api.llama_sampler_init_temp(decoding.temperature),
                api.llama_sampler_init_top_p(1.0 if decoding.top_p is None else decoding.top_p, 1),
                api.llama_sampler_init_dist((decoding.seed or 0) % 2**32),
            ]
        for link in links:
            api.llama_sampler_chain_add(chain, link)
        return chain

    def _read_prompt(self, tokens: list[int], tiles: Any) -> None:
        """Fill the cache: text by its tokens, each tile by what the encoder makes of it."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        marker = None if self.processor is None else self.processor.image_token_id
        place, shown = 0, 0
        for is_image, run in groupby(tokens, key=lambda token: token == marker):
            count = len(list(run))
            end = place + count
            if not is_image:
                self._decode(tokens[place:end], place)
            while is_image and place < end:
                vectors = self._encode(self._bytes(tiles[shown]))
                self._decode(vectors, place)
                place, shown = place + len(vectors), shown + 1
            if place != end and is_image:
                raise AdapterError(f"llama.cpp makes {place - end + count} vectors for {count} image tokens")
            place = end

    def _bytes(self, tile: Any) -> npt.NDArray[np.uint8]:
        """A tile as the processor cut it, uint8 (side, side, 3), before it was normalised."""
        import torch

        images = self.processor.image_processor
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (images.image_mean, images.image_std))
        pixels = ((tile * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        found: npt.NDArray[np.uint8] = pixels.permute(1, 2, 0).contiguous().numpy()
        return found

    def _encode(self, tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(tokens, width) of a tile."""
        import numpy as np

        mtmd, side = self._mtmd, len(tile)
        marker = mtmd.mtmd_default_marker()
        text = mtmd.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=True)
        bitmap = mtmd.mtmd_bitmap_init(side, side, tile.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            pictures = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            failed = mtmd.mtmd_tokenize(self._vision, chunks, ctypes.byref(text), pictures, 1)
            # <img> and </img> stand around it; the prompt has its own.
            parts = [mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks))]
            images = [
                part for part in parts if mtmd.mtmd_input_chunk_get_type(part) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE
            ]
            if failed or len(images) != 1 or mtmd.mtmd_encode_chunk(self._vision, images[0]):
                raise AdapterError("llama.cpp cannot encode a tile")
            shape = mtmd.mtmd_input_chunk_get_n_tokens(images[0]), self._api.llama_model_n_embd_inp(self._llama.model)
            return np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self._vision), shape).copy()
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _decode(self, given: list[int] | npt.NDArray[np.float32], start: int) -> None:
        """Put tokens or vectors into the cache behind the first `start`; logits are of the last one."""
        import numpy as np

        api, step = self._api, self._llama.n_batch
        rows = np.ascontiguousarray(given, np.int32 if isinstance(given, list) else np.float32)
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            batch = api.llama_batch_init(len(part), part.shape[1] if part.ndim == 2 else 0, 1)
            try:
                batch.n_tokens = len(part)
                ctypes.memmove(batch.embd if part.ndim == 2 else batch.token, part.ctypes.data, part.nbytes)
                for i in range(len(part)):
                    batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = start + first + i, 1, 0
                    batch.logits[i] = first + i == len(rows) - 1
                if code := api.llama_decode(self._context, batch):
                    raise AdapterError(f"llama.cpp cannot go on (code {code}); is n_ctx too small?")
            finally:
                api.llama_batch_free(batch)
