"""Scripts in processes of their own, forked from one that has imported torch and nothing of fastgan.

To import torch takes two seconds of a processor, which most tests of a fresh process would spend for nothing.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

# It forks for each line, which has a script, its environment and files for its output, it answers with the exit code.
# The child leaves the loop, so that it ends as a program does that ran the script alone.
_PARENT = """
import json, os, sys, warnings
import torch

for line in sys.stdin:
    job = json.loads(line)
    if os.fork() == 0:
        break
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
else:
    os._exit(0)
for number, (path, mode) in enumerate(((os.devnull, "r"), (job["out"], "w"), (job["err"], "w"))):
    with open(path, mode) as stream:
        os.dup2(stream.fileno(), number)
os.environ.clear()
os.environ.update(job["environment"])
if job["strict"]:
    warnings.simplefilter("error")
exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})
"""
_parent: subprocess.Popen[str] | None = None


def _end() -> None:
    global _parent
    if _parent is not None:
        _parent.kill()
        _parent.communicate()
        _parent = None


atexit.register(_end)


def run(
    code: str, *, strict: bool = False, timeout: float = 240.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What `python -c code` does, in this environment and what is added to it; `strict`: a warning is an error."""
    global _parent
    if not hasattr(os, "fork"):
        command = [sys.executable, *(["-W", "error"] if strict else []), "-c", code]
        return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=timeout)
    if _parent is None:
        pipe = subprocess.PIPE
        _parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdin=pipe, stdout=pipe, text=True)
    assert _parent.stdin and _parent.stdout
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        job = {"code": code, "out": str(out), "err": str(err), "strict": strict}
        print(json.dumps(job | {"environment": dict(os.environ) | environment}), file=_parent.stdin, flush=True)
        if not select.select([_parent.stdout], [], [], timeout)[0]:
            _end()
            raise subprocess.TimeoutExpired(code, timeout)
        code_of_exit = int(_parent.stdout.readline())
        return subprocess.CompletedProcess(code, code_of_exit, out.read_text(), err.read_text())
