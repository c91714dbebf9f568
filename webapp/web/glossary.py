"""How each figure is computed; a page shows the sentence behind the question mark beside the figure."""

HOW = {
    "online": "Nodes that answered the latest probe by this index's keeper, of all nodes that it probed in the last "
    "three slots. Rewards follow the report that a quorum of keepers signed, not this figure.",
    "staked": "Sum of the principal of all nodes that were not withdrawn, as the locker's events say. Only the "
    "owner of a node can move its stake.",
    "pool": "What this epoch pays out at most: its share of the emission schedule plus the fees funded before it began. "
    "Read from the distributor at the block above; the pool no longer changes.",
    "network_uptime": "Mean uptime of all attested nodes in the newest reported epoch, in basis points, rounded down.",
    "latency": "95th percentile of the time to the full answer over the latest probe of each node that answered.",
    "keepers": "Bonded keepers in this epoch's signer set. A report needs more than two thirds of them.",
    "weight": "Stake x tier multiplier. Reward = pool x weight x uptime / total weight; the total is fixed before the "
    "epoch begins.",
    "paid": "Claimed from this epoch's pool so far, read from the distributor.",
    "claimable": "Rewards of final epochs that nobody has claimed yet: pool x weight / total weight x uptime, rounded "
    "down to the wei, as the contract pays it.",
    "carried": "Pool minus all rewards: the part that downtime and rounding left. It goes back to the reserve after the claim "
    "deadline. The pool of an epoch without a report is carried to a coming epoch.",
    "claimed": "Rewards paid to this operator's nodes in the epochs shown, from the distributor's events.",
    "pending": "Rewards of reported epochs whose challenge window is still open. They become claimable when it closes.",
    "uptime": "Slots not missed / all slots, mean over the attested epochs shown, weighted by weight. A slot is missed "
    "only when keepers of two regions say so and nobody holds a signed answer.",
    "yield": "Rewards of the reported epochs shown / principal, scaled to 365 days. No compounding, no forecast: pools "
    "and total weight will differ.",
    "share": "Weight of this node / total weight of all nodes in the epoch.",
    "lost": "Reward at full uptime minus the reward at the attested uptime.",
    "reward": "floor(pool x weight x uptime / (10,000 x total weight)), in wei.",
    "stake": "Locked principal. It is returned in full after the cooldown; no call in the contracts can take it.",
    "signed": "How many of the reports shown carry this keeper's signature, of those whose signer set it was in.",
    "strip": "One cell a slot. Green: a keeper holds an answer that node and keeper both signed. Red: missed. Amber: one "
    "region's word only, counts as up. Grey: not probed, counts as up.",
    "requests": "Requests that the connected gateway ended a second, over the seconds since the look before; p95 is the "
    "bound of its histogram below which 95 % of them fell.",
    "heartbeat": "Latest probe of this node by this index's keeper.",
    "credit_balance": "What the credit vault holds for this account, read at the block above. The vault pays "
    "out in two ways only: for redeemed vouchers, and by a withdrawal after its thaw.",
    "credit_thawing": "Amount that the account asked back. It is part of the balance until it is withdrawn.",
    "credit_wallet": "PRLX that the account itself holds.",
    "credit_signers": "Keys that were ever allowed to sign vouchers for this account, each up to a cap of its own.",
    "appeal": "Slots with a receipt that the node and a keeper of the epoch signed / all slots is a lower bound of the "
    "uptime. When the bound is more than 1 % above the attested uptime, the contract pays by the bound.",
    "uptime_chart": "Attested uptime of each epoch, after appeals: slots not missed / all slots.",
    "at_gateway": "The node as this dashboard's gateway sees it: the gateway's attempts since it first heard of the node, the "
    "running mean of the time to the first byte, and why the gateway gives no work. Other gateways count separately.",
    "served": "On-chain requests that this node answered, as the market's events say, and the PRLX paid for them, of which "
    "the node got what the split leaves. Requests through gateways are paid by vouchers and not counted here.",
    "key_requests": "Requests that the gateway ended for this key's tenant, by its own count.",
}
