"""The modules that several tests share: drivers, clients and running services."""
