"""`whilst serve`: a local page where a checkpoint watches streams."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LOCAL = "127.0.0.1"


def serve(
    model: Annotated[Path, typer.Option(help="A folder that `whilst sft` wrote.", show_default=False)],
    videos: Annotated[Path, typer.Option(help="The folder whose videos may be watched.", show_default=False)],
    host: Annotated[str, typer.Option(help="Where to listen; another than this one is open to your network.")] = LOCAL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8765,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A further name of this host.")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 4,
    idle: Annotated[float, typer.Option(help="Seconds after which a stream that nobody looks at ends.")] = 30.0,
    upload_megabytes: Annotated[float, typer.Option(min=0, help="Largest upload; 0: none.")] = 200.0,
    thought_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a thought.")] = 64,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 64,
) -> None:
    """A local web page: watch a video as a stream, and ask while it runs."""
    from whilst.checkpoint import load_checkpoint
    from whilst.serve import ServeSettings, make_server

    server = make_server(
        load_checkpoint(model),
        ServeSettings(
            videos=videos,
            host=host,
            port=port,
            names=tuple(allow_host or ()),
            sessions=sessions,
            idle_seconds=idle,
            upload_bytes=round(upload_megabytes * 1e6),
            thought_tokens=thought_tokens,
            answer_tokens=answer_tokens,
        ),
    )
    if host not in (LOCAL, "localhost", "::1"):
        typer.echo(f"warning: {host} is open to your network: anyone there can watch, upload and ask", err=True)
    typer.echo(server.address)
    with server:
        server.serve_forever()
