"""Why a memory was found, or was not: the command, and the table that `recall --explain` shows too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from memoryd.cli.options import Target, reaches_daemon, speaks_of_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from memoryd.protocol.messages import Explained, Plan, SpokenTime
    from memoryd.protocol.records import RetrievedMemory, TimeUse

_USES: Final = {"prefer": "preferred time", "filter": "only the time"}


@click.command("why")
@click.argument("record", metavar="ID")
@click.argument("query")
@speaks_of_time
@click.option("--branch", metavar="NAME", help="Ask this branch instead of the one in use.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@reaches_daemon
def why_command(
    target: Target,
    record: str,
    query: str,
    time: TimeUse,
    timezone: str | None,
    branch: str | None,
    as_json: bool,  # noqa: FBT001 - click
) -> None:
    """Say where a memory stands among the answers to a query, and why.

    Use it when a recall did not bring what you expected: it looks at the memory whether it would be found or not, and
    shows each summand of its score, the words they have in common, and its place by words and by vectors alone.

    \b
    Example:
      memoryd why 01KJMMFJ90B0AS8CA1C55HQA09 "the login test fails after the session change"
    """
    from memoryd.cli.connection import connected, run

    async def work() -> Explained:
        async with connected(target) as connection:
            return await connection.memory.why(
                record, query, user=target.user, time=time, timezone=timezone, branch=branch
            )

    explained = run(work())
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(explained).decode())
    else:
        _print(explained)


def explanation_table(memories: Sequence[RetrievedMemory]) -> Table:
    """Return the summands of each score, the words it has in common with the query, and its places in both lists."""
    from rich.text import Text

    from memoryd.cli.output import shorten, table

    names = dict.fromkeys(name for each in memories if each.explanation for name in each.explanation.parts)
    made = table(
        "memory",
        ">score",
        ">relevance",
        *(f">{name.replace('_', ' ')}" for name in names),
        ">by words",
        ">by vector",
        "words",
    )
    for column in made.columns:
        column.no_wrap = False
    for each in memories:
        told = each.explanation
        if told is not None:
            made.add_row(
                Text(shorten(each.record.text, 40)),
                f"{each.score:.3f}",
                f"{each.relevance:.2f}",
                *(f"{told.parts[name]:+.3f}" if name in told.parts else "" for name in names),
                _place(told.by_words),
                _place(told.by_vector),
                Text(" ".join(told.words)),
            )
    return made


def plan_line(plan: Plan) -> str:
    """Return in one line how an answer came about."""
    terms = ", ".join(f"{term} {idf:.1f}" for term, idf in sorted(plan.terms.items(), key=lambda pair: -pair[1]))
    pruned = f" · too common: {', '.join(plan.pruned)}" if plan.pruned else ""
    time = f" · {_time(plan.time)}" if plan.time else ""
    return (
        f"{plan.candidates} candidates · words by rarity: {terms or 'none'}{pruned}{time} · "
        f"understood in {plan.understood_ms:.1f} ms, ranked in {plan.ranked_ms:.1f} ms"
    )


def _print(explained: Explained) -> None:
    from memoryd.cli.output import console

    out = console()
    out.print(explanation_table([explained.memory]))
    place = f"place {explained.place} of {explained.plan.candidates} candidates"
    out.print(place if explained.passes else f"it does not pass the filter; otherwise {place}")
    out.print(plan_line(explained.plan), style="dim")


def _time(spoken: SpokenTime) -> str:
    phrases = ", ".join(f'"{each}"' for each in spoken.phrases)
    since = f" from {spoken.since.isoformat()}" if spoken.since else ""
    until = f" until {spoken.until.isoformat()}" if spoken.until else ""
    anchor = f" by {spoken.anchor}" if spoken.anchor else ""
    return f"{_USES[spoken.use]}: {phrases}{since}{until}{anchor}"


def _place(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
