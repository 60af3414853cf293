"""`nm2trt rollback`: serve the version before."""

from __future__ import annotations

import argparse

from nm2trt.cli.output import print_json

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--repository", required=True, metavar="FOLDER", help="model repository")
    parser.add_argument("--name", required=True, help="the model's name there")
    parser.add_argument(
        "--to", type=int, metavar="VERSION", help="another version that is kept (default: the one before)"
    )
    parser.add_argument("--url", default="", metavar="HOST:PORT", help="a server that is told to load it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.rollback import rollback

    done = rollback(arguments.repository, arguments.name, to=arguments.to, url=arguments.url)
    if arguments.json:
        print_json(done.to_json())
    else:
        print(f"{done.name}: version {done.version} is served, {done.left} was before")
        if not arguments.url:
            print("a running server serves it when the model is loaded again (--url)")
    return 0
