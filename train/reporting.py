"""Where a training reports: Weights & Biases, online or to files of its folder, and TensorBoard.

    report_to: [wandb, tensorboard]
    wandb: {project: whilst, entity: lab, mode: offline, tags: [7b]}

Runs that are kept in files are sent later: `wandb sync OUTPUT/wandb/offline-run-*`. Keys come from the environment or
from `wandb login`; nothing here writes them anywhere.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from train.stage import TrainRecipe, WandbSettings

KNOWN = ("wandb", "tensorboard")
RUN_ID = "wandb_run_id"  # file in a run's folder; a resumed training goes on under it
LOGIN_SECONDS = 30.0  # how long an online run may take to begin


class ReportingError(ValueError):
    """A training that cannot report as its recipe says; names the key and the fix."""


def check_reporting(recipe: TrainRecipe) -> None:
    """ReportingError for a name that is not known, or whose package is not installed."""
    for name in recipe.report_to:
        if name not in KNOWN:
            raise ReportingError(f"report_to: {name!r} is not known; choose from {', '.join(KNOWN)}")
    if "tensorboard" in recipe.report_to and importlib.util.find_spec("tensorboard") is None:
        raise ReportingError(
            "report_to: tensorboard is not installed; pip install 'whilst[tensorboard]', or leave it out"
        )


def prepare_reporting(recipe: TrainRecipe) -> None:
    """Begin what the recipe reports to, before anything is loaded: what cannot report must not train first.

    On rank 0 a W&B run is begun with the resolved recipe for its config; TRL logs to it. ReportingError as
    `check_reporting`, and for an online run without a key or that cannot be begun.
    """
    check_reporting(recipe)
    if "wandb" not in recipe.report_to or os.environ.get("RANK", "0") != "0":
        return
    import wandb

    mode, told = wandb_mode(recipe.wandb, has_key=_has_key())
    if told:
        print(told, file=sys.stderr)
    saved = Path(recipe.output, RUN_ID)
    again: dict[str, Any] = {"id": saved.read_text(), "resume": "allow"} if saved.exists() else {}
    if wandb.run is not None:  # of an earlier training of this process
        wandb.finish()
    try:
        wandb.init(
            project=recipe.wandb.project or os.environ.get("WANDB_PROJECT", "whilst"),
            entity=recipe.wandb.entity or os.environ.get("WANDB_ENTITY"),
            name=recipe.name,
            tags=list(recipe.wandb.tags),
            dir=recipe.output,
            mode=mode,
            config={"recipe": asdict(recipe)},
            settings=wandb.Settings(init_timeout=LOGIN_SECONDS),
            **again,
        )
    except wandb.Error as error:
        raise ReportingError(
            f"wandb: a run could not be begun {mode}: {' '.join(str(error).split())}; mend that, or keep it in files "
            f"with wandb.mode=offline"
        ) from error


def wandb_mode(settings: WandbSettings, *, has_key: bool) -> tuple[Literal["online", "offline", "disabled"], str]:
    """The mode of a run, and a line to say where nobody has chosen it. ReportingError: online, and no key."""
    chosen = settings.mode or os.environ.get("WANDB_MODE")
    if chosen is None and has_key:
        return "online", ""
    if chosen is None:
        return "offline", (
            "wandb: offline, as there is neither wandb.mode nor WANDB_MODE nor a key: the run is kept in its folder; "
            "`wandb sync` sends it later"
        )
    if chosen not in ("online", "offline", "disabled"):
        raise ReportingError(f"WANDB_MODE: {chosen!r} is not known; choose online, offline or disabled")
    if chosen == "online" and not has_key:
        raise ReportingError(
            "wandb.mode: online needs a key; set WANDB_API_KEY, run `wandb login`, or choose wandb.mode=offline"
        )
    return chosen, ""  # type: ignore[return-value]


def _has_key() -> bool:
    """Whether W&B would find a key: in the environment, or in the file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc
    from urllib.parse import urlparse

    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return file.is_file() and netrc.netrc(file).authenticators(host) is not None
