"""Who stands beside whom in a session."""

from __future__ import annotations

import numpy as np

from memoryd.words.neighbours import NOWHERE, neighbours


def linked(sessions: list[int], dead: tuple[int, ...] = ()) -> tuple[list[int], list[int]]:
    alive = np.ones(len(sessions), bool)
    alive[list(dead)] = False
    found = neighbours(np.array(sessions, np.int32), alive)
    return found.before.tolist(), found.after.tolist()


def test_rows_of_a_session_are_linked_however_many_of_others_lie_between() -> None:
    before, after = linked([1, *[2] * 40, 1])

    assert (before[41], after[0]) == (0, 41)
    assert before[0] == before[1] == after[40] == after[41] == NOWHERE
    assert before[2:41] == list(range(1, 40))
    assert after[1:40] == list(range(2, 41))


def test_who_is_dead_is_passed_over() -> None:
    before, after = linked([1, 1, 1], dead=(1,))

    assert (before[2], after[0]) == (0, 2)
    assert before[1] == after[1] == NOWHERE


def test_without_a_session_a_row_stands_alone_and_so_does_nowhere() -> None:
    assert linked([0, 0]) == ([NOWHERE] * 3, [NOWHERE] * 3)
    assert linked([]) == ([NOWHERE], [NOWHERE])
