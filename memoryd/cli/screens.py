"""What `status`, `tree`, `doctor` and `serve` show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text
from rich.tree import Tree

from memoryd.cli.output import TEXT_WIDTH, age, duration, facts, outcome, phase, shorten, size, table

if TYPE_CHECKING:
    from memoryd.app import Banner
    from memoryd.protocol.messages import (
        Branches,
        Compared,
        ErasureProof,
        EvaluatedGeneration,
        Interval,
        LearningEvaluated,
        LearningStatus,
        LessonInfo,
        MailboxStatus,
        PatternInfo,
        Status,
        UserStatus,
        Verdict,
    )
    from memoryd.sona.speed import Speed

QUESTION_WIDTH: int = 80
_MILLISECOND: float = 1e-3
_VERDICTS: dict[Verdict, Text] = {
    "helps": Text("● helps", style="green"),
    "no sure difference": Text("● no difference that is sure", style="yellow"),
    "harms": Text("● harms: consider `memoryd sona disable`", style="bold red"),
}
USERS: str = "session/memories"  # the path, below the root, of the actor that has the users' agents below it


def banner_screen(banner: Banner) -> RenderableType:
    """Return what the daemon says when it is ready."""
    rows = [
        ("model", banner.model),
        *([("but", f"words alone answer: {banner.model_fault}")] if banner.model_fault else []),
        ("data", banner.data_dir),
        ("socket", banner.socket),
        ("users", f"{banner.users:,} known"),
        ("events", f"{banner.events:,} in the log"),
        ("ready", f"in {banner.ready_s:.2f} s; Ctrl-C or SIGTERM drains and stops"),
    ]
    return Panel(facts(rows), title=f"memoryd {banner.version}", title_align="left", expand=False)


def receipt_screen(proof: ErasureProof) -> RenderableType:
    """Return what was erased, where it was looked for, and what is left of it."""
    verdict = Text("● nothing of it is left", style="green")
    if proof.traces:
        verdict = Text(f"● {len(proof.traces):,} traces are left", style="bold red")
    files = table("looked through", ">bytes", "SHA-256")
    for file in proof.files:
        files.add_row(file.file, f"{file.bytes:,}", file.sha256[:16])
    erased = table("erased", "SHA-256 of the text", "of the vector")
    for record in proof.records:
        erased.add_row(record.id, record.text_sha256[:16], record.vector_sha256[:16])
    left = table("left in", ">at byte", "what")
    for trace in proof.traces:
        left.add_row(trace.file, f"{trace.offset:,}", trace.what)
    heading = facts([("erased", f"{proof.at:%Y-%m-%d %H:%M:%S} UTC"), ("all together", proof.records_sha256)])
    tables = [erased, files, *([left] if proof.traces else [])]
    return Panel(Group(heading, *tables), title="receipt", title_align="left", expand=False, subtitle=verdict)


def learning_screen(found: LearningStatus) -> RenderableType:
    """Return what was learned from runs."""
    state = Text("● on", style="green") if found.enabled else Text("● off", style="yellow")
    gain = "" if found.gain is None else f", {found.gain:+.2f} nats"
    rows: list[tuple[str, str | Text]] = [
        ("learning", state),
        ("profile", found.profile),
        (
            "runs",
            f"{found.runs:,} held of {found.seen:,}, room for {found.room:,}; something helped in {found.positive:,}",
        ),
        ("archive", f"what helped in {found.archived:,} others"),
        ("weights", f"generation {found.generation}, {found.earlier} to go back to"),
        ("guard", f"accepted {found.accepted:,} fits, refused {found.refused:,}"),
        ("last fit", f"{found.outcome}{gain}" if found.outcome else "none yet"),
        ("next fit", f"after {found.due_in} more runs" if found.due_in else "when it is quiet"),
        ("bends by", f"base {found.base:.3f}, micro {found.micro:.3f}; consolidated {found.tasks} times"),
    ]
    return Panel(facts(rows), title="sona", title_align="left", expand=False)


def patterns_screen(found: Sequence[PatternInfo]) -> RenderableType:
    """Return what is asked again and again."""
    is_asked = any(each.cosine is not None for each in found)
    made = table("question", ">runs", "went", ">helped", *([">near"] if is_asked else []), ">last")
    now = datetime.now(UTC)
    for each in found:
        made.add_row(
            shorten(each.example, TEXT_WIDTH),
            f"{each.runs:,}",
            outcome(each.quality),
            f"{sum(memory.value > 0 for memory in each.values):,}",
            *([f"{each.cosine:.2f}"] if each.cosine is not None else []),
            age(each.last, now),
        )
    return made


def evaluation_screen(found: LearningEvaluated) -> RenderableType:
    """Return whether learning helps, by generation, and what that is measured on."""
    made = table("generation", ">runs", ">without", ">with learning", ">change", ">95 %")
    rows = [*((str(number), each) for number, each in enumerate(found.generations, 1)), ("all", found.whole)]
    for name, each in rows:
        made.add_row(name, *_evaluated(each))
    counted = Text(
        f"nDCG@10 of {found.whole.runs:,} of {found.runs:,} runs: those that name what helped, worth 1, or was harmful, worth -1, but for the "
        "first sixth, which is only learned from. Only what was shown can count: nobody knows whether anything else would have "
        f"helped. On the way the guard accepted {found.accepted:,} fits and refused {found.refused:,}.",
        style="dim",
    )
    return Group(made, counted, _VERDICTS[found.verdict])


def _evaluated(each: EvaluatedGeneration) -> tuple[str, ...]:
    change = each.change
    return (
        f"{each.runs:,}",
        _ranged(each.without),
        _ranged(each.learned),
        f"{change.mean:+.3f}",
        f"{change.low:+.3f} to {change.high:+.3f}",
    )


def _ranged(value: Interval) -> str:
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"


def speeds_screen(found: Sequence[Speed], title: str) -> RenderableType:
    """Return how quick learning is, beside what it must reach in the median and what it should."""
    made = table("what", ">p50", ">p95", ">floor", ">goal", "p50 reaches", title=title)
    for each in found:
        reached = Text("goal", style="green") if each.p50_s <= each.goal_s else Text("floor", style="yellow")
        if each.p50_s > each.floor_s:
            reached = Text("neither", style="red")
        made.add_row(each.what, *map(_quick, (each.p50_s, each.p95_s, each.floor_s, each.goal_s)), reached)
    return made


def _quick(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds >= _MILLISECOND else f"{1e6 * seconds:.1f} µs"


def lessons_screen(found: Sequence[LessonInfo]) -> RenderableType:
    """Return the runs that learning knows or awaits."""
    made = table("question", ">shown", ">helped", ">harmful", "went", "learned", ">age", "id")
    made.columns[0].no_wrap, made.columns[0].ratio = False, 1
    now = datetime.now(UTC)
    for each in found:
        credit = "coarse" if each.is_coarse else "by memory"
        made.add_row(
            Text(shorten(each.query, QUESTION_WIDTH)),
            f"{each.shown:,}",
            f"{each.helped:,}",
            f"{each.harmful:,}",
            outcome(each.quality),
            Text(credit, style="yellow" if each.is_coarse else "green")
            if each.is_learned
            else Text("awaited", style="cyan"),
            age(each.when, now),
            each.id,
        )
    return made


def branches_screen(found: Branches) -> RenderableType:
    """Return the branches, the one in use marked."""
    made = table("", "branch", "of", ">began", ">memories", ">its own", ">file")
    for each in found.branches:
        made.add_row(
            Text("●", style="green") if each.is_current else "",
            each.name,
            each.parent or "-",
            age(each.created, datetime.now(UTC)) if each.created else "-",
            f"{each.records:,}",
            f"{each.own_records:,}",
            size(each.file_bytes),
        )
    return made


def compared_screen(found: Compared) -> RenderableType:
    """Return what only the one, and what only the other branch holds, the newest first."""
    now = datetime.now(UTC)
    parts: list[RenderableType] = []
    for name, count, records in (
        (found.name, found.only_here, found.here),
        (found.other, found.only_there, found.there),
    ):
        heading = Text(f"only on {name}: {count:,} memories", style="bold")
        if not records:
            parts.append(heading)
            continue
        made = table("text", "kind", ">age", "outcome", "id")
        made.columns[0].no_wrap, made.columns[0].ratio, made.columns[0].overflow = False, 1, "fold"
        for record in records:
            made.add_row(
                Text(shorten(record.text, TEXT_WIDTH)),
                record.kind,
                age(record.timestamp, now),
                outcome(record.quality_score),
                record.id,
            )
        parts += [heading, made]
    return Group(*parts)


def status_screen(status: Status) -> RenderableType:
    """Return how the daemon is, at a glance: a verdict, figures, and the mailboxes that are not empty and quiet."""
    worries = list(_worries(status))
    verdict = Text("● well", style="green") if not worries else Text("● " + "; ".join(worries), style="yellow")
    daemon = [
        ("model", f"{status.model} ({status.model_variant}, {status.dim} dimensions, {status.model_sha256[:12]})"),
        ("data", status.data_dir),
        ("socket", status.socket),
        ("process", f"pid {status.pid}, up {duration(status.uptime_s)}, {size(status.rss_bytes)} in memory"),
        (
            "event loop",
            f"late by {status.loop_stall_p999_ms:.1f} ms (p99.9), {status.loop_stall_max_ms:.1f} ms at most",
        ),
    ]
    figures = [
        ("users", f"{status.users_known:,} known, {status.users_resident:,} resident ({size(status.resident_bytes)})"),
        ("records", f"{status.records_resident:,} resident"),
        ("learning", _learning(status)),
        ("events", f"{status.events_last_seq:,} logged, {status.lag_events:,} not yet committed"),
        ("waiting", f"{status.embed_waiting:,} texts for the embedder"),
        ("put aside", f"{status.parked_events:,} events, {status.users_quarantined:,} users"),
        ("restarts", f"{status.restarts:,}"),
        ("unmapped", _counted(status.unmapped)),
    ]
    parts: list[RenderableType] = [
        Panel(facts(daemon), title=f"memoryd {status.version}", title_align="left", expand=False, subtitle=verdict),
        Panel(facts(figures), title="memories", title_align="left", expand=False),
    ]
    if status.user is not None:
        parts.append(
            Panel(facts(_user(status.user)), title=f"user {status.user.user}", title_align="left", expand=False)
        )
    parts.append(_mailboxes(status.mailboxes))
    return Group(*parts)


def supervision_tree(actors: Sequence[MailboxStatus]) -> RenderableType:
    """Return the actors below their supervisors; the first is the root."""
    root = actors[0]
    tree = Tree(_actor(root.path, root))
    branches = {root.path: tree}
    for each in actors[1:]:
        parent, _, name = each.path.rpartition("/")
        home = branches.get(f"{root.path}/{USERS}" if parent == "user" else parent, tree)
        branches[each.path] = home.add(_actor(name, each))
    return tree


def _actor(name: str, actor: MailboxStatus) -> Text:
    line = Text.assemble((name, "bold"), "  ", phase(actor.phase))
    if actor.depth:
        line.append(
            f"  {actor.depth} waiting, {size(actor.depth_bytes)}, the oldest for {actor.oldest_s:.1f} s", "yellow"
        )
    if actor.restarts:
        line.append(f"  {actor.restarts} restarts", "yellow")
    if actor.last_error:
        line.append(f"  last failure: {shorten(actor.last_error, 80)}", "red")
    return line


def _worries(status: Status) -> Iterable[str]:
    ill = [each.path for each in status.mailboxes if each.phase != "running"]
    if ill:
        yield f"not running: {', '.join(ill)}"
    if status.model_fault:
        yield f"words alone answer, and what is published waits: {status.model_fault}"
    if status.users_quarantined:
        yield f"{status.users_quarantined} users in quarantine"
    if status.parked_events:
        yield f"{status.parked_events} events put aside: see memoryd parked list"
    if status.restarts:
        yield f"{status.restarts} restarts"


def _user(user: UserStatus) -> list[tuple[str, str]]:
    return [
        ("branch", user.branch),
        ("records", f"{user.records:,}, and {user.trajectories:,} trajectories"),
        ("events", f"applied up to {user.applied_seq:,}, committed up to {user.committed_seq:,}"),
        ("file", f"{size(user.file_bytes)}, of which {size(user.dead_bytes)} dead"),
        ("in memory", size(user.resident_bytes)),
        (
            "learning",
            f"{'on' if user.is_learning else 'off'}, weights of generation {user.generation}; last fit {user.last_fit or 'none yet'}",
        ),
    ]


def _learning(status: Status) -> str:
    if not status.is_learning:
        return "off"
    return (
        f"on for {status.users_learning:,} of {status.users_resident:,} resident users; the guard accepted the last weights of "
        f"{status.users_accepted:,}, refused those of {status.users_refused:,}"
    )


def _mailboxes(mailboxes: Iterable[MailboxStatus]) -> RenderableType:
    shown = table("actor", "state", ">waiting", ">bytes", ">oldest", ">restarts", "last failure")
    for each in mailboxes:
        shown.add_row(
            each.path,
            phase(each.phase),
            f"{each.depth:,}",
            size(each.depth_bytes),
            f"{each.oldest_s:.1f} s",
            f"{each.restarts:,}",
            shorten(each.last_error, 40),
        )
    return shown


def _counted(unmapped: dict[str, int]) -> str:
    if not unmapped:
        return "no event of an unknown type"
    most = sorted(unmapped.items(), key=lambda each: -each[1])[:3]
    return f"{sum(unmapped.values()):,} events: " + ", ".join(f"{shorten(name, 40)} {count:,}" for name, count in most)
