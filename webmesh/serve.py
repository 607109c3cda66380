"""`python -m webmesh.serve [module[:attribute]]`: serves a WebMeshServer.

Decides, before anything that touches sockets is imported, whether the process is monkey-patched. It may
only import the standard library and what does the same; all the rest is `webmesh.cli.serving`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m webmesh.serve") -> int:
    """Serve as the command line says; the exit status.

    Args:
        arguments: What follows the command; None takes those of the process.
        prog: What the user typed to get here, for messages.
    """
    try:
        return _main(sys.argv[1:] if arguments is None else arguments, prog)
    except KeyboardInterrupt:  # while something was being imported: afterwards the signal is that of `cli.serving`
        return 128 + signal.SIGINT


def _main(arguments: Sequence[str], prog: str) -> int:
    from webmesh.cli.arguments import parse_serve_options

    options = parse_serve_options(arguments, prog)
    if options.reload and options.report_to is None:
        from webmesh.cli.reloading import supervise

        return supervise(options, arguments)
    if options.workers is not None and options.worker is None:
        from webmesh.cli.workers import supervise_workers

        return supervise_workers(options, arguments, prog)
    if options.patch:
        from gevent import monkey

        monkey.patch_all()
    from webmesh.cli.serving import serve

    return serve(options, prog)


if __name__ == "__main__":
    sys.exit(main())
