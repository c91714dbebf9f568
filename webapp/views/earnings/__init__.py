"""What nodes earned: one entry per node and epoch, the sums over entries, and the earnings page made of both.

`history_of` reads the entries; every page, claim and notification that names an amount takes it from there, so that the
figure on a page and the claim behind its button come from one query.
"""

from webapp.views.earnings.history import History, history_of
from webapp.views.earnings.node_epochs import NodeEpoch, Stage, unsettled_stage
from webapp.views.earnings.totals import EpochSum, Totals, yearly_bps

__all__ = [
    "EpochSum",
    "History",
    "NodeEpoch",
    "Stage",
    "Totals",
    "history_of",
    "unsettled_stage",
    "yearly_bps",
]
