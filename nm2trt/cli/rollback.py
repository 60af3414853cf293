"""`nm2trt rollback`: serve the version before."""

from __future__ import annotations

import argparse

from nm2trt.cli.output import print_json
from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.field import keywords
from nm2trt.options.serving import RollbackCommand

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_arguments(parser, RollbackCommand)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    options = options_from(arguments, RollbackCommand)
    from nm2trt.pipeline.rollback import rollback

    done = rollback(**keywords(options))
    if options.json:
        print_json(done.to_json())
    else:
        print(f"{done.name}: version {done.version} is served, {done.left} was before")
        if not options.url:
            print("a running server serves it when the model is loaded again (--url)")
    return 0
