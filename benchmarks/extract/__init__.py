"""From masks to small networks: how exact, how small, and what other routes make of the same masks."""
