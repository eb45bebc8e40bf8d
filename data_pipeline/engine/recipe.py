"""The recipe of the `synth` stage: where sources come from, what is made of them, and who does the work."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, Literal

from data_pipeline.builders import BUILDERS
from data_pipeline.builders.script import Builder
from data_pipeline.engine.inputs import Input
from data_pipeline.engine.shards import Format
from data_pipeline.filters import FilterSettings
from data_pipeline.text.endpoint import EndpointSettings, shared
from whilst.recipe import Recipe


class _OneBuilder:
    """One builder by name, with its settings: `vst: {}` takes its defaults."""

    def __post_init__(self) -> None:
        if len(self._given()) != 1:
            raise ValueError(f"name one builder, such as `vst: {{}}`, not {', '.join(self._given()) or 'none'}")

    def _given(self) -> list[str]:
        return [one.name for one in fields(self) if getattr(self, one.name) is not None]  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """Its name in BUILDERS."""
        return self._given()[0]

    @property
    def builder(self) -> Builder:
        """The builder."""
        return BUILDERS[self.name]

    @property
    def settings(self) -> Any:
        """The builder's settings."""
        return getattr(self, self.name)


if TYPE_CHECKING:
    BuilderChoice = Any
else:
    # One field a builder, so that a new builder is one module and its line in BUILDERS.
    BuilderChoice = make_dataclass(
        "BuilderChoice",
        [(name, builder.settings | None, None) for name, builder in sorted(BUILDERS.items())],
        bases=(_OneBuilder,),
        frozen=True,
        namespace={"__module__": __name__},  # where worker processes find it
    )


@dataclass(frozen=True)
class Datatrove:
    """The jobs run as tasks of datatrove's local executor, `workers` at a time."""

    name: Literal["datatrove"] = "datatrove"


@dataclass(frozen=True)
class Slurm:
    """The jobs run as Slurm job arrays of datatrove, `workers` at a time; each step waits for the one before.

    `time` is Slurm's limit of a task, such as `04:00:00`; `environment` a shell line that a task begins with, such as
    `source .venv/bin/activate`. Limits of an endpoint hold for each task.
    """

    partition: str
    time: str
    environment: str = ""
    qos: str = ""
    cpus_per_task: int = 1
    mem_per_cpu_gb: int = 2
    max_array_size: int = 1001
    sbatch: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Export:
    """The samples again in a foreign layout (whilst/foreign), below exports/<layout>.

    What the layout has no place for is taken out first: evidence, windows, options (they are written into the
    question), silences of standing queries and `meta`. `text_stream` also wants segments of `seconds` each, and has the
    answers of a moment come before its thought; `tww` takes samples without their thoughts, as it has none. A sample
    that still cannot be said is counted as rejected.
    """

    layout: Literal["vst", "tww", "text_stream"]
    seconds: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SynthRecipe(Recipe):
    """`inputs` by split; `writer`: templates, or the settings of an endpoint that words every text.

    `executor`: `local` (this program's processes), or datatrove's, local or Slurm; `workers` at a time. What is made
    does not depend on either.
    """

    output: str
    inputs: dict[str, Input]
    builder: BuilderChoice
    writer: Literal["templates"] | EndpointSettings = "templates"
    filters: FilterSettings = field(default_factory=FilterSettings)
    formats: tuple[Format, ...] = ("parquet",)
    exports: tuple[Export, ...] = ()
    executor: Literal["local"] | Datatrove | Slurm = "local"
    workers: int = 1

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("inputs: name at least one split")
        for split in self.inputs:
            if not split.replace("_", "").isalnum():
                raise ValueError(f"inputs.{split}: a split is a word of letters, digits and _: it names files")
        if not self.formats or len(set(self.formats)) != len(self.formats):
            raise ValueError(f"formats: {list(self.formats)}: name parquet, jsonl or both, none of them twice")
        if len({export.layout for export in self.exports}) != len(self.exports):
            raise ValueError("exports: a layout is named twice; keep one")
        if self.workers < 1:
            raise ValueError(f"workers: {self.workers}: must be at least 1")
        guesses = self.filters.guesser is not None and self.filters.guesser.mode == "endpoint"
        if guesses and (self.writer == "templates" or "guess" not in self.writer.steps):
            raise ValueError("filters.guesser.mode: endpoint: needs an endpoint as writer, with `guess` in its steps")
        for endpoint in self.endpoints():
            shared(endpoint, self.workers)  # raises where it is too little for so many

    def endpoints(self) -> list[EndpointSettings]:
        """All endpoints that the run asks. Their limits hold for the run: its workers share them."""
        describers = [given.extract.endpoint for given in self.inputs.values() if given.extract is not None]
        return [*([] if self.writer == "templates" else [self.writer]), *describers]
