"""Record a sample: `python -m demo.record --out demo/sample.jsonl.gz`."""

import time
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track

from demo.record.commands import ToolMissingError
from demo.record.journal import write_events
from demo.record.recording import record_tasks
from demo.record.schedule import plan
from demo.record.subject import load_subjects


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
@click.option("--seed", type=int, default=3, show_default=True, help="Chooses the tasks and the order of attempts.")
@click.option("--tasks", type=click.IntRange(min=1), default=208, show_default=True, help="How many tasks to do.")
def main(out: Path, seed: int, tasks: int) -> None:
    """Carry out tasks on generated repositories and write down what really happened."""
    console = Console(stderr=True)
    planned = plan(load_subjects(), tasks=tasks, seed=seed)
    started = time.monotonic()
    try:
        events = record_tasks(track(planned, description="recording", console=console))
    except ToolMissingError as error:
        raise click.ClickException(str(error)) from error
    write_events(out, events)
    ends = Counter(event.type for event in events)
    console.print(
        f"{len(events)} events of {len(planned)} tasks in {time.monotonic() - started:.0f} s: "
        f"{ends['conductor.run.completed']} completed, {ends['conductor.run.failed']} failed, "
        f"{out.stat().st_size / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main()
