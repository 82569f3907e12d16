"""A process that has imported everything, and forks a child for each command: so that a command to be killed
costs its own work alone, and not the seconds that importing takes.

It reads a JSON object a line from its input: the `words` of the command, the `folder` to run in, and perhaps
`boundary`, a number n: the child kills itself right before it touches a file for the nth time. It answers
with the child's id, then, once the child has ended, with its exit code (minus the signal's number where it is
killed), as a line each. What the command says is in `out` and `err` in the folder; the times that it touched
a file in `touched`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

CHANGES = ("os.rename", "os.remove", "os.truncate", "os.mkdir", "os.link", "os.symlink", "shutil.rmtree")


def warm() -> None:
    """Imports what a run needs, and compiles or loads what it compiles."""
    import torch

    torch.set_num_threads(1)
    import sharpcli.claims.claim
    import sharpcli.commands.measure
    import sharpcli.commands.train
    import sharpcli.engine.launch
    import sharpcli.provenance

    sharpcli.provenance.commit()
    for problem in ("uv", "network"):
        sharp(["train", f"problem={problem}", "steps=2", "measure_every=1", "runs_dir=warm", *SMALL[problem]])


SMALL = {"uv": ["problem.d=6", "problem.n=4"], "network": ["data.train_examples=60", "model.widths=[6]"]}


def sharp(words: list[str]) -> int:
    """The command line, as its entry point calls it."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from sharpcli import cli

    sys.argv = ["sharp", *words]
    try:
        return cli.main()
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None


def child(words: list[str], folder: str, boundary: int | None) -> None:
    """The command in a folder of its own; never returns."""
    os.chdir(folder)
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    touched = watched(folder, boundary)
    code = 70
    try:
        code = sharp(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        Path("touched").write_text(str(touched[0]))
        os._exit(code)


def watched(folder: str, boundary: int | None) -> list[int]:
    """Counts how often files below a folder are opened for writing, renamed, cut or removed; kills at the
    nth time."""
    touched = [0]

    def touch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | os.PathLike | bytes):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(folder):
            return
        touched[0] += 1
        if touched[0] == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touch)
    return touched


def serve() -> None:
    """Answers requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    warm()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        number = os.fork()
        if number == 0:
            answers.close()
            child(request["words"], request["folder"], request.get("boundary"))
        print(number, file=answers, flush=True)
        _, status = os.waitpid(number, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    serve()
