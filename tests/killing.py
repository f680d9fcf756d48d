"""A process that forks trainings and kills them: python killing.py FOLDER KILLS SEED.

It imports everything once and computes nothing itself, so that an attempt costs a second. What it
has seen of each attempt it prints as a line of JSON.
"""

import json
import os
import random
import signal
import sys
import time
import zipfile
from argparse import Namespace
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "projects")]

import detectron2  # noqa: E402, F401, I001
import torch  # noqa: E402
import yaml  # noqa: E402
from detectron2.engine import HookBase  # noqa: E402

import train_net  # noqa: E402
from multas.engine import Trainer  # noqa: E402
from multas.engine.checkpoint_files import newest_intact  # noqa: E402
from multas.util.command_line import run  # noqa: E402


@dataclass(eq=False)
class Report(HookBase):
    """Tells the killer where the training is."""

    file: int

    def before_train(self):
        os.write(self.file, b"%d\n" % self.trainer.start_iter)

    def after_step(self):
        os.write(self.file, b"%d\n" % (self.trainer.iter + 1))


def begin(folder: Path, output: str) -> tuple[int, int]:
    """Fork a training; its process, and a pipe with the iterations that it has reached."""
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        return process, reader
    os.close(reader)
    os.setpgid(0, 0)
    log = os.open(folder / f"{output}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    build = Trainer.build_hooks
    Trainer.build_hooks = lambda self: [*build(self), Report(writer)]
    args = Namespace(config_file="killed.yaml", opts=["OUTPUT_DIR", output], eval_only=False,
                     resume=True)  # fmt: skip
    status = 1
    try:
        torch.set_num_threads(1)
        run(train_net.main, args)
        status = 0
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait_for(reader: int, iteration: int) -> int:
    """Wait until the training has reached an iteration, or ended; the last one that it told."""
    reached, text = -1, b""
    while reached < iteration and (more := os.read(reader, 4096)):
        *lines, text = (text + more).split(b"\n")
        reached = max([reached, *map(int, lines)])
    return reached


def ended(process: int) -> str:
    """How the process ends."""
    _, status = os.waitpid(process, 0)
    return "killed" if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}"


def whole(folder: Path, output: str) -> dict:
    """Train without a kill."""
    process, _ = begin(folder, output)
    return {"whole": output, "end": ended(process)}


def fresh(pattern: str, since: float) -> list[str]:
    """The files of this pattern that were written since a time."""
    with suppress(FileNotFoundError):  # it may be renamed in this moment
        return [f.name for f in Path("killed").glob(pattern) if f.stat().st_mtime > since]
    return []


def wait_for_file(process: int, pattern: str, since: float) -> None:
    """Wait until a file is being written, or the training has ended."""
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while not fresh(pattern, since) and os.waitid(os.P_PID, process, ended) is None:
        time.sleep(0.0005)


def killed(folder: Path, target: int, pattern: str, delay: float, how: signal.Signals) -> dict:
    """Go on with the training, and kill it a moment after it has reached an iteration.

    It is killed while it starts if the iteration is 0, and while it writes a file if there is a
    pattern of it.
    """
    began = time.time()
    process, reader = begin(folder, "killed")
    reached = wait_for(reader, target) if target else 0
    if pattern:
        wait_for_file(process, f"{pattern}.partial", time.time())
    time.sleep(delay)
    with suppress(ProcessLookupError):
        os.kill(process, how)
    end = ended(process)
    os.close(reader)
    seen = {"signal": how.name, "end": end, "reached": reached}
    return seen | {"partial": fresh("*.partial", began)} | state()


def state() -> dict:
    """The iterations that are done by the newest checkpoint, and the faults of any file."""
    newest = newest_intact("killed")
    done = torch.load(newest.path, weights_only=True)["iteration"] + 1 if newest.path else 0
    files = Path("killed").glob("*.pth")
    broken = [f.name for f in files if not zipfile.is_zipfile(f) or zipfile.ZipFile(f).testzip()]
    return {"done": done, "faults": [*newest.faults, *broken]}


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.chdir(folder)
    length = yaml.safe_load(Path("killed.yaml").read_text())["SOLVER"]["MAX_ITER"]
    draw = random.Random(seed)
    print(json.dumps(whole(folder, "whole")), flush=True)
    count = done = 0
    while count < kills:
        how = signal.SIGTERM if draw.random() < 0.2 else signal.SIGKILL
        pattern, delay = "", draw.uniform(0, 0.1)
        if count >= 0.7 * kills:  # at the end: the last checkpoints, the test, the final weights
            target = length - 2
            pattern = draw.choice(["", "model_final.pth", "student.pth", "student_raw.pth"])
            delay = delay / 10 if pattern else 10 * delay
        elif steps := draw.randrange(4):
            target = min(done + steps, length)
            if draw.random() < 0.5:
                pattern, delay = "*", delay / 10
        else:
            target, delay = 0, 15 * delay
        seen = killed(folder, target, pattern, delay, how)
        done = seen["done"]
        count += seen["end"] != "ended 0"
        print(json.dumps(seen), flush=True)
    print(json.dumps(whole(folder, "killed")), flush=True)


if __name__ == "__main__":
    main()
