"""The demonstration, on a small log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.run import main


def log_of(folder: Path, *texts: str) -> str:
    path = folder / "log.jsonl"
    lines = [
        {"id": f"e{n}", "type": "chat.user_msg", "timestamp": "2026-03-11T10:00:00Z", "payload": {"text": text}}
        for n, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_a_log_by_path_is_replayed_asked_about_and_found_again_after_the_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([log_of(tmp_path, "the login test fails", "write the release notes")])

    said = capsys.readouterr().out
    assert code == 0, said
    assert "2 from 2 lines, 0 rejected" in said
    assert "2 of 2 questions got the same answer from disk" in said


def test_a_log_without_events_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([log_of(tmp_path)]) == 65
    assert "no events" in capsys.readouterr().err


def test_a_log_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-log"]) == 64
    assert "no such file" in capsys.readouterr().err
