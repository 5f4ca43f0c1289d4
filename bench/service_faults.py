"""What happens to a request when its server fails, and after how long: `python bench/service_faults.py`.

The server and the faults are those of tests/services; every fault once so that it passes after two answers, and once so that
it stays. Writes the table of docs/captions.md.
"""

from __future__ import annotations

import ssl
import sys
import tempfile
import warnings
from pathlib import Path

import trustme

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.services.faults import FaultServer, says, status  # noqa: E402
from tests.services.test_client import OK, PASSING, QUICK, ask  # noqa: E402

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
PERMANENT = {
    "wrong key (401)": status("401 Unauthorized"),
    "unknown model (404)": status("404 Not Found"),
    "bad request (400)": status("400 Bad Request"),
    "429, Retry-After 1 s": status("429 Too Many Requests", "retry-after: 1\r\n"),
}


def outcome(out, seconds: float) -> str:
    if isinstance(out, str) and out != OK:
        return f"caption of its first {len(out)} characters after {seconds:.1f} s"
    return f"caption after {seconds:.1f} s" if out == OK else f"missing ({out.reason}) after {seconds:.1f} s"


def row(name: str, fault) -> str:
    with FaultServer(fault, fault, then=says(OK)) as server:
        (passed,), seconds, counts = ask(server)
    with FaultServer(then=fault) as server:
        (stayed,), longer, _ = ask(server)
    return f"| {name} | {outcome(passed, seconds)}, {counts['attempts']} attempts | {outcome(stayed, longer)} |"


def other_host() -> str:
    """TLS with a certificate of a trusted authority for another name."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("other.example").configure_cert(context)
    with tempfile.NamedTemporaryFile(suffix=".pem") as file, FaultServer(context=context) as server:
        authority.cert_pem.write_to_path(file.name)
        (out,), seconds, _ = ask(server, ca_file=file.name)
    return f"| TLS of another host | the endpoint is never asked again | {outcome(out, seconds)} |"


def main() -> None:
    warnings.simplefilter("ignore")
    with FaultServer() as server:
        gone = server.url
    (refused,), seconds, _ = ask(gone)
    lines = [
        f"Measured with {QUICK['retries']} retries, backoff {QUICK['backoff_s']} s, {QUICK['attempt_s']} s an attempt and "
        f"{QUICK['request_s']:g} s a request; the defaults are 4, 0.5 s, 60 s and 120 s.",
        "",
        "| fault | twice, then gone | it stays |",
        "|---|---|---|",
        f"| connection refused | as 500 | {outcome(refused, seconds)} |",
        *(row(name, fault) for name, (fault, _) in PASSING.items()),
        *(row(name, fault) for name, fault in PERMANENT.items()),
        row("a caption of 100 KB", says(" ".join(f"the w{i}" for i in range(15_000)))),
        other_host(),
    ]
    page = ROOT / "docs" / "captions.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + "\n".join([BEGIN, *lines, END]) + after)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
