"""The list of all verbs, and the texts of the command itself."""

from __future__ import annotations

from importlib.metadata import version

from cyclopts import App

from transport.command_line.bench import bench
from transport.command_line.config import config
from transport.command_line.dead_letters import dead_letters
from transport.command_line.demo import demo
from transport.command_line.doctor import doctor
from transport.command_line.groups import groups
from transport.command_line.lag import lag
from transport.command_line.run import run
from transport.command_line.seek import seek
from transport.command_line.send import send
from transport.command_line.tail import tail
from transport.command_line.topics import topics
from transport.command_line.tree import tree

_HELP = """Look into Kafka topics and groups, and repair them.

Each verb has its own help with an example: kafka-nursery VERB --help
"""


def verbs() -> App:
    """Return the command line with all its verbs."""
    app = App(name="kafka-nursery", help=_HELP, version=lambda: version("kafka-nursery"))
    reading = (tail, topics, groups, lag, dead_letters)
    changing = (send, seek)
    running = (run, tree, config, doctor, bench, demo)
    for verb in (*reading, *changing, *running):
        app.command(verb)
    app.register_install_completion_command()
    return app
