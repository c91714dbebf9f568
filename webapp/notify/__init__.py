"""Tells operators what happened to their nodes: finds news in the index, delivers it, keeps a record."""

from webapp.notify.runner import Notifier

__all__ = ["Notifier"]
