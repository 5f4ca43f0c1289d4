"""What compiles while a test runs."""

import jax
import pytest

EVENT = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled():
    """Names of the compilations that happen, in order."""
    seen = []

    def listen(event, duration, **facts):
        if event == EVENT:
            seen.append(str(facts.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)
