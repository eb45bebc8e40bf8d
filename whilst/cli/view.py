"""`whilst view`: a page that shows samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def view(
    samples: Annotated[Path, typer.Argument(metavar="SAMPLES", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("view.html"),
    ids: Annotated[list[str] | None, typer.Option("--id", help="Only this sample; may be repeated.")] = None,
    graphs: Annotated[Path | None, typer.Option(help="Sources or graphs of the samples: a file or folder.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Its tokenizer counts tokens; else words.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many samples.")] = 20,
    fps: Annotated[float, typer.Option(help="Frames a second to show.")] = 2.0,
    embed_megabytes: Annotated[float, typer.Option(help="Videos beyond this are linked, not embedded.")] = 24.0,
    frames: Annotated[bool, typer.Option(help="Show frames; without, videos need not be here.")] = True,
) -> None:
    """Write a page that shows samples: video, events on a timeline, and the graph as of the playhead."""
    from whilst.view import write_page

    page = write_page(
        samples,
        out,
        ids=ids or (),
        limit=limit,
        fps=fps,
        graphs=graphs,
        checkpoint=checkpoint,
        embed_megabytes=embed_megabytes,
        frames=frames,
    )
    typer.echo(page)
