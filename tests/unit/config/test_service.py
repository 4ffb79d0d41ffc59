"""The systemd unit: valid, and hardened."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[3] / "config" / "memoryd.service"


@pytest.fixture
def analyze() -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.fail("systemd-analyze is missing: install systemd, as .ci/run does")
    return tool


def test_the_unit_is_valid(analyze: str) -> None:
    result = subprocess.run([analyze, "verify", str(UNIT)], capture_output=True, encoding="utf-8", check=False)

    assert (result.returncode, result.stderr) == (0, "")


def test_the_unit_is_exposed_by_two_points_of_ten_at_most(analyze: str) -> None:
    command = [analyze, "security", "--offline=true", "--no-pager", "--threshold=20", str(UNIT)]

    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)

    assert result.returncode == 0, result.stdout[-200:]
    assert "Overall exposure level" in result.stdout
