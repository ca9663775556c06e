"""A container engine without a registry: podman as root, with a base image that debootstrap makes once."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.support.deploy_tools import DEPLOY, TOOLS, output_of, tool

BASE = "localhost/gregor-base:13"
IMAGE = "localhost/gregor:test"
TOOLS_IMAGE = "localhost/gregor-tools:13"
DEBOOTSTRAP_S = 400
"""One minute on two quiet cores; two or three with other work."""
ENVIRON = {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def podman(*arguments: str, timeout_s: float = 120, status: int = 0) -> str:
    """Run podman, and return what it printed. runc, because crun refuses a machine with both kinds of cgroups."""
    return output_of(_command(*arguments), timeout_s=timeout_s, status=status, environ=ENVIRON)


def _command(*arguments: str) -> list[str]:
    if os.geteuid() != 0:
        pytest.skip("not checked: podman without root has no network of its own here")
    return [tool("podman"), "--runtime", tool("runc"), *arguments]


def build_image() -> str:
    """Build the image from the Dockerfile, over the base of this machine. Returns its name."""
    return _build(DEPLOY / "docker" / "Dockerfile", IMAGE)


def build_tools_image() -> str:
    """Build an image with the Valkey, HAProxy and Prometheus of Debian. Returns its name."""
    file = TOOLS / "Tools.Dockerfile"
    packages = "haproxy prometheus valkey-server"
    install = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {packages} >/dev/null"
    file.write_text(f"FROM {BASE}\nRUN {install}\n")
    return _build(file, TOOLS_IMAGE)


def _build(dockerfile: Path, name: str) -> str:
    with _alone():
        _make_base()
        _require_engine()
        return _build_over_base(dockerfile, name)


@contextmanager
def _alone() -> Iterator[None]:
    """Build one image at a time: each test process asks for them, and the second one finds them in the cache."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _require_engine() -> None:
    """Skip the test unless podman can run a container here, with its own network."""
    problem = _engine_problem()
    if problem:
        pytest.skip(f"not checked: podman cannot run a container here: {problem}")


@cache
def _engine_problem() -> str:
    command = _command("run", "--rm", BASE, "true")
    environ = {**os.environ, **ENVIRON}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    return "" if done.returncode == 0 else _last_line(done.stderr)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


def _build_over_base(dockerfile: Path, name: str) -> str:
    open_files, processes = (resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    podman(
        *("build", "--format", "docker", "--network", "host"),
        # The default limits of podman are above those of an unprivileged container.
        *("--ulimit", f"nofile={open_files}:{open_files}", "--ulimit", f"nproc={processes}:{processes}"),
        *_registry_of_this_machine(),
        *("--build-arg", f"BASE={BASE}", "-f", str(dockerfile), "-t", name, "."),
        timeout_s=580,
    )
    return name


def _make_base() -> None:
    """Make the base image: Debian with the Python of Debian. No image can be pulled on a bare machine."""
    if BASE in podman("images", "--format", "{{.Repository}}:{{.Tag}}"):
        return
    mirror = _mirror()
    rootfs = TOOLS / "rootfs"
    shutil.rmtree(rootfs, ignore_errors=True)
    packages = "--include=python3,python3-venv,ca-certificates"
    command = [tool("debootstrap"), "--variant=minbase", packages, "trixie", str(rootfs), mirror]
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=DEBOOTSTRAP_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"not checked: debootstrap takes over {DEBOOTSTRAP_S} s for the base image")
    if made.returncode != 0:
        pytest.skip(f"not checked: debootstrap cannot make the base image: {_last_line(made.stdout)}")
    archive = TOOLS / "rootfs.tar"
    output_of([tool("tar"), "-C", str(rootfs), "-cf", str(archive), "."], timeout_s=300)
    podman("import", str(archive), BASE, timeout_s=300)
    archive.unlink()
    shutil.rmtree(rootfs)


def _mirror() -> str:
    """Return the mirror from which this machine installs Debian 13."""
    targets = output_of([tool("apt-get"), "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"])
    mirrors = [line.split()[0] for line in targets.splitlines() if line.split()[1:] == ["trixie"]]
    if not mirrors:
        pytest.skip("not checked: this machine knows no mirror of Debian 13 for the base image")
    return mirrors[0]


def _registry_of_this_machine() -> list[str]:
    """Return the options that let pip in the build use the registry and the certificates of this machine."""
    config = TOOLS / "pip.conf"
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    pairs = (line.partition("=") for line in listed.stdout.splitlines())
    settings = {name.rpartition(".")[2]: value.strip("'") for name, _, value in pairs}
    kept = [f"{name} = {settings[name]}" for name in ("index-url", "extra-index-url", "cert") if name in settings]
    config.write_text("\n".join(["[global]", *kept, ""]))
    options = ["--volume", f"{config}:/etc/pip.conf:ro"]
    return [*options, "--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"] if CERTIFICATES.exists() else options
