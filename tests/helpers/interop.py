"""Where the files and the runtime of other programs are; a test that needs them fails with a sentence when they are not.

`MEMORYD_GOLDEN` names the folder of golden files; `check.mjs` lies beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest

_REPOSITORY = Path(__file__).parents[2]
_HERE = _REPOSITORY / "tests" / "interop"


def golden_folder() -> Path:
    """Return the folder of files that the reference runtime wrote."""
    folder = Path(os.environ.get("MEMORYD_GOLDEN", _REPOSITORY.parent / "shared" / "interop" / "rvf" / "golden"))
    if not folder.is_dir():
        pytest.fail(f"no golden files at {folder}; set MEMORYD_GOLDEN to the folder that holds them")
    return folder


def run_reference(script: Path, *arguments: Path | str) -> dict[str, object]:
    """Run a script of the reference runtime and return the JSON document it prints."""
    node = shutil.which("node")
    if node is None:
        pytest.fail("the reference runtime needs node 18 or newer on the path")
    modules = _HERE / "node_modules"
    if not (modules / "@ruvector" / "rvf-node").is_dir():
        pytest.fail("the reference runtime is not installed; run `npm install --no-save --prefix tests/interop`")
    done = subprocess.run(
        [node, str(script), *map(str, arguments)],
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return cast("dict[str, object]", json.loads(done.stdout))


def check_script() -> Path:
    """Return the script that opens a file and answers queries from JSON."""
    script = golden_folder().parent / "check.mjs"
    if not script.is_file():
        pytest.fail(f"no check.mjs at {script}; it belongs beside the golden files")
    return script


def rewrite_script() -> Path:
    """Return the script that deletes rows from a file and may compact it."""
    return _HERE / "rewrite.mjs"


def write_script() -> Path:
    """Return the script that makes files, works on them and asks them."""
    return _HERE / "write.mjs"
