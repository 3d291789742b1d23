"""The trace that an event belongs to, where OpenTelemetry is installed."""

from __future__ import annotations

from collections.abc import Callable

try:
    from opentelemetry import trace
except ImportError:
    _current_span: Callable[[], trace.Span] | None = None
else:
    _current_span = trace.get_current_span


def current_trace() -> str | None:
    """Return the active span as a `traceparent`; None where there is none.

    Source: W3C Trace Context, "traceparent Header".
    """
    if _current_span is None:
        return None
    context = _current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
