"""Which model is asked: the options of a served one and of a local one, and the adapter that they mean."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from eval.adapters.base import Adapter
from eval.cards import Card
from medgpt.endpoints import read_key
from medgpt.errors import UserError
from medgpt.messages import complain

if TYPE_CHECKING:
    from eval.adapters.hf_local import LocalModel


ENGINES = {"hf": "transformers", "vllm": "vLLM", "llama.cpp": "llama.cpp"}


def add_engine(parser: argparse._ActionsContainer, default: str) -> None:
    """Add `--engine`, `--engine-settings` and `--device`, for a model in this process."""
    parser.add_argument(
        "--engine",
        choices=("auto", *ENGINES),
        default=default,
        help="hf (transformers), vllm, llama.cpp (a folder of train.export); auto: llama.cpp for such a folder, else "
        f"vLLM if it is installed and takes the weights, else transformers (default {default})",
    )
    parser.add_argument(
        "--engine-settings",
        type=_fields,
        metavar="JSON",
        help='fields of vLLM\'s engine or of llama-cpp-python\'s Llama: {"max_model_len": 8192}, {"n_ctx": 8192}',
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="cuda, cpu or auto (default); for hf")


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = orjson.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return fields


def add_options(
    parser: argparse.ArgumentParser, engine: str = "hf"
) -> tuple[argparse._ArgumentGroup, argparse._ArgumentGroup]:
    """Add what says where a model is; the groups (served, local), for what a command asks besides."""
    server = parser.add_argument_group("a served model")
    server.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible server, http://127.0.0.1:8000/v1")
    server.add_argument("--served-model", metavar="NAME", help="the model's name there (default: the card's hub id)")
    server.add_argument("--allow-host", action="append", default=[], metavar="HOST", help="may see credentialed data")
    key = server.add_mutually_exclusive_group()
    key.add_argument("--key-variable", metavar="NAME", help="environment variable that holds the API key")
    key.add_argument("--key-file", type=Path, metavar="FILE", help="file that holds it (eval.serve --token-file)")
    local = parser.add_argument_group("a model in this process")
    local.add_argument("--checkpoint", type=Path, metavar="DIR", help="local folder of the weights")
    add_engine(local, engine)
    return server, local


def model_adapter(
    options: argparse.Namespace,
    card: Card,
    *,
    concurrency: int = 1,
    timeout_s: float = 600.0,
    tries: int = 2,
    batch: int = 1,
    trust_remote_code: bool = False,
    named: bool = True,
) -> Adapter:
    """The adapter of `--endpoint`, else of `--checkpoint` in the engine that is asked for. Raises: `UserError`.

    named: whether a server must be told which of its models is meant; a run must, a talk with `eval.serve` need not.
    """
    if options.endpoint:
        from eval.adapters.openai_chat import OpenAIChat

        served = options.served_model or card.hub_id
        if named and not served:
            raise UserError(f"--model {options.model}: its card has no hub id; give --served-model NAME")
        return OpenAIChat(
            options.endpoint,
            served,
            card,
            api_key=read_key(options.key_variable, options.key_file),
            allowed_hosts=options.allow_host,
            concurrency=concurrency,
            timeout_s=timeout_s,
            tries=tries,
        )
    return local_model(
        options.checkpoint, card, options.engine, device=options.device, batch=batch, settings=options.engine_settings,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip


def local_model(
    checkpoint: Path,
    card: Card,
    engine: str,
    *,
    device: str = "auto",
    batch: int = 1,
    settings: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> LocalModel:
    """A model folder in an engine of `ENGINES`, or in the one that `auto` means, which is then said in a line.

    Raises: `UserError`.
    """
    from eval.adapters import hf_local, llama_local, vllm_local

    if engine == "auto":
        engine, why = "hf", "vLLM is not installed here"
        if (checkpoint / llama_local.MODEL).is_file():
            engine, why = "llama.cpp", f"the folder has a {llama_local.MODEL}"
        elif find_spec("vllm") and vllm_local.lacks_mxfp4(checkpoint):
            why = "vLLM's CPU build takes no MXFP4"
        elif find_spec("vllm"):
            engine, why = "vllm", "it is installed here"
        complain(f"engine: {ENGINES[engine]} ({why})")
    if engine == "hf":
        if settings:
            raise UserError("--engine-settings: are of vLLM or llama.cpp; transformers takes none")
        return hf_local.HFLocal(checkpoint, card, device=device, batch=batch, trust_remote_code=trust_remote_code)
    kind = vllm_local.VllmLocal if engine == "vllm" else llama_local.LlamaLocal
    return kind(checkpoint, card, settings=settings, trust_remote_code=trust_remote_code)
