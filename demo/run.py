"""The whole of memoryd in a minute: a log of real runs goes in, questions are asked, the daemon is restarted.

    python -m demo.run [LOG]

LOG is JSON Lines in any shape that `memoryd publish` takes; the bundled sample, if not given.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.text import Text

from demo.daemon import DaemonProcess
from memoryd.cli.connection import Connection, connected, run
from memoryd.cli.options import Target
from memoryd.cli.output import console, facts, memories_table, shorten
from memoryd.cli.sending import Sending, Tally
from memoryd.protocol.errors import MemorydError
from memoryd.protocol.events import Ack
from memoryd.protocol.messages import Recalled
from memoryd.protocol.records import ANY, MemoryFilter, MemorySource
from memoryd.relay.mapping import EventMapping, default_rules
from memoryd.sources.lines import read_events
from memoryd.sources.parsed import Parsed

HERE: Final = Path(__file__).parent
SAMPLE: Final = HERE / "sample.jsonl.gz"
QUESTIONS: Final = HERE / "questions.json"
USER: Final = "demo"
SHOWN_QUESTIONS: Final = 5
SHOWN_MEMORIES: Final = 3
QUESTION_CHARACTERS: Final = 500
TIMED_RECALLS: Final = 200
LINES_AT_ONCE: Final = 64  # small, so that the bar moves


@dataclass(frozen=True, slots=True)
class Question:
    """What a conductor asks before it plans."""

    text: str
    filter: MemoryFilter = ANY


class Stages:
    """How long each stage took, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began


class Demo:
    """One run of the demonstration."""

    def __init__(self, daemon: DaemonProcess, lines: Sequence[Parsed], questions: Sequence[Question]) -> None:
        self._daemon = daemon
        self._lines = lines
        self._questions = questions
        self._target = Target(daemon.socket, None, USER)
        self._stage = Stages()
        self._out: Console = console()

    async def run(self) -> bool:
        """Show everything; return whether the answers after the restart were the same."""
        with self._stage("start the daemon"):
            self._daemon.start()
        try:
            return await self._show()
        finally:
            self._daemon.stop()

    async def _show(self) -> bool:
        async with connected(self._target) as connection:
            with self._stage("publish (each event safe in the log)"):
                first = await self._replay(connection, "stored", "published")
            with self._stage("publish again, wait until all is remembered"):
                second = await self._replay(connection, "committed", "remembered")
            before = await self._ask(connection)
            for question, answer in zip(self._questions, before, strict=True):
                self._print(question, answer)
            with self._stage(f"{TIMED_RECALLS} recalls, one after the other"):
                latencies = await self._time(connection)
            status = await connection.memory.status(user=USER)
        with self._stage("stop the daemon"):
            code = self._daemon.stop()
        with self._stage("start it again"):
            self._daemon.start()
        async with connected(self._target) as connection:
            with self._stage("the same questions, from disk"):
                after = await self._ask(connection)
        same = sum(_essence(old) == _essence(new) for old, new in zip(before, after, strict=True))
        self._print_figures(first, second, 0 if status.user is None else status.user.records, latencies)
        verdict = (
            f"After the restart (exit code {code}), {same} of {len(before)} questions got the same answer from disk."
        )
        is_same = same == len(before) and code == 0
        self._out.print(Text(verdict, style="green" if is_same else "bold red"))
        return is_same

    async def _replay(self, connection: Connection, ack: Ack, done: str) -> Tally:
        err = console(err=True)
        columns = (TextColumn("{task.description:>10}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
            task = bar.add_task(done, total=sum(len(line.events) for line in self._lines))

            def progress(tally: Tally) -> None:
                bar.update(task, completed=tally.accepted + tally.duplicates)

            def rejected(line: int, error: MemorydError) -> None:
                err.print(f"line {line}: {error}")

            sending = Sending(connection, USER, ack, rejected, progress)
            await sending.send_all(_portions(self._lines))
            return sending.tally

    async def _ask(self, connection: Connection) -> list[Recalled]:
        return [
            await connection.memory.recall(each.text, user=USER, top_k=SHOWN_MEMORIES, filter=each.filter)
            for each in self._questions
        ]

    async def _time(self, connection: Connection) -> list[float]:
        """Return the milliseconds of every recall as the asking side sees them, in order of size."""
        taken = []
        for number in range(TIMED_RECALLS):
            question = self._questions[number % len(self._questions)]
            began = time.perf_counter()
            await connection.memory.recall(question.text, user=USER, filter=question.filter)
            taken.append((time.perf_counter() - began) * 1e3)
        return sorted(taken)

    def _print(self, question: Question, answer: Recalled) -> None:
        self._out.print(Rule(Text(shorten(question.text, 100), style="bold"), align="left"))
        if answer.memories:
            self._out.print(memories_table(answer.memories, datetime.now(UTC)))
        else:
            self._out.print("nothing like this is remembered")
        self._out.print()

    def _print_figures(self, first: Tally, second: Tally, records: int, latencies: Sequence[float]) -> None:
        self._out.print(Rule(Text("figures", style="bold"), align="left"))
        rows = [
            (
                "events in",
                f"{first.accepted + first.duplicates:,} from {first.read:,} lines, {first.rejected:,} rejected",
            ),
            ("stored", f"{first.accepted:,}"),
            ("duplicates", f"{first.duplicates:,}, and {second.duplicates:,} when all was published again"),
            ("memories", f"{records:,}"),
            ("recall", f"p50 {_quantile(latencies, 0.5):.1f} ms, p99 {_quantile(latencies, 0.99):.1f} ms"),
            *((name, f"{seconds:.2f} s") for name, seconds in self._stage.seconds.items()),
        ]
        self._out.print(facts(rows))


async def _portions(lines: Sequence[Parsed]) -> AsyncIterator[Sequence[Parsed]]:
    for start in range(0, len(lines), LINES_AT_ONCE):
        yield lines[start : start + LINES_AT_ONCE]


def _essence(answer: Recalled) -> list[tuple[str, float, float]]:
    return [(each.record.id, each.score, each.sona_score) for each in answer.memories]


def _quantile(ranked: Sequence[float], share: float) -> float:
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def _bundled_questions() -> list[Question]:
    entries = json.loads(QUESTIONS.read_text(encoding="utf-8"))["questions"]
    return [
        Question(each["text"], msgspec.convert(each.get("filter", {}), MemoryFilter))
        for each in entries[:SHOWN_QUESTIONS]
    ]


def _questions_of(lines: Sequence[Parsed]) -> list[Question]:
    """Return what the users of a log asked for first; what was done first, in a log without users."""
    apply = EventMapping(default_rules()).apply
    mapped = (apply(event) for line in lines for event in line.events)
    drafts = [draft for each in mapped if each is not None for draft in each.drafts]
    said = [draft for draft in drafts if draft.source is MemorySource.USER_INPUT] or drafts
    texts = dict.fromkeys(shorten(draft.text, QUESTION_CHARACTERS) for draft in said)
    return [Question(text) for text in list(texts)[:SHOWN_QUESTIONS]]


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration on the log that is named, or on the sample; return the exit code."""
    log = Path(arguments[0]) if arguments else SAMPLE
    try:
        lines = list(read_events(log))
        questions = _questions_of(lines) if arguments else _bundled_questions()
        if not questions:
            sys.stderr.write(f"no events in {log}\n")
            return 65
        with tempfile.TemporaryDirectory(prefix="memoryd-demo-") as folder:
            return 0 if run(Demo(DaemonProcess(Path(folder)), lines, questions).run()) else 1
    except MemorydError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
