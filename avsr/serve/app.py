"""The application: its routes, in the guard that decides who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from avsr import __version__
from avsr.checkpoint import Checkpoint
from avsr.runtime import n_cores
from avsr.serve.guard import Guard
from avsr.serve.jobs import Jobs
from avsr.serve.live import live_router
from avsr.serve.models import ServedModel
from avsr.serve.pages import page_router
from avsr.serve.problems import add_handlers
from avsr.serve.settings import ServeSettings
from avsr.serve.transcriptions import Work, openai_router
from avsr.transcribe.batches import SharedBatches

AT_WORK = 4                                                 # requests for each core whose recordings are read at once: their
                                                            # windows meet in batches


def create_app(model: Checkpoint | ServedModel, settings: ServeSettings | None = None) -> FastAPI:
    """The application for one model, which may still be loading. Needs the extra `avsr[web]`."""
    settings = ServeSettings() if settings is None else settings
    served = ServedModel.of(model) if isinstance(model, Checkpoint) else model
    jobs = Jobs(AT_WORK * n_cores(), settings.max_waiting)

    @lru_cache(maxsize=1)
    def batches() -> SharedBatches:
        return SharedBatches(served.get().model.device)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()

    app = FastAPI(title="avsr", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
                  description="Speech recognition that reads lips, by OpenAI's transcription interface.")
    app.state.work = work = Work(served, jobs, settings, batches)
    for router in (openai_router(work), live_router(work), page_router(work)):
        app.include_router(router)

    @app.get("/health", summary="Whether the server is ready.")
    async def health() -> JSONResponse:
        failure = {} if served.failure is None else {"message": served.failure}
        return JSONResponse({"status": served.state, "model": served.name, "requests": jobs.n_taken,
                             "limit": jobs.n_workers + jobs.max_waiting, **failure})

    add_handlers(app)
    app.add_middleware(Guard, settings=settings)             # type: ignore[arg-type]
    return app
