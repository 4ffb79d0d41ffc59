"""What `pip install .` gives a user: everything else here runs on the editable install, which hides what a wheel lacks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from stat import S_ISLNK
from zipfile import ZipFile

import pytest

import memoryd
from demo.daemon import DaemonProcess
from tests.integration.conftest import Call

ROOT = Path(__file__).parents[2]
LINKED = ("actors", "protocol", "relay")  # folders at the root, and packages below memoryd
MODEL = ("LICENSE", "NOTICE", "activations.json", "model.json", "model.onnx", "tokenizer.json")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")

# Every module but `memoryd.__main__`, and the names of those that are not below the folder given as an argument.
IMPORT_ALL = """
import memoryd, pkgutil, sys
from importlib import import_module
for module in pkgutil.walk_packages(memoryd.__path__, "memoryd."):
    import_module(module.name) if module.name != "memoryd.__main__" else None
ours = {name: module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "memoryd"}
print(memoryd.__file__)
print(len(ours), sorted(name for name, file in ours.items() if not file.startswith(sys.argv[1])))
"""

GUEST = """
import asyncio
import actors, protocol, relay
import memoryd

async def main():
    async with memoryd.connect() as memory:
        await memory.remember("the guest has names of its own", user="guest")
        recalled = await memory.recall("names of the guest", user="guest")
        print([each.record.text for each in recalled.memories])

asyncio.run(main())
print(actors.OWNER, protocol.OWNER, relay.OWNER, sep=", ")
print(memoryd.__file__)
"""


class InstalledDaemon(DaemonProcess):
    """A daemon, and clients of it, that find memoryd in one folder and nowhere else."""

    def __init__(self, folder: Path, target: Path) -> None:
        super().__init__(folder)
        self.target = target

    @property
    def environment(self) -> dict[str, str]:
        # PYTHONPATH comes before the editable install; the safe path keeps out the current folder, which comes first.
        return {**super().environment, "PYTHONPATH": str(self.target), "PYTHONSAFEPATH": "1"}


def run(*command: str | Path, **variables: str) -> str:
    """Run a command and return what it prints; what it says on stderr is in the failure."""
    done = subprocess.run(command, env=variables or None, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for the wheel and the installed copy, which is the current one: it is not the checkout."""
    # Not below pytest's own folder: the path of a socket has at most 107 bytes, and pytest keeps three runs.
    with tempfile.TemporaryDirectory(prefix="memoryd-") as name, contextlib.chdir(name):
        yield Path(name).resolve()


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    # With build isolation, as for a user: pip fetches the build backend, as it did for the editable install.
    run(*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def target(folder: Path, wheel: Path) -> Path:
    """The installed copy; what it depends on is in the environment of the tests."""
    run(*PIP, "install", "--no-deps", "--no-index", "--target", folder / "target", wheel)
    return folder / "target"


@pytest.fixture(scope="module")
def metadata(target: Path) -> Distribution:
    (found,) = distributions(path=[str(target)])
    return found


@pytest.fixture(scope="module")
def daemon(folder: Path, target: Path) -> Iterator[InstalledDaemon]:
    """The daemon of the installed copy; `call` runs the command line of that copy too."""
    process = InstalledDaemon(folder, target)
    process.start()
    yield process
    process.stop()


def recalled(call: Call, query: str) -> list[str]:
    result = call("recall", "--user", "alice", query, "--json")
    assert result.returncode == 0, result.stderr
    return [memory["text"] for memory in json.loads(result.stdout)["memories"]]


def test_the_wheel_holds_the_modules_of_the_tree_and_the_model_and_nothing_else(wheel: Path) -> None:
    inside = [path for path in (ROOT / "memoryd").rglob("*.py") if path.relative_to(ROOT).parts[1] not in LINKED]
    linked = [path for name in LINKED for path in (ROOT / name).rglob("*.py")]
    modules = {str(path.relative_to(ROOT)) for path in inside} | {
        f"memoryd/{path.relative_to(ROOT)}" for path in linked
    }
    model = {f"memoryd/embedding/models/all-MiniLM-L6-v2/{name}" for name in MODEL}

    with ZipFile(wheel) as archive:
        names = [
            name for name in archive.namelist() if not name.startswith(f"memoryd-{memoryd.__version__}.dist-info/")
        ]

    assert {"memoryd/__init__.py", *(f"memoryd/{name}/__init__.py" for name in LINKED)} <= modules
    sha256 = json.loads((ROOT / "memoryd/embedding/models/all-MiniLM-L6-v2/model.json").read_text())["files"][
        "model.onnx"
    ]
    codebook = f"memoryd/vectors/codebooks/{sha256}.npy"
    assert sorted(names) == sorted({*modules, *model, codebook, "memoryd/py.typed"})


def test_the_wheel_holds_files_where_the_checkout_has_links(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        assert [each.filename for each in archive.infolist() if S_ISLNK(each.external_attr >> 16)] == []
        for name in LINKED:
            assert archive.read(f"memoryd/{name}/__init__.py") == (ROOT / name / "__init__.py").read_bytes()


def test_the_metadata_names_the_version_the_command_and_both_licences(metadata: Distribution) -> None:
    commands = [(each.group, each.name, each.value) for each in metadata.entry_points]
    model_licence = f"memoryd/embedding/models/all-MiniLM-L6-v2/{MODEL[0]}"

    assert (metadata.name, metadata.version) == ("memoryd", memoryd.__version__)
    assert commands == [("console_scripts", "memoryd", "memoryd.cli:main")]
    assert metadata.metadata["License-Expression"] == "MIT"
    for licence in ("LICENSE", model_licence):
        assert licence in metadata.metadata.get_all("License-File", [])
        assert metadata.read_text(f"licenses/{licence}") == (ROOT / licence).read_text(encoding="utf-8")


def test_every_module_can_be_imported_and_comes_from_the_installed_copy(target: Path, daemon: InstalledDaemon) -> None:
    package, others = run(sys.executable, "-c", IMPORT_ALL, f"{target}/", **daemon.environment).splitlines()

    modules = list((target / "memoryd").rglob("*.py"))
    assert package == f"{target}/memoryd/__init__.py"
    assert others == f"{len(modules) - 1} []"


def test_the_module_and_the_installed_command_print_the_version(
    target: Path, daemon: InstalledDaemon, call: Call
) -> None:
    expected = f"memoryd {memoryd.__version__}\n"

    assert call("--version").stdout == expected
    assert run(target / "bin" / "memoryd", "--version", **daemon.environment) == expected


def test_the_daemon_remembers_recalls_and_ends_well_on_sigterm(daemon: InstalledDaemon, call: Call) -> None:
    text = "the counter needs a mutex"

    kept = call("remember", "--user", "alice", text)

    assert kept.returncode == 0, kept.stderr
    assert recalled(call, "race in the counter") == [text]
    assert daemon.stop() == 0
    daemon.start()
    assert recalled(call, "race in the counter") == [text]


def test_a_program_with_packages_called_actors_protocol_and_relay_uses_the_daemon(
    tmp_path: Path, target: Path, daemon: InstalledDaemon
) -> None:
    for name in LINKED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"OWNER = 'the program, {name}'\n")
    (tmp_path / "program.py").write_text(GUEST)

    # Without the safe path, as anybody starts a program: its own folder comes before everything else.
    said = run(sys.executable, tmp_path / "program.py", **{**daemon.environment, "PYTHONSAFEPATH": ""})

    assert said.splitlines() == [
        "['the guest has names of its own']",
        "the program, actors, the program, protocol, the program, relay",
        f"{target}/memoryd/__init__.py",
    ]
