"""The Dockerfile and what belongs to it, as far as that can be checked without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serve_app.kubernetes import pods

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BUILD, FINAL = re.split(r"^FROM .*\n", DOCKERFILE, flags=re.MULTILINE)[1:]
LOCK = {
    canonicalize_name(each.name): each
    for each in (Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0] != "#")
}
APT_PACKAGES = sorted(set(re.findall(r"--no-install-recommends ([\w.+ -]+?) \\", DOCKERFILE)[0].split()))


def test_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_ray_and_python_are_those_of_the_cluster() -> None:
    image = yaml.safe_load((ROOT / "cluster.yaml").read_text())["docker"]["head_image"]
    ray, python = re.fullmatch(r"rayproject/ray:([\d.]+)-py(\d+)", image).groups()
    assert str(LOCK["ray"].specifier) == f"=={ray}"
    assert f"ARG PYTHON={python[0]}.{python[1:]}\n" in DOCKERFILE
    assert DOCKERFILE.count("FROM python:${PYTHON}-slim") == 2


def test_the_lock_has_a_version_of_all_that_is_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    installed = ("redis", "rabbitmq", "pubsub", "query", "tracing")
    wanted = project["dependencies"] + [requirement for extra in installed for requirement in extras[extra]]
    for requirement in map(Requirement, wanted):
        (pin,) = LOCK[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version, prereleases=True), requirement


def test_it_runs_as_the_user_of_the_pods() -> None:
    user = re.findall(r"^USER (\d+)$", FINAL, re.MULTILINE)
    assert user == [str(pods.USER_ID)]
    assert f"--uid {user[0]} " in FINAL


def test_haproxy_is_where_the_pods_look_for_it() -> None:
    path = pods.ENVIRONMENT["RAY_SERVE_HAPROXY_BINARY_PATH"]
    assert path == "/opt/visiongraph/bin/visiongraph-haproxy"
    assert "python -m venv /opt/visiongraph\n" in BUILD.replace(" \\", "").replace("\\", "")
    assert "COPY --from=build /opt/visiongraph /opt/visiongraph" in FINAL


def test_the_last_stage_installs_libraries_only() -> None:
    assert APT_PACKAGES == ["libgl1", "libglib2.0-0"]
    assert "pip" not in FINAL
    assert not re.search(r"gcc|g\+\+|build-essential|-dev\b", DOCKERFILE)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]
    ]
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch(name, pattern) for pattern in allowed), name
    assert set(copied) == set(allowed)


@pytest.mark.skipif(shutil.which("apt-cache") is None, reason="there is no apt-cache here")
@pytest.mark.parametrize("package", APT_PACKAGES)
def test_the_distribution_has_the_packages(package: str) -> None:
    release = Path("/etc/os-release").read_text()
    if "bookworm" not in release:
        pytest.skip("this machine is not the image's Debian 12")
    done = subprocess.run(["apt-cache", "show", package], capture_output=True, text=True, timeout=60, check=False)
    assert f"Package: {package}\n" in done.stdout, done.stderr


def test_the_workflow_watches_files_that_exist() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "image.yaml").read_text())
    triggers = workflow[True]  # YAML 1.1 reads 'on' so
    for pattern in triggers["push"]["paths"]:
        assert list(ROOT.glob(pattern)), pattern
    uses = [step["uses"] for step in workflow["jobs"]["image"]["steps"] if "uses" in step]
    assert all(re.search(r"@v?\d", each) for each in uses)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pip_finds_a_wheel_of_every_package_in_a_fresh_environment(tmp_path: Path) -> None:
    """As the first stage does it, but torch, which is a gigabyte and comes from an index of its own."""
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True, timeout=120)
    environment = {**os.environ, "PIP_ONLY_BINARY": ":all:", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)

    def pip(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "pip", "install", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=500, check=False, cwd=ROOT, env=environment
        )

    others = [f"{each}\n" for name, each in LOCK.items() if not name.startswith("torch")]
    (tmp_path / "others.lock").write_text("".join(others))
    done = pip("--dry-run", "--no-deps", "--requirement", tmp_path / "others.lock")
    if "connection broken" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr[-2000:]

    done = pip("--no-deps", ".")
    assert done.returncode == 0, done.stderr[-2000:]
    wrapper = python.with_name("visiongraph-haproxy")
    assert wrapper.is_file()
    assert os.access(wrapper, os.X_OK)
