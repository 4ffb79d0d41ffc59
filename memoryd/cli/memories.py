"""`recall`, `remember` and `forget`: single memories, by hand."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from memoryd.cli.options import FILE, Target, reaches_daemon, speaks_of_time
from memoryd.cli.times import FORMS, moment

if TYPE_CHECKING:
    from memoryd.cli.connection import Connection
    from memoryd.protocol.messages import Forgotten, Recalled
    from memoryd.protocol.records import MemoryFilter, TimeUse

KINDS: Final = click.Choice(["episode", "strategy", "finding", "pattern"])
SOURCES: Final = click.Choice(
    ["user_input", "conductor_plan", "worker_result", "writer_revision", "trajectory_outcome"]
)


_PARTIAL: Final = {
    "vectors": "the query was not embedded, in time or for want of a model",
    "words": "some memories are not in the words index yet",
    "global": "the global store was not asked",
    "size": "the last ones did not fit",
    "history": "something that was there then has been erased since",
}


@click.command("recall")
@click.argument("text")
@click.option(
    "-k", "--top", type=click.IntRange(1, 100), default=5, show_default=True, help="At most so many memories."
)
@click.option("--kind", "kinds", type=KINDS, multiple=True, help="Only this kind; may be given again.")
@click.option("--source", "sources", type=SOURCES, multiple=True, help="Only from this source; may be given again.")
@click.option("--since", type=moment, metavar="WHEN", help=f"Only memories since then: {FORMS}.")
@click.option("--until", type=moment, metavar="WHEN", help="Only memories before then; written like --since.")
@speaks_of_time
@click.option("--session", metavar="ID", help="Only memories of this session.")
@click.option(
    "--deadline-ms", type=click.IntRange(min=1), metavar="N", help="Give up after so long; 30000 if not given."
)
@click.option("--branch", metavar="NAME", help="Ask this branch instead of the one in use.")
@click.option("--as-of", type=moment, metavar="WHEN", help=f"Ask the memory as it stood then: {FORMS}.")
@click.option(
    "--read-only",
    "path",
    type=FILE,
    metavar="FILE",
    help="Ask this .rvf file without a daemon; it may be open elsewhere.",
)
@click.option("--lexical", is_flag=True, help="Ask for words alone: quicker, and a little less is found.")
@click.option(
    "--min-relevance",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    metavar="R",
    help="Leave out what is less relevant, from 0 to 1.",
)
@click.option("--context", is_flag=True, help="Leave out what should not be put before a model.")
@click.option("--explain", is_flag=True, help="Also show what each score is made of.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@reaches_daemon
def recall_command(
    target: Target,
    text: str,
    top: int,
    kinds: tuple[str, ...],
    sources: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    time: TimeUse,
    timezone: str | None,
    session: str | None,
    deadline_ms: int | None,
    branch: str | None,
    as_of: datetime | None,
    path: Path | None,
    lexical: bool,  # noqa: FBT001 - click
    min_relevance: float,
    context: bool,  # noqa: FBT001 - click
    explain: bool,  # noqa: FBT001 - click
    as_json: bool,  # noqa: FBT001 - click
) -> None:
    """Find what was like this before, and whether it went well.

    Use it before planning: describe the task at hand in a sentence. The answers are ordered by how well they fit; the
    outcome is that of the run a memory belongs to: ✔ it went well, ✘ it did not, or it is still open. The relevance is the
    chance that an answer is right; something is always best, so look at it, or leave the worst out with --context.

    \b
    Examples:
      memoryd recall "the login test fails after the session change"
      memoryd recall --kind strategy --since 2w -k 3 --json "migrate the database"
      memoryd recall --as-of 2d "why does the build fail"
      memoryd recall --time filter "what failed last week"
      memoryd recall --read-only backup/alice/memory.rvf "the login test fails"
    """
    from memoryd.cli.connection import connected, run
    from memoryd.client import WITHIN_S
    from memoryd.protocol.records import CONTEXT_RELEVANCE, MemoryFilter, MemoryKind, MemorySource, checked_zone

    if context:
        min_relevance = max(min_relevance, CONTEXT_RELEVANCE)
    wanted = MemoryFilter(
        kinds=frozenset(map(MemoryKind, kinds)),
        sources=frozenset(map(MemorySource, sources)),
        since=since,
        until=until,
        session_id=session,
    )
    deadline_s = WITHIN_S if deadline_ms is None else deadline_ms / 1000

    if path is not None:
        if branch is not None:
            raise click.UsageError("a branch is a file of its own: name it with --read-only")
        zone = checked_zone(timezone, "timezone")
        answer = _read(
            path, text, top, wanted, as_of, zone, time, explain=explain, lexical=lexical, min_relevance=min_relevance
        )
        _print_answer(text, _owner(path), answer, as_json=as_json)
        return

    async def work() -> tuple[Recalled, str]:
        async with connected(target) as connection:
            recalled = await connection.memory.recall(
                text,
                user=target.user,
                top_k=top,
                filter=wanted,
                deadline=deadline_s,
                timezone=timezone,
                time=time,
                branch=branch,
                as_of=as_of,
                explain=explain,
                lexical=lexical,
                min_relevance=min_relevance,
            )
            return recalled, connection.user

    recalled, user = run(work())
    _print_answer(text, user, recalled, as_json=as_json)


@click.command("remember")
@click.argument("text")
@click.option("--kind", type=KINDS, default="finding", show_default=True, help="What sort of knowledge it is.")
@click.option("--source", type=SOURCES, default="worker_result", show_default=True, help="Who said it.")
@click.option("--session", default="", metavar="ID", help="The session it belongs to.")
@click.option(
    "--quality", type=click.FloatRange(0.0, 1.0), help="How the run it belongs to went; left out: still open."
)
@click.option("--when", "timestamp", type=moment, metavar="WHEN", help=f"When it was: {FORMS}. Now, if not given.")
@click.option(
    "--set", "metadata", multiple=True, metavar="NAME=VALUE", help="A fact kept beside it; may be given again."
)
@reaches_daemon
def remember_command(
    target: Target,
    text: str,
    kind: str,
    source: str,
    session: str,
    quality: float | None,
    timestamp: datetime | None,
    metadata: tuple[str, ...],
) -> None:
    """Keep one text, and print its id.

    Use it for what no event says: a decision, a rule of the house, a lesson. It is safe on disk, and the next recall can
    find it, when the id is printed. With `-` the text is read from stdin.

    \b
    Examples:
      memoryd remember "deploys on Friday need two approvals" --kind pattern
      git log -1 --format=%B | memoryd remember --source writer_revision --quality 1 -
    """
    from memoryd.cli.connection import connected, run

    facts: dict[str, object] = dict(_pair(each) for each in metadata)

    async def work() -> str:
        async with connected(target) as connection:
            record = await connection.memory.remember(
                sys.stdin.read() if text == "-" else text,
                user=target.user,
                kind=kind,
                source=source,
                session_id=session,
                timestamp=timestamp,
                quality_score=quality,
                metadata=facts,
            )
            return record.id

    click.echo(run(work()))


@click.command("forget")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--session", metavar="ID", help="Everything of this session.")
@click.option("--before", type=moment, metavar="WHEN", help=f"Everything older: {FORMS}.")
@click.option("--everything", is_flag=True, help="The whole memory of the user.")
@click.option("--now", "at_once", is_flag=True, help="Erase the bytes at once, look for them, and print a receipt.")
@click.option("--everywhere", is_flag=True, help="The same in all branches that hold it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what was forgotten, with the receipt.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reaches_daemon
def forget_command(
    target: Target,
    ids: tuple[str, ...],
    session: str | None,
    before: datetime | None,
    everything: bool,  # noqa: FBT001 - click
    at_once: bool,  # noqa: FBT001 - click
    everywhere: bool,  # noqa: FBT001 - click
    as_json: bool,  # noqa: FBT001 - click
    yes: bool,  # noqa: FBT001 - click
) -> int:
    """Forget memories for good, and the text of the events they came from.

    Use it for what must not be kept. No recall answers with it any more, but for `--as-of` a moment before, as long as the
    history is kept (`memory.history_s`); then the bytes leave the file. With --now they leave it before the command returns:
    every file of the user and the event log are looked through for the texts and vectors, and a receipt says what was
    erased, and what still holds it. The exit code is 1 when something does. Name ids, or one of --session, --before and
    --everything; those three ask first.

    \b
    Examples:
      memoryd forget 01JZ8Q4T6V0000000000000000
      memoryd forget --session s-17 --now --everywhere --json > receipt.json
      memoryd forget --before 52w --yes
    """
    from memoryd.cli.connection import connected, run

    chosen = [bool(ids), session is not None, before is not None, everything]
    if sum(chosen) != 1:
        raise click.UsageError("name what to forget: ids, or one of --session, --before and --everything")

    async def work() -> int:
        async with connected(target) as connection:
            if not (ids or yes or _agreed(connection)):
                click.echo("nothing forgotten")
                return 1
            gone = await connection.memory.forget(
                user=target.user,
                ids=ids,
                session_id=session,
                before=before,
                everything=everything,
                now=at_once,
                everywhere=everywhere,
            )
            _print_forgotten(gone, as_json=as_json)
            return 1 if gone.proof is not None and gone.proof.traces else 0

    return run(work())


def recalled_json(query: str, user: str, recalled: Recalled) -> str:
    """Return an answer as one JSON object on one line."""
    import msgspec

    memories = [
        {
            "id": each.record.id,
            "text": each.record.text,
            "kind": each.record.kind,
            "source": each.record.source,
            "quality_score": each.record.quality_score,
            "session_id": each.record.session_id,
            "timestamp": each.record.timestamp,
            "metadata": each.record.metadata,
            "score": each.score,
            "sona_score": each.sona_score,
            "relevance": each.relevance,
            "folded": each.folded,
            **({"explanation": each.explanation} if each.explanation is not None else {}),
        }
        for each in recalled.memories
    ]
    answer = {
        "query": query,
        "user": user,
        "memories": memories,
        "tier": recalled.tier,
        "partial": recalled.partial,
        "best_relevance": recalled.best_relevance,
        "elapsed_ms": recalled.elapsed_ms,
        **({"plan": recalled.plan} if recalled.plan is not None else {}),
    }
    return msgspec.json.encode(answer).decode()


def _read(
    path: Path,
    text: str,
    top: int,
    wanted: MemoryFilter,
    as_of: datetime | None,
    zone: str | None,
    time_use: TimeUse,
    *,
    explain: bool,
    lexical: bool,
    min_relevance: float,
) -> Recalled:
    from zoneinfo import ZoneInfo

    from memoryd.config import Config
    from memoryd.embedding.onnx import OnnxEmbedder
    from memoryd.reading import recall

    config = Config()
    return recall(
        path,
        text,
        None if lexical else OnnxEmbedder.open(config.embedding.model, threads=1),
        top_k=top,
        where=wanted,
        as_of=as_of,
        zone=ZoneInfo(zone or config.recall.timezone),
        time_use=time_use,
        explain=explain,
        min_relevance=min_relevance,
    )


def _owner(path: Path) -> str:
    from memoryd.rvf.places import branch_of

    return branch_of(path.absolute())[0].name


def _print_answer(text: str, user: str, recalled: Recalled, *, as_json: bool) -> None:
    if as_json:
        click.echo(recalled_json(text, user, recalled))
    else:
        _print_recalled(recalled, user)


def _print_recalled(recalled: Recalled, user: str) -> None:
    from memoryd.cli.output import console, memories_table
    from memoryd.cli.why import explanation_table, plan_line

    out = console()
    if recalled.memories:
        out.print(memories_table(recalled.memories, datetime.now(UTC)))
    elif recalled.best_relevance:
        out.print(f"nothing relevant: the best has {recalled.best_relevance:.2f}")
    else:
        out.print("nothing like this is remembered")
    if recalled.plan is not None:
        out.print()
        out.print(explanation_table(recalled.memories))
        out.print(plan_line(recalled.plan), style="dim")
    left_out = "".join(f" · {_PARTIAL[name]}" for name in recalled.partial)
    out.print(f"{user} · {recalled.tier} · {recalled.elapsed_ms:.1f} ms{left_out}", style="dim")


def _print_forgotten(gone: Forgotten, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(gone).decode())
        return
    from memoryd.cli.output import console
    from memoryd.cli.screens import receipt_screen

    click.echo(f"forgotten: {gone.records:,} memories, and the text of {gone.events:,} events")
    if gone.kept_in:
        click.echo(f"still kept in: {', '.join(gone.kept_in)}")
    if gone.proof is not None:
        console().print(receipt_screen(gone.proof))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
    return name, value


def _agreed(connection: Connection) -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: add --yes")
    return click.confirm(f"Forget these memories of {connection.user} for good?")
