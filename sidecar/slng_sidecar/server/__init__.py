"""The local side: the guard, the routes and their replies."""
