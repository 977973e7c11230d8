"""Recipes as commands: options from the command line, exit codes, and what is told before torch is imported."""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from nacgen.errors import (
    EXIT_INTERRUPTED,
    NacgenError,
    StorageError,
    is_storage_failure,
)
from nacgen.system.files import storage_errors
from nacgen.system.signals import stop_with_launcher
from nacgen.system.terminal import guarded_streams, printable
from nacgen.system.threads import automatic_threads
from nacgen.training.config import TrainingConfig, parse
from nacgen.training.run_folder import SUMMARY, check_folder

Config = TypeVar("Config")


def run_recipe(
    main: Callable[[Config], object], config_class: type[Config], presets: Mapping[str, Config]
) -> None:
    """Parse the command line, run a recipe, and end with its exit code, with streams that may be closed or broken.

    Raises:
        SystemExit: With the code of the error: 2 configuration, 3 non-finite loss, 4 data, 5 checkpoint,
            6 storage, 7 locked, 8 another process lost; 143 if a signal stopped the run and it was saved; 130 if
            it was interrupted and not saved.
    """
    stop_with_launcher()
    threading.excepthook = _report_thread
    with guarded_streams():
        try:
            config = parse(config_class, presets, recipe=sys.modules[main.__module__])
            _check_early(config)
            os.environ["OMP_NUM_THREADS"] = str(automatic_threads())  # read when torch is imported
            if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
                print("starting; torch may take some seconds to load", file=sys.stderr)
            main(config)
            sys.stdout.flush()
        except KeyboardInterrupt:
            print("interrupted; the same command starts again from the last save", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except Exception as raised:
            error = raised
            if "torch.distributed" in sys.modules:  # another process may have caused it
                from nacgen.system.lost_processes import agreed_error

                error = agreed_error(raised)
            if is_storage_failure(error) and not isinstance(error, NacgenError):
                error = StorageError(
                    f"the system refuses a file ({error}). Choose another --run-dir, or mend the disk or the "
                    "permissions; the same command goes on from the last save."
                )
            if not isinstance(error, NacgenError):
                raise error from None if error is raised else raised
            rank = os.environ.get("RANK", "0")
            source = "error" if rank == "0" else f"error on process {rank}"
            print(f"{source}: {printable(str(error))}", file=sys.stderr)
            print(*getattr(error, "__notes__", ()), sep="\n", end="", file=sys.stderr)
            sys.exit(error.exit_code)


def _check_early(config: Any) -> None:
    """Raise before torch is imported if inputs are missing or the run folder holds another run."""
    folder = config.folder(config.run_name) if isinstance(config, TrainingConfig) else None
    # A finished run needs its inputs no more; `open_run` knows if it is whole, and else checks again.
    if folder is None or config.fresh or not (folder / SUMMARY).exists():
        getattr(config, "check_inputs", lambda: None)()
    if folder is not None:
        advice = "Choose another --run-dir."
        # `open_run` repeats the warnings of this check, which it makes for calls from Python, too.
        with (
            storage_errors(f"the run in {folder}", advice),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            check_folder(folder, config)


def _report_thread(args: threading.ExceptHookArgs) -> None:
    """Report a full disk in a tracker's thread in one line; the main thread fails at the next row."""
    if args.exc_value is not None and is_storage_failure(args.exc_value):
        print(f"a tracker could not write: {args.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(args)
