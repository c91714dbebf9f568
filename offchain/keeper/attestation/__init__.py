"""The end of an epoch: documents are exchanged, a report is proposed, voted and sent, and the epoch's pool is settled."""
