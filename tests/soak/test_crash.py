"""The short form of `python -m tests.soak.crash`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak.crash import Crash
from tests.soak.plan import Mode, plan

if TYPE_CHECKING:
    from pathlib import Path

SEED = 4
KILLS = 8


async def test_a_daemon_that_is_killed_keeps_every_promise(tmp_path: Path) -> None:
    crash = Crash(tmp_path, SEED, KILLS)

    tally = await crash.run()

    assert tally.broken == []
    assert tally.kills.total() == KILLS


def test_the_short_form_kills_in_every_way() -> None:
    planned = [plan(SEED, number) for number in range(KILLS)]
    assert {one.mode for one in planned} == set(Mode)
    assert {one.module for one in planned} == {"memoryd", "tests.soak.small"}
