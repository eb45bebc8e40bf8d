"""What the jobs of one process share: writer, guesser and lists of benchmarks, each made when first asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from data_pipeline import filters
from data_pipeline.engine import inputs
from data_pipeline.engine.recipe import Slurm, SynthRecipe
from data_pipeline.filters.decontamination import Decontamination, read_benchmarks
from data_pipeline.filters.guess import EndpointGuesser, TextOnly
from data_pipeline.source import Source
from data_pipeline.text.endpoint import Endpoint, EndpointSettings, shared
from data_pipeline.text.limits import share
from data_pipeline.text.task import Write
from data_pipeline.text.templates import templates
from whilst.sample import Sample


class Tools:
    """The tools of one process of a run."""

    def __init__(self, recipe: SynthRecipe) -> None:
        self._recipe = recipe

    @cached_property
    def write(self) -> Write:
        """Who words the texts."""
        recipe = self._recipe
        plain = templates(recipe.seed)
        return plain if recipe.writer == "templates" else Endpoint(self._part(recipe.writer), recipe.seed, plain)

    @property
    def threads(self) -> int:
        """How many sources to work on at once: templates compute, an endpoint waits."""
        return 1 if self._recipe.writer == "templates" else self._part(self._recipe.writer).concurrency

    @cached_property
    def guesser(self) -> TextOnly | None:
        """The guesser that needs no counts of the run; None where there is none."""
        settings = self._recipe.filters.guesser
        if settings is None or settings.mode != "endpoint":
            return None
        return EndpointGuesser(self.write, settings.tries)

    @cached_property
    def decontamination(self) -> Decontamination | None:
        """The videos of benchmarks; None where no list is given."""
        files = self._recipe.filters.benchmarks
        return read_benchmarks(files) if files else None

    def apply(self, sample: Sample, source: Source, guesser: TextOnly | None) -> filters.Filtered:
        """The sample through all filters."""
        return filters.apply(sample, source, self._recipe.filters, guesser, self.decontamination)

    def extracted(self, split: str, shard: int) -> inputs.Found:
        """The sources of a shard of videos."""
        given = self._recipe.inputs[split]
        assert given.extract is not None
        return inputs.extracted(given, shard, Endpoint(self._part(given.extract.endpoint), self._recipe.seed))

    def _part(self, settings: EndpointSettings) -> EndpointSettings:
        """This process's part of an endpoint's limits: all that run at once keep to the rate, and all to the budget."""
        recipe = self._recipe
        part = shared(settings, recipe.workers)
        if isinstance(recipe.executor, Slurm):  # a task is a process, which ends with its shard
            tasks = sum(given.shards for given in recipe.inputs.values())
            part = replace(part, budget=share(settings.budget, tasks))
        return part
