"""What keepers saw in an epoch, in the form that they exchange, sign and publish. Keepers write it; auditors verify it."""
