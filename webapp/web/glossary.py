"""How each figure is computed, in one line; shown behind the question mark beside it."""

HOW = {
    "online": "Nodes whose latest probe by this index's keeper was answered, of all that it probed in the last three "
    "slots. Rewards do not follow this figure but the quorum's report.",
    "staked": "Sum of the principal of all nodes that were not withdrawn, as the locker's events say. Nobody but its "
    "owner can move it.",
    "pool": "What this epoch pays out at most: its share of the emission schedule plus the fees funded before it began. "
    "Read from the distributor at the block above; it no longer changes.",
    "network_uptime": "Mean uptime of all attested nodes in the newest reported epoch, in basis points, rounded down.",
    "latency": "95th percentile of the time to the full answer over the latest probe of each node that answered.",
    "keepers": "Bonded keepers in this epoch's signer set. A report needs more than two thirds of them.",
    "weight": "Stake x tier multiplier. Reward = pool x weight x uptime / total weight; the total is fixed before the "
    "epoch begins.",
    "paid": "Claimed from this epoch's pool so far, read from the distributor.",
    "claimable": "Rewards of final epochs that nobody has claimed yet: pool x weight / total weight x uptime, rounded "
    "down to the wei, as the contract pays it.",
    "carried": "Pool minus all rewards: what downtime and rounding left. It goes back to the reserve after the claim "
    "deadline. The pool of an epoch without a report is carried to a coming epoch.",
    "claimed": "Rewards paid to this operator's nodes in the epochs shown, from the distributor's events.",
    "pending": "Rewards of reported epochs whose challenge window is still open. They become claimable when it closes.",
    "uptime": "Slots not missed / all slots, mean over the attested epochs shown, weighted by weight. A slot is missed "
    "only when keepers of two regions say so and nobody holds a signed answer.",
    "yield": "Rewards of the reported epochs shown / principal, scaled to 365 days. No compounding, no forecast: pools "
    "and total weight will differ.",
    "share": "This weight / the total weight of all nodes in the epoch.",
    "lost": "What full uptime would have paid minus what it pays.",
    "reward": "floor(pool x weight x uptime / (10,000 x total weight)), in wei.",
    "stake": "Locked principal. It is returned in full after the cooldown; no call in the contracts can take it.",
    "signed": "How many of the reports shown carry this keeper's signature, of those whose signer set it was in.",
    "strip": "One cell a slot. Green: a keeper holds an answer that node and keeper both signed. Red: missed. Amber: one "
    "region's word only, counts as up. Grey: not probed, counts as up.",
    "requests": "Requests that the connected gateway ended a second, over the seconds since the look before; p95 is the "
    "bound of its histogram below which 95 % of them fell.",
    "heartbeat": "Latest probe of this node by this index's keeper.",
    "credit_balance": "What the credit vault holds for this account, read at the block above. It leaves in two ways only: "
    "redeemed vouchers, and a withdrawal after its thaw.",
    "credit_thawing": "Asked to be paid back. It is part of the balance until it is withdrawn.",
    "credit_wallet": "PRLX that the account itself holds.",
    "credit_signers": "Keys that were ever allowed to sign vouchers for this account, each up to a cap of its own.",
    "appeal": "Slots with a receipt that the node and a keeper of the epoch signed / all slots is a lower bound of the "
    "uptime. When it is more than 1 % above the attested one, the contract puts it in its place.",
    "uptime_chart": "Attested uptime of each epoch, after appeals: slots not missed / all slots.",
    "at_gateway": "What the gateway of this dashboard sees of the node: its own attempts since it first heard of the node, the "
    "running mean of the time to the first byte, and what keeps work from it. Other gateways count for themselves.",
    "served": "On-chain requests that this node answered, as the market's events say, and the PRLX paid for them, of which "
    "the node got what the split leaves. Requests through gateways are paid by vouchers and not counted here.",
    "key_requests": "Requests that the gateway ended for this key's tenant, by its own count.",
}
