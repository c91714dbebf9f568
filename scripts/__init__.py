"""What `ape run` runs: each script holds the order of things, the rest is in modules that begin with an underscore."""
