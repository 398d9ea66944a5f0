"""Peers: scripts that run another library on a workload in a process of its own, and print one JSON line."""
