from __future__ import annotations

import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from classifiers import SetupError
from serve_app.access.key_file import create_key, key_hash, matches, read_keys, revoke_key
from serve_app.cli.key_commands import keys as commands


def test_only_a_hash_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = create_key(file, "acme", ["infer", "jobs"])
    key_id, _, secret = key.partition(".")
    (entry,) = read_keys(file).keys
    assert secret not in file.read_text()
    assert (entry.id, entry.tenant, entry.scopes) == (key_id, "acme", ("infer", "jobs"))
    assert entry.sha256 == key_hash(key)
    assert len(secret) == 43  # 256 bits in base64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_change_keeps_the_files_mode(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    create_key(file, "acme", ["infer"])
    file.chmod(0o640)
    create_key(file, "acme", ["infer"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".keys.json.")] == [".keys.json.lock"]


def test_matching() -> None:
    assert matches("a.b", key_hash("a.b"))
    assert not matches("a.c", key_hash("a.b"))


def test_a_key_is_good_until_it_ends_or_is_taken_back(tmp_path: Path) -> None:
    file, now = tmp_path / "keys.json", datetime.now(UTC)
    key = create_key(file, "acme", ["infer"], now + timedelta(hours=1))
    (entry,) = read_keys(file).keys
    assert entry.is_good(now)
    assert not entry.is_good(now + timedelta(hours=2))
    revoke_key(file, key.partition(".")[0])
    (entry,) = read_keys(file).keys
    assert not entry.is_good(now)


def test_writers_do_not_lose_each_others_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    threads = [threading.Thread(target=create_key, args=(file, f"t{n}", ["infer"])) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(file).keys) == 16


@pytest.mark.parametrize(
    ("tenant", "scopes"),
    [("", ["infer"]), ("a b", ["infer"]), ("a\n", ["infer"]), ("a", []), ("a", ["root"]), ("ü", ["infer"])],
)
def test_keys_that_cannot_be_made(tmp_path: Path, tenant: str, scopes: list[str]) -> None:
    with pytest.raises(SetupError, match=r"tenant|scopes"):
        create_key(tmp_path / "keys.json", tenant, scopes)
    assert not (tmp_path / "keys.json").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"keys": [{"id": "a"}]}', '{"kyes": []}', "\x00"])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(SetupError, match="is not a key file"):
        read_keys(file)


@pytest.mark.parametrize("ending", ['"revoked": null}', '"id": "a", "revoked": null}'])
def test_what_is_there_twice_is_refused(tmp_path: Path, ending: str) -> None:
    file = tmp_path / "keys.json"
    key = create_key(file, "acme", ["infer"])
    key_id = key.partition(".")[0]
    revoke_key(file, key_id)
    row = json.dumps(json.loads(file.read_text())["keys"][0])
    file.write_text(f'{{"keys": [{row[:-1]}, {ending}]}}')
    with pytest.raises(SetupError, match=r"is not a key file: duplicate key '(revoked|id)'; keep one"):
        read_keys(file)
    file.write_text(f'{{"keys": [{row}, {json.dumps(json.loads(row) | {"revoked": None})}]}}')
    with pytest.raises(SetupError, match=f"two keys have the id '{key_id}'; keep one"):
        read_keys(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="visiongraph keys create"):
        read_keys(tmp_path / "keys.json")
    with pytest.raises(SetupError, match="cannot be changed"):
        create_key(Path("/proc/none/keys.json"), "a", ["infer"])


def test_the_command(tmp_path: Path) -> None:
    run, file = CliRunner(), str(tmp_path / "keys.json")
    made = run.invoke(
        commands, ["create", "--tenant", "acme", "--scope", "infer", "--scope", "jobs", "--days", "3", "--file", file]
    )
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert made.stdout.count("\n") == 1  # only the key: KEY=$(visiongraph keys create ...)
    assert json.loads(Path(file).read_text())["keys"][0]["sha256"] == key_hash(key)
    key_id, _, secret = key.partition(".")

    listed = run.invoke(commands, ["list"], env={"VISIONGRAPH_KEYS": file, "COLUMNS": "200"})
    assert key_id in listed.stdout
    assert "infer jobs" in listed.stdout
    assert "valid until" in listed.stdout
    assert secret not in listed.output

    assert run.invoke(commands, ["revoke", key_id, "--file", file]).exit_code == 0
    assert "revoked" in run.invoke(commands, ["list", "--file", file]).stdout
    unknown = run.invoke(commands, ["revoke", "nobody", "--file", file])
    assert isinstance(unknown.exception, SetupError)
