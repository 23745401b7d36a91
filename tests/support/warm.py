"""The program `asr` for recipes under test: its commands run in forks of one process that has loaded
Python, PyTorch and the package already, which takes seconds every time.

    python warm.py SOCKET    serves; prints a line when it is ready
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

LOADED = (
    "matplotlib.pyplot",
    "torch._dynamo",
    "asr.commands.compare",
    "asr.commands.decode",
    "asr.commands.lm",
    "asr.commands.prepare",
    "asr.commands.score",
    "asr.commands.train",
    "asr.commands.tune",
    "asr.compare.compare",
    "asr.decode.decode",
    "asr.decode.tune",
    "asr.train.run",
)

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({path!r})
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]) + "\\n"
    socket.send_fds(connection, [asked.encode("utf-8", "surrogateescape")], [0, 1, 2])
    sys.exit(int(connection.recv(16) or b"137"))
"""


def write_client(folder: Path, path: Path) -> None:
    """Write the program `asr` that asks the server at ``path``."""
    program = folder / "asr"
    program.write_text(CLIENT.format(python=sys.executable, path=str(path)))
    program.chmod(0o755)


def answer(connection: socket.socket) -> None:
    """Run what is asked for as a process of its own would."""
    asked, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not asked.endswith(b"\n"):
        asked += connection.recv(1 << 16)
    words, folder, environment = json.loads(asked.decode("utf-8", "surrogateescape"))
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    from asr.cli import main

    sys.argv = ["asr", *words]
    try:
        code = main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code or 0).encode())


def serve(path: str) -> None:
    for name in LOADED:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                answer(connection)
                os._exit(0)
            connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
