"""``visiongraph keys create|list|revoke``: API keys of the gateway."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from serve_app.cli.arguments import stderr, stdout

if TYPE_CHECKING:
    from serve_app.access import ApiKey

__all__ = ["keys"]

keys = typer.Typer(name="keys", help="Create, list and revoke API keys.", no_args_is_help=True)

FileOption = Annotated[
    Path, typer.Option("--file", metavar="FILE", envvar="VISIONGRAPH_KEYS", help="The file that auth.keys_file names.")
]
_DEFAULT_FILE = Path("keys.json")


@keys.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose key it is. Tenants share limits and see only their own jobs.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="infer|jobs|admin", help="What it may be used for; may be repeated. Default: infer."),
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; default: never.")] = None,
    file: FileOption = _DEFAULT_FILE,
) -> None:
    """Create a key and print it once: only a hash of it is stored."""
    from serve_app.access import create_key

    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    key = create_key(file, tenant, scope or ["infer"], expires)
    stderr.print(f"This key is shown only once; {escape(str(file))} stores its hash. It is valid within 10 s.")
    sys.stdout.write(key + "\n")


@keys.command("list")
def list_keys(file: FileOption = _DEFAULT_FILE) -> None:
    """List the keys: id, tenant, scopes and state."""
    from serve_app.access import read_keys

    table = Table("id", "tenant", "scopes", "created", "state")
    now = datetime.now(UTC)
    for key in read_keys(file).keys:
        table.add_row(
            key.id, escape(key.tenant), " ".join(key.scopes), f"{key.created:%Y-%m-%d %H:%M}", _state(key, now)
        )
    stdout.print(table)


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked is not None:
        return f"revoked {key.revoked:%Y-%m-%d %H:%M}"
    if key.expires is None:
        return "valid"
    return f"{'valid until' if key.is_good(now) else 'expired'} {key.expires:%Y-%m-%d %H:%M}"


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id: the part before its dot.")],
    file: FileOption = _DEFAULT_FILE,
) -> None:
    """Revoke a key; every replica refuses it within 10 s."""
    from serve_app.access import revoke_key

    revoke_key(file, key_id)
    stderr.print(f"{escape(key_id)} is revoked; every replica refuses it within 10 s")
