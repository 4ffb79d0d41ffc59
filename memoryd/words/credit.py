"""Which of the memories that were shown to a run its later texts go back to.

    found(m) = sum of idf(t) / n(t) over the terms t that m and the later texts hold and the question does not
    told(m)  = clip((found(m) - usual) / ENOUGH, 0, 1)

n(t) is how many of the memories shown hold t: what several of them say does not tell which was used. `usual` is what four in five of the
next candidates stay under: the run has not seen these, so what they share with its texts is by chance, and long texts share more. A
memory that says no more than the question, as an echo of it does, shares nothing. docs/research/learning.md has what was tried.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from memoryd.protocol.records import MemoryFilter
from memoryd.words.terms import terms_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from memoryd.protocol.interfaces import IndexView, Matched, Numbers
    from memoryd.protocol.records import MemoryRecord, Trajectory

    Shares = NDArray[np.float32]  # [n]

MOST_CHARACTERS: Final = 32_768  # of the later texts of a run, the last ones
MOST_TERMS: Final = 512  # of them that are looked up

_ENOUGH: Final = 5.0  # nats: one word that one memory in 150 holds
_BY_CHANCE: Final = 0.8

_MOST_MEMORIES: Final = 512  # from its time that are read to find those of a run, the last ones
_MOMENT: Final = timedelta(microseconds=1)


def later_texts(run: Trajectory, view: IndexView, decode: Callable[[bytes], MemoryRecord]) -> list[str]:
    """Return what a run said after its question: its steps, and the memories that its events became. Raises Damaged."""
    texts = [f"{step.action} {step.text}" for step in run.steps]
    if run.run_id and run.ended is not None and run.ended >= run.started:
        rows = np.flatnonzero(view.passing(MemoryFilter(since=run.started, until=run.ended + _MOMENT)))
        records = [decode(record) for record in view.records(rows[-_MOST_MEMORIES:]) if record]
        texts += [each.text for each in records if is_of(each, run)]
    return texts


def is_echo(record: MemoryRecord, run: Trajectory) -> bool:
    """Whether a memory is one of a run's own, or says nothing that the question of the run does not say."""
    return is_of(record, run) or set(terms_of(record.text)).issubset(terms_of(run.query))


def is_of(record: MemoryRecord, run: Trajectory) -> bool:
    """Whether a memory is one of a run's own."""
    metadata = record.metadata
    return metadata.get("trajectory_id") == run.id or bool(run.run_id and metadata.get("run_id") == run.run_id)


def terms_to_look_up(texts: Iterable[str], question: str) -> list[str]:
    """Return the distinct terms of a run's later texts, those of the last text first, without those of its question."""
    asked, found, left = set(terms_of(question)), dict[str, None](), MOST_CHARACTERS
    for text in reversed(list(texts)):
        found.update(dict.fromkeys(terms_of(text[-left:])))
        left -= len(text)
        if left <= 0:
            break
    return [term for term in found if term not in asked][:MOST_TERMS]


def told(said: Sequence[Matched], asked: Sequence[Matched], shown: Numbers, others: Numbers) -> Shares:
    """Return how surely a run used each of the memories in the rows `shown`, int64 [n], from 0 to 1.

    `said` are the terms of its later texts, `asked` those of its question, and `others`, int64 [m], the rows of the next candidates. What
    stands in exactly the rows of another term, as a word in another form does, counts once, and not if it was asked for.
    """
    count = len(shown)
    rows = np.concatenate([shown, others])
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    counted = {each.rows.tobytes() for each in asked}
    found = np.zeros(len(rows), np.float32)
    for each in said:
        places = _places(ascending, order, each.rows)
        if not len(places) or (alike := each.rows.tobytes()) in counted:
            continue
        counted.add(alike)
        found[places] += each.idf / max(1, int(np.count_nonzero(places < count)))
    usual = float(np.quantile(found[count:], _BY_CHANCE)) if len(others) else 0.0
    shares: Shares = np.clip((found[:count] - usual) / _ENOUGH, 0, 1).astype(np.float32)
    return shares


def _places(ascending: Numbers, order: Numbers, rows: Numbers) -> Numbers:
    """Return the places of those of these rows, int64 [k] ascending, that are among `ascending`, int64 [n]."""
    at = np.searchsorted(rows, ascending)
    at[at == len(rows)] = 0
    places: Numbers = order[rows[at] == ascending] if len(rows) else order[:0]
    return places
