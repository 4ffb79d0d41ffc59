"""What a user's runs were about and how they went: the bookkeeping of one MemoryAgent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from memoryd.protocol.errors import InvalidMessage
from memoryd.protocol.ids import RecordId, TrajectoryId, is_record_id, new_ulid
from memoryd.protocol.internal import Feedback, RunSignal
from memoryd.protocol.messages import REPLY_BYTES, EndTrajectory
from memoryd.protocol.records import Draft, MemoryKind, MemoryRecord, MemorySource, Trajectory

T = TypeVar("T")

SUCCESS: Final = 0.5  # a run of at least this quality went well
_TOLD_STEPS: Final = 12


class Trajectories:
    """All trajectories of a user, by id and by the run that opened them."""

    def __init__(self, known: Iterable[Trajectory]) -> None:
        self._by_id: dict[TrajectoryId, Trajectory] = {}
        self._by_run: dict[str, TrajectoryId] = {}
        for trajectory in known:
            self.put(trajectory)

    def __len__(self) -> int:
        return len(self._by_id)

    def clear(self) -> None:
        self._by_id.clear()
        self._by_run.clear()

    def replace(self, known: Iterable[Trajectory]) -> None:
        """Know only these."""
        self.clear()
        for trajectory in known:
            self.put(trajectory)

    def all(self) -> list[Trajectory]:
        return list(self._by_id.values())

    def is_news(self, trajectory: Trajectory) -> bool:
        """Whether this one, of another branch, is not known, or has ended and is not known to."""
        known = self._by_id.get(trajectory.id)
        return known is None or (known.ended is None and trajectory.ended is not None)

    def get(self, which: TrajectoryId) -> Trajectory | None:
        return self._by_id.get(which)

    def put(self, trajectory: Trajectory) -> None:
        """Keep a trajectory, in the place of an earlier state of it."""
        self._by_id[trajectory.id] = trajectory
        if trajectory.run_id:
            self._by_run[trajectory.run_id] = trajectory.id

    def newest(self, limit: int) -> tuple[Trajectory, ...]:
        """Return the last ones to begin, newest first."""
        return tuple(sorted(self._by_id.values(), key=lambda each: each.started, reverse=True)[:limit])

    def follow(self, signal: RunSignal, when: datetime, shown: tuple[RecordId, ...] = ()) -> Trajectory | None:
        """Apply what an event says about its run; return the trajectory if it changed.

        The first beginning counts; these memories were `shown` for it. An end without a beginning makes a trajectory that has only its
        outcome.
        """
        if not signal.run_id or signal.phase == "step":
            return None
        known = self._by_run.get(signal.run_id)
        trajectory = self._by_id[known] if known else None
        if signal.phase == "begin" and trajectory is not None:
            return None
        if trajectory is None:
            trajectory = Trajectory(
                id=TrajectoryId(new_ulid(when)),
                query=signal.query,
                started=when,
                shown=shown,
                run_id=signal.run_id,
            )
        if signal.phase == "end":
            trajectory = msgspec.structs.replace(trajectory, ended=when, quality=signal.quality)
        self.put(trajectory)
        return trajectory

    def judge(self, feedback: Feedback) -> Trajectory | None:
        """Credit a memory that a run cited; return the trajectory if it changed. Unknown runs and ids change nothing."""
        known = self._by_run.get(feedback.run_id)
        if known is None or not is_record_id(feedback.cited):
            return None
        trajectory, cited = self._by_id[known], RecordId(feedback.cited)
        names = ("helped", "harmful") if feedback.signal == "positive" else ("harmful", "helped")
        credited, others = (getattr(trajectory, name) for name in names)
        if cited in credited:
            return None
        shown = trajectory.shown if cited in trajectory.shown else (*trajectory.shown, cited)
        judged = ((*credited, cited), tuple(each for each in others if each != cited))  # the last word counts
        trajectory = msgspec.structs.replace(trajectory, shown=shown, **dict(zip(names, judged, strict=True)))
        self.put(trajectory)
        return trajectory

    def with_outcome(self, record: MemoryRecord) -> MemoryRecord:
        """Return the record with the quality of the run it belongs to, unless it brings its own."""
        if record.quality_score is not None:
            return record
        run = record.metadata.get("run_id")
        which = self._by_run.get(run) if isinstance(run, str) else None
        quality = self._by_id[which].quality if which else None
        return record if quality is None else msgspec.structs.replace(record, quality_score=quality)

    def forget(self, records: Sequence[MemoryRecord], before: datetime | None) -> list[TrajectoryId]:
        """Drop the trajectories that hold the text of forgotten records or are older than `before`; return them."""
        texts = {record.text for record in records}
        ids = {record.metadata.get("trajectory_id") for record in records}
        gone = [
            each.id
            for each in self._by_id.values()
            if each.id in ids
            or (each.query and any(each.query in text for text in texts))
            or (before is not None and each.started < before)
        ]
        for which in gone:
            trajectory = self._by_id.pop(which)
            self._by_run.pop(trajectory.run_id, None)
        return gone


def weight_of(trajectory: Trajectory) -> int:
    """Return about how many bytes a trajectory takes in an answer."""
    steps = sum(len(step.action.encode()) + len(step.text.encode()) + 64 for step in trajectory.steps)
    return len(trajectory.query.encode()) + steps + 64 * len(trajectory.shown)


def weight_of_record(record: MemoryRecord) -> int:
    """Return about how many bytes a record takes in an answer."""
    return len(record.text.encode()) + len(msgspec.json.encode(record.metadata)) + 256


def fitting_prefix(items: Sequence[T], weight: Callable[[T], int]) -> list[T]:
    """Return the first of `items` that fit an answer together, and at least one."""
    taken: list[T] = []
    left = REPLY_BYTES
    for item in items:
        left -= weight(item)
        if left < 0 and taken:
            break
        taken.append(item)
    return taken


def ended(trajectory: Trajectory, message: EndTrajectory, when: datetime) -> Trajectory:
    """Return the trajectory with its outcome. Raises InvalidMessage when credit goes to what was not shown."""
    shown = set(trajectory.shown)
    for name, ids in (("helped", message.helped), ("harmful", message.harmful)):
        if not shown.issuperset(ids):
            raise InvalidMessage(
                "credit for a memory that was not shown", field=name, hint="name only ids given to begin_trajectory"
            )
    if set(message.helped) & set(message.harmful):
        raise InvalidMessage("a memory cannot both help and harm", field="harmful", hint="name it once")
    helped, harmful = (tuple(dict.fromkeys(ids)) for ids in (message.helped, message.harmful))
    return msgspec.structs.replace(trajectory, ended=when, quality=message.quality, helped=helped, harmful=harmful)


def outcome_of(trajectory: Trajectory) -> Draft:
    """Return the memory that a finished trajectory leaves behind."""
    quality = trajectory.quality or 0.0
    verdict = "succeeded" if quality >= SUCCESS else "failed"
    steps = [f"- {step.action}: {step.text}" if step.text else f"- {step.action}" for step in trajectory.steps]
    told = steps
    if len(steps) > _TOLD_STEPS:  # the last one may be the report
        told = [*steps[: _TOLD_STEPS - 1], f"- and {len(steps) - _TOLD_STEPS} more steps", steps[-1]]
    text = "\n".join([trajectory.query, *(step[:500] for step in told), f"{verdict} (quality {quality:.2f})"])
    return Draft(
        text=text,
        kind=MemoryKind.EPISODE,
        source=MemorySource.TRAJECTORY_OUTCOME,
        timestamp=trajectory.ended,
        quality_score=quality,
        metadata={"trajectory_id": trajectory.id},
        id=RecordId(trajectory.id),
    )
