"""The measurements, one in each module. Each module has a function ``measure``, which returns tables."""
