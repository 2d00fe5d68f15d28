"""Serve a trained checkpoint on loopback with an existing server, so that people can try it. Not for clinical use.

This is a thin wrapper: `transformers serve` or vLLM does the work. The address is 127.0.0.1 unless --allow-network is
given: what is asked may be about patients.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgpt.errors import UserError

WARNING = (
    "NOT FOR CLINICAL USE. This model was trained for research. It makes things up, it has not been validated for any "
    "patient, and no diagnosis or treatment may rest on what it says."
)

_EXAMPLE = """
example:
  python -m eval.serve checkpoints/instruct
  python -m eval.chat --endpoint http://127.0.0.1:8000/v1 --served-model "$PWD/checkpoints/instruct"
"""


class ServeError(UserError):
    """One line: what is missing and how to get it."""


def command(checkpoint: Path, server: str, host: str, port: int, device: str, trust_remote_code: bool) -> list[str]:
    """Program and arguments of the server's own command line. Raises: `ServeError`."""
    config = _config(checkpoint)
    if config.get("auto_map") and not trust_remote_code:
        files = ", ".join(sorted(path.name for path in checkpoint.glob("*.py")))
        raise ServeError(f"{checkpoint} brings its own classes ({files}); read them and add --trust-remote-code")
    vision = config.get("vision_config")
    if config.get("model_type") == "internvl" and vision and vision.get("model_type") != "internvl_vision":
        raise ServeError(
            f"{checkpoint}: transformers would put a random InternViT in the place of its {vision.get('model_type')}; "
            "export it again with python -m train.assemble, which adds a configuration class"
        )
    folder = str(checkpoint.resolve())
    options = ["--host", host, "--port", str(port), *(["--trust-remote-code"] if trust_remote_code else [])]
    if server == "vllm":
        return ["vllm", "serve", folder, *options]
    return ["transformers", "serve", folder, *options, "--device", device]


_PACKAGES = {"transformers": "transformers[serving]", "vllm": "vllm"}
_MODULES = {"transformers": ("transformers", "fastapi", "openai", "uvicorn"), "vllm": ("vllm",)}
"""What a server cannot start without."""


def _config(checkpoint: Path) -> dict[str, Any]:
    import json

    try:
        found = json.loads((checkpoint / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ServeError(f"{checkpoint}: no config.json that can be read ({error}); is it a model folder?") from None
    if not isinstance(found, dict):
        raise ServeError(f"{checkpoint}/config.json: not a JSON object; is it a model folder?")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Serves until it is stopped; 2 where it cannot."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.serve",
        description=f"Serve a trained checkpoint on loopback. {WARNING}",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="folder with config.json, weights and processor")
    parser.add_argument("--server", choices=("transformers", "vllm"), default="transformers", help="what serves")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="default 8000")
    parser.add_argument("--device", default="auto", help="auto, cuda, cpu (transformers only)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the classes that a checkpoint brings")
    parser.add_argument("--allow-network", action="store_true", help="listen on an address that others can reach")
    parser.add_argument("--dry-run", action="store_true", help="print the server's command and stop")
    options = parser.parse_args(arguments)

    from medgpt.endpoints import EndpointRefused, resolve_endpoint

    print(WARNING, file=sys.stderr)
    try:
        host = f"[{options.host}]" if ":" in options.host else options.host
        endpoint = resolve_endpoint(f"http://{host}:{options.port}/v1")
        if not endpoint.loopback and not options.allow_network:
            raise ServeError(
                f"--host {options.host}: others could reach it and read what is asked; leave it at 127.0.0.1, "
                "or add --allow-network"
            )
        run = command(
            options.checkpoint,
            options.server,
            options.host,
            options.port,
            options.device,
            options.trust_remote_code,
        )
    except (ServeError, EndpointRefused) as error:
        print(error, file=sys.stderr)
        return 2
    if options.dry_run:
        print(" ".join(run))
        return 0
    if missing := [name for name in _MODULES[options.server] if importlib.util.find_spec(name) is None]:
        what = f"{', '.join(missing)} not installed; pip install '{_PACKAGES[options.server]}'"
        print(f"--server {options.server}: {what}", file=sys.stderr)
        return 2
    print(f"serving at {endpoint.base}", file=sys.stderr, flush=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.server == "vllm":
        # The server takes this process over, so that its signals and exit code are the caller's.
        os.execvp(run[0], run)  # noqa: S606 - no shell; the command is the one that --dry-run shows
    from transformers.cli.transformers import main as transformers_main

    if options.trust_remote_code:
        offer_class(options.checkpoint)
    sys.argv = run
    transformers_main()
    return 0


def offer_class(checkpoint: Path) -> None:
    """Put the model class that a checkpoint brings where `transformers serve` looks for it.

    It looks up `architectures` in the package itself and the modality by the class's name (seen in 5.23), although
    loading by `auto_map` would work.
    """
    import transformers
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    config = _config(checkpoint)
    for reference in config.get("auto_map", {}).values():
        name = reference.rpartition(".")[2]
        if name in config.get("architectures", ()):
            setattr(transformers, name, get_class_from_dynamic_module(reference, str(checkpoint.resolve())))
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[config["model_type"]] = name


if __name__ == "__main__":
    raise SystemExit(main())
