"""`scripts/conformance` judges what the Autobahn suite found: no case that is not strict, or absent, passes unseen."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "conformance"


@pytest.fixture
def conformance(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    loader = SourceFileLoader("conformance", str(SCRIPT))
    spec = importlib.util.spec_from_loader("conformance", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    return module


def write_report(folder: Path, announced: int, **cases: tuple[str, str]) -> None:
    """What the suite leaves behind: its log, an index, and a file for each case."""
    index = {}
    for name, (behaviour, closing) in cases.items():
        number = name.strip("_").replace("_", ".")
        index[number] = {"behavior": behaviour, "behaviorClose": closing, "reportfile": f"{number}.json"}
        (folder / f"{number}.json").write_text(json.dumps({"result": "what happened", "resultClose": "how it closed"}))
    (folder / "index.json").write_text(json.dumps({"webmesh": index}))
    (folder / "wstest.log").write_text(f"Reading it\nOk, will run {announced} test cases against 1 servers\n")


def test_without_the_suite_it_says_how_to_get_it(tmp_path: Path) -> None:
    """Exit status 3 tells "skipped" from "passed"."""
    environment = {**os.environ, "WSTEST": str(tmp_path / "absent")}

    finished = subprocess.run(
        [sys.executable, str(SCRIPT), "--here"], env=environment, capture_output=True, text=True, timeout=30
    )

    assert 3 == finished.returncode
    assert "pip install autobahntestsuite" in finished.stderr


def test_strict_and_informational_cases_pass(
    conformance: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """These two are what the suite calls right."""
    write_report(tmp_path, 2, _1_1_1=("OK", "OK"), _7_1_6=("INFORMATIONAL", "INFORMATIONAL"))

    assert 0 == conformance.summarise(tmp_path)
    assert "2 cases, 0 not strict, 0 missing" in capsys.readouterr().out


@pytest.mark.parametrize("outcome", [("NON-STRICT", "OK"), ("FAILED", "OK"), ("OK", "UNCLEAN")])
def test_any_other_case_fails_and_is_named(
    conformance: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: tuple[str, str]
) -> None:
    """A case counts by its behaviour and by how the connection closed."""
    write_report(tmp_path, 2, _1_1_1=("OK", "OK"), _6_4_1=outcome)

    assert 1 == conformance.summarise(tmp_path)
    assert ": 6.4.1\n" in capsys.readouterr().out


def test_a_case_without_a_report_fails(
    conformance: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was cut short must not look whole."""
    write_report(tmp_path, 5, _1_1_1=("OK", "OK"))

    assert 1 == conformance.summarise(tmp_path)
    assert "4 cases left no report" in capsys.readouterr().out


def test_no_report_at_all_has_a_status_of_its_own(conformance: ModuleType, tmp_path: Path) -> None:
    """Neither an index nor an empty one is a result."""
    assert 2 == conformance.summarise(tmp_path)
    write_report(tmp_path, 3)
    assert 2 == conformance.summarise(tmp_path)
