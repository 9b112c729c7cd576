"""How an attempt at a node ends, whoever made it, this process or a worker; and waiting for other commands."""

from harness.perform import Ending
from harness.plan import Node
from harness.progress import Reporter
from harness.retention import Retention
from harness.schedule import Schedule

POLL = 0.5
"""Seconds between two looks at nodes in the hands of other commands."""

WAITING = "waiting for what other commands are at"


def settle(
    schedule: Schedule, node: Node, label: str, ending: Ending, reporter: Reporter, retention: Retention
) -> bool:
    """Enter how an attempt ended, and say so; returns whether the node will be tried again."""
    again = schedule.settle(node, ending)
    notes = {
        "failed": f"FAILED: {ending.text}" + ("; it is tried again" if again else ""),
        "done": "done by another command",
    }
    reporter.line(f"{label}: {notes.get(ending.how, ending.text)}")
    for line in (*schedule.news(), *retention.after(node)):
        reporter.line(line)
    return again
