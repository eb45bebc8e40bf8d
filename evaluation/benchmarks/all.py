"""All benchmarks by name."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.benchmarks import (
    inf_streams,
    longvideobench,
    omnimmi,
    omnipro,
    omnipro_online,
    ovo_bench,
    proactive_videoqa,
    qvhighlights,
    streameqa,
    streamgaze,
    streaming_bench,
    svbench,
    tempcompass,
    video_holmes,
    videomme,
)
from evaluation.benchmarks.base import Benchmark, BenchmarkError

BENCHMARKS: Mapping[str, Benchmark] = {
    one.name: one
    for one in (
        ovo_bench.BENCHMARK,
        streaming_bench.BENCHMARK,
        streaming_bench.PROACTIVE,
        video_holmes.BENCHMARK,
        omnimmi.BENCHMARK,
        omnimmi.PROACTIVE,
        qvhighlights.BENCHMARK,
        svbench.BENCHMARK,
        streamgaze.BENCHMARK,
        streameqa.BENCHMARK,
        omnipro.BENCHMARK,
        omnipro_online.BENCHMARK,
        proactive_videoqa.BENCHMARK,
        inf_streams.BENCHMARK,
        tempcompass.BENCHMARK,
        longvideobench.BENCHMARK,
        videomme.BENCHMARK,
    )
}


def find(name: str) -> Benchmark:
    """The benchmark of this name, or BenchmarkError that lists the names."""
    if name not in BENCHMARKS:
        raise BenchmarkError(f"{name!r} is no benchmark; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
