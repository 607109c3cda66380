"""Nodes of a mesh in processes of their own: started, asked, killed; see `tests.mesh_program`."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.mesh_nodes import QUICK
from tests.processes import ENVIRONMENT, ROOT


class NodeError(Exception):
    """A node has answered with an error; its name is the first argument."""


class MeshProcess:
    """One node.

    Args:
        prefix: Of the command, as `ip netns exec NAME`.
        options: For `tests.mesh_program.Program`.
    """

    def __init__(self, name: str, seeds: Sequence[str], ledger: Path, *, prefix: Sequence[str] = (), **options: Any):
        said = {"name": name, "seeds": list(seeds), "ledger": str(ledger), "gossip": asdict(QUICK), **options}
        self.name = name
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.mesh_program", json.dumps(said)],
            cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        assert self.process.stdout is not None
        self._numbers = itertools.count()
        self._asked: dict[int, Future[Any]] = {}
        began = json.loads(self.process.stdout.readline())
        self.url, self.id = began["url"], began["id"]
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(ValueError):  # closed
            for line in self.process.stdout:
                told = json.loads(line)
                asked = self._asked.pop(told["id"])
                if "error" in told:
                    asked.set_exception(NodeError(told["error"], told["text"]))
                else:
                    asked.set_result(told["answer"])
        for asked in tuple(self._asked.values()):
            asked.set_exception(NodeError("ended", self.name))

    def begin(self, do: str, **arguments: Any) -> Future[Any]:
        """Ask it to do something."""
        assert self.process.stdin is not None
        number = next(self._numbers)
        self._asked[number] = asked = Future()
        try:
            print(json.dumps({"id": number, "do": do, "with": arguments}), file=self.process.stdin, flush=True)
        except (OSError, ValueError):
            asked.set_exception(NodeError("ended", self.name))
        return asked

    def ask(self, do: str, **arguments: Any) -> Any:
        """Ask, and wait for the answer.

        Raises:
            NodeError: It was an error.
        """
        return self.begin(do, **arguments).result(20)

    def kill(self) -> None:
        """With SIGKILL."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """With SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(20)

    def close(self) -> None:
        """Whatever it is doing."""
        self.kill()
        for file in (self.process.stdin, self.process.stdout):
            if file is not None:
                with suppress(OSError):
                    file.close()
