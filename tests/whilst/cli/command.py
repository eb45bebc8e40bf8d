"""A command through the door, and the small world that several tests of commands look at."""

from pathlib import Path

from typer.testing import CliRunner

from whilst.cli import app

ROOT = Path(__file__).parents[3]
TINY = ROOT / "recipes" / "tiny"


def invoke(*arguments: object) -> tuple[int, str, str, BaseException | None]:
    """Exit code, stdout, stderr, and the exception that ended it."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return found.exit_code, found.stdout, found.stderr, found.exception


def fails(*arguments: object) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    code, _, told, _ = invoke(*arguments)
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in told, told
    return lines[0]


def make_world(folder: Path, *overrides: str) -> Path:
    """The demo's world and samples on a small scale, through the door: a folder with data/ and words.txt."""
    counts = "counts={train: 4, validation: 1, test: 2}"
    assert invoke("world", TINY / "world.yaml", f"output={folder / 'world'}", counts, *overrides)[0] == 0
    inputs = [
        f"inputs.{split}.sources=[{folder / 'world' / f'{split}.sources.jsonl'}]"
        for split in ("train", "validation", "test")
    ]
    code, told, _, _ = invoke("synth", TINY / "samples.yaml", f"output={folder / 'samples'}", *inputs, "workers=1")
    assert code == 0 and told.strip().splitlines()[-1] == str(folder / "samples")
    return folder / "samples"
