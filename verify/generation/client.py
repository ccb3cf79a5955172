"""How late the client was itself: what stands between its clock and the server's."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from verify.data import table
from verify.events import exact
from verify.findings import Finding, error, warning
from verify.generation import judged
from verify.generation.events import Client
from verify.generation.requests import SERVER, Measured, Request, arrivals
from verify.metrics import Case, Metric, mean, over

NS_PER_MS = 10**6


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """A request is sent or it is not, for all of a case; every round of a client says how late it was."""
    sent = [request.send_ns is not None for request in measured.requests.values()]
    if (any(sent) or case["engine"] == SERVER) and not all(sent):
        yield error("text_generation.send", case["id"], "every request sent, or none", f"{sum(sent)} of {len(sent)}")
    rounds = [event.round for event in measured.all(Client)]
    expected = list(range(measured.rounds)) if any(sent) else []
    if rounds != expected:
        yield error("text_generation.client", case["id"], f"one word of the client for each of rounds {expected}", rounds)
    yield from _limit(case, measured)


def _limit(case: Case, measured: Measured) -> Iterator[Finding]:
    """A warning where the client's own time is a share of the first-token latency that could move a case across a tier's edge."""
    requests = [request for request in measured.window() if request.send_ns is not None and request.first_ns is not None]
    if not requests:
        return
    share = exact(table(judged.DATA)["client_share"])
    wait = mean(request.wait_ns for request in requests)
    send, lag = mean((request.send_ns or 0) - request.submit_ns for request in requests), mean(_lags(case, measured) or [0])
    apart = mean(_apart(case, requests))
    if max(send, lag, apart) > share * wait:
        expected = f"sends and looks at most {float(share):.0%} of the first-token latency late ({float(wait) / NS_PER_MS:.3f} ms)"
        found = f"the client was the limit: sends {float(send) / NS_PER_MS:.3f} ms late, looks {float(lag) / NS_PER_MS:.3f} ms"
        found += f", submits {float(apart) / NS_PER_MS:.3f} ms apart"
        yield warning("text_generation.late", case["id"], expected, found)


def _apart(case: Case, chosen: list[Request]) -> list[int]:
    """How long after the first of its round each request of a closed loop was submitted: those that come late wait less."""
    first: dict[int, int] = {}
    for request in chosen:
        first.setdefault(request.round, request.submit_ns)
    return [request.submit_ns - first[request.round] for request in chosen] if arrivals(case) is None else [0]


def _lags(case: Case, measured: Measured) -> list[int]:
    """Of the measured rounds, look by look."""
    return [lag for event in measured.all(Client) if event.round >= case["warmup_rounds"] for lag in event.lag_ns]


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Send error and lag of the client's loop in ms, over the measured rounds; nothing where there was no client."""
    requests = [request for request in measured.window() if request.send_ns is not None]
    if not requests:
        return {}
    errors = [(request.send_ns or 0) - request.submit_ns for request in requests]
    found = {"send_error_mean_ms": Metric(mean(errors) / NS_PER_MS, "ms", "mean of sent - submit", **over(errors, NS_PER_MS))}
    if lags := _lags(case, measured):
        found["client_lag_max_ms"] = Metric(Fraction(max(lags), NS_PER_MS), "ms", "latest look of the client's loop")
    return found
