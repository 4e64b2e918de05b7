"""Sockets, tasks and channels as the gateway and the simulator use them."""
