"""Serve a trained checkpoint on loopback, so that people can try it. Not for clinical use.

Two routes of the OpenAI wire format and nothing else: POST /v1/chat/completions (whole or streamed) and
GET /v1/models. A request needs the token and a Host that is expected; pictures come inside it, as data URLs: nothing is
fetched, no file is opened, no code of a checkpoint is run. The address is 127.0.0.1 unless --allow-network is given:
what is asked may be about patients.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from eval.adapters.choose import add_engine, local_model
from eval.cards import load_card
from medgpt.arguments import command_parser
from medgpt.endpoints import Endpoint, resolve_endpoint
from medgpt.errors import DONE, UserError, run
from medgpt.messages import complain

if TYPE_CHECKING:
    from eval.serve_app import Limits


WARNING = (
    "NOT FOR CLINICAL USE. This model was trained for research. It makes things up, it has not been validated for any "
    "patient, and no diagnosis or treatment may rest on what it says."
)

OUR_CLASSES = frozenset(
    f"configuration_medgpt.{name}" for name in ("MedGptConfig", "MedGptForConditionalGeneration", "MedGptProcessor")
)
"""What `train.assemble` names in `auto_map`, for others; here the class is part of the program."""

_EXAMPLE = """
example:
  python -m eval.serve checkpoints/instruct --token-file token
  python -m eval.chat --endpoint http://127.0.0.1:8000/v1 --key-file token
"""


class _Named(msgspec.Struct):
    """What of a model's configuration names code to be run."""

    auto_map: Any = {}


def check_checkpoint(folder: Path) -> None:
    """Refuse a folder that is no model's, or that wants code other than ours to be run. Raises: `UserError`."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; is it a model folder?")
    for path in sorted(folder.glob("*config.json")):
        try:
            named = msgspec.json.decode(path.read_bytes(), type=_Named).auto_map
        except msgspec.ValidationError:
            raise UserError(f"{path}: not a JSON object; is it a model folder?") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read ({type(error).__name__}); is it a model folder?") from None
        if not isinstance(named, dict) or not OUR_CLASSES.issuperset(map(str, named.values())):
            raise UserError(
                f"{path}: its auto_map names code of its own, which is never run here; serve it with its own tools"
            )


def read_token(variable: str | None, file: Path | None) -> tuple[str, bool]:
    """(token, whether it is new and shown nowhere yet). A file that is not there is made, for its owner alone.

    Raises: `UserError`.
    """
    token, fresh = secrets.token_urlsafe(32), True
    where = "the token"
    if variable is not None:
        where = f"--token-variable {variable}"
        token, fresh = os.environ.get(variable, ""), False
    elif file is not None:
        where, fresh = f"--token-file {file}", False
        try:
            try:
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                if (there := file.stat()).st_mode & 0o077 or there.st_uid != os.geteuid():
                    raise UserError(
                        f"{where}: others may read it, or made it; chmod 600, or remove it for a new one"
                    ) from None
                token = file.read_text(encoding="ascii").strip()
            else:
                with os.fdopen(descriptor, "w", encoding="ascii") as opened:
                    opened.write(token + "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where}: cannot be used ({type(error).__name__})") from None
    if not re.fullmatch(r"[\x21-\x7e]{16,}", token):
        raise UserError(f"{where}: a token is 16 or more printable ASCII characters without spaces")
    return token, fresh


def allowed_hosts(endpoint: Endpoint, port: int, more: Sequence[str]) -> frozenset[str]:
    """What `Host` may be: loopback's names and the address that is listened on, with the port, and what is added."""
    given = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    names = {"localhost", "127.0.0.1", "[::1]", given.lower()}
    found = {f"{name}:{port}" for name in names} | {name.strip().lower() for name in more}
    return frozenset(found | names if port == 80 else found)


def read_limits(given: Sequence[str]) -> Limits:
    """Limits from `name=number`. Raises: `UserError`."""
    from eval.serve_app import Limits

    defaults = asdict(Limits())
    values: dict[str, Any] = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            values[name] = type(defaults[name])(number)
        except (KeyError, ValueError):
            values[name] = 0
        if not 0 < values[name] < 1e15:
            there = ", ".join(f"{name}={value}" for name, value in defaults.items())
            raise UserError(f"--limit {text}: give a name and a number over 0; there are {there}")
    return Limits(**values)


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Serves until it is stopped (130 by Ctrl-C); 2 where it cannot."""
    parser = command_parser("eval.serve", f"Serve a trained checkpoint on loopback. {WARNING}", _EXAMPLE)
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="folder with config.json, weights and processor")
    parser.add_argument("--model", default="medgpt_oss_ours", metavar="CARD", help="model card (default: ours)")
    parser.add_argument("--served-model", metavar="NAME", help="the model's name to clients (default: the folder's)")
    add_engine(parser, "auto")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes a free one")
    parser.add_argument(
        "--allow-network",
        action="store_true",
        help="listen on an address that others can reach; there is no TLS, put a proxy that has it in front",
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME[:PORT]", help="one more Host that is answered"
    )
    token = parser.add_mutually_exclusive_group()
    token.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token; made (0600) if not there")
    token.add_argument("--token-variable", metavar="NAME", help="environment variable that holds the token")
    token.add_argument("--no-token", action="store_true", help="answer everybody on this machine; loopback only")
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=N",
        help="body_bytes, pictures, pixels (of all pictures of a request), context and new_tokens (tokens), body_s, "
        "request_s (seconds), waiting (requests); --limit x shows their values",
    )
    options = parser.parse_args(arguments)

    complain(WARNING)
    try:
        return _serve(options)
    except KeyboardInterrupt:
        return 130


def _serve(options: argparse.Namespace) -> int:
    host = f"[{options.host}]" if ":" in options.host else options.host
    endpoint = resolve_endpoint(f"http://{host}:{options.port or 80}/v1")
    if not endpoint.loopback and not options.allow_network:
        raise UserError(
            f"--host {options.host}: others could reach it and read what is asked; leave it at 127.0.0.1, "
            "or add --allow-network"
        )
    if not endpoint.loopback and options.no_token:
        raise UserError(f"--no-token: not on {options.host}, which others can reach")
    check_checkpoint(options.checkpoint)
    card = load_card(options.model)
    if card.trust_remote_code:
        raise UserError(f"--model {options.model}: its checkpoint brings code of its own, which is never run here")
    limits = read_limits(options.limit)
    from eval.serve_app import App, listen  # needs an extra's libraries

    address = endpoint.addresses[0]
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, options.port))
        except (OSError, OverflowError) as error:
            raise UserError(f"--host {options.host} --port {options.port}: cannot listen there ({error})") from None
        port = sock.getsockname()[1]
        token, fresh = (None, False) if options.no_token else read_token(options.token_variable, options.token_file)
        model = local_model(
            options.checkpoint, card, options.engine, device=options.device, settings=options.engine_settings
        )
        model.load()
        hosts = allowed_hosts(endpoint, port, options.allow_host)
        name = options.served_model or options.checkpoint.resolve().name
        sock.listen()
        if fresh:
            complain(f"token (shown once): {token}")
        complain(f"serving {name} at http://{host}:{port}/v1 for Host {', '.join(sorted(hosts))}")
        listen(App(model, card, name, token, hosts, limits), sock)
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
