"""The service's error answers, as exceptions."""

from __future__ import annotations

from typing import Any

from jobtrail.core.errors import JobtrailError


class ApiError(JobtrailError):
    """The service answered with a problem (RFC 9457).

    Args:
        status: The HTTP status.
        problem: The problem's members; empty where the answer was no problem document.
        where: Method and path.
    """

    def __init__(self, status: int, problem: dict[str, Any], where: str) -> None:
        self.status = status
        self.type = str(problem.get("type", "about:blank"))
        self.title = str(problem.get("title", f"The service answered {status}."))
        self.detail = str(problem.get("detail", ""))
        #: For each error its `parameter` or `pointer`, and its `detail`.
        self.errors: list[dict[str, str]] = list(problem.get("errors", ()))
        faults = "; ".join(
            f"{fault.get('parameter') or fault.get('pointer') or 'body'}: {fault['detail']}"
            for fault in self.errors
        )
        what = " ".join(part for part in (self.title, self.detail, faults) if part)
        super().__init__(what, found=f"status {status}", where=where)


class ServiceUnavailable(ApiError):
    """The service can't answer now: it is recovering, overloaded, or was not reached.

    Args:
        status: The HTTP status; 0 where it was not reached.
        problem: The problem's members.
        where: Method and path.
        retry_after: Seconds of the answer's `Retry-After`, where it has one.
    """

    retriable = True

    def __init__(
        self, status: int, problem: dict[str, Any], where: str, retry_after: float | None = None
    ) -> None:
        self.retry_after = retry_after
        super().__init__(status, problem, where)
