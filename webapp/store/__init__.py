"""The dashboard's own database: sign-ins, notifications and copies of manifests. Public pages work without it."""

from webapp.store.models import EVENTS, Channel, Delivery
from webapp.store.store import Store

__all__ = ["EVENTS", "Channel", "Delivery", "Store"]
