"""The local side: routes, who may use them, and their replies."""
