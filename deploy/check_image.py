"""Do the Dockerfile's steps give an installation that runs as nobody, from a tree it cannot write, without a network?

usage: python deploy/check_image.py [--root DIR] [--target cpu] [--build-arg NAME=VALUE] [--keep]

For machines without a container engine: the steps of the target's stages are done in DIR (a fresh folder in /tmp) in
place of /, base images aside: Python, Node.js and Debian are this machine's. Then the image's ENTRYPOINT is started as
the image's user with the image's environment alone, where the machine allows it in a mount namespace in which the tree
is read-only and in a network namespace that has nothing but itself; the image's own HEALTHCHECK must pass, the page
and the list of models must come, no file of the tree may be writable, and SIGTERM must end it.

Prints a line for each; exit code 1 if one fails. Needs root, to become the image's user.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

CONTEXT = Path(__file__).resolve().parents[1]
PLACES = ("/opt", "/build", "/scans")
TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105  # of a server that lives for a minute
NETWORK, MOUNTS = "net", "mount"


@dataclass
class Stage:
    """One FROM with what follows it."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def read_dockerfile(text: str) -> dict[str, Stage]:
    """The stages by name, in order."""
    stages: dict[str, Stage] = {}
    lines = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    for line in filter(None, map(str.strip, lines.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(name, base)
        else:
            list(stages.values())[-1].steps.append((word, rest))
    return stages


def chain(stages: dict[str, Stage], target: str) -> list[Stage]:
    """The target with the stages it is built from, the first one first."""
    found = [stages[target]]
    while found[0].base in stages:
        found.insert(0, stages[found[0].base])
    return found


def settings(stages: dict[str, Stage], target: str) -> tuple[dict[str, str], dict[str, str]]:
    """(environment, the last USER, HEALTHCHECK, ENTRYPOINT, ...) of the finished image."""
    environment: dict[str, str] = {}
    last: dict[str, str] = {}
    for stage in chain(stages, target):
        for word, rest in stage.steps:
            if word == "ENV":
                environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            last[word] = rest
    return environment, last


class Building:
    """The stages, each done once in a folder that stands for /."""

    def __init__(self, root: Path, stages: dict[str, Stage], arguments: dict[str, str]) -> None:
        self.root, self.stages, self.arguments = root, stages, arguments
        self.done: dict[str, tuple[Path, dict[str, str]]] = {}
        """Of each stage that is done its folder and environment, which the next one goes on with."""

    def inside(self, text: str) -> str:
        """A command or path with the folder in place of /."""
        return re.sub(rf"(?<![\w./])({'|'.join(PLACES)})(?=[/\s\"']|$)", rf"{self.root}\1", text)

    def build(self, name: str) -> None:
        for stage in chain(self.stages, name):
            if stage.name not in self.done:
                self.done[stage.name] = self._do(stage)

    def _do(self, stage: Stage) -> tuple[Path, dict[str, str]]:
        # as `docker build` passes proxies on; what this machine's pip and npm need to find their registries, too
        known = re.compile(r"(?i)(https?_|no_)proxy|pip_.*|npm_config_.*|.*_cert.*|path|home")
        ours = {name: value for name, value in os.environ.items() if known.fullmatch(name)}
        folder, inherited = self.done.get(stage.base, (self.root, ours))
        environment = dict(inherited)
        for word, rest in stage.steps:
            if word == "WORKDIR":
                folder = Path(self.inside(rest))
                folder.mkdir(parents=True, exist_ok=True)
            elif word == "ARG":
                name, _, value = rest.partition("=")
                environment[name] = self.arguments.get(name, value)
            elif word == "ENV" and stage.name != "runtime":
                environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            elif word == "COPY":
                self._copy(rest, folder)
            elif word == "RUN":
                self._run(rest, folder, environment)
        return folder, environment

    def _copy(self, rest: str, folder: Path) -> None:
        words = shlex.split(rest)
        is_built = words[0].startswith("--from=")
        if is_built:
            self.build(words.pop(0).removeprefix("--from="))
        *sources, target = words
        goal = Path(self.inside(target)) if target.startswith("/") else folder / target
        (goal if target.endswith("/") else goal.parent).mkdir(parents=True, exist_ok=True)
        for source in sources:
            place = Path(self.inside(source)) if is_built else CONTEXT / source
            if place.is_dir():
                skip = shutil.ignore_patterns("node_modules", "__pycache__", "page", "test-results")
                if place.resolve() != goal.resolve():
                    shutil.copytree(place, goal, dirs_exist_ok=True, ignore=None if is_built else skip, symlinks=True)
            elif place.resolve() != goal.resolve():
                shutil.copy(place, goal if not target.endswith("/") else goal / place.name)

    def _run(self, rest: str, folder: Path, environment: dict[str, str]) -> None:
        command = self.inside(re.sub(r"(group|user)add [^&]*&& ", "", rest))  # users are this machine's own affair
        print(f"RUN {command}", flush=True)
        subprocess.run(["/bin/sh", "-ec", command], cwd=folder, env=environment, check=True)  # noqa: S603


def inside(root: Path, target: str, spaces: list[str]) -> int:
    """What happens in the namespaces: start the server as the image would, ask it, stop it."""
    environment, last = settings(read_dockerfile((CONTEXT / "deploy/Dockerfile").read_text(encoding="utf-8")), target)
    building = Building(root, {}, {})
    uid, gid = last["USER"].split(":")
    path = f"{root}/opt/slicesight/bin:/usr/local/bin:/usr/bin:/bin"
    variables = {name: building.inside(value) for name, value in environment.items()} | {"PATH": path}
    if NETWORK in spaces:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607
    if MOUNTS in spaces:
        open_way_to_python(root)
        for options in (["--bind"], ["-o", "remount,ro,bind"]):
            subprocess.run(["mount", *options, root, root], check=True)  # noqa: S603, S607
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"uid={uid},mode=700", "tmpfs", f"{root}/scans"], check=True)  # noqa: S603, S607
    drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    words = [building.inside(word) for word in json.loads(last["ENTRYPOINT"])]
    with tempfile.TemporaryDirectory() as name:
        token = Path(name) / "token"
        token.write_text(TOKEN)
        os.chmod(name, 0o755)  # noqa: S103
        token.chmod(0o644)
        command = [*drop, *words, "--token-file", str(token), "--public-url", "https://example.org/scans/"]
        writable = subprocess.run(  # noqa: S603
            [
                *drop,
                "find",
                str(root),
                "-path",
                f"{root}/scans",
                "-prune",
                "-o",
                "-writable",
                "-not",
                "-type",
                "l",
                "-print",
            ],
            capture_output=True,
            text=True,
        ).stdout.split()
        told("nothing of the tree is writable for the image's user", not writable, ", ".join(writable[:3]))
        server = subprocess.Popen(command, cwd=f"{root}/scans", env=variables)  # noqa: S603
        health = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
        well = False
        deadline = time.monotonic() + 900
        while not well and server.poll() is None and time.monotonic() < deadline:
            time.sleep(2)
            found = subprocess.run([*drop, *health], env=variables, capture_output=True)  # noqa: S603
            well = found.returncode == 0
        told("HEALTHCHECK passes", well)
        if well:
            told("the page is served", b"<script" in get("/scans/"))
            models = json.loads(get("/scans/v1/models", token=True))
            told("models are listed behind the token", bool(models["data"]), models["data"][0]["id"])
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=200)
        is_clean = server.returncode in (0, -signal.SIGTERM)  # uvicorn ends by the signal that it was sent
        told("SIGTERM ends it", is_clean, f"exit code {server.returncode}")
    return 1 if FAILED else 0


def open_way_to_python(root: Path) -> None:
    """Where this machine's Python lies in a folder closed to others, say /root, show that alone at the same place."""
    prefix = (root / "opt/slicesight/bin/python").resolve().parents[1]
    closed = [parent for parent in reversed(prefix.parents) if not parent.stat().st_mode & 0o001]
    if closed:
        with tempfile.TemporaryDirectory() as aside:
            subprocess.run(["mount", "--bind", prefix, aside], check=True)  # noqa: S603, S607
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", closed[0]], check=True)  # noqa: S603, S607
            prefix.mkdir(parents=True)
            subprocess.run(["mount", "--move", aside, prefix], check=True)  # noqa: S603, S607


def get(path: str, *, token: bool = False) -> bytes:
    """The body of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:8000{path}", headers={"Host": "example.org"})
    if token:
        request.add_header("Authorization", f"Bearer {TOKEN}")
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        body: bytes = answer.read()
        return body


FAILED: list[str] = []


def told(what: str, is_so: bool, more: str = "") -> None:
    """Print a line; a failed one makes the exit code 1."""
    print(f"{'ok' if is_so else 'FAILED'}: {what}{f' ({more})' if more else ''}", flush=True)
    if not is_so:
        FAILED.append(what)


def allowed_spaces() -> list[str]:
    """Which namespaces this machine lets us have."""
    return [
        space
        for space in (NETWORK, MOUNTS)
        if subprocess.run(["unshare", f"--{space}", "true"], capture_output=True).returncode == 0  # noqa: S603, S607
    ]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--target", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--build-arg", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--keep", action="store_true", help="leave the folder; given one that is built, only run it")
    parser.add_argument("--inside", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside is not None:
        return inside(args.root, args.target, args.inside)
    if os.geteuid() != 0:
        sys.exit("check_image.py becomes the image's user to look; run it as root")
    root = (args.root or Path(tempfile.mkdtemp(prefix="slicesight-image-"))).resolve()
    stages = read_dockerfile((CONTEXT / "deploy/Dockerfile").read_text(encoding="utf-8"))
    try:
        if not (root / "opt/slicesight/bin/slicesight").exists():
            root.mkdir(parents=True, exist_ok=True)
            root.chmod(0o755)
            Building(root, stages, dict(pair.split("=", 1) for pair in args.build_arg)).build(args.target)
        for name in ("opt/slicesight/sbom.cdx.json", "opt/sbom-page.cdx.json"):
            parts = json.loads((root / name).read_text(encoding="utf-8"))["components"]
            told(f"{name} lists what is in it", len(parts) > 1, f"{len(parts)} components")
        spaces = allowed_spaces()
        print(f"namespaces that this machine allows: {', '.join(spaces) or 'none'}")
        again = [sys.executable, __file__, "--root", str(root), "--target", args.target, "--inside", *spaces]
        done = subprocess.run(["unshare", *(f"--{space}" for space in spaces), *again] if spaces else again)  # noqa: S603
        return 1 if FAILED else done.returncode
    finally:
        if not args.keep:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
