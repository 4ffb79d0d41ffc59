"""The published engine that bears the name, in one node process; it bends the question, which is ranked by the same score.

A run is a trajectory of one step for each memory that was shown: its vector, and the reward 1 if it helped and 0 if it did not. Of a
run of which only the outcome is known each has that for its reward.
"""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64decode, b64encode
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

import numpy as np

from benchmarks.learning.users import ranked
from benchmarks.systems import installed
from memoryd.sona.lora import unit

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.learning.pupils import Told
    from benchmarks.learning.users import User
    from memoryd.protocol.ids import RecordId
    from memoryd.protocol.interfaces import Vectors

NAME: Final = "@ruvector/sona"
VERSION: Final = "0.1.8"
_DUE: Final = 30  # runs between two cycles in the background, as in the profile `balanced`


class Node:
    """The process; `bending` and `learning` are the microseconds that the engine itself took. Raises NotMeasured when it cannot be had."""

    def __init__(self, say: installed.Say) -> None:
        runner = installed.node_with(f"{NAME}@{VERSION}", Path(__file__).with_name("published.mjs"), say)
        environment = {**os.environ, **runner.environment}
        self.bending: list[float] = []
        self.learning: list[float] = []
        self._numbers = count(1)
        self._process = subprocess.Popen(
            runner.command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def begin(self, dim: int, rate: float | None) -> int:
        """Return the number of a new engine with its defaults, but for the micro rate if there is one."""
        settings = {"hiddenDim": dim} | ({} if rate is None else {"microLoraLr": rate})
        number = next(self._numbers)
        self.ask({"new": number, "settings": settings})
        return number

    def told(self) -> str:
        """Return what bending and learning took, as a sentence."""
        took = ", ".join(
            f"{what} {np.median(times):.0f} us in the median"
            for what, times in (("bending a question", self.bending), ("taking a run in", self.learning))
            if times
        )
        return f"{NAME} {VERSION} itself: {took}"

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one order. Raises NotMeasured when the process is gone."""
        stdin, stdout = _open(self._process.stdin), _open(self._process.stdout)
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise installed.NotMeasured(f"{NAME} ended in the middle of a run")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Published:
    """A `Pupil`: one of its engines."""

    def __init__(self, user: User, node: Node, rate: float | None = None) -> None:
        self._user = user
        self._node = node
        self._number = node.begin(user.store.dim, rate)
        self._runs = 0

    @property
    def is_due(self) -> bool:
        return self._runs >= _DUE

    def answers(self, text: str) -> list[RecordId]:
        words, meaning = self._user.about(text)
        return ranked(words, meaning._replace(vector=self._bent(meaning.vector)))

    def learn(self, told: Told) -> None:
        self._runs += 1
        _, meaning = self._user.about(told.text)
        is_coarse = not (told.helped or told.harmful)
        rewards = [told.quality if is_coarse else float(record in told.helped) for record in told.shown]
        shown = [_packed(row) for row in self._user.store.vectors(told.shown)]
        order = {"vector": _packed(meaning.vector), "shown": shown, "rewards": rewards, "quality": told.quality}
        self._node.learning.append(self._node.ask({"learn": self._number, **order})["us"])

    def fit(self) -> str:
        self._runs = 0
        said: str = self._node.ask({"fit": self._number})["said"]
        return said

    def _bent(self, vector: Vectors) -> Vectors:
        answer = self._node.ask({"bend": self._number, "vector": _packed(vector)})
        self._node.bending.append(answer["us"])
        return unit(np.frombuffer(b64decode(answer["vector"]), "<f4"))


def _packed(vector: Vectors) -> str:
    return b64encode(vector.astype("<f4").tobytes()).decode()


def _open(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("the process has no pipes")
    return stream
