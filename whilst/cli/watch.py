"""`whilst watch`: a checkpoint that watches a stream."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from whilst.cli.door import yaml_value


class Engine(StrEnum):
    """The names that whilst.engines knows; they stand here too because `whilst --help` must not load torch."""

    auto = "auto"
    sequential = "sequential"
    parallel = "parallel"


class Deadline(StrEnum):
    """The names that whilst.parallel knows."""

    last_finished = "last_finished"
    wait = "wait"


def watch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A video file, a folder of images with a frames.json, or a camera: an rtsp, http or file URL, or "
            "/dev/video0.",
            show_default=False,
        ),
    ],
    model: Annotated[Path, typer.Option(help="A folder that `whilst sft` wrote.", show_default=False)],
    fps: Annotated[float | None, typer.Option(help="Frames a second; default: as in training.")] = None,
    segment: Annotated[float | None, typer.Option(help="Seconds a segment; default: as in training, else 1.")] = None,
    ask: Annotated[list[str] | None, typer.Option(metavar="TIME:QUERY", help="e.g. '3.5:who is there ?'")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Every line on stdin is a query, asked now.")] = False,
    realtime: Annotated[
        bool, typer.Option("--realtime/--fast", help="By the real clock, or as fast as it can be read.")
    ] = False,
    speed: Annotated[float | None, typer.Option(help="Seconds of video a second (with --realtime); 1.")] = None,
    proactive: Annotated[list[str] | None, typer.Option(metavar="QUERY", help="Put after every segment.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Speak where silence is less likely than this; default: greedy.")
    ] = None,
    after_reply: Annotated[float | None, typer.Option(help="The threshold right after a reply.")] = None,
    states: Annotated[
        bool, typer.Option("--states", help="The checkpoint writes silence, standby or respond as its thought.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="parallel answers whilst it thinks; auto: so where possible, on the real clock.")
    ] = Engine.auto,
    deadline: Annotated[
        Deadline | None, typer.Option(help="Of the parallel engine; default: last_finished on the real clock.")
    ] = None,
    drop_late: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Drop, and count, frames that waited longer.")
    ] = None,
    policy: Annotated[str | None, typer.Option(metavar="YAML", help="KV policy, e.g. '{name: sink_window}'.")] = None,
    thought_tokens: Annotated[int, typer.Option(help="Most tokens of a thought.")] = 64,
    answer_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: every event.")] = False,
) -> None:
    """Watch a video as a stream: print thoughts and answers as they come."""
    queries = [_query(text) for text in ask or ()]
    if speed is not None and not realtime:
        raise typer.BadParameter("--speed needs --realtime")
    if states and (threshold is not None or after_reply is not None):
        raise typer.BadParameter("--states and --threshold are two ways to decide: give one of them")
    from whilst import watch as stream
    from whilst.checkpoint import load_checkpoint
    from whilst.engines import LiveSettings
    from whilst.pace import is_url, open_source
    from whilst.policies import make_policy
    from whilst.proactive import STATES, Proactive

    checkpoint = load_checkpoint(model)
    clocked = None if is_url(source) and speed is None else (speed or 1.0)  # a camera keeps its own clock
    stream.watch(
        checkpoint,
        open_source(source, checkpoint.contract.fps if fps is None else fps),
        LiveSettings(
            segment_seconds=checkpoint.contract.cut_seconds if segment is None else segment,
            thought_tokens=thought_tokens,
            answer_tokens=answer_tokens,
            speed=clocked if realtime else None,
            drop_late=drop_late,
            standing=tuple(proactive or ()),
            proactive=STATES if states else Proactive(threshold, after_reply),
            engine=engine.value,
            deadline=None if deadline is None else deadline.value,
        ),
        typer.echo,
        as_json=as_json,
        queries=queries,
        questions=stream.lines_of(0) if stdin else None,
        policy=make_policy(yaml_value(policy, policy)) if policy is not None else None,
    )


def _query(text: str) -> tuple[float, str]:
    time, colon, question = text.partition(":")
    try:
        seconds = float(time)
    except ValueError:
        seconds = -1.0
    if not colon or not question.strip() or not 0.0 <= seconds < float("inf"):
        raise typer.BadParameter(f"--ask {text!r}: write it as SECONDS:QUERY, such as '3.5:who is there ?'")
    return seconds, question.strip()
