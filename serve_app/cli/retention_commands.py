"""Commands that delete: ``results delete``, ``retention run|rules``."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.table import Table

from classifiers import SetupError
from classifiers.imaging import DEFAULT_LIMITS
from serve_app.cli.arguments import progress, stderr, stdout
from serve_app.config import read_intake_config
from serve_app.images import Uploads, upload_address
from serve_app.images.uploads import tenant_folder
from serve_app.results import JobMarker, Objects, objects_from_uri, uri_below
from serve_app.results.deletion import delete_job, purge
from serve_app.results.retention import PARTS, Ages, lifecycle_rules, sweep
from serve_app.results.store import object_key

__all__ = ["results", "retention"]

results = typer.Typer(name="results", help="Delete stored results.", no_args_is_help=True)
retention = typer.Typer(name="retention", help="Delete what has been kept for long enough.", no_args_is_help=True)

_THREADS = 16

IntakeFile = Annotated[
    Path,
    typer.Argument(metavar="INTAKE", help="YAML with the intake: block; its retention: says how long things are kept."),
]


@results.command()
def delete(
    results_uri: Annotated[
        str, typer.Argument(metavar="RESULTS", help="Where results are stored: s3://bucket/prefix, or a folder.")
    ],
    job: Annotated[list[str] | None, typer.Option(metavar="ID", help="A job; may be repeated.")] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(metavar="HASH", help="All results of the image with this hash.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="All jobs of a tenant.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE", help="All results with this value in their metadata.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="URI", help="The intake block's images, where it has that key.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who deletes, for the record.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the ids of the jobs, and delete nothing.")] = False,
) -> None:
    """Delete jobs: the image that came with each, the picture, the result, and its row in Parquet.

    A record without content stays: that the job was deleted, by whom and when. A message that is delivered again does
    not bring it back. Safe beside running workers; an interrupted command is continued by running it again.

    Example: visiongraph results delete s3://bucket/results --where customer=1042
    """
    if not (job or sha256 or tenant or where):
        raise SetupError("say what to delete: --job, --sha256, --tenant or --where")
    key, _, value = (where or "").partition("=")
    if where is not None and not (key and value):
        raise SetupError(f"--where '{where}' is not KEY=VALUE")
    objects = objects_from_uri(results_uri)
    uploads = Uploads(objects_from_uri(images or uri_below(results_uri, "images")), DEFAULT_LIMITS.max_bytes)
    if not dry_run:
        from serve_app.results.compaction import compact

        compact(objects)
    wanted = _Wanted(frozenset(sha256 or ()), tenant, key, value)
    ids = dict.fromkeys(job or ())
    rows: dict[str, str] = {}
    if sha256 or tenant or where:
        rows = dict(_of_rows(objects, wanted))
        ids.update(dict.fromkeys([*_of_markers(objects, wanted), *rows]))
    if dry_run:
        for job_id in ids:
            typer.echo(job_id)
        return
    if sha256 and not (job or where):
        for name in sha256:
            _forget(objects, uploads, name, tenant)
    who, given = by or getpass.getuser(), set(job or ())
    missing = []
    with progress() as bar:
        for job_id in bar.track(ids, description="deleting"):
            if job_id in rows and objects.info(object_key("outcomes", job_id)) is None:  # of a bulk run
                uploads.delete(JobMarker(job_id, upload_address(rows[job_id])))
            if not delete_job(objects, job_id, who, uploads.delete, only_known=job_id in given):
                missing.append(job_id)
    purge(objects, uploads.delete)
    stderr.print(f"{len(ids) - len(missing):,} jobs were deleted", highlight=False)
    if missing:
        stderr.print(f"there are no such jobs: {', '.join(missing[:20])}", highlight=False, markup=False)
        raise typer.Exit(1)


@retention.command()
def run(
    intake: IntakeFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
) -> None:
    """Delete what is older than the intake block's retention allows. Workers do it in small steps; this does all now.

    Safe at any time, also while workers do the same; an interrupted run is continued by running it again.

    Example: visiongraph retention run intake.yaml --dry-run
    """
    config = read_intake_config(intake)
    _require_ages(config.retention.ages)
    objects, images = objects_from_uri(config.results), objects_from_uri(config.images_uri)
    table = Table("kind", "would be deleted" if dry_run else "deleted")
    total: dict[str, int] = {}
    with progress() as bar:
        for part in bar.track(PARTS, description="looking"):
            for kind, count in sweep(objects, images, config.retention.ages, [part], dry_run=dry_run).items():
                total[kind] = total.get(kind, 0) + count
    for kind, count in sorted(total.items()):
        table.add_row(kind, f"{count:,}")
    stdout.print(table)


@retention.command()
def rules(intake: IntakeFile) -> None:
    """Print lifecycle rules of S3 that delete the same without requests of the workers, as far as S3 can.

    Example: visiongraph retention rules intake.yaml > rules.json, then
    aws s3api put-bucket-lifecycle-configuration --bucket B --lifecycle-configuration file://rules.json
    """
    config = read_intake_config(intake)
    _require_ages(config.retention.ages)
    places = [urlsplit(uri) for uri in (config.results, config.images_uri)]
    if any(place.scheme not in ("s3", "gs") for place in places):
        raise SetupError("lifecycle rules are for buckets; the workers delete files of a folder themselves")
    below_results, below_images = (f"{place.path.strip('/')}/".lstrip("/") for place in places)
    found = lifecycle_rules(below_results, below_images, config.retention.ages)
    typer.echo(json.dumps(found, indent=2))


def _require_ages(ages: Ages) -> None:
    if ages == Ages():
        raise SetupError(
            "the intake block keeps everything forever; add for example retention: {images_days: 30, results_days: 365}"
        )


def _forget(objects: Objects, uploads: Uploads, sha256: str, tenant: str | None) -> None:
    """Delete what is kept of an image apart from jobs: the image itself, and results that are kept for it."""
    folders = [f"{tenant_folder(tenant)}/"] if tenant is not None else uploads.objects.folders("")
    for folder in folders:
        uploads.objects.delete(f"{folder}{sha256[:2]}/{sha256}")
    if tenant is not None:
        return  # kept results say not whose they are
    keys = list(objects.keys("content/"))
    with ThreadPoolExecutor(_THREADS) as threads:
        for key, data in zip(keys, threads.map(objects.get, keys), strict=True):
            if data is not None and json.loads(data)["image"]["sha256"] == sha256:
                objects.delete(key)


class _Wanted:
    """Which jobs are to be deleted: those for which everything that is given holds."""

    def __init__(self, sha256: frozenset[str], tenant: str | None, key: str, value: str) -> None:
        self.sha256, self.tenant, self._key, self._value = sha256, tenant, key, value
        self._addresses = {upload_address(name) for name in sha256}

    def fits_marker(self, marker: JobMarker) -> bool:
        """By the owner, the metadata and the address of an upload."""
        return (
            bool(marker.uri)
            and (self.tenant is None or marker.owner == self.tenant)
            and (not self.sha256 or marker.uri in self._addresses)
            and self.fits_metadata(marker.metadata)
        )

    def fits_metadata(self, metadata: Any) -> bool:
        """Whether the value is in the metadata, as a string or as JSON."""
        if not self._key:
            return True
        return self._key in metadata and self._value in (metadata[self._key], json.dumps(metadata[self._key]))


def _of_markers(objects: Objects, wanted: _Wanted) -> Iterator[str]:
    with ThreadPoolExecutor(_THREADS) as threads:
        for data in threads.map(objects.get, objects.keys("jobs/")):
            if data is not None and wanted.fits_marker(marker := JobMarker(**json.loads(data))):
                yield marker.id


def _of_rows(objects: Objects, wanted: _Wanted) -> Iterator[tuple[str, str]]:
    """Ids and hashes of images, by the hash and the metadata; rows do not say whose they are."""
    from serve_app.results.compaction import read_table

    if wanted.tenant is not None:
        return
    filesystem, root = objects.filesystem()
    for key in objects.keys("parquet/"):
        if key.endswith(".parquet"):
            for row in read_table(filesystem, f"{root}/{key}", ["id", "sha256", "metadata"]).to_pylist():
                is_image = not wanted.sha256 or row["sha256"] in wanted.sha256
                if is_image and wanted.fits_metadata(json.loads(row["metadata"] or "{}")):
                    yield row["id"], row["sha256"]
