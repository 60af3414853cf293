"""`nm2trt rollback`: serve the version before."""

from __future__ import annotations

from nm2trt.cli.output import print_json, say
from nm2trt.options.field import keywords
from nm2trt.options.serving import RollbackCommand

OPTIONS = RollbackCommand

EPILOG = """examples:
  nm2trt rollback --repository models --name ocr --url localhost:8000
"""


def run(options: RollbackCommand) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.rollback import rollback

    done = rollback(**keywords(options))
    if options.json:
        print_json(done.to_json())
    else:
        for remark in done.remarks():
            say(remark)
        if not options.url:
            say("a running server serves it when the model is loaded again (--url)")
    return 0
