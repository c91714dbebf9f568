"""Notifications: finds what happened to an operator's nodes, sends it to webhooks and by e-mail, keeps a record."""

from webapp.notify.runner import Notifier

__all__ = ["Notifier"]
