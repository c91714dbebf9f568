"""Celery settings with which a task survives the death of its worker. Keepers and the gateway's batch workers share them."""

from typing import Any


def policy(broker_url: str, visibility_seconds: int, key_prefix: str = "") -> dict[str, Any]:
    """Settings for an application: a task is done when it has ended, one that died with its worker comes again.

    Args:
        broker_url: Redis or Valkey.
        visibility_seconds: after so long a task that nobody has ended is given to another worker; longer than any takes.
        key_prefix: of every key of the broker, where it is shared with other things.
    """
    return {
        "broker_url": broker_url,
        # Results are rows of the database (ADR 0005).
        "result_backend": None,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,  # with late acks: a killed worker's task is delivered again
        "task_create_missing_queues": False,
        # A worker that fetched ahead would hold tasks which an idle one could begin.
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_enable_remote_control": False,  # whoever reaches the broker could steer workers
        "broker_connection_retry_on_startup": True,
        # None is for ever: the broker only carries news (ADR 0005), so its absence ends nobody.
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "global_keyprefix": key_prefix,
            "visibility_timeout": visibility_seconds,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    }
