"""Carries out one task: looks, tries, checks, reports.

The worker does not know which candidate is right. It tries them in the task's order until the check exits with 0
or the budget is spent; what does not help is taken back before the next attempt.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.record.commands import Ran, Sandbox, cut
from demo.record.journal import Journal
from demo.record.repositories import append_line, apply_edit, make_repository
from demo.record.schedule import Task
from demo.record.subject import Mend, Query

ROLES: Final = {"tests": "terminal", "builds": "terminal", "searches": "researcher", "documents": "writer"}
FINDINGS: Final = "findings.txt"
NOTES: Final = "NOTES.md"
_RESULT_LINES: Final = 20
_RESULT_WIDTH: Final = 200
_TOLD_LINES: Final = 3
_DIFF: Final = "git add -A && git diff --cached -U1"
_TAKE_BACK: Final = "git reset -q --hard"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A candidate that was tried, and what the check said."""

    label: str
    files: tuple[str, ...]
    checked: Ran


class Worker:
    """Does tasks in a sandbox and records them in a journal."""

    def __init__(self, sandbox: Sandbox, journal: Journal) -> None:
        self._sandbox = sandbox
        self._journal = journal

    def carry_out(self, task: Task, folder: Path) -> bool:
        """Do one task in a new repository at `folder`; return whether its final check exited with 0."""
        repository = make_repository(self._sandbox, task.subject, folder)
        return _Run(task, repository, self._sandbox, self._journal).carry_out()


class _Run:
    def __init__(self, task: Task, repository: Path, sandbox: Sandbox, journal: Journal) -> None:
        self._task = task
        self._subject = task.subject
        self._repository = repository
        self._sandbox = sandbox
        self._journal = journal
        self._role = ROLES[task.subject.family]
        self._actor = f"{self._role}:1"
        self._attempts: list[Attempt] = []
        self._revision = 1

    def carry_out(self) -> bool:
        self._journal.begin_run()
        self._announce()
        if self._subject.family != "searches":
            self._terminal(self._subject.check)
            self._look()
        for number, candidate in enumerate(self._task.order, start=1):
            attempt = self._attempt(self._subject.candidates[candidate])
            self._attempts.append(attempt)
            if attempt.checked.passed:
                return self._succeed(attempt)
            if number < self._task.budget:
                self._take_back(number)
        return self._fail()

    def _announce(self) -> None:
        task, check = self._task, self._subject.check
        self._journal.record("chat.user_msg", "user", text=task.ask)
        self._journal.record(
            "conductor.run.started",
            "conductor",
            objective=f"{task.ask} (repository {task.repository}, done when `{check}` exits with 0)",
            subject=self._subject.key,
            repository=task.repository,
            check=check,
        )
        what = "Search until" if self._role == "researcher" else "Find the cause and change the files until"
        objective = f"{what} `{check}` exits with 0 in {task.repository}; attempts: {task.budget} at most."
        self._journal.record("conductor.assignment.dispatched", "conductor", capability=self._role, objective=objective)

    def _look(self) -> None:
        look = self._task.look
        if look.startswith(("grep", "find")):
            self._search(look)
        elif look:
            self._terminal(look)

    def _attempt(self, candidate: Mend | Query) -> Attempt:
        match candidate:
            case Mend():
                return self._try_mend(candidate)
            case Query():
                return self._try_query(candidate)

    def _try_mend(self, mend: Mend) -> Attempt:
        for edit in mend.edits:
            apply_edit(self._repository, edit)
        files = tuple(dict.fromkeys(edit.path for edit in mend.edits))
        if self._role == "writer":
            self._revise(mend, files)
        else:
            self._terminal(_DIFF)
        return Attempt(mend.label, files, self._terminal(self._subject.check))

    def _try_query(self, query: Query) -> Attempt:
        found = self._search(query.command)
        (self._repository / FINDINGS).write_text(found.output and f"{found.output}\n", encoding="utf-8")
        return Attempt(query.label, (), self._terminal(self._subject.check))

    def _revise(self, mend: Mend, files: tuple[str, ...]) -> None:
        self._revision += 1
        self._journal.record(
            "writer.revision.created",
            self._actor,
            document_path=files[0],
            revision=self._revision,
            summary=f"{_sentence(mend.label)} ({', '.join(files)})",
            diff=self._sandbox.run(_DIFF, self._repository).output,
        )

    def _take_back(self, number: int) -> None:
        if self._task.tells_progress:
            last = self._attempts[-1]
            message = f"Attempt {number} of {self._task.budget}, {last.label}: {last.checked.telling_line}"
            self._journal.record("worker.task.progress", self._actor, message=message, phase="attempting")
        taken_back = self._sandbox.run(_TAKE_BACK, self._repository)
        if not taken_back.passed:
            raise RuntimeError(taken_back.output)

    def _succeed(self, attempt: Attempt) -> bool:
        quality, extent = self._grade()
        check = self._subject.check
        where = f" in {', '.join(attempt.files)}" if attempt.files else ""
        line = f"{_sentence(attempt.label)}{where}: `{check}` exits with 0."
        self._note(line)
        tried = self._told_failures(self._attempts[:-1])
        found = self._told_findings() if self._role == "researcher" else ""
        self._report(f"{line} Attempt {len(self._attempts)} of {self._task.budget}.{found}{extent}{tried}")
        summary = f"Done in {self._task.repository}: {attempt.label}; `{check}` exits with 0.{extent}"
        self._journal.record("conductor.run.completed", "conductor", summary=summary, quality_score=quality)
        return True

    def _fail(self) -> bool:
        last, check = self._attempts[-1].checked, self._subject.check
        spent = f"{len(self._attempts)} of {self._task.budget} attempts"
        line = f"Not solved after {spent}: `{check}` still exits with {last.exit_code}."
        self._note(line)
        self._report(f"{line}{self._told_failures(self._attempts)}")
        labels = "; ".join(attempt.label for attempt in self._attempts)
        self._journal.record(
            "conductor.run.failed",
            "conductor",
            summary=f"Gave up in {self._task.repository} after {spent}. Tried without success: {labels}.",
            error=f"`{check}` exited with {last.exit_code}: {last.telling_line}",
            quality_score=0.0,
        )
        return False

    def _grade(self) -> tuple[float, str]:
        """Return the share of the whole suite that passes, and a sentence about it; 1.0 where there is no suite."""
        if not self._subject.suite:
            return 1.0, ""
        output = self._terminal(self._subject.suite).output
        ran = _number(r"Ran (\d+) test", output)
        broken = _number(r"failures=(\d+)", output) + _number(r"errors=(\d+)", output)
        return round((ran - broken) / ran, 2), f" Of the whole suite {ran - broken} of {ran} tests pass."

    def _note(self, line: str) -> None:
        if not self._task.keeps_notes:
            return
        append_line(self._repository, NOTES, f"- {line}")
        self._journal.record("worker.task.document_update", self._actor, document_path=NOTES, summary=f"Noted: {line}")

    def _report(self, report: str) -> None:
        self._journal.record("worker.report.received", self._actor, report=report, worker_role=self._role)

    def _told_failures(self, attempts: list[Attempt]) -> str:
        told = "; ".join(f"{attempt.label} ({attempt.checked.telling_line})" for attempt in attempts)
        return f" Tried without success: {told}." if told else ""

    def _told_findings(self) -> str:
        lines = (self._repository / FINDINGS).read_text(encoding="utf-8").splitlines()
        told = " | ".join(cut(line, _RESULT_WIDTH) for line in lines[:_TOLD_LINES])
        return f" Lines found: {len(lines)}, first {told}."

    def _search(self, query: str) -> Ran:
        found = self._sandbox.run(query, self._repository)
        lines = found.output.splitlines()
        results = [cut(line, _RESULT_WIDTH) for line in lines[:_RESULT_LINES]]
        if len(lines) > _RESULT_LINES:
            results.append(f"[... {len(lines) - _RESULT_LINES} lines cut ...]")
        self._journal.record("researcher.search.completed", "researcher:1", query=query, results=results)
        return found

    def _terminal(self, command: str) -> Ran:
        ran = self._sandbox.run(command, self._repository)
        self._journal.record(
            "terminal.command.completed",
            "terminal:1",
            command=ran.command,
            exit_code=ran.exit_code,
            output=ran.output,
            duration_ms=ran.duration_ms,
        )
        return ran


def _sentence(label: str) -> str:
    return label[:1].upper() + label[1:]


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
