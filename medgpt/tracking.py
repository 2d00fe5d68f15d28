"""Figures of a run for TensorBoard, Weights & Biases or MLflow: into files of a folder; nothing is sent anywhere.

    FOLDER/tensorboard/     tensorboard --logdir FOLDER/tensorboard
    FOLDER/wandb/           wandb sync FOLDER/wandb/offline-run-*, if and when you want to
    FOLDER/mlruns/          mlflow ui --backend-store-uri FOLDER/mlruns

Figures and settings alone are written, no text of a sample. The library is imported when a tracker is opened.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgpt.errors import UserError
from medgpt.private import make_folder


@dataclass(frozen=True)
class Tracker:
    """An open run."""

    write: Callable[[Mapping[str, float], int], None]
    """Adds figures by name, at a step."""
    close: Callable[[], None]


def open_tracker(kind: str, folder: Path, config: Mapping[str, Any] | None = None, step: int = 0) -> Tracker:
    """A run of a tracker in `folder`; `config` says what was run, events from `step` on of an earlier run are dropped.

    `kind`: one of `TRACKERS`. Raises: `UserError` where its library is not installed.
    """
    try:
        return TRACKERS[kind](folder, dict(config or {}), step)
    except ModuleNotFoundError as error:
        package = {"mlflow": "mlflow-skinny"}.get(kind, kind)
        raise UserError(f"{kind} cannot be used ({error.name} is not installed): pip install {package}") from error


def _tensorboard(folder: Path, config: Mapping[str, Any], step: int) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
    if config:
        writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in config.items()), step)

    def write(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Tracker(write, writer.close)


def _wandb(folder: Path, config: Mapping[str, Any], step: int) -> Tracker:
    del step  # an offline run has no earlier events
    # Read when the library starts: it would report its own faults to its makers.
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    make_folder(folder / "wandb")
    quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True)
    run = wandb.init(
        project="medgpt-oss", name=folder.name, dir=str(folder), mode="offline", config=dict(config), settings=quiet,
        reinit="create_new",
    )  # fmt: skip
    return Tracker(lambda values, step: run.log(dict(values), step=step), run.finish)


def _mlflow(folder: Path, config: Mapping[str, Any], step: int) -> Tracker:
    del step
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true", "GIT_PYTHON_REFRESH": "quiet"}
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=(folder / "mlruns").resolve().as_uri())
    with suppress(MlflowException):  # the run before has made it
        client.create_experiment("medgpt-oss")
    run = client.create_run(client.get_experiment_by_name("medgpt-oss").experiment_id, run_name=folder.name)
    known = run.info.run_id
    client.log_batch(known, params=[Param(name, str(value)[:500]) for name, value in config.items()])

    def write(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            # MLflow takes few signs in a name.
            plain = "".join(sign if sign.isalnum() or sign in "_-. /" else "_" for sign in name)
            client.log_batch(known, metrics=[Metric(plain, float(value), run.info.start_time, step)])

    return Tracker(write, lambda: client.set_terminated(known))


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
