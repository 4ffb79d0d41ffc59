"""The package as a guest in somebody's program: light, and no trouble for names of theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import memoryd

HEAVY = ("numpy", "faiss", "onnxruntime", "tokenizers", "structlog", "prometheus_client", "rich", "click")


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(script)
    return subprocess.run(
        [sys.executable, "program.py"], cwd=folder, capture_output=True, encoding="utf-8", check=False
    )


def test_importing_the_package_loads_nothing_but_itself(tmp_path: Path) -> None:
    done = run("import memoryd, sys; print([m for m in sys.modules if m.startswith('memoryd.')])", tmp_path)

    assert done.stdout == "[]\n"


def test_a_client_loads_no_engine(tmp_path: Path) -> None:
    done = run(
        f"import memoryd, sys; memoryd.connect('/nowhere'); memoryd.MemoryFilter(); memoryd.Event\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])",
        tmp_path,
    )

    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_program_may_have_packages_called_actors_protocol_and_relay(tmp_path: Path) -> None:
    for name in ("actors", "protocol", "relay"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"OWNER = 'the program, {name}'\n")

    done = run(
        "import actors, protocol, relay, memoryd\nmemoryd.connect('/nowhere')\n"
        "import memoryd.protocol.wire\nprint(actors.OWNER, protocol.OWNER, relay.OWNER)",
        tmp_path,
    )

    assert done.stdout == "the program, actors the program, protocol the program, relay\n"


@pytest.mark.parametrize("name", ["actors", "protocol", "relay"])
def test_a_second_copy_under_the_bare_name_is_refused(tmp_path: Path, name: str) -> None:
    root = Path(__file__).parents[2]

    done = run(f"import sys; sys.path.insert(0, {str(root)!r}); import {name}", tmp_path)

    assert f"import memoryd.{name}, not {name}" in done.stderr


def test_every_public_name_is_there_and_typed() -> None:
    assert all(getattr(memoryd, name) is not None for name in memoryd.__all__)
    assert (Path(memoryd.__file__).parent / "py.typed").is_file()


async def test_without_a_daemon_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(memoryd.MemorydError, match="memoryd serve"):
        async with memoryd.connect(tmp_path / "nothing.sock"):
            pass
