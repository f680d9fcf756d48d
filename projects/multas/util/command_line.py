"""How a command ends: well, with one message about a mistake of the user, or with a traceback."""

import argparse
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing import ProcessExitedException

from multas.util.errors import UserError
from multas.util.files import disk_full, is_disk_full
from multas.util.signals import sigterm_unwinds

DEBUG = "MULTAS_DEBUG"
MISTAKE = 2  # the exit status, which argparse has as well
INTERRUPTED = 130  # the exit status of a shell's command that Ctrl-C has ended

# A user meets them whatever the program does: missing files and rights, a full disk, a training
# that diverges, a GPU that is too small.
_MISTAKES = (UserError, OSError, FloatingPointError, MemoryError, torch.OutOfMemoryError)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Lines of the description and of examples stay, and each option tells its default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        is_flag = isinstance(default, bool) or default == argparse.SUPPRESS
        if not action.option_strings or is_flag or default in (None, "", [], ()):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
        return f"{text} (default: {shown})".lstrip()


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """The parser of a command, which shows what the docstring of its module says, examples too.

    Args:
        doc: a line of what the command does, an empty line, and the rest.
    """
    first, _, rest = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        description=first, epilog=rest.rstrip(), formatter_class=HelpFormatter
    )


def run(main: Callable[..., Any], *args: Any) -> Any:
    """Call the main function of a command and return what it returns.

    A mistake of the user ends the process with one message on stderr and exit status 2. With
    ``--debug`` anywhere on the command line, or ``MULTAS_DEBUG=1``, the traceback is shown as well.

    Raises:
        SystemExit: There was such a mistake, or a signal has ended the command.
    """
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ[DEBUG] = "1"  # processes that are started from here know it, too
    debug = is_debugged()
    if not debug:
        logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_mistake)
        threading.excepthook = _tell_of_thread
    try:
        with sigterm_unwinds():
            return main(*args)
    except _MISTAKES as error:
        if debug:
            raise
        print(f"error: {message_of(error)}", file=sys.stderr, flush=True)
        raise SystemExit(MISTAKE) from None
    except KeyboardInterrupt:
        if debug:
            raise
        print("\nInterrupted.", file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED) from None
    except ProcessExitedException as error:
        # One of several processes of a training, which has told its mistake itself.
        raise SystemExit(error.exit_code or 1) from None


def is_debugged() -> bool:
    """Whether the user wants to see all that may help to find a fault."""
    return os.environ.get(DEBUG, "") not in ("", "0")


def message_of(error: BaseException) -> str:
    """The message of an error; that of the operating system names the file before the fault."""
    if is_disk_full(error) and error.filename is not None:
        return str(disk_full(error.filename, error))
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fspath(error.filename)}: {error.strerror}."
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        what = str(error) or "There is not enough memory."
        return f"{what} Lower SOLVER.IMS_PER_BATCH or the size of the images (INPUT)."
    return str(error)


def _tell_of_thread(args: threading.ExceptHookArgs) -> None:
    """A traceback of an error in a thread, unless it is a mistake, which the main thread tells."""
    if not isinstance(args.exc_value, _MISTAKES):
        threading.__excepthook__(args)


def _is_no_mistake(record: logging.LogRecord) -> bool:
    """Whether Detectron2's training loop may log an error, which it does with a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], _MISTAKES))
