"""Which model is asked: the options of a served one and of a local one, and the adapter that they mean."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.adapters.base import Adapter
from eval.cards import Card
from medgpt.endpoints import read_key
from medgpt.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> tuple[argparse._ArgumentGroup, argparse._ArgumentGroup]:
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
    local.add_argument("--engine", choices=("hf", "vllm"), default="hf", help="transformers (default) or vLLM")
    local.add_argument("--device", default="auto", metavar="NAME", help="cuda, cpu or auto (default)")
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
    engine_settings: Mapping[str, Any] | None = None,
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
    if options.engine == "vllm":
        from eval.adapters.vllm_local import VllmLocal

        return VllmLocal(options.checkpoint, card, settings=engine_settings, trust_remote_code=trust_remote_code)
    from eval.adapters.hf_local import HFLocal

    return HFLocal(options.checkpoint, card, device=options.device, batch=batch, trust_remote_code=trust_remote_code)
