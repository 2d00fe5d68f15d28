"""`medgpt audit-env`: what is installed, held against RECORD files and a lock, and written as a CycloneDX list."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

import pytest
import tqdm  # noqa: F401 - the path is another one where the command asks for it

from medgpt.environment import installed, main


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of two packages: `one` needs `two`, and lists its module with its digest."""
    for name, more in (("one", "Requires-Dist: two\nLicense-Expression: MIT\n"), ("two", "")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{more}")
    (tmp_path / "one.py").write_text("1\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"1\n").digest()).decode().rstrip("=")
    (tmp_path / "one-1.0.dist-info" / "RECORD").write_text(f"one.py,sha256={digest},2\none-1.0.dist-info/RECORD,,\n")
    (tmp_path / "lock.txt").write_text(
        "one==1.0 \\\n    --hash=sha256:00\ntwo==1.0\nthree==1 ; sys_platform == 'plan9'\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def test_an_untouched_environment_and_its_list(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--lock", str(site / "lock.txt"), "--sbom", str(site / "sbom.json")]) == 0
    assert "2 packages, 1 without a stated licence, 0 differences" in capsys.readouterr().err
    bill = json.loads((site / "sbom.json").read_text())
    one, two = bill["components"]
    assert one["licenses"] == [{"expression": "MIT"}] and "licenses" not in two
    assert bill["dependencies"][0] == {"ref": one["bom-ref"], "dependsOn": [two["bom-ref"]]}
    before = (site / "sbom.json").read_bytes()
    main(["--sbom", str(site / "sbom.json")])
    assert (site / "sbom.json").read_bytes() == before


def test_what_differs_is_named(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "two-1.0.dist-info" / "RECORD").write_text("")
    assert main(["--files"]) == 0
    (site / "two-1.0.dist-info" / "RECORD").unlink()
    assert main(["--files"]) == 4  # nobody can say what of `two` was changed
    assert "not compared: two: no list of its files" in capsys.readouterr().err
    (site / "one.py").write_text("2\n")
    assert main(["--files"]) == 1
    assert "one: one.py altered" in capsys.readouterr().err
    (site / "lock.txt").write_text("one==2.0\n")
    assert main(["--lock", str(site / "lock.txt"), "--json"]) == 1
    assert [name for name, _ in json.loads(capsys.readouterr().out)["differs"]] == ["one", "two"]
    (site / "lock.txt").write_text("one>=2.0\n")
    assert main(["--lock", str(site / "lock.txt")]) == 2
    assert "entry 1: one without ==" in capsys.readouterr().err


def test_this_environment_is_listed() -> None:
    packages = {package.name: package for package in installed()}
    assert packages["pillow"].licence == "MIT-CMU" and "pyyaml" in packages["huggingface-hub"].needs
    assert all(package.version for package in packages.values())
