"""The verb `groups`: list and describe consumer groups."""

from __future__ import annotations

from cyclopts import App

from transport.command_line.connection import Connection
from transport.command_line.group_lag import existing_group, lag_of
from transport.command_line.output import Json, print_fields, print_json, print_rows
from transport.excerpt import listed

groups = App(name="groups", help="List and describe consumer groups.")


@groups.default
@groups.command(name="list")
async def list_groups(*, json: Json = False, connection: Connection = Connection()) -> None:
    """List the groups, with their states.

    Example: kafka-nursery groups list
    """
    async with connection.admin() as admin:
        found = await admin.groups()
    rows = [{"group": each.id, "state": each.state, "kind": each.kind} for each in found]
    print_rows(rows, ("group", "state", "kind"), is_json=json)


@groups.command
async def describe(
    group: str, /, *, json: Json = False, connection: Connection = Connection()
) -> None:
    """Describe a group: its state, its members, and the partitions of each member.

    Example: kafka-nursery groups describe billing

    Parameters
    ----------
    group:
        The consumer group.
    """
    async with connection.admin() as admin:
        described, _ = await existing_group(admin, group)
        behind = await lag_of(admin, group)
    summary = {
        "group": group,
        "state": described.state,
        "assignor": described.assignor or None,
        "topics": sorted({each.tp.topic for each in behind.partitions}),
        "lag": behind.total,
    }
    members = [
        {
            "member": each.id,
            "instance_id": each.instance_id,
            "client_id": each.client_id,
            "host": each.host,
            "partitions": [str(tp) for tp in sorted(each.assigned)],
        }
        for each in described.members
    ]
    if json:
        print_json({**summary, "members": members})
        return
    unnamed = described.has_members and not members
    print_fields({**summary, "members": "the client cannot name them" if unnamed else len(members)})
    if members:
        shown = ({**each, "partitions": listed(each["partitions"] or ())} for each in members)
        print_rows(shown, ("member", "client_id", "host", "partitions"))
