"""Filters: what is wrong with a sample or one of its queries, and what is left when that is taken out.

filtered = apply(sample, source, FilterSettings(), guesser=None, decontamination=None)
"""

from data_pipeline.filters.apply import Filtered, apply
from data_pipeline.filters.guess import EndpointGuesser, Guesser, TextOnly
from data_pipeline.filters.settings import BenchmarkFile, FilterSettings, GuessSettings, Length, Repetition

__all__ = [
    "BenchmarkFile", "EndpointGuesser", "FilterSettings", "Filtered", "GuessSettings", "Guesser", "Length",
    "Repetition", "TextOnly", "apply",
]  # fmt: skip
