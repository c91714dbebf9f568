"""The operator's machine: hardware, manifest, TLS, systemd unit, preflight checks, status."""
