"""The command line against a real daemon."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.daemon import DaemonProcess
from tests.integration.conftest import Call

GOOD = [
    {"id": "e1", "type": "chat.user_msg", "payload": {"text": "the login test fails after the session change"}},
    {"id": "e2", "type": "conductor.run.started", "run_id": "r1", "payload": {"objective": "mend the login test"}},
    {"id": "e3", "type": "conductor.run.completed", "run_id": "r1", "payload": {"summary": "added a mutex around it"}},
]
ROW = {"event_id": "c1", "event_type": "user_input", "payload": {"record": {"content": "write the release notes"}}}


def lines(*values: object) -> str:
    moment = {"timestamp": "2026-03-11T10:00:00Z"}
    return "".join((value if isinstance(value, str) else json.dumps({**moment, **value})) + "\n" for value in values)


def recalled(call: Call, user: str, text: str, *options: str) -> dict[str, object]:
    result = call("recall", "--user", user, text, "--json", *options)
    assert result.returncode == 0, result.stderr
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def texts(answer: dict[str, object]) -> list[str]:
    memories = answer["memories"]
    assert isinstance(memories, list)
    return [memory["text"] for memory in memories]


def test_good_lines_are_published_and_bad_ones_told_with_number_and_reason(call: Call) -> None:
    too_deep = '{"type":"x","timestamp":"2026-03-11T10:00:00Z","payload":' + '{"a":' * 13 + "1" + "}" * 14
    given = lines("nonsense", *GOOD, {"id": "with space", "type": "x"}, too_deep, ROW)

    result = call("publish", "--user", "mixed", "--ack", "committed", stdin=given)

    assert result.returncode == 65
    assert "7 lines for mixed: 4 events accepted (committed), 0 duplicate, 3 rejected" in result.stdout
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["line 1", "line 5", "line 6"]
    assert "line 1: not JSON" in result.stderr
    assert "line 5: not an event id (id)" in result.stderr
    assert "line 6: nested too deep" in result.stderr


def test_publishing_a_file_again_makes_duplicates(call: Call, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(lines(*GOOD, ROW), encoding="utf-8")
    call("publish", "--user", "twice", str(log))

    result = call("publish", "--user", "twice", str(log))

    assert result.returncode == 0
    assert "4 lines for twice: 0 events accepted (stored), 4 duplicate, 0 rejected" in result.stdout


def test_publishing_a_pipe_that_ends_at_once_is_no_error(call: Call) -> None:
    assert "0 lines" in call("publish").stdout


def test_a_file_that_is_not_there_is_told(call: Call) -> None:
    result = call("publish", "no-such-file")

    assert result.returncode == 64
    assert "memoryd: no such file" in result.stderr


def test_a_recall_as_json_has_exactly_the_fields_of_its_format(call: Call) -> None:
    call("publish", "--user", "shape", "--ack", "committed", stdin=lines(*GOOD))

    answer = recalled(call, "shape", "login test", "-k", "1", "--kind", "episode", "--source", "user_input")

    assert list(answer) == ["query", "user", "memories", "tier", "partial", "best_relevance", "elapsed_ms"]
    assert (answer["query"], answer["user"], answer["partial"]) == ("login test", "shape", [])
    memories = answer["memories"]
    assert isinstance(memories, list)
    assert list(memories[0]) == [
        "id", "text", "kind", "source", "quality_score", "session_id", "timestamp", "metadata", "score", "sona_score",
        "relevance", "folded",
    ]  # fmt: skip
    assert memories[0]["text"] == "the login test fails after the session change"
    assert memories[0]["timestamp"] == "2026-03-11T10:00:00Z"


def test_the_outcome_of_a_run_is_on_its_memories(call: Call) -> None:
    call("publish", "--user", "outcomes", "--ack", "committed", stdin=lines(*GOOD))

    table = call("recall", "--user", "outcomes", "mend the login test", "--kind", "strategy", "-k", "1").stdout

    assert "mend the login test" in table
    assert "✔ 0.80" in table
    assert "\x1b" not in table


def test_a_recall_keeps_to_its_filters(call: Call) -> None:
    call("remember", "--user", "filters", "an old one", "--when", "3w", "--session", "s1")
    call("remember", "--user", "filters", "a new one", "--session", "s2")

    assert texts(recalled(call, "filters", "one", "--since", "1w")) == ["a new one"]
    assert texts(recalled(call, "filters", "one", "--session", "s1")) == ["an old one"]


def test_what_is_remembered_is_recalled_and_what_is_forgotten_is_not(call: Call) -> None:
    kept = call("remember", "--user", "forgetful", "deploys on Friday need two approvals", "--set", "team=ops")
    assert texts(recalled(call, "forgetful", "deploy approvals")) == ["deploys on Friday need two approvals"]

    forgotten = call("forget", "--user", "forgetful", kept.stdout.strip())

    assert "forgotten: 1 memories" in forgotten.stdout
    assert texts(recalled(call, "forgetful", "deploy approvals")) == []


def test_a_text_can_be_remembered_from_a_pipe(call: Call) -> None:
    call("remember", "--user", "piped", "-", stdin="from the pipe\n")

    assert texts(recalled(call, "piped", "pipe")) == ["from the pipe\n"]


def test_forgetting_more_than_named_ids_wants_to_be_confirmed(call: Call) -> None:
    call("remember", "--user", "careful", "keep me")

    refused = call("forget", "--user", "careful", "--everything")
    assert refused.returncode == 64
    assert "add --yes" in refused.stderr
    assert texts(recalled(call, "careful", "keep me")) == ["keep me"]

    call("forget", "--user", "careful", "--everything", "--yes")
    assert texts(recalled(call, "careful", "keep me")) == []


def test_an_export_imported_elsewhere_is_the_same_bit_for_bit(call: Call, tmp_path: Path) -> None:
    call("publish", "--user", "origin", "--ack", "committed", stdin=lines(*GOOD, ROW))
    call("remember", "--user", "origin", "“quoted”\nand in two lines", "--quality", "0.25")
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"

    call("export", "--user", "origin", str(first))
    imported = call("import", "--user", "copy", str(first))
    call("export", "--user", "copy", str(second))

    assert "imported for copy: 5 memories, 0 duplicate, 0 rejected" in imported.stdout
    assert first.read_bytes() == second.read_bytes()
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert "0 memories, 5 duplicate" in call("import", "--user", "copy", str(first)).stdout


def test_an_import_goes_on_after_bad_lines_and_embeds_what_has_no_vector(call: Call) -> None:
    call("remember", "--user", "mould", "the shape of a line")
    good = call("export", "--user", "mould").stdout
    given = good.replace('"vector":[', '"vector":[NaN,') + '{"vector":[1.0]}\n' + '{"text":"embed me"}\n' + good

    result = call("import", "--user", "mended", stdin=given)

    assert result.returncode == 65
    assert "imported for mended: 2 memories, 0 duplicate, 2 rejected" in result.stdout
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["line 1", "line 2"]
    assert texts(recalled(call, "mended", "embed me", "-k", "1")) == ["embed me"]


def test_vectors_of_another_model_are_refused_with_the_way_round(call: Call) -> None:
    call("remember", "--user", "foreign", "made elsewhere")
    line = json.loads(call("export", "--user", "foreign").stdout)
    given = json.dumps({**line, "model_sha256": "0" * 64}) + "\n"

    refused = call("import", "--user", "native", stdin=given)
    assert refused.returncode == 78
    assert "the vector in line 1 was made by another model" in refused.stderr

    assert call("import", "--user", "native", "--without-vectors", stdin=given).returncode == 0
    assert texts(recalled(call, "native", "made elsewhere")) == ["made elsewhere"]


def test_an_export_to_where_nothing_can_be_written_is_told(call: Call) -> None:
    result = call("export", "/proc/no-such-folder/x")

    assert result.returncode == 74
    assert "the file cannot be written" in result.stderr


def test_without_a_user_the_credential_says_who_is_meant(call: Call) -> None:
    call("remember", "whose is this")

    assert recalled(call, "default", "whose")["user"] == "default"
    assert json.loads(call("recall", "whose", "--json").stdout)["user"] == "default"


def test_status_tells_the_figures_to_people_and_programs(call: Call, daemon: DaemonProcess) -> None:
    call("remember", "--user", "seen", "x")

    shown = call("status", "--user", "seen").stdout
    status = json.loads(call("status", "--user", "seen", "--json").stdout)

    assert "all-MiniLM-L6-v2" in shown
    assert str(daemon.socket) in shown
    assert "user seen" in shown
    assert status["user"]["records"] == 1
    assert status["restarts"] == 0


def test_the_tree_shows_every_actor_below_its_supervisor(call: Call) -> None:
    call("remember", "--user", "leaf", "x")

    shown = call("tree").stdout.splitlines()

    assert shown[0] == "app  running"
    memories = next(place for place, line in enumerate(shown) if "memories" in line)
    leaf = next(place for place, line in enumerate(shown) if "leaf" in line)
    assert shown[leaf].index("leaf") > shown[memories].index("memories")


def test_a_sound_memory_is_verified_with_0(call: Call) -> None:
    call("remember", "--user", "sound", "x")

    result = call("verify", "--user", "sound")

    assert (result.returncode, result.stdout) == (0, "the memory of sound is sound\n")


def test_the_doctor_finds_nothing_wrong_with_a_running_daemon(call: Call, daemon: DaemonProcess) -> None:
    result = call("doctor", "--data-dir", str(daemon.data_dir), "--socket", str(daemon.socket))

    assert result.returncode == 0, result.stdout
    assert "answers at" in result.stdout


def test_metrics_are_prometheus_text(call: Call) -> None:
    assert "# TYPE memoryd_" in call("metrics").stdout


def test_nothing_is_parked_and_no_run_has_begun_for_a_new_user(call: Call) -> None:
    assert call("parked", "list", "--user", "newcomer").stdout == "nothing is put aside\n"
    assert call("parked", "retry", "--all", "--user", "newcomer").stdout == "retried: 0 events\n"
    assert call("trajectories", "--user", "newcomer").stdout == "no run has begun yet\n"


def test_trajectories_are_listed_with_their_outcome(call: Call) -> None:
    call("publish", "--user", "runs", "--ack", "committed", stdin=lines(*GOOD))

    assert "✔ 0.80" in call("trajectories", "--user", "runs").stdout
    assert json.loads(call("trajectories", "--user", "runs", "--json").stdout)["run_id"] == "r1"


def test_a_token_nobody_knows_is_refused_whoever_brings_it(call: Call, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("wrong\n", encoding="utf-8")

    result = call("status", "--token-file", str(secret))

    assert result.returncode == 77
    assert result.stderr.startswith("memoryd: unknown token\n")


def test_a_user_name_that_could_leave_its_folder_is_refused(call: Call) -> None:
    result = call("recall", "--user", "../x", "y")

    assert result.returncode == 64
    assert "field: user" in result.stderr


def test_a_second_daemon_on_the_same_data_directory_exits_with_75_at_once(daemon: DaemonProcess) -> None:
    began = time.monotonic()
    second = subprocess.run(daemon.command, capture_output=True, encoding="utf-8", timeout=20, check=False)

    assert second.returncode == 75
    assert "Traceback" not in second.stderr
    assert time.monotonic() - began < 5


def test_ctrl_c_while_a_pipe_is_silent_ends_with_130_and_no_traceback(daemon: DaemonProcess) -> None:
    silent, writer = os.pipe()
    publishing = subprocess.Popen(
        [sys.executable, "-m", "memoryd", "publish", "--user", "pipe"],
        stdin=silent,
        env=daemon.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # As in a terminal, whatever this test was started by.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - one thread here
    )
    wait_until_it_waits(publishing.pid)
    publishing.send_signal(signal.SIGINT)
    _, said = publishing.communicate(timeout=10)
    os.close(silent)
    os.close(writer)

    assert publishing.returncode == 130
    assert b"Traceback" not in said


def wait_until_it_waits(pid: int) -> None:
    """Wait until the process has the thread that reads, which is its last step before it waits."""
    give_up = time.monotonic() + 20
    while len(list(Path(f"/proc/{pid}/task").iterdir())) < 2:
        if time.monotonic() > give_up:
            pytest.fail("it never began to read")
        time.sleep(0.01)


def test_sigterm_stops_the_daemon_with_0_and_a_start_finds_everything_again(tmp_path: Path) -> None:
    other = DaemonProcess(tmp_path)
    other.start()
    env = other.environment
    subprocess.run(
        [sys.executable, "-m", "memoryd", "remember", "still here"], env=env, check=True, capture_output=True
    )

    assert other.stop() == 0
    other.start()

    found = subprocess.run(
        [sys.executable, "-m", "memoryd", "recall", "here", "--json"], env=env, check=True, capture_output=True
    )
    assert texts(json.loads(found.stdout)) == ["still here"]
    assert other.stop() == 0


def test_reembedding_waits_until_no_daemon_runs(daemon: DaemonProcess) -> None:
    command = [sys.executable, "-m", "memoryd", "reembed", "--data-dir", str(daemon.data_dir)]

    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)

    assert result.returncode == 75
    assert "Traceback" not in result.stderr


def test_reembedding_with_the_same_model_has_nothing_to_do(tmp_path: Path) -> None:
    other = DaemonProcess(tmp_path)
    other.start()
    memoryd = [sys.executable, "-m", "memoryd"]
    subprocess.run([*memoryd, "remember", "x"], env=other.environment, check=True, capture_output=True)
    other.stop()

    result = subprocess.run(
        [*memoryd, "reembed", "--data-dir", str(other.data_dir)], capture_output=True, encoding="utf-8", check=False
    )

    assert result.returncode == 0, result.stderr
    assert "default: nothing to do" in result.stdout
