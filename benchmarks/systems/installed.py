"""How to run each system: the peers from an environment of their own, which is made when it is first needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_REQUIREMENTS: Final = _ROOT / "benchmarks" / "peers.requirements.txt"
_INTEROP: Final = _ROOT / "tests" / "interop"
_INSTALL_WITHIN_S: Final = 900.0

Say = Callable[[str], None]


class NotMeasured(Exception):
    """A system cannot be installed, failed, or took too long."""


@dataclass(frozen=True, slots=True)
class Runner:
    """The beginning of a command that measures one phase, and what its environment has besides ours."""

    command: Sequence[str]
    environment: Mapping[str, str]


def ours() -> Runner:
    """Return how to run our own system: with this Python."""
    return _python(sys.executable, "ours")


def python_peer(name: str, packages: Sequence[str], say: Say) -> Runner:
    """Return how to run a peer from the peers' environment. Raises NotMeasured."""
    return _python(str(peers_python(packages, say)), name)


def peers_python(packages: Sequence[str], say: Say, *, bare: Sequence[str] = ()) -> Path:
    """Return the Python of the peers' environment, into which these packages are installed if need be.

    `packages` come with what they depend on, `bare` ones without. Raises NotMeasured.
    """
    digest = blake2b(_REQUIREMENTS.read_bytes() + sys.version.encode(), digest_size=8).hexdigest()
    home = Path(tempfile.gettempdir()) / "memoryd-benchmark-peers" / digest
    wanted = [*packages, *bare]
    python, stamp = home / "bin" / "python", home / f".{'+'.join(wanted)}"
    if not python.exists():
        say(f"making an environment for the peers at {home}")
        _install([sys.executable, "-m", "venv", str(home)])
    if not stamp.exists():
        say(f"installing {', '.join(wanted)} for the first time")
        # As constraints the pins hold, and a peer that cannot be installed does not keep the others out.
        install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(_REQUIREMENTS)]
        _install([*install, "numpy", *packages])
        if bare:
            _install([*install, "--no-deps", *bare])
        stamp.touch()
    return python


def node_peer(name: str, say: Say) -> Runner:
    """Return how to run a peer in node, with the packages of tests/interop. Raises NotMeasured."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotMeasured("needs node and npm on the path")
    modules = _INTEROP / "node_modules"
    if not modules.is_dir():
        say("installing the packages of tests/interop")
        _install([npm, "install", "--no-save", "--prefix", str(_INTEROP), "--no-audit", "--no-fund", "--silent"])
    return Runner([node, str(Path(__file__).with_name(f"{name}.mjs"))], {"NODE_PATH": str(modules)})


def node_with(package: str, script: Path, say: Say) -> Runner:
    """Return how to run a script in node that needs a package, named with its version. Raises NotMeasured."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotMeasured("needs node and npm on the path")
    home = Path(tempfile.gettempdir()) / "memoryd-benchmark-peers" / re.sub(r"\W+", "-", package).strip("-")
    modules, stamp = home / "node_modules", home / ".installed"
    if not stamp.exists():
        say(f"installing {package} for the first time")
        home.mkdir(parents=True, exist_ok=True)
        _install([npm, "install", "--no-save", "--prefix", str(home), "--no-audit", "--no-fund", "--silent", package])
        stamp.touch()
    return Runner([node, str(script)], {"NODE_PATH": str(modules)})


def run(runner: Runner, arguments: Sequence[str], within_s: float) -> str:
    """Run one phase and return what it prints. Raises NotMeasured."""
    command = [*runner.command, *arguments]
    environment = {**os.environ, **runner.environment}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=within_s, cwd=_ROOT
        )
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"{arguments[0]} took longer than {within_s:g} s") from None
    if done.returncode != 0:
        raise NotMeasured(f"{arguments[0]} failed: {_complaint(done.stderr)}")
    return done.stdout


def _python(python: str, name: str) -> Runner:
    return Runner([python, "-m", "benchmarks.systems.system", name], {"PYTHONPATH": str(_ROOT)})


def _install(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_WITHIN_S)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"not installed within {_INSTALL_WITHIN_S:g} s") from None
    if done.returncode != 0:
        raise NotMeasured(f"cannot be installed: {_complaint(done.stderr)}")


def _complaint(text: str) -> str:
    """Return the last line that speaks of an error, or the last one: hints and notices may follow it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no message"])[-1]
