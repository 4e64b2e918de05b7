"""Sessions: a local client and its upstream, joined."""
