"""What the tests share: drivers, clients and running services."""
