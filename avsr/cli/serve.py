"""`avsr serve`: the page, live captions and OpenAI's transcription interface on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, Number, limit_openmp_spinning, print_status, report_errors
from avsr.errors import AvsrError

if TYPE_CHECKING:
    from avsr.checkpoint import Checkpoint


@click.command("serve", context_settings=CONTEXT, short_help="Serve a page, live captions and OpenAI's interface.")
@click.option("--model", default="default", help="As for avsr transcribe.")
@click.option("--lips", default=None, metavar="MODEL", help="A second model, which reads the lips; as for avsr transcribe.")
@click.option("--host", default="127.0.0.1", help="The address to listen at; any but this machine's own needs --api-key.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, help="The port to listen at.")
@click.option("--api-key", default=None, metavar="KEY",
              help="What clients must send as `Authorization: Bearer KEY`. The variable AVSR_API_KEY is safer, as others on a "
                   "machine see commands.  [default: no key]")
@click.option("--allow-origin", "allow_origins", multiple=True, metavar="URL",
              help="The origin of a page whose scripts may use the server, such as https://example.org; may be repeated.  "
                   "[default: none but the server's own page]")
@click.option("--max-megabytes", type=Number(0.001, 1e6), default=500.0, help="The largest upload.")
@click.option("--max-minutes", type=Number(0.01, 1e5), default=120.0, help="The longest recording.")
@click.option("--max-waiting", type=click.IntRange(0, 10**5), default=64,
              help="Requests that wait at most; further ones are asked to come back.")
@click.option("--requests-a-minute", type=click.IntRange(1, 10**6), default=600, help="From one address.")
@click.option("--slow", "slow_s", type=Number(0.1, 3600), default=20.0,
              help="Seconds in which some of a request must come, before it is given up.")
@click.option("--live-sessions", type=click.IntRange(0, 1000), default=2, help="Recordings recognised live at once.")
@click.option("--babble", default=None, type=click.Path(), metavar="DIR",
              help="Recordings of people from which the page's babble noise is made.  [default: the recording's own voice]")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
def serve_command(model: str, lips: str | None, device: str, api_key: str | None, **options) -> None:
    """Answer a browser and OpenAI's clients, on this machine alone.

    The page is at http://127.0.0.1:8000, the interface below /v1. Nothing that is sent is kept, and nothing leaves the machine.
    Needs the extra web: pip install 'avsr[web]'.
    """
    with report_errors("The server answers no more; nothing of what was sent is kept."):
        _check_packages()
        limit_openmp_spinning()
        from avsr.serve.settings import ServeSettings, key_from_environment

        settings = ServeSettings(api_key=key_from_environment(api_key), **options)
        from avsr.serve.server import listen

        listening = listen(settings)                         # before heavy imports, so that a port in use is told at once
        print_status(f"loading {model}")
        from avsr.serve.app import create_app
        from avsr.serve.models import ServedModel
        from avsr.serve.server import serve

        name = model if lips is None else f"{model}+{lips}"
        app = create_app(ServedModel(name, lambda: _load(model, lips, device)), settings)
        serve(app, settings, listening,
              started=lambda: print_status(f"Open {settings.address} in a browser; Ctrl-C ends the server."))


def _check_packages() -> None:
    """Raises AvsrError where the extra is not installed."""
    for name in ("fastapi", "uvicorn", "multipart", "websockets"):
        try:
            __import__(name)
        except ImportError as error:
            raise AvsrError(f"avsr serve: the package {name} is missing.  Install it with pip install 'avsr[web]'.") from error


def _load(model: str, lips: str | None, device: str) -> Checkpoint:
    from avsr.transcribe.run import load_models

    return load_models(model, lips, "av", device, kept_export=True)
