"""Show the whole product on this machine: no outside service, about two minutes.

A process that serves a model is watched from outside while clients use it. Its batches flow
through an embedded broker to the workers and into ClickHouse (chDB). First it learns; then the
workload changes, which must raise no alert; then the machine is disturbed, which must raise one.
At the end it prints what was seen and exits with 0 if it all held.
"""

import argparse
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latencyprism.errors import CommandError, need

if TYPE_CHECKING:
    from rich.console import Console

    from latencyprism.demo.report import Findings
    from latencyprism.demo.stage import Stage
    from latencyprism.demo.story import Scene

NEEDED = {
    "confluent_kafka": "demo",
    "faust": "demo",
    "river": "demo",
    "clickhouse_connect": "demo",
    "chdb": "demo",
    "aiohttp": "demo",
    "numpy": "demo",
    "prometheus_client": "demo",
    "setproctitle": "demo",
}

QUERIES = (
    (
        "What the incidents were",
        "SELECT begin_time, cause, confidence, summary FROM incidents_view ORDER BY begin_time",
    ),
    (
        "Expected and observed, second by second",
        "SELECT toStartOfSecond(begin_time) AS second, count() AS batches, "
        "round(avg(duration_ms), 1) AS observed_ms, round(avg(expected_ms), 1) AS expected_ms, "
        "countIf(verdict = 'slow') AS slow FROM batches_view GROUP BY second ORDER BY second",
    ),
    (
        "What a batch costs by its size",
        "SELECT requests, count() AS batches, round(median(duration_ms), 2) AS median_ms "
        "FROM batches_view WHERE verdict != 'slow' GROUP BY requests ORDER BY requests",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("demo-data"),
        metavar="DIR",
        help="folder for logs and database; emptied first (%(default)s)",
    )
    parser.add_argument("--serve", action="store_true", help="keep running until Ctrl-C")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="stretch every scene by this (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Play the story and print the report."""
    for module, extra in NEEDED.items():
        need(module, extra)
    from rich.console import Console

    from collectors.stacks import HOW_TO_GET_IT, WHAT_IS_LOST, native_version
    from latencyprism.demo import stage, story
    from simulator.injection.run import InjectionError, Refused

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    # So that everything on stage is stopped in order, as after Ctrl-C.
    signal.signal(signal.SIGTERM, stop)
    console = Console()
    if native_version() is None:
        console.print(
            f"[yellow]Without the native sampler:[/] {WHAT_IS_LOST}. To get it: {HOW_TO_GET_IT}."
        )
    scenes = story.scenes(arguments.scale)
    seconds = sum(scene.seconds for scene in scenes)
    console.print(
        f"Starting a broker, an engine, the agent and three workers; the story takes "
        f"{seconds:.0f} s."
    )
    with stage.Stage(arguments.data) as on_stage:
        console.print(
            f"Engine: {on_stage.replica.base_url} (core {on_stage.replica.core_pid}, worker "
            f"{on_stage.replica.worker_pid}). Logs: {on_stage.folder}."
        )
        try:
            load = _play(console, on_stage, scenes)
        except KeyboardInterrupt:
            console.print("Stopped before the end: nothing was judged.")
            return 130
        except (InjectionError, Refused) as err:
            raise CommandError(f"a fault of the story was not there: {err}") from err
        if arguments.serve:
            _serve(console, on_stage)
        on_stage.stop_pipeline()
        findings = _findings(on_stage, scenes)
    if load.error is not None:
        raise CommandError(load.error)
    _print(console, findings, arguments.data)
    return 0 if findings.held else 1


def _play(console: "Console", on_stage: "Stage", scenes: "list[Scene]") -> Any:
    from rich.live import Live
    from rich.table import Table

    from latencyprism.demo import story

    monitor = on_stage.monitor
    assert monitor is not None

    def table(now: "Scene | None") -> Table:
        shown = Table(box=None, padding=(0, 2))
        for heading in ("", "scene", "seconds", "alerts"):
            shown.add_column(heading)
        for scene in scenes:
            begun, done = scene.begin_ns > 0, scene.end_ns > 0
            alerts = sum(
                scene.begin_ns <= delivery.received_ns < (scene.end_ns or time.time_ns())
                and delivery.annotations["state"] == "firing"
                for delivery in on_stage.receiver.deliveries
                if begun
            )
            shown.add_row(
                "[green]done[/]" if done else "[cyan]now[/]" if begun else "",
                scene.name,
                f"{scene.seconds:.0f}",
                str(alerts) if begun else "",
            )
        error = monitor.error_ratio()
        last = monitor.recent[-1] if monitor.recent else None
        shown.add_row(
            "",
            f"[dim]{monitor.batches} batches; "
            + (
                f"the last took {last.duration_ns / 1e6:.1f} ms, expected "
                f"{last.expected_ns / 1e6:.1f} ms; "
                if last is not None and last.expected_ns is not None
                else ""
            )
            + (f"median error {error:.1%}" if error is not None else "")
            + "[/]",
        )
        for delivery in on_stage.receiver.deliveries[-4:]:
            shown.add_row("", f"[yellow]{delivery.annotations['summary']}[/]")
        return shown

    with Live(table(None), console=console, refresh_per_second=4) as live:

        def show(scene: "Scene") -> None:
            dead = on_stage.dead()
            if dead is not None:
                raise CommandError(
                    f"{dead} ended before its time: see the logs in {on_stage.folder}"
                )
            live.update(table(scene))

        load = story.play(scenes, on_stage.replica.base_url, show)
        live.update(table(None))
    console.print()
    return load


def _serve(console: "Console", on_stage: "Stage") -> None:
    from latencyprism.demo.story import Load, phase_of
    from simulator.workloads import Workload

    console.print(
        f"Serving until Ctrl-C. Engine {on_stage.replica.base_url}, Kafka protocol at "
        f"{on_stage.broker.bootstrap}, configuration {on_stage.config}."
    )
    # One load after the other, so that a long evening does not need one endless phase.
    try:
        while on_stage.dead() is None:
            phase = phase_of("chat", 600.0)
            load = Load(
                on_stage.replica.base_url,
                Workload(name="serve", summary="Steady", phases=(phase,)),
                seed=1,
            )
            load.start()
            load.join(610.0)
    except KeyboardInterrupt:
        console.print("Stopping.")


def _findings(on_stage: "Stage", scenes: "list[Scene]") -> "Findings":
    from latencyprism.demo import report
    from simulator.replica.truth import read_truth
    from streams.sinks.clickhouse import TABLES, ClickHouseSettings, connect

    findings = report.Findings()
    client = connect(ClickHouseSettings(dsn=f"chdb://{on_stage.folder}/clickhouse"))
    for table in TABLES.values():
        findings.rows[table] = client.query(f"SELECT count() FROM {table} FINAL").result_rows[0][0]
    batches = report.batches_of(client)
    client.close()
    counters = on_stage.can_read_counters
    report.check_counts(findings, batches, read_truth(on_stage.truth), can_read_counters=counters)
    report.check_prediction(findings, batches, scenes)
    report.check_alerts(
        findings,
        on_stage.receiver.deliveries,
        scenes,
        on_stage.machine,
        can_read_counters=counters,
    )
    engine = on_stage.monitor.engine if on_stage.monitor is not None else None
    if engine is not None and engine.agent_cpu_ratio is not None:
        findings.facts.append(
            ("agent CPU per watched engine", f"{engine.agent_cpu_ratio:.1%} of one core")
        )
    filled = ("batches", "processes", "hosts", "engines", "alerts")
    findings.checks.append(
        report.Check(
            "rows in every table",
            all(findings.rows[table] > 0 for table in filled),
            ", ".join(f"{table} {findings.rows[table]}" for table in filled),
        )
    )
    findings.checks.append(
        report.Check(
            "nothing in the dead letters",
            findings.rows["deadletters"] == 0,
            str(findings.rows["deadletters"]),
        )
    )
    return findings


def _print(console: "Console", findings: "Findings", folder: Path) -> None:
    from rich.table import Table

    console.print("[bold]What reached the webhook[/] (milliseconds after the batch's end)")
    for incident in findings.incidents:
        colour = "green" if incident["state"] == "resolved" else "yellow"
        console.print(
            f"  [{colour}]{incident['state']:8}[/] {incident['latency_ms']:4.0f} ms  "
            f"{incident['cause']} ({incident['confidence']})\n      {incident['summary']}",
            highlight=False,
        )
    facts = Table(title="What was measured", title_justify="left", show_header=False)
    for name, shown in findings.facts:
        facts.add_row(name, shown)
    facts.add_row(
        "rows in ClickHouse",
        ", ".join(f"{table} {count}" for table, count in findings.rows.items()),
    )
    console.print(facts)
    checks = Table(title="What had to hold", title_justify="left", show_header=False)
    for check in findings.checks:
        mark = "[green]held[/]" if check.held else "[red]FAILED[/]"
        checks.add_row(mark, check.name, check.shown)
    console.print(checks)
    console.print("Three queries to run next:")
    for title, query in QUERIES:
        console.print(f"  # {title}", style="dim")
        console.print(
            f'  latencyprism sql --config {folder}/latencyprism.toml "{query}"', soft_wrap=True
        )
