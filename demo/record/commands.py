"""Runs real commands in a neutral sandbox and keeps what they printed.

The environment is fixed, so that neither the user's settings nor the machine's show. What a tool prints is kept as
it is but for three things: the sandbox's paths and the system's folders are replaced, and a long output is cut.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TOOLS: Final = ("git", "make", "gcc", "grep", "find", "sed", "awk", "sort", "wc")
OUTPUT_LIMIT: Final = 1_500
_MARKER_ROOM: Final = 40
_TELLING: Final = (
    r"^(\w+\.)*\w*(Error|Exception)(:|$)",
    r"\berror: |undefined reference|multiple definition",
    r"^\S+ \*\*\* ",
)
_TIME_LIMIT_S: Final = 30.0
# Linkers and interpreters name themselves and their libraries by full path.
_SYSTEM_FOLDER: Final = re.compile(r"(?<![\w.])/(?:usr|lib\w*|opt|nix|bin|home|root|tmp|var)/(?:[^\s:'\"`,()<>]*/)?")


class ToolMissingError(RuntimeError):
    """A program that the recorder runs is not installed."""

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__(f"the recorder runs real commands and needs {', '.join(missing)}: please install")
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that was run, and what came of it."""

    command: str
    exit_code: int
    output: str
    duration_ms: int

    @property
    def passed(self) -> bool:
        """Whether the command exited with 0."""
        return self.exit_code == 0

    @property
    def telling_line(self) -> str:
        """The one line of the output that says most: an exception, else an error, else the last line."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        for pattern in _TELLING:
            found = [line for line in lines if re.search(pattern, line)]
            if found:
                return found[0]
        return lines[-1] if lines else f"exit code {self.exit_code}, nothing printed"


class Sandbox:
    """A folder for repositories, with the fixed environment in which all commands run."""

    def __init__(self, root: Path) -> None:
        missing = tuple(tool for tool in TOOLS if shutil.which(tool) is None)
        if missing:
            raise ToolMissingError(missing)
        self.root = root.resolve()
        binaries, scratch = self.root / "bin", self.root / "scratch"
        binaries.mkdir()
        scratch.mkdir()
        (binaries / "python").symlink_to(Path(sys.executable).resolve())
        self._environment = {
            "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "LC_ALL": "C",
            "TZ": "UTC",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "recorder",
            "GIT_AUTHOR_EMAIL": "recorder@example.org",
            "GIT_COMMITTER_NAME": "recorder",
            "GIT_COMMITTER_EMAIL": "recorder@example.org",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTHONHASHSEED": "0",
        }
        self._interpreter = (sysconfig.get_path("stdlib"), str(Path(sys.executable).resolve()))

    def run(self, command: str, repository: Path) -> Ran:
        """Run one shell command in `repository`; a command that takes 30 s raises TimeoutExpired."""
        started = time.perf_counter()
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=repository,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIME_LIMIT_S,
            check=False,
        )
        duration_ms = round((time.perf_counter() - started) * 1000)
        output = self.redacted(done.stdout.decode("utf-8", "replace"), repository)
        return Ran(command, done.returncode, cut(output), duration_ms)

    def redacted(self, text: str, repository: Path) -> str:
        """Return `text` without the paths of this machine: the repository's folder becomes `repo`."""
        text = text.replace(str(repository.resolve()), "repo").replace(str(self.root), "sandbox")
        library, executable = self._interpreter
        text = text.replace(library, "python").replace(executable, "python")
        return _SYSTEM_FOLDER.sub("", text)


def cut(text: str, limit: int = OUTPUT_LIMIT) -> str:
    """Return `text`, or its beginning and end with a marker between that says how much is gone."""
    text = text.rstrip("\n")
    if len(text) <= limit:
        return text
    half = (limit - _MARKER_ROOM) // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters cut ...]\n{text[-half:]}"
