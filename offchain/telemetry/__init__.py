"""What a process tells of itself: structured logs, Prometheus metrics, and the file that says it is ready."""

from offchain.telemetry.logs import configure_logs
from offchain.telemetry.ready import announce_ready

__all__ = ["announce_ready", "configure_logs"]
