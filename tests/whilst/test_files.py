"""Fingerprints of files."""

from pathlib import Path

import pytest

from whilst.files import fingerprint, fingerprints


def test_sha256_of_a_known_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fingerprint(tmp_path / "abc") == (3, digest)
    assert fingerprints(tmp_path, ["abc"]) == {"abc": (3, digest)}


def test_fingerprints_keep_names_and_their_order(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    names = ["below/b", "a"]
    for name in names:
        (tmp_path / name).write_text(name)
    found = fingerprints(tmp_path, iter(names))
    assert list(found) == names and all(found[name] == fingerprint(tmp_path / name) for name in names)
    with pytest.raises(FileNotFoundError, match="none"):
        fingerprints(tmp_path, ["a", "none"])
