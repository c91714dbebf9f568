"""What keepers saw, in the form that they exchange, sign and publish; keepers write it and auditors read it alike."""
