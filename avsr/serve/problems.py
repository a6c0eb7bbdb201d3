"""What went wrong with a request, as OpenAI's interface tells it: {"error": {message, type, param, code}}."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from avsr.errors import AvsrError, BadMedia, MissingAsset, NoFace

LOG = logging.getLogger("avsr.serve")
INVALID, SERVER = "invalid_request_error", "server_error"
GONE = 499                                                  # the status that nginx logs for a client that went away
RETRY_S = 5                                                 # what a client is told to wait where the queue is full


class ApiError(Exception):
    """A refusal. status: of HTTP. message: a sentence and a remedy. param: the field that is wrong. code: for programs.
    retry_s: seconds after which the client may try again."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None, retry_s: int | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_s = status, message, code, param, retry_s

    @property
    def content(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = SERVER if self.status >= 500 else INVALID
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.content, self.status, {} if self.retry_s is None else {"Retry-After": str(self.retry_s)})


def as_api_error(error: BaseException) -> ApiError:
    """Any error of the work on a request as a refusal. What is the program's own mistake goes to the log, not to the client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AvsrError):
        code = ("bad_media" if isinstance(error, BadMedia) else "no_face" if isinstance(error, NoFace) else
                "missing_model" if isinstance(error, MissingAsset) else "invalid_value")
        return ApiError(503 if isinstance(error, MissingAsset) else 400, str(error), code=code,
                        param="file" if isinstance(error, BadMedia | NoFace) else None)
    LOG.error("a request failed by a mistake of the program", exc_info=error)
    return ApiError(500, "The server made a mistake; its log says more.  Try again, and report it if it happens again.",
                    code="internal_error")


def add_handlers(app: FastAPI) -> None:
    """Tell all errors of an app in this shape."""

    async def api_error(_: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        path, listed = request.url.path[:100], "The interface is listed at /openapi.json."
        known = {404: (f"There is nothing at {path!r}.  {listed}", "not_found"),
                 405: (f"{request.method[:20]} is not possible at {path!r}.  {listed}", "method_not_allowed")}
        unreadable = f"The request cannot be read ({error.detail}).  Send the form as OpenAI's interface has it."
        message, code = known.get(error.status_code, (unreadable, "bad_request"))
        return ApiError(error.status_code, message, code=code).response

    async def gone(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(None, GONE)                      # nobody will read it

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        return ApiError(400, "The request cannot be read.  Send the form as OpenAI's interface has it.",
                        code="bad_request").response

    for kind, handler in ((ClientDisconnect, gone), (ApiError, api_error), (AvsrError, api_error), (HTTPException, http_error),
                          (RequestValidationError, invalid), (Exception, api_error)):
        app.add_exception_handler(kind, handler)
