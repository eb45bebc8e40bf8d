"""`whilst serve` through the door. What it serves is tested in tests/whilst/test_serve.py."""

import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.whilst.cli.command import ROOT, fails, invoke
from whilst.sample import read_samples


def test_serve_tells_its_address_and_serves(streaming: Path, world: Path) -> None:
    videos = Path(read_samples(world / "data/test")[0].video.path).parent
    command = [sys.executable, "-m", "whilst.cli", "serve", "--model", str(streaming), "--videos", str(videos)]
    with subprocess.Popen([*command, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            with urlopen(address, timeout=60) as answer:
                assert b"<title>Whilst" in answer.read()
        finally:
            process.terminate()


def test_serve_warns_of_an_open_host(streaming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whilst.serve.Server.serve_forever", lambda self: None)
    code, told, errors, _ = invoke("serve", "--model", streaming, "--videos", tmp_path, "--port", 0)
    assert code == 0 and told.startswith("http://127.0.0.1:") and "warning" not in errors
    arguments = ("serve", "--model", streaming, "--videos", tmp_path, "--port", 0, "--host", "0.0.0.0")
    assert "warning: 0.0.0.0 is open to your network" in invoke(*arguments)[2]
    assert "no such folder" in fails("serve", "--model", streaming, "--videos", tmp_path / "none")
