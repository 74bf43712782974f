"""What wpp-sync costs, beside its rivals in the same run: `./scripts/bench`, docs/performance.md.

The daemon is driven from outside, as its operator does it: a process, its configuration, its socket
and port, and what /proc and the servers' counters say of it.
"""
