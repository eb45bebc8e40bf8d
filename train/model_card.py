"""The model card, README.md: what a model is and how it was made, of its recipe; how well it does, of a report alone.

Nothing here is made up: what a run does not say, the card says is not known. No date: an equal run gives equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

from whilst import __version__
from whilst.checkpoint import Contract
from whilst.exported import ExportError
from whilst.runs import read_run


@dataclass(frozen=True)
class Figures:
    """What a report says of one model. arms and controls: by kind of query, as report.json has them."""

    report: str
    arm: str
    samples: str
    scorer: str
    definitions: Mapping[str, str]
    arms: Mapping[str, Mapping[str, Any]]
    controls: Mapping[str, Mapping[str, Mapping[str, Any]]]
    not_valid: Mapping[str, str]
    weights: str


@dataclass(frozen=True)
class Facts:
    """What a card is written from. base: a Hub id, or None. step: of a checkpoint; None: the final model."""

    run: Path
    step: int | None
    recipe: Mapping[str, Any]
    contract: Contract
    base: str | None
    license: str | None
    datasets: tuple[str, ...]
    kind: Literal["model", "adapter"]
    dtype: str
    family: str
    parameters: int
    report: Figures | None


def figures(report: Path, weights: Path) -> Figures:
    """What report.json of a folder says of the model in the folder `weights`.

    ExportError: there is no report, or none of its arms is this very folder: figures of another model are not given.
    """
    file = report / "report.json" if report.is_dir() else report
    if not file.is_file():
        raise ExportError(f"{report}: no report.json there; `whilst eval` writes one")
    found = json.loads(file.read_text(encoding="utf-8"))
    settings = found.get("settings") or {}
    arms = {arm: Path(path).resolve() for arm, path in (settings.get("arms") or {}).items()}
    mine = [arm for arm, path in arms.items() if path == weights.resolve()]
    if not mine or not (found.get("arms") or {}).get(mine[0]):
        raise ExportError(f"{file}: none of its arms ({', '.join(arms) or 'none'}) is {weights}: evaluate that one")
    arm = mine[0]
    manifest = (found.get("manifests") or {}).get(arm) or {}
    return Figures(
        report=str(found.get("name") or "evaluation"),
        arm=arm,
        samples=Path(str(settings.get("samples") or "unknown")).name,
        scorer=str(found.get("scorer") or "unknown"),
        definitions=found.get("definitions") or {},
        arms=found["arms"][arm],
        controls=(found.get("controls_by_arm") or {}).get(arm) or {},
        not_valid=(found.get("controls_not_valid") or {}).get(arm) or {},
        weights=str((manifest.get("model") or {}).get("weights and config") or "unknown"),
    )


def card(facts: Facts) -> str:
    """The text of README.md."""
    recipe, contract = facts.recipe, facts.contract
    what = "LoRA adapter" if facts.kind == "adapter" else "streaming video model"
    base = f"[{facts.base}](https://huggingface.co/{facts.base})" if facts.base else "a checkpoint that is on no Hub"
    thinks = "thinks about every segment" if contract.thinks else "answers without thoughts"
    parts = [
        _header(facts),
        f"# {recipe['name']}",
        f"A {what} of the {facts.family} family that watches a video as it arrives and {thinks}, trained with whilst "
        f"{__version__} (stage `{recipe['stage']}`) from {base}. {facts.parameters:,} parameters, {facts.dtype}.",
        "## What is reproduced\n",
        str(recipe.get("source") or "").strip() or "Nothing published: its recipe names no source.",
        "## How to stream with it\n",
        f"```python\n{_stream(contract)}```",
        "The session takes frames a second, layout, visibility rule, position scheme and memory policy from "
        "`streaming.yaml`:\n\n" + _table(("what", "value"), _contract(contract)),
        _plainly(facts),
        "## Data\n",
        _data(facts),
        "## Hyper-parameters\n",
        _table(
            ("key", "value"),
            _flat(
                {
                    key: recipe[key]
                    for key in ("seed", "model", "optim", "loss", "rollout", "rewards")
                    if recipe.get(key) is not None
                }
            ),
        ),
        "## Evaluation\n",
        *_evaluation(facts),
        "## Known deviations\n",
        str(recipe.get("notes") or "").strip() or "The recipe names none.",
        "## What has not been checked\n",
        _unchecked(facts),
        "## Origin\n",
        _table(("what", "value"), _origin(facts)),
        f"Licence: {facts.license}." if facts.license else NO_LICENCE,
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


STREAM = """\
from whilst.segmenters import fixed
from whilst.session import StreamSession
from whilst.video import read_frames

MODEL = "."  # this folder, or its id on the Hub
with StreamSession.from_pretrained(MODEL) as session:
    for clip in fixed(read_frames("video.mp4", session.fps), SECONDS):  # segments
        session.watch(clip.frames.images, clip.frames.times, clip.end)
        print(clip.end, session.think().text)
    print(session.ask("what happened ?").text)
"""
NO_LICENCE = "Licence: not known to the run. That of the base model and of the data applies."


def _stream(contract: Contract) -> str:
    """The code, with the length of a segment; without thoughts where the model has none."""
    known = "as in training" if contract.segment_seconds is not None else "of one second: training did not note them"
    code = STREAM.replace("SECONDS", f"{contract.cut_seconds:g}").replace("# segments", f"# segments {known}")
    return "".join(line for line in code.splitlines(keepends=True) if contract.thinks or ".think()" not in line)


def _header(facts: Facts) -> str:
    """What the Hub reads."""
    header: dict[str, Any] = {"license": facts.license or "unknown"}
    if facts.base:
        header |= {
            "base_model": facts.base,
            "base_model_relation": "adapter" if facts.kind == "adapter" else "finetune",
        }
    header |= {
        "library_name": "peft" if facts.kind == "adapter" else "transformers",
        "pipeline_tag": "video-text-to-text",
        "tags": ["whilst", "streaming-video", facts.family, str(facts.recipe["stage"])],
    }
    if facts.datasets:
        header["datasets"] = list(facts.datasets)
    if facts.report is not None:
        metrics = [
            {"type": "accuracy", "name": f"accuracy, {kind}", "value": round(figure["accuracy"], 4)}
            for kind, figure in facts.report.arms.items()
            if figure and "/" not in kind
        ]
        result = {
            "task": {"type": "video-text-to-text", "name": "streaming video question answering"},
            "dataset": {"type": facts.report.samples, "name": f"{facts.report.report}, {facts.report.samples}"},
            "metrics": metrics,
        }
        header["model-index"] = [{"name": facts.recipe["name"], "results": [result]}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---"


def _contract(contract: Contract) -> list[tuple[str, object]]:
    render = contract.render
    rows: list[tuple[str, object]] = [
        ("frames a second", contract.fps),
        ("seconds a segment", "not known" if contract.segment_seconds is None else contract.segment_seconds),
        ("layout", render.layout),
        ("visibility rule", f"{render.rule} {dict(render.rule_params) or ''}".strip()),
        ("position scheme", f"{render.scheme} {dict(render.scheme_params) or ''}".strip()),
        ("queries", render.queries),
        ("text memory, tokens", render.memory_tokens or "unbounded"),
        ("memory policy", ", ".join(str(one["name"]) for one in contract.policy) or "none: nothing leaves the caches"),
        ("renderer version", contract.renderer),
    ]
    return rows


def _plainly(facts: Facts) -> str:
    if facts.kind == "adapter":
        return "`peft.PeftModel.from_pretrained(base, folder)` puts it on its base model."
    return (
        "Plain transformers loads it too (`AutoModelForImageTextToText`, `AutoTokenizer`), but applies neither its "
        "mask nor its turns. Its `generation_config.json` suppresses the vision tokens, which must never be sampled."
    )


def _data(facts: Facts) -> str:
    data = facts.recipe.get("data") or {}
    lines = [f"- on the Hub: {', '.join(facts.datasets)}"] if facts.datasets else []
    given = data.get("train") or data.get("samples") or ()
    for path in [given] if isinstance(given, str) else given:
        lines.append(f"- {_dataset(Path(path))}")
    rest = {key: value for key, value in data.items() if key not in ("train", "validation", "samples")}
    return "\n".join(lines) + "\n\n" + _table(("key", "value"), _flat(rest))


def _dataset(path: Path) -> str:
    """A dataset by the name and licence of its own card, if it lies beside it; else by its file's name."""
    for folder in (path, path.parent, path.parent.parent):
        card = folder / "README.md"
        if card.is_file() and (text := card.read_text(encoding="utf-8")).startswith("---\n"):
            header = yaml.safe_load(text.split("---\n")[1]) or {}
            if "pretty_name" in header:
                licence = header.get("license_name") or header.get("license") or "unknown"
                return f"{header['pretty_name']}, `{path.name}`, licence {licence}"
    return f"`{path.name}`, which has no card beside it"


def _evaluation(facts: Facts) -> Sequence[str]:
    found = facts.report
    if found is None:
        return ["Not evaluated: this export was given no report."]
    told = [f"- {name}: {text}" for name, text in found.definitions.items() if name in ("accuracy", "interval", "kind")]
    head = ("kind", "n", "accuracy", "95% interval")
    parts = [
        f"Of the report `{found.report}` (arm `{found.arm}`, samples `{found.samples}`, scorer `{found.scorer}`), "
        f"which evaluated the weights `{found.weights}` in the precision of the run.",
        "\n".join(told),
        _table(head, _rows(found.arms)),
    ]
    if found.controls:
        parts.append("Controls: the same queries with something taken away or put in its place.")
        rows = [
            (name, *row[1:]) for name, by_kind in found.controls.items() for row in _rows({"all": by_kind.get("all")})
        ]
        parts.append(_table(("control", *head[1:]), rows))
    if found.not_valid:
        parts.append(
            "Controls that say nothing about this model:\n\n" + _table(("control", "why"), found.not_valid.items())
        )
    return parts


def _rows(by_kind: Mapping[str, Any]) -> list[tuple[object, ...]]:
    return [
        (kind, f["n"], f"{100 * f['accuracy']:.1f}%", f"{100 * f['ci_low']:.1f} to {100 * f['ci_high']:.1f}")
        for kind, f in by_kind.items()
        if f
    ]


def _unchecked(facts: Facts) -> str:
    lines = ["Safety, bias, and videos unlike those it was trained on."]
    if facts.report is None:
        lines.append("Any accuracy.")
    if facts.report is not None and facts.dtype != (facts.recipe.get("model") or {}).get("dtype", "float32"):
        lines.append(f"The figures above after rounding to {facts.dtype}: the weights were rounded for this export.")
    if facts.step is not None:
        lines.append(f"What training would have made of it: this is the checkpoint of step {facts.step}.")
    lines.append("Engines other than whilst and transformers: they may ignore `suppress_tokens`.")
    return "\n".join(f"- {line}" for line in lines)


def _origin(facts: Facts) -> list[tuple[str, object]]:
    run = read_run(facts.run)
    rows: list[tuple[str, object]] = [("recipe", facts.recipe["name"]), ("exported by", f"whilst {__version__}")]
    if run is not None:
        rows += [
            ("trained by", f"whilst {run.version}"),
            ("processes", run.ranks),
            ("steps", f"{run.step} of {run.steps}"),
        ]
        rows += [(name, value) for name, value in (("job", run.job), ("wandb run", run.wandb)) if value]
    else:
        rows.append(("trained by", "not recorded: the run has no run.json"))
    if facts.step is not None:
        rows.append(("checkpoint", facts.step))
    return rows


def _flat(value: Mapping[str, Any], key: str = "") -> list[tuple[str, object]]:
    """Dotted keys and values. A path of the machine is told by its last part: ids and names say enough."""
    rows: list[tuple[str, object]] = []
    for name, inner in value.items():
        dotted = f"{key}.{name}" if key else name
        if isinstance(inner, Mapping):
            rows += _flat(inner, dotted)
        else:
            rows.append(
                (f"`{dotted}`", Path(inner).name if isinstance(inner, str) and Path(inner).is_absolute() else inner)
            )
    return rows


def _table(head: tuple[str, ...], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
