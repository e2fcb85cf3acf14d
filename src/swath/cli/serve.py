"""`swath serve BUNDLE`: a tuned model behind an address."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    bundle: Annotated[str, typer.Argument(help="A bundle folder or .swath file.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int, typer.Option(help="Threads of the model.")] = 1,
    max_mb: Annotated[int, typer.Option("--max-mb", help="Largest request.")] = 256,
    max_mpx: Annotated[float, typer.Option("--max-mpx", help="Most pixels of a request, millions.")] = 64.0,
    waiting: Annotated[int, typer.Option(help="Requests that may wait; one more is told to come back.")] = 8,
    base: Annotated[str, typer.Option(help="The base weights, if the bundle is a delta of unknown base.")] = "",
) -> None:
    """Serve a bundle over HTTP: a page for people, POST /predict for programs. Ctrl-C ends it."""
    import signal
    import threading

    from swath.cli.output import note, say
    from swath.core.errors import UserError
    from swath.deploy.serve import make_server
    from swath.deploy.service import Limits, Service

    if precision not in ("fp32", "bf16"):
        raise UserError(f"'{precision}' is no precision", where="--precision", remedy="fp32 or bf16")
    if min(max_mb, max_mpx, waiting + 1) <= 0:
        raise UserError("--max-mb and --max-mpx are above 0, --waiting is 0 or more", where="swath serve")
    limits = Limits(max_mb, max_mpx, waiting=waiting)
    service = Service(bundle, device=device, precision=precision, threads=threads, limits=limits, base=base)
    server = make_server(service, host, port)

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    say(f"serving {service.bundle.name} at http://{host}:{server.server_address[1]}/")
    server.serve_forever(poll_interval=0.2)
    server.server_close()
    note("stopped")
