"""The dashboard's own database: sign-ins and notifications. Nothing in it is needed to show what the chain says."""

from webapp.store.models import EVENTS, Channel, Delivery
from webapp.store.store import Store

__all__ = ["EVENTS", "Channel", "Delivery", "Store"]
