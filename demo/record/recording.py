"""A whole recording: the tasks of a plan, one after the other, in sessions."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from demo.record.commands import Sandbox
from demo.record.journal import Event, Journal
from demo.record.schedule import Task
from demo.record.worker import Worker

TASKS_IN_A_SESSION: Final = 8


def record_tasks(tasks: Iterable[Task]) -> list[Event]:
    """Carry out all tasks in a temporary folder; return what happened."""
    journal = Journal(events=[])
    with tempfile.TemporaryDirectory(prefix="recording-") as root:
        sandbox = Sandbox(Path(root))
        worker = Worker(sandbox, journal)
        for number, task in enumerate(tasks):
            if number % TASKS_IN_A_SESSION == 0:
                journal.begin_session()
            worker.carry_out(task, sandbox.root / f"{number:04d}" / task.repository)
    return journal.events
