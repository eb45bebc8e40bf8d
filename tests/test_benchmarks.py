"""The runner of benchmarks: what they print passes through, and one without figures is a failure."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main, read_figures

GOOD = """print("| a | b |")
import json
print(json.dumps({"name": "cuts twice", "ratio": 2.5, "target": 2.0, "holds": True, "details": {}}))
print()
"""


def write(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_the_page_has_figures_and_tables(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "benchmarks", good=GOOD, __main__="raise SystemExit(9)")
    assert main(folder, tmp_path / "docs" / "B.md") == 0
    page = (tmp_path / "docs" / "B.md").read_text()
    assert "| cuts twice | 2.50 | 2.00 | yes |" in page and "| a | b |" in page
    for fact in ("date:", "commit:", "machine:", "torch"):
        assert fact in page
    assert "| a | b |" in capfd.readouterr().out


def test_some_are_measured_again_and_the_rest_stays(tmp_path: Path) -> None:
    folder = write(tmp_path / "benchmarks", good=GOOD, other=GOOD.replace("cuts twice", "cuts thrice"))
    out = tmp_path / "B.md"
    assert main(folder, out) == 0
    (folder / "good.py").write_text(GOOD.replace("2.5", "4.5"))
    (folder / "other.py").write_text("raise SystemExit(3)")  # it is not run
    assert main(folder, out, ["good"]) == 0
    text = out.read_text()
    assert "| cuts twice | 4.50 |" in text and "| cuts thrice | 2.50 |" in text
    assert text.count("| a | b |") == 2 and text.count("## good.py") == text.count("## other.py") == 1
    assert main(folder, out, ["fast"]) == 1 and out.read_text() == text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("print('no figures')", "no JSON object"),
        ("print('{\"name\": 1}')", "no JSON object"),
        ("", "no JSON object"),
        (GOOD + "raise SystemExit(3)", "exit code 3"),
    ],
)
def test_one_without_figures_is_a_failure(tmp_path: Path, text: str, fault: str) -> None:
    folder = write(tmp_path / "benchmarks", bad=text, good=GOOD)
    assert main(folder, tmp_path / "B.md") == 1
    page = (tmp_path / "B.md").read_text()
    assert fault in page and "cuts twice" in page  # the others are run and written all the same


def test_a_claim_that_does_not_hold_is_written(tmp_path: Path) -> None:
    folder = write(tmp_path / "benchmarks", weak=GOOD.replace("True", "False"))
    assert main(folder, tmp_path / "B.md") == 0
    assert "| NO |" in (tmp_path / "B.md").read_text()


def test_no_benchmarks_is_a_failure(tmp_path: Path) -> None:
    assert main(write(tmp_path / "empty"), tmp_path / "B.md") == 1


def test_figures_need_every_key() -> None:
    assert read_figures("[1]") is None and read_figures("{") is None
    assert read_figures('{"name": "a", "ratio": 1, "target": 1, "holds": true, "details": {}}') is not None
