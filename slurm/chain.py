"""Of which recipe of a chain is what stands once on the command line?

    whilst launch synth.yaml --then sft.yaml --then rl.yaml --time 12:00:00 sft:optim.learning_rate=1e-5

Options are of all, and nodes of all that train. A key is of one recipe, which is named before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slurm.checks import TRAINING, LaunchError


def spread(
    recipes: Sequence[tuple[Path, str]], overrides: Sequence[str], options: Mapping[str, Any]
) -> list[list[str]]:
    """The overrides of each recipe (file, stage), in the order in which they apply. options: keys of `launch`; None
    leaves the recipe's. A key that is given wins over an option.

    overrides: `KEY=VALUE` of the only recipe, or `NAME:KEY=VALUE`, where NAME is a stage of the chain, the name of a
    file of it without .yaml, or a place in it, from 1.

    LaunchError: a key of no recipe or of several, or nodes for a chain of which nothing takes them.
    """
    given = {key: value for key, value in options.items() if value is not None}
    several = [len(recipes) == 1 or stage in TRAINING for _, stage in recipes]
    if "nodes" in given and not any(several):
        raise LaunchError("--nodes: nothing in this chain trains; for synth and eval give e.g. synth:launch.tasks=8")
    found = [
        [f"launch.{key}={json.dumps(value)}" for key, value in given.items() if key != "nodes" or takes_nodes]
        for takes_nodes in several
    ]
    for override in overrides:
        name, colon, _ = override.partition("=")[0].partition(":")
        named = override[len(name) + 1 :] if colon else override
        found[_place(recipes, override, name if colon else "", named)].append(named)
    return found


def _place(recipes: Sequence[tuple[Path, str]], override: str, name: str, named: str) -> int:
    called = [(stage, path.stem, str(number)) for number, (path, stage) in enumerate(recipes, 1)]
    fits = [i for i, names in enumerate(called) if not name or name in names]
    if len(fits) == 1:
        return fits[0]
    everyone = [name for names in called for name in {*names}]
    ways = [f"{next(one for one in names if everyone.count(one) == 1)}:{named}" for names in called]
    raise LaunchError(
        f"override {override!r}: {'several recipes' if fits else 'no recipe'} of this launch "
        f"{'could be meant' if fits else f'is called {name!r}'}; write {' or '.join(ways)}"
    )
